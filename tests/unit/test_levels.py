"""Loss by noise level: closed forms, no image lost, sums that do not depend on the order."""

import math

import pytest
import torch
from torch import nn

from unitgain.denoiser import Denoiser, Uncertainty
from unitgain.loss import EDMLoss, Loss
from unitgain.parallel import World
from unitgain.recipes import create
from unitgain.train.levels import BINS, NoiseLevels, added, level_row, uncertainty_at


class Knows(Denoiser):
    """A denoiser whose error is known: it is off by `error(sigma)` in every pixel."""

    def __init__(self, clean, error):
        nn.Module.__init__(self)
        self.clean, self.error, self.sigma_data = clean, error, 0.5

    def forward(self, x, sigma, label=None):
        return self.clean + self.error(sigma)[:, None, None, None]


class Known(nn.Module):
    """u(sigma) = ln(sigma) / 2."""

    def forward(self, sigma):
        return sigma.log() / 2


def of(error, u, size=(1, 2, 2)):
    """The loss of images with these errors, the same in every pixel, and this u(sigma)."""
    loss = (error / u.exp() + u)[:, None, None, None].expand(-1, *size)
    return Loss(loss, error, u)


def test_bins_of_a_denoiser_whose_error_is_known():
    P_mean, P_std, n = -0.8, 1.0, 2000
    loss = EDMLoss(P_mean, P_std)
    clean = torch.zeros(n, 1, 4, 4)
    sigma, noise = loss.draw(clean)
    # Off by so much that lambda error^2 = sigma / 10.
    denoiser = Knows(clean, lambda sigma: (sigma / 10).sqrt() * 0.5 * sigma / (sigma**2 + 0.25).sqrt())
    levels, known = NoiseLevels(loss), Known()
    levels.add(sigma, loss(denoiser, known, clean, sigma, noise))
    row = level_row(levels.centres, levels.collect(World()), None)
    assert sum(row["images"]) == n
    inside = (sigma.log() >= P_mean) & (sigma.log() < P_mean + 0.5)
    assert row["images"][BINS // 2] == int(inside.sum())
    assert row["error"][BINS // 2] == pytest.approx(sigma[inside].mean().item() / 10, rel=1e-4)
    u = sigma[inside].log() / 2
    assert row["loss"][BINS // 2] == pytest.approx((sigma[inside] / 10 / u.exp() + u).mean().item(), rel=1e-4)
    assert levels.collect(World()) == [[0.0] * BINS] * 3


def test_bins_are_half_a_standard_deviation_and_the_outer_ones_open():
    assert NoiseLevels(EDMLoss(-0.4, 2.0)).centres[:2].tolist() == pytest.approx([-0.4 - 5.5, -0.4 - 4.5])
    levels = NoiseLevels(EDMLoss(0.0, 1.0))
    sigma = torch.tensor([-9.0, -2.6, -2.4, -0.1, 0.1, 2.6, 50.0]).exp()
    levels.add(sigma, of(torch.ones(7), torch.zeros(7)))
    assert levels.sums[2].tolist() == [2, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 2]
    expected = sum(0.5 * (math.erf(edge / math.sqrt(2)) - math.erf((edge - 0.5) / math.sqrt(2))) for edge in (0.5, 1.0))
    levels.sums.zero_()
    levels.add(torch.randn(100_000).exp(), of(torch.ones(100_000), torch.zeros(100_000)))
    assert (levels.sums[2, 6:8].sum() / 100_000).item() == pytest.approx(expected, abs=0.006)


def test_what_is_not_finite_is_left_out():
    levels = NoiseLevels(EDMLoss(0.0, 1.0))
    levels.add(torch.ones(3), of(torch.tensor([2.0, math.inf, 2.0]), torch.tensor([0.0, 0.0, -200.0])))
    assert [sum(row) for row in levels.collect(World())] == [2.0, 2.0, 1.0]
    row = level_row(levels.centres, levels.collect(World()), torch.full((BINS,), float("nan")))
    assert row["error"] == [None] * BINS
    assert row["u"] == [None] * BINS


def test_sums_do_not_depend_on_the_order():
    sigma, error, u = torch.randn(64).exp(), torch.rand(64), torch.randn(64)
    totals = []
    for pieces in (1, 4, 64):
        levels, window = NoiseLevels(EDMLoss(0.0, 1.0)), []
        order = torch.randperm(64)
        for chosen in order.chunk(pieces):
            levels.add(sigma[chosen], of(error[chosen], u[chosen]))
            if len(chosen) == 16:  # as at a checkpoint
                window = added(window, levels.collect(World()))
        totals.append(added(window, levels.collect(World())))
    assert totals[0] == totals[1] == totals[2]


def test_uncertainty_is_that_of_the_module():
    uncertainty = Uncertainty(8)
    sigma = torch.tensor([0.1, 1.0, 10.0])
    found = uncertainty_at(uncertainty, sigma)
    assert torch.equal(found, uncertainty(sigma).detach())
    assert not found.requires_grad
    assert uncertainty_at(Known(), sigma) is None


def test_a_new_network_has_error_one_everywhere(tiny_recipe):
    """Eq. 15: at all noise levels, for data of standard deviation sigma_data."""
    denoiser = create(tiny_recipe)
    assert isinstance(denoiser, Denoiser)
    loss = EDMLoss(-0.8, 1.0)
    levels = NoiseLevels(loss)
    clean = 0.5 * torch.randn(512, 1, 8, 8)
    sigma, noise = loss.draw(clean)
    with torch.no_grad():
        levels.add(sigma, loss(denoiser, Uncertainty(8), clean, sigma, noise))
    row = level_row(levels.centres, levels.collect(World()), None)
    well = [error for error, images in zip(row["error"], row["images"], strict=True) if images > 40]
    assert len(well) >= 5
    assert well == pytest.approx([1.0] * len(well), abs=0.1)


def test_nothing_waits_for_the_device():
    """On the meta device there is nothing to wait for: whatever asks for a value fails."""
    levels = NoiseLevels(EDMLoss(0.0, 1.0), "meta")
    levels.add(torch.ones(4, device="meta"), of(torch.ones(4, device="meta"), torch.zeros(4, device="meta")))
    assert levels.sums.is_meta
    with pytest.raises((RuntimeError, NotImplementedError)):
        levels.collect(World())
