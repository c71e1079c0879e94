"""Sampling: noise schedule, Heun's method with churn, and random numbers that belong to each sample.

`denoise(x, sigma) -> denoised` is any callable that takes images `[N, C, H, W]` and a scalar noise level: a denoiser
with its label bound, a guided one, or a formula.

Source: EDM (Karras et al. 2022), Algorithms 1 and 2; EDM2, Appendix D.1 and Eq. 153.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unitgain.denoiser import Denoiser

Denoise = Callable[[Tensor, Tensor], Tensor]
GAMMA_MAX = math.sqrt(2) - 1  # no step of churn adds more noise than there is


def sigma_grid(
    num_steps: int = 32, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Float[Tensor, " steps"]:
    """Noise levels from `sigma_max` down to `sigma_min`, then 0; dense at the low end.

    Args:
        num_steps: N, number of steps, at least 1.
        sigma_min: last level before 0.
        sigma_max: first level.
        rho: exponent of the spacing.

    Returns:
        `[num_steps + 1]`, float64: `(smax^(1/rho) + i/(N-1) (smin^(1/rho) - smax^(1/rho)))^rho` and a final 0.

    Raises:
        ValueError: unless num_steps >= 1, 0 < sigma_min < sigma_max and rho > 0.
    """
    if num_steps < 1 or not 0 < sigma_min < sigma_max or not rho > 0:
        raise ValueError(
            f"a schedule needs num_steps >= 1, 0 < sigma_min < sigma_max and rho > 0, "
            f"not {num_steps=}, {sigma_min=}, {sigma_max=}, {rho=}"
        )
    ramp = torch.arange(num_steps, dtype=torch.float64) / max(num_steps - 1, 1)
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.cat([(first + ramp * (last - first)) ** rho, torch.zeros(1, dtype=torch.float64)])


def heun(
    denoise: Denoise,
    noise: Float[Tensor, "n c h w"],
    sigmas: Float[Tensor, " steps"],
    *,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
    randn: Callable[[], Tensor] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Float[Tensor, "n c h w"]:
    """Heun's method for `dx/dsigma = (x - D(x; sigma)) / sigma` (Eq. 153), with optional churn.

    Second order in the step, two evaluations per step, one in the last: 2N - 1 in all.

    Args:
        denoise: D.
        noise: unit noise `[N, C, H, W]`; its dtype is that of the state.
        sigmas: decreasing noise levels, the last may be 0, as from `sigma_grid`.
        S_churn: amount of fresh noise over the whole path; 0 is the deterministic sampler.
        S_min: lowest sigma that is churned.
        S_max: highest sigma that is churned.
        S_noise: standard deviation of the fresh noise.
        randn: draws unit noise of the shape of `noise`; needed when S_churn > 0, so that it comes from the generators
            of the samples.
        on_step: called with the number of steps done, after each.

    Returns:
        Images `[N, C, H, W]` at the last level of `sigmas`.

    Raises:
        ValueError: if S_churn > 0 without `randn`.
    """
    if S_churn > 0 and randn is None:
        raise ValueError("S_churn > 0 adds fresh noise: pass randn, such as SampleGenerators(seeds).randn")
    sigmas = sigmas.to(noise.device, noise.dtype)
    num_steps = len(sigmas) - 1
    x = noise * sigmas[0]
    for i, (sigma, sigma_next) in enumerate(itertools.pairwise(sigmas)):
        if randn is not None and S_churn > 0 and S_min <= sigma <= S_max:
            sigma_hat = sigma * (1 + min(S_churn / num_steps, GAMMA_MAX))
            x = x + (sigma_hat**2 - sigma**2).sqrt() * S_noise * randn().to(x)
            sigma = sigma_hat
        slope = (x - denoise(x, sigma).to(x)) / sigma
        x_next = x + (sigma_next - sigma) * slope
        if i < num_steps - 1:
            slope_next = (x_next - denoise(x_next, sigma_next).to(x)) / sigma_next
            x_next = x + (sigma_next - sigma) * (slope + slope_next) / 2
        x = x_next
        if on_step is not None:
            on_step(i + 1)
    return x


class SampleGenerators:
    """A random generator per sample, so that image number s is the same in any batch.

    Args:
        seeds: one per sample, any integers; taken modulo 2^32.
        device: where the numbers are drawn; they differ between kinds of device.

    The order of draws is the official one: first `randn` for the noise, then `randint` for the class, then `randn` for
    each churn.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.generators = [torch.Generator(self.device).manual_seed(seed % 2**32) for seed in seeds]

    def randn(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        """Unit noise `[N, *shape]`, float32."""
        return torch.stack([torch.randn(tuple(shape), generator=g, device=self.device) for g in self.generators])

    def randint(self, high: int) -> Int[Tensor, " n"]:
        """One integer below `high` per sample, int64 `[N]`."""
        return torch.stack([torch.randint(high, (), generator=g, device=self.device) for g in self.generators])


def tile_size(denoiser: Denoiser, device: torch.device | str) -> int:
    """Images per evaluation of `denoiser` in `generate`: a function of the network and the kind of device alone.

    Libraries sum in another order at another batch size, so the number of images per evaluation must not depend on how
    many were asked for. Small networks get up to 64; one that fills the machine with a single image gets 1.
    """
    spec = denoiser.spec
    budget = 2**18 if torch.device(device).type == "cpu" else 2**23
    tile = budget // (spec.resolution**2 * spec.model_channels)
    return min(2 ** int(math.log2(tile)), 64) if tile else 1


def in_tiles(denoiser: Denoiser, label: Int[Tensor, " n"] | None, tile: int) -> Denoise:
    """`denoise(x, sigma)` that evaluates exactly `tile` images at a time, the last ones filled up with repetitions."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        filled = torch.arange(len(x) + -len(x) % tile, device=x.device) % len(x)
        parts: list[Tensor] = []
        for start in range(0, len(filled), tile):
            rows = filled[start : start + tile]
            parts.append(denoiser(x[rows], sigma, None if label is None else label[rows]))
        return torch.cat(parts)[: len(x)]

    return denoise


@torch.inference_mode()
def generate(
    denoiser: Denoiser,
    seeds: Sequence[int],
    sigmas: Float[Tensor, " steps"],
    *,
    label: int | Sequence[int] | None = None,
    batch: int = 64,
    on_images: Callable[[int], None] | None = None,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
) -> Iterator[tuple[Sequence[int], Int[Tensor, " n"] | None, Float[Tensor, "n c h w"]]]:
    """Draw the image of each seed with `heun`; an image depends on its seed alone, not on `batch` or its neighbours.

    Args:
        denoiser: in evaluation mode; images are drawn on its device.
        seeds: one per image.
        sigmas: schedule, as from `sigma_grid`.
        label: class of all images, or one per seed; by default each seed draws its own.
        batch: images in flight at a time, at least 1.
        on_images: called with the number of images finished, after each batch.
        S_churn: this and the next three as in `heun`.
        S_min: lowest sigma that is churned.
        S_max: highest sigma that is churned.
        S_noise: standard deviation of the fresh noise.

    Yields:
        Seeds, labels (int64 `[n]`, None for an unconditional network) and images `[n, C, H, W]`, float32, a batch at a
        time in the order of `seeds`.

    Raises:
        ValueError: if a label is out of range, or given for an unconditional network, or there are not as many as
            seeds, or `batch` is not positive.
    """
    spec = denoiser.spec
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    asked = [label] * len(seeds) if isinstance(label, int) else label
    if asked is not None:
        _check_labels(asked, len(seeds), spec.label_dim)
    device = next(denoiser.parameters()).device
    tile = tile_size(denoiser, device)
    done = 0
    for start in range(0, len(seeds), batch):
        chosen = seeds[start : start + batch]
        generators = SampleGenerators(chosen, device)
        noise = generators.randn((spec.channels, spec.resolution, spec.resolution))
        labels = generators.randint(spec.label_dim) if spec.label_dim else None
        if asked is not None:
            labels = torch.tensor(asked[start : start + batch], device=device)
        randn = functools.partial(generators.randn, noise.shape[1:])
        images = heun(
            in_tiles(denoiser, labels, tile),
            noise,
            sigmas,
            S_churn=S_churn,
            S_min=S_min,
            S_max=S_max,
            S_noise=S_noise,
            randn=randn,
        )
        done += len(chosen)
        if on_images is not None:
            on_images(done)
        yield chosen, labels, images


def _check_labels(labels: Sequence[int], seeds: int, classes: int) -> None:
    if len(labels) != seeds:
        raise ValueError(f"{len(labels)} labels for {seeds} seeds: give one per seed, or one for all")
    wrong = [label for label in labels if not 0 <= label < classes]
    if wrong:
        known = f"the network knows the classes 0 to {classes - 1}" if classes else "it is unconditional"
        raise ValueError(f"label {wrong[0]} is out of range: {known}")
