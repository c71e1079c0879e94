"""Interpolation, image-to-image and inpainting, against what theory says of them."""

import itertools

import pytest
import torch

from unitgain.denoiser import Denoiser
from unitgain.guide import Guided
from unitgain.infer import prepare
from unitgain.sample import (
    SAMPLERS,
    Between,
    DPMpp2M,
    Euler,
    FromImage,
    Heun,
    SampleGenerators,
    StochasticHeun,
    generate,
    interpolate,
    sigma_grid,
)

SHAPE = (1, 4, 4)


@pytest.fixture(scope="module")
def denoiser():
    from unitgain.arch import NetworkSpec

    torch.manual_seed(0)
    spec = NetworkSpec(
        resolution=4, channels=1, label_dim=10, model_channels=8, channel_mult=(1,), num_blocks=1, channels_per_head=8
    )
    network = Denoiser(spec).eval().requires_grad_(False)
    for parameter in network.parameters():
        if parameter.ndim == 0:
            parameter.fill_(0.5)
    return network


def drawn(denoiser, seeds, steps=2, sigma_max=80.0, **options):
    parts = generate(denoiser, seeds, sigma_grid(steps, sigma_max=sigma_max), **options)
    return torch.cat([images for *_, images in parts])


# Interpolation


@pytest.mark.parametrize("make", [lambda one: one, lambda one: prepare(one, torch.float32)])
@pytest.mark.parametrize("sampler", [Heun(), StochasticHeun(S_churn=3.0, S_min=0.0)])
def test_the_ends_are_the_images_of_the_two_seeds(denoiser, make, sampler):
    network = make(denoiser)
    ends = drawn(network, [3, 7], sampler=sampler)
    between = drawn(network, interpolate([3, 7], 4), sampler=sampler)
    assert torch.equal(between[[0, -1]], ends)
    steps = [(b - a).norm() for a, b in itertools.pairwise(between)]
    assert max(steps) < (ends[0] - ends[1]).norm()  # there is something in between


def test_noise_between_seeds_is_unit_noise_of_both():
    ends = SampleGenerators([1, 2]).randn((100_000,))
    for t in (0.1, 0.5, 0.8):
        generators = SampleGenerators([Between(1, 2, t)])
        (first,), (second,) = generators.randn((100_000,)), generators.randn((100_000,))
        for noise in (first, second):
            assert noise.std().item() == pytest.approx(1, abs=0.01)
            assert noise.mean().item() == pytest.approx(0, abs=0.01)
        assert torch.corrcoef(torch.stack([first, ends[0]]))[0, 1] > 0.25
        assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 0.02


def test_classes_between_seeds_are_mixtures_of_theirs(denoiser):
    (_, own, _), (_, mixed, _) = (
        next(generate(denoiser, seeds, sigma_grid(1))) for seeds in ([3, 7], interpolate([3, 7], 5))
    )
    expected = torch.zeros(5, 10)
    for i, t in enumerate(torch.linspace(0, 1, 5)):
        expected[i, own[0]] += 1 - t
        expected[i, own[1]] += t
    torch.testing.assert_close(mixed, expected)
    (_, fixed, _) = next(generate(denoiser, interpolate([3, 7], 5), sigma_grid(1), label=4))
    assert fixed.tolist() == [4] * 5


def test_a_way_through_seeds_passes_each_once():
    way = interpolate([3, 7, 5, 3], 4)
    assert len(way) == 10
    ends = [(one.first, one.last) for one in way if one.t in (0, 1)]
    assert ends == [(3, 7), (7, 5), (5, 3), (5, 3)]
    for seeds, frames, words in (([3], 4, "two seeds"), ([3, 7], 1, "at least 2"), ([3, -1], 4, "seed -1 is out")):
        with pytest.raises(ValueError, match=words):
            interpolate(seeds, frames)
    with pytest.raises(ValueError, match="0 <= t <= 1"):
        Between(1, 2, 1.5)


