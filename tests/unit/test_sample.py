"""Samplers against closed forms: for Gaussian data the exact denoiser is known, and so is where the path ends."""

import itertools
import math

import pytest
import torch

from unitgain.arch import NetworkSpec
from unitgain.denoiser import Denoiser
from unitgain.guide import Guided, PerClass
from unitgain.sample import (
    SAMPLERS,
    DPMpp2M,
    Euler,
    Heun,
    SampleGenerators,
    StochasticHeun,
    Tiled,
    generate,
    heun,
    sigma_grid,
    tile_size,
)

SIGMA_MAX = 80.0


def gaussian_denoiser(scale):
    """D(x; sigma) of zero-mean Gaussian data with standard deviations `scale` per pixel: s^2 / (s^2 + sigma^2) x."""
    return lambda x, sigma: scale**2 / (scale**2 + sigma**2) * x


def exact_end(noise, scale, sigma_max, sigma_end=0.0):
    """Where the probability-flow path ends: x shrinks as sqrt(s^2 + sigma^2)."""
    start = noise * sigma_max
    return start * ((scale**2 + sigma_end**2) / (scale**2 + sigma_max**2)) ** 0.5


def test_schedule():
    sigmas = sigma_grid(32)
    assert sigmas.dtype == torch.float64
    assert len(sigmas) == 33
    assert sigmas[0].item() == pytest.approx(80)
    assert sigmas[-2].item() == pytest.approx(0.002)
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()
    third = (80 ** (1 / 7) + 3 / 31 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert sigmas[3].item() == pytest.approx(third)
    assert sigma_grid(1).tolist() == pytest.approx([80, 0])


@pytest.mark.parametrize("arguments", [(0,), (8, 0.0), (8, 2.0, 1.0), (8, 0.1, 1.0, 0.0), (8, 0.1, 1e30)])
def test_schedule_refuses_nonsense(arguments):
    with pytest.raises(ValueError, match="a schedule needs num_steps >= 1"):
        sigma_grid(*arguments)


@pytest.mark.parametrize(("sampler", "order"), [(Euler(), 1), (Heun(), 2), (DPMpp2M(), 2)])
def test_order_of_convergence(sampler, order):
    # Halving the steps divides the error by 2 to the order. Ends above 0, where the last step would be of first order.
    scale = torch.tensor([0.2, 0.5, 1.0, 2.0], dtype=torch.float64).reshape(1, 4, 1, 1)
    noise = torch.randn(8, 4, 2, 2, dtype=torch.float64)
    errors = []
    for steps in (32, 64, 128, 256, 512):
        sigmas = torch.linspace(SIGMA_MAX ** (1 / 7), 0.002 ** (1 / 7), steps + 1, dtype=torch.float64) ** 7
        end = sampler(gaussian_denoiser(scale), noise, sigmas)
        errors.append((end - exact_end(noise, scale, SIGMA_MAX, sigmas[-1])).norm().item())
    slopes = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert slopes[-1] == pytest.approx(order, abs=0.1)
    assert all(slope > order - 0.2 for slope in slopes[1:])


@pytest.mark.parametrize("sampler", [Euler(), DPMpp2M()])
def test_one_step_to_zero_is_the_denoised_noise(sampler):
    noise = torch.randn(3, 1, 2, 2, dtype=torch.float64)
    end = sampler(gaussian_denoiser(0.5), noise, torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(end, gaussian_denoiser(0.5)(2 * noise, 2.0))


def test_dpmpp_2m_by_hand():
    # Algorithm 2 of DPM-Solver++ with alpha = 1, sigma = e^-t, in its own terms
    scale, sigmas = 0.5, [4.0, 1.5, 1.0, 0.2]
    times = [-math.log(sigma) for sigma in sigmas]
    x = 3.0 * sigmas[0]
    denoised = [gaussian_denoiser(scale)(x, sigmas[0])]
    for i in range(1, 4):
        h = times[i] - times[i - 1]
        mixed = denoised[-1]
        if i > 1:
            r = (times[i - 1] - times[i - 2]) / h
            mixed = (1 + 1 / (2 * r)) * denoised[-1] - 1 / (2 * r) * denoised[-2]
        x = sigmas[i] / sigmas[i - 1] * x - math.expm1(-h) * mixed
        denoised.append(gaussian_denoiser(scale)(x, sigmas[i]))
    noise = torch.full((1, 1, 1, 1), 3.0, dtype=torch.float64)
    end = DPMpp2M()(gaussian_denoiser(scale), noise, torch.tensor(sigmas, dtype=torch.float64))
    assert end.item() == pytest.approx(x, rel=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("last", [0.0, 0.5])
def test_every_sampler_counts_its_evaluations(name, last):
    calls, sampler = [], SAMPLERS[name]()
    sigmas = torch.tensor([8.0, 4.0, 2.0, 1.0, last])

    def denoise(x, sigma):
        calls.append(float(sigma))
        return torch.zeros_like(x)

    noise = torch.randn(1, 1, 2, 2)
    sampler(denoise, noise, sigmas, lambda: torch.randn(noise.shape))
    assert len(calls) == sampler.evaluations(sigmas)
    assert len(calls) == {"euler": 4, "dpmpp_2m": 4}.get(name, 7 if last == 0 else 8)


def test_deterministic_sampler_yields_the_gaussians_covariance():
    scale = torch.tensor([0.25, 0.5, 1.0]).reshape(1, 3, 1, 1)
    noise = torch.randn(4000, 3, 2, 2)
    images = heun(gaussian_denoiser(scale), noise, sigma_grid(192))
    torch.testing.assert_close(images, exact_end(noise, scale, SIGMA_MAX), rtol=0.01, atol=1e-3)
    covariance = images.flatten(1).T.cov()
    expected = torch.diag((scale**2).expand(1, 3, 2, 2).flatten())
    assert (covariance - expected).abs().max() < 0.08
    assert images.mean().abs() < 0.02


def test_full_covariance_through_an_exact_denoiser():
    # Correlated pixels: D = C (C + sigma^2)^-1 x; the end of the path has covariance C.
    root = torch.tensor([[0.5, 0.0], [0.3, 0.4]], dtype=torch.float64)
    covariance = root @ root.T

    def denoise(x, sigma):
        gain = covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(2, dtype=torch.float64))
        return (x.flatten(1) @ gain.T).reshape(x.shape)

    noise = torch.randn(20_000, 2, 1, 1, dtype=torch.float64)
    found = heun(denoise, noise, sigma_grid(192)).flatten(1).T.cov()
    torch.testing.assert_close(found, covariance, rtol=0.03, atol=0.01)


def test_churned_sampler_yields_the_gaussians_variance():
    generators = torch.Generator().manual_seed(5)
    noise = torch.randn(20_000, 1, 1, 1, generator=generators)
    sampler = StochasticHeun(S_churn=20.0, S_min=0.01, S_noise=1.0)
    images = sampler(
        gaussian_denoiser(0.5), noise, sigma_grid(256), lambda: torch.randn(noise.shape, generator=generators)
    )
    assert images.std().item() == pytest.approx(0.5, rel=0.02)
    deterministic = heun(gaussian_denoiser(0.5), noise, sigma_grid(256))
    assert torch.corrcoef(torch.stack([images.flatten(), deterministic.flatten()]))[0, 1] < 0.9  # it did churn


def test_number_of_evaluations_and_last_step():
    calls = []

    def denoise(x, sigma):
        calls.append(float(sigma))
        return torch.zeros_like(x)

    end = heun(denoise, torch.randn(1, 1, 2, 2), sigma_grid(18))
    assert len(calls) == 2 * 18 - 1
    assert min(calls) == pytest.approx(0.002)
    assert end.abs().max() < 1e-6  # D = 0 everywhere: the path is a straight line to 0


def test_churn_needs_a_source_of_noise():
    with pytest.raises(ValueError, match=r"pass randn"):
        heun(gaussian_denoiser(0.5), torch.randn(1, 1, 2, 2), sigma_grid(4), S_churn=1.0)
    with pytest.raises(ValueError, match=r"pass randn"):
        StochasticHeun()(gaussian_denoiser(0.5), torch.randn(1, 1, 2, 2), sigma_grid(4))


def test_seeds_are_independent_of_their_neighbours_and_no_two_are_one():
    one = SampleGenerators([5]).randn((2, 3))
    assert torch.equal(one[0], SampleGenerators([4, 5, 6]).randn((2, 3))[1])
    assert not torch.equal(one, SampleGenerators([2**32 - 1]).randn((2, 3)))
    for wrong in (2**32, 2**64, 5 + 2**32, -1):  # which official generators take modulo 2^32
        with pytest.raises(ValueError, match=f"seed {wrong} is out of range: .* from 0 to 4294967295"):
            SampleGenerators([0, wrong])


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    spec = NetworkSpec(
        resolution=8,
        channels=1,
        label_dim=10,
        model_channels=32,
        channel_mult=(1, 2),
        num_blocks=1,
        channels_per_head=32,
    )
    denoiser = Denoiser(spec).eval().requires_grad_(False)
    for parameter in denoiser.parameters():
        if parameter.ndim == 0:
            parameter.fill_(0.5)
    return denoiser


def drawn(denoiser, seeds, steps=2, **options):
    parts = list(generate(denoiser, seeds, sigma_grid(steps), **options))
    assert [seed for chosen, _, _ in parts for seed in chosen] == list(seeds)
    return torch.cat([images for _, _, images in parts]), torch.cat([labels for _, labels, _ in parts])


HEUN, CHURNED = Heun(), StochasticHeun(S_churn=3.0, S_min=0.0)


@pytest.fixture(scope="module")
def guide(denoiser):
    """Unconditional and so large that it is evaluated in other tiles than the main network."""
    torch.manual_seed(1)
    network = Denoiser(denoiser.spec.replace(label_dim=0, model_channels=128)).eval().requires_grad_(False)
    for parameter in network.parameters():
        if parameter.ndim == 0:
            parameter.fill_(0.5)
    assert tile_size(network, "cpu") < tile_size(denoiser, "cpu")
    return network


@pytest.mark.parametrize("sampler", [HEUN, CHURNED, DPMpp2M()])
def test_images_of_a_seed_do_not_depend_on_the_batch_or_its_neighbours(denoiser, sampler):
    seeds = list(range(10))
    images, labels = drawn(denoiser, seeds, batch=64, sampler=sampler)
    for batch in (1, 7) if sampler is HEUN else (7,):
        again, labels_again = drawn(denoiser, seeds, batch=batch, sampler=sampler)
        assert torch.equal(images, again)
        assert torch.equal(labels, labels_again)
    backwards, _ = drawn(denoiser, seeds[::-1], batch=4, sampler=sampler)
    assert torch.equal(images, backwards.flip(0))


@pytest.mark.parametrize(
    "weight", [1.7, PerClass(torch.linspace(1, 2, 10)), torch.linspace(0.5, 2, 6), lambda sigma: 1 + 1 / (1 + sigma)]
)
def test_guided_images_do_not_depend_on_the_batch(denoiser, guide, weight):
    guided = Guided(denoiser, guide, weight, interval=(0.01, 50))
    images, _ = drawn(guided, range(6), steps=3, batch=6)
    again, _ = drawn(guided, range(6), steps=3, batch=4)
    assert torch.equal(images, again)
    assert not torch.equal(images, drawn(denoiser, range(6), steps=3)[0])


def test_guided_images_of_weight_1_are_those_of_the_main_network(denoiser, guide):
    plain, _ = drawn(denoiser, range(6))
    for weight in (1.0, torch.ones(6), PerClass(torch.ones(10)), lambda sigma: 1.0):
        assert torch.equal(plain, drawn(Guided(denoiser, guide, weight), range(6))[0])
    some, labels = drawn(Guided(denoiser, guide, PerClass(torch.tensor([1.0, 3.0] * 5))), range(6))
    assert [torch.equal(a, b) for a, b in zip(some, plain, strict=True)] == [int(one) % 2 == 0 for one in labels]


def test_progress_counts_parts_of_images(denoiser):
    seen = []
    drawn(denoiser, range(5), batch=3, on_images=seen.append)
    assert seen == pytest.approx([1, 2, 3, 3 + 2 / 3, 3 + 4 / 3, 5])  # after each of three evaluations


def test_one_class_for_all_keeps_the_noise(denoiser):
    images, labels = drawn(denoiser, range(4), label=7)
    assert labels.tolist() == [7] * 4
    free, own = drawn(denoiser, range(4))
    for i, label in enumerate(own.tolist()):
        alone, _ = drawn(denoiser, [i], label=label)
        assert torch.equal(alone[0], free[i])
    assert not torch.equal(images, free)


def test_every_evaluation_has_the_same_number_of_images(denoiser):
    shapes = []
    hook = denoiser.network.register_forward_pre_hook(lambda module, args: shapes.append(len(args[0])))
    label = torch.arange(5)
    x = torch.randn(5, 1, 8, 8)
    tiled = Tiled(denoiser, tile=2)(x, torch.tensor(0.5), label)
    levels = torch.linspace(0.1, 2, 5)
    each = Tiled(denoiser, tile=2)(x, levels, label)
    hook.remove()
    assert shapes == [2, 2, 2] * 2
    torch.testing.assert_close(tiled, denoiser(x, 0.5, label), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(each, denoiser(x, levels, label), rtol=1e-4, atol=1e-5)


def test_tile_depends_on_the_network_alone():
    big = NetworkSpec(resolution=64, channels=3, label_dim=1000)
    with torch.device("meta"):
        assert tile_size(Denoiser(big), "cpu") == 1
        assert tile_size(Denoiser(big), "cuda") == 8


@pytest.mark.parametrize(
    ("options", "words"), [({"label": 10}, "0 to 9"), ({"label": -1}, "0 to 9"), ({"batch": 0}, "batch")]
)
def test_generate_refuses_nonsense(denoiser, options, words):
    with pytest.raises(ValueError, match=words):
        list(generate(denoiser, [0], sigma_grid(2), **options))


def test_generate_wants_a_weight_per_sample(denoiser, guide):
    with pytest.raises(ValueError, match="3 weights of guidance for 2 samples"):
        list(generate(Guided(denoiser, guide, torch.ones(3)), [0, 1], sigma_grid(2)))


def test_any_function_is_a_denoiser():
    seen = []

    def denoise(x, sigma, label):
        seen.append(label)
        return gaussian_denoiser(0.5)(x, sigma)

    parts = list(generate(denoise, range(5), sigma_grid(64), shape=(2, 4, 6), label=7, batch=3))
    images = torch.cat([images for _, _, images in parts])
    assert images.shape == (5, 2, 4, 6) and {int(one) for label in seen for one in label} == {7}
    torch.testing.assert_close(
        images, exact_end(SampleGenerators(range(5)).randn((2, 4, 6)), 0.5, 80), rtol=0.05, atol=0
    )
    assert all(labels is None for _, labels, _ in generate(denoise, [0], sigma_grid(2), shape=(1, 2, 2)))
    with pytest.raises(ValueError, match=r"pass shape=\(C, H, W\)"):
        next(generate(denoise, [0], sigma_grid(2)))


def test_images_of_another_shape(denoiser):
    (part,) = generate(denoiser, [0, 1], sigma_grid(2), shape=(1, 8, 12))
    assert part[2].shape == (2, 1, 8, 12) and bool(part[2].isfinite().all())


def test_heun_is_second_order_into_any_level_but_0():
    """One step to a level above 0, by hand: the mean of the slopes at both ends."""
    noise, (high, low) = torch.full((1, 1, 1, 1), 2.0, dtype=torch.float64), (2.0, 0.5)
    denoise = gaussian_denoiser(0.5)
    x = 2.0 * high
    slope = (x - denoise(x, high)) / high
    guess = x + (low - high) * slope
    expected = x + (low - high) * (slope + (guess - denoise(guess, low)) / low) / 2
    assert heun(denoise, noise, torch.tensor([high, low])).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("wrong", [{"S_churn": -1.0}, {"S_noise": float("nan")}, {"S_min": 60.0, "S_max": 2.0}])
def test_settings_of_a_sampler_are_checked(wrong):
    with pytest.raises(ValueError, match=r"must not be negative|S_min = 60 is above S_max = 2"):
        StochasticHeun(**wrong)
