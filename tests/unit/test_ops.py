"""Magnitude-preserving functions keep unit magnitude on standard normal input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unitgain.ops import SILU_MAGNITUDE, magnitude, mp_cat, mp_silu, mp_sum, normalize, resample

SHAPES = [(64, 1000), (16, 32, 500), (8, 24, 32, 32), (4, 8, 8, 16, 16)]
TOLERANCE = 0.02


def rms(x):
    return x.double().square().mean().sqrt().item()


@pytest.mark.parametrize("shape", SHAPES)
def test_mp_silu_keeps_unit_magnitude(shape):
    # 0.596 is rounded in the paper: the exact root of Eq. 79 is 0.5965.
    assert rms(mp_silu(torch.randn(shape))) == pytest.approx(1, abs=TOLERANCE)


def test_silu_constant_is_the_integral_of_eq_78():
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    integral = torch.trapezoid(density * (x / (1 + torch.exp(-x))) ** 2, x)
    assert integral.item() == pytest.approx(0.3558, abs=5e-5)
    assert pytest.approx(integral.sqrt().item(), abs=5e-4) == SILU_MAGNITUDE


def test_magnitude_is_eq_3():
    x = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(magnitude(x).flatten(), x.square().mean((1, 2)).sqrt())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_mp_sum_keeps_unit_magnitude(shape, t):
    assert rms(mp_sum(torch.randn(shape), torch.randn(shape), t)) == pytest.approx(1, abs=TOLERANCE)


def test_mp_sum_is_eq_88():
    a, b = torch.randn(5), torch.randn(5)
    expected = (0.7 * a + 0.3 * b) / math.sqrt(0.7**2 + 0.3**2)
    torch.testing.assert_close(mp_sum(a, b, t=0.3), expected)


@pytest.mark.parametrize("sizes", [(64, 64), (192, 16), (1, 200)])
@pytest.mark.parametrize("t", [0.3, 0.5])
def test_mp_cat_keeps_unit_magnitude_and_the_shares(sizes, t):
    a, b = (torch.randn(16, size, 24, 24) for size in sizes)
    joined = mp_cat(a, b, t=t)
    assert joined.shape[1] == sum(sizes)
    assert rms(joined) == pytest.approx(1, abs=TOLERANCE)
    energy_a, energy_b = (part.square().sum() for part in joined.split(list(sizes), dim=1))
    assert (energy_b / energy_a).item() == pytest.approx((t / (1 - t)) ** 2, rel=0.1)


@pytest.mark.parametrize("dim", [None, 1, (1, 2), -1])
@pytest.mark.parametrize("scale", [0.1, 1.0, 100.0])
def test_normalize_gives_unit_magnitude_whatever_the_scale(dim, scale):
    y = normalize(scale * torch.randn(8, 32, 16), dim)
    dims = [1, 2] if dim is None else dim
    deviation = (magnitude(y, dims) - 1).abs().max().item()
    assert deviation < 2e-4 / min(scale, 1) * 2


def test_normalize_formula_zero_vector_and_low_precision():
    x = torch.randn(3, 4)
    torch.testing.assert_close(normalize(x), x / (1e-4 + x.norm(dim=1, keepdim=True) / 2))
    assert normalize(torch.zeros(2, 5)).eq(0).all()
    half = normalize((300 * torch.randn(2, 4096)).half())  # the sum of squares overflows float16, the norm must not
    assert half.dtype == torch.float16
    assert rms(half) == pytest.approx(1, abs=TOLERANCE)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))
def test_resample_up_keeps_magnitude_and_down_inverts_it(n, c, h, w):
    x = torch.randn(n, c, h, w)
    up = resample(x, "up")
    assert up.shape == (n, c, 2 * h, 2 * w)
    assert rms(up) == pytest.approx(rms(x), rel=1e-6)
    torch.testing.assert_close(resample(up, "down"), x)
    assert resample(x, "keep") is x


def test_resample_down_averages_boxes_and_halves_white_noise():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert resample(x, "down").flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert rms(resample(torch.randn(8, 8, 64, 64), "down")) == pytest.approx(0.5, abs=TOLERANCE)