def test_images_between_seeds_do_not_depend_on_the_batch(denoiser):
    seeds = [4, *interpolate([3, 7], 5), 6]
    assert torch.equal(drawn(denoiser, seeds, batch=64), drawn(denoiser, seeds, batch=2))


# From an image


@pytest.mark.parametrize("name", SAMPLERS)
def test_from_an_image_at_little_noise_is_the_image_and_at_much_it_is_ordinary_drawing(name):
    image, sampler = torch.rand(SHAPE) - 0.5, SAMPLERS[name]()
    denoise = lambda x, sigma, label: 0.25 / (0.25 + sigma**2) * x  # noqa: E731

    def ends(sampler, sigma_max):
        return drawn(denoise, range(2), steps=32, sigma_max=sigma_max, sampler=sampler, shape=SHAPE)

    assert (ends(FromImage(image, sampler), 0.0021) - image).abs().max() < 0.01
    assert (ends(FromImage(image, sampler), 80.0) - ends(sampler, 80.0)).abs().max() < 0.5 / 80 * 2 * image.abs().max()


def test_the_image_counts_less_the_more_noise_there_is():
    """Of Gaussian data the path shrinks what it starts with as sqrt(s^2 + sigma^2), image and noise alike."""
    image, noise = torch.full((1, 1, 1), 0.8, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    for sigma_start in (0.1, 0.5, 2.0):
        sigmas = sigma_grid(256, sigma_max=sigma_start)
        end = FromImage(image)(lambda x, sigma: 0.25 / (0.25 + sigma**2) * x, noise, sigmas)
        assert end.item() == pytest.approx(0.8 * (0.25 / (0.25 + sigma_start**2)) ** 0.5, rel=1e-3)


@pytest.mark.parametrize(("by", "resample"), [(Heun(), 1), (DPMpp2M(), 1), (StochasticHeun(S_churn=3.0, S_min=0.0), 3)])
def test_what_is_kept_is_exact_and_images_do_not_depend_on_the_batch(denoiser, by, resample):
    image, mask = torch.rand(SHAPE) - 0.5, torch.zeros(4, 4, dtype=torch.bool)
    mask[1:3, 2:] = True
    guided = Guided(denoiser, None, 1.5)
    sampler = FromImage(image, by, mask, resample)
    images = drawn(guided, range(3), sampler=sampler)
    assert torch.equal(images[..., ~mask], image[..., ~mask].expand(3, -1, -1))
    assert torch.equal(images, drawn(guided, range(3), sampler=sampler, batch=2))
    assert not torch.equal(images[0], images[1])


def gaussian(rho=0.8, pixels=6):
    """A Gaussian of neighbours that are alike: its denoiser; mean and spread of the last pixels given the first two."""
    place = torch.arange(pixels, dtype=torch.float64)
    covariance = 0.25 * rho ** (place[:, None] - place).abs()
    mean, known = torch.linspace(-0.2, 0.2, pixels, dtype=torch.float64), torch.tensor([0.6, 0.4], dtype=torch.float64)

    def denoise(x, sigma):
        gain = covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(pixels, dtype=torch.float64))
        return ((x.flatten(1) - mean) @ gain.T + mean).reshape(x.shape)

    gain = covariance[2:, :2] @ torch.linalg.inv(covariance[:2, :2])
    spread = (covariance[2:, 2:] - gain @ covariance[:2, 2:]).diag().sqrt()
    return denoise, known, mean[2:] + gain @ (known - mean[:2]), spread


@pytest.mark.parametrize(("by", "steps"), [(Heun(), 16), (Euler(), 48)])
def test_inpainting_comes_to_the_posterior_of_a_gaussian(by, steps):
    denoise, known, mean, spread = gaussian()
    image = torch.zeros(1, 1, 6, dtype=torch.float64)
    image[..., :2] = known
    mask, random = torch.arange(6)[None] >= 2, torch.Generator().manual_seed(0)
    randn = lambda: torch.randn(4000, 1, 1, 6, dtype=torch.float64, generator=random)  # noqa: E731
    errors, spreads = [], []
    for resample in (1, 4, 24):
        drawn = FromImage(image, by, mask, resample)(denoise, randn(), sigma_grid(steps, sigma_max=20), randn)
        assert torch.equal(drawn[:, 0, 0, :2], known.expand(4000, -1))
        errors.append(((drawn[:, 0, 0, 2:].mean(0) - mean) / spread).abs().max().item())
        spreads.append((drawn[:, 0, 0, 2:].std(0) / spread - 1).abs().max().item())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.1 and spreads[2] < 0.1


@pytest.mark.parametrize("by", [*(one() for one in SAMPLERS.values())])
@pytest.mark.parametrize("resample", [1, 3])
def test_evaluations_are_counted(by, resample):
    calls, sigmas = [], sigma_grid(5)
    sampler = FromImage(torch.zeros(SHAPE), by, torch.ones(4, 4, dtype=torch.bool), resample)

    def denoise(x, sigma):
        calls.append(float(sigma))
        return torch.zeros_like(x)

    sampler(denoise, torch.randn(1, *SHAPE), sigmas, lambda: torch.randn(1, *SHAPE))
    assert len(calls) == sampler.evaluations(sigmas)


def test_a_step_that_is_made_anew_is_churned_as_one_of_the_whole_path():
    levels, sigmas = [], torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0])
    churned = StochasticHeun(S_churn=0.4, S_min=0.0)

    def denoise(x, sigma):
        levels.append(float(sigma))
        return torch.zeros_like(x)

    sampler = FromImage(torch.zeros(SHAPE), churned, torch.ones(4, 4, dtype=torch.bool), 2)
    sampler(denoise, torch.randn(1, *SHAPE), sigmas, lambda: torch.randn(1, *SHAPE))
    assert [levels[0], levels[2]] == pytest.approx([8 * (1 + 0.4 / 4)] * 2)


def test_an_image_or_mask_that_does_not_fit_is_refused(denoiser):
    image, mask = torch.zeros(SHAPE), torch.ones(4, 4, dtype=torch.bool)
    for make, words in (
        (lambda: FromImage(image, mask=mask[:2]), r"mask has shape \(2, 4\)"),
        (lambda: FromImage(image, mask=~mask), "frees no pixel"),
        (lambda: FromImage(image, mask=mask, resample=0), "at least 1"),
        (lambda: FromImage(image, resample=2), "only with a mask"),
        (lambda: drawn(denoiser, [0], sampler=FromImage(torch.zeros(1, 4, 2))), r"images of \(1, 4, 4\) are drawn"),
        (lambda: FromImage(image, mask=mask, resample=2)(lambda x, sigma: x, image[None], sigma_grid(2)), "pass randn"),
    ):
        with pytest.raises(ValueError, match=words):
            make()


# Watching


def test_an_image_of_any_precision_is_recorded():
    image = torch.randn(1, 2, 4, 4)
    assert FromImage(image[0]).to_json() != FromImage(image[0].bfloat16()).to_json()


def test_every_evaluation_is_seen(denoiser):
    steps = []
    images = drawn(denoiser, range(5), steps=3, batch=3, on_step=steps.append)
    assert torch.equal(images, drawn(denoiser, range(5), steps=3))
    assert [(list(step.seeds), step.number, step.evaluations) for step in steps] == [
        (seeds, number, 5) for seeds in ([0, 1, 2], [3, 4]) for number in range(1, 6)
    ]
    assert torch.equal(steps[0].x, 80 * SampleGenerators(range(3)).randn(SHAPE))
    torch.testing.assert_close(images[:3], steps[4].denoised)  # the last step goes to D
