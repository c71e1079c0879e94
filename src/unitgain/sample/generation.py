"""Images of seeds."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.arch import NetworkSpec
from unitgain.arch.values import Conditions
from unitgain.classes import Class
from unitgain.denoiser import ClassLabel, DenoiserLike, Label, classes_of
from unitgain.guide import Guided
from unitgain.sample.generators import SampleGenerators
from unitgain.sample.samplers import Denoise, Heun, Sampler
from unitgain.sample.seeds import AnySeed, Seed, as_seeds
from unitgain.sample.tiles import tiled

HEUN = Heun()


@dataclass(frozen=True, eq=False)
class Step:
    """An evaluation of the network on the way from noise to images.

    Attributes:
        seeds: of the images that are under way.
        number: of the evaluation, from 1.
        evaluations: how many there will be.
        sigma: noise level.
        x: noisy images `[n, C, *size]`.
        denoised: what the network sees in them, D(x; sigma), `[n, C, *size]`.
    """

    seeds: Sequence[Seed]
    number: int
    evaluations: int
    sigma: float
    x: Tensor
    denoised: Tensor


@torch.inference_mode()
def generate(
    denoiser: DenoiserLike | Callable[[Tensor, Tensor, Label], Tensor],
    seeds: Sequence[AnySeed],
    sigmas: Float[Tensor, " steps"],
    *,
    sampler: Sampler = HEUN,
    label: Class | Sequence[Class] | None = None,
    conditions: Conditions | Callable[[Sequence[AnySeed]], Conditions] | None = None,
    batch: int = 64,
    shape: Sequence[int] | None = None,
    device: torch.device | str | None = None,
    on_images: Callable[[float], None] | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Iterator[tuple[Sequence[AnySeed], ClassLabel, Float[Tensor, "n c *size"]]]:
    """Draw the image of each seed; an image depends on its seed alone, not on `batch` or its neighbours.

    Args:
        denoiser: in evaluation mode, guided or not; or any function `denoise(x, sigma, label) -> denoised`, which is
            evaluated on as many images as are in flight, and whose images may therefore depend on `batch` in rounding.
        seeds: one per image; points between two of them too, as from `interpolate`.
        sigmas: schedule, as from `sigma_grid`.
        sampler: with its settings, such as `StochasticHeun(S_churn=10)`; `FromImage` starts from an image.
        label: class of all images, or one per seed, by number or by name; by default each seed draws its own of those
            that the network knows.
        conditions: what else the network is told, one per seed; or a function that says what some seeds get. A label
            that is in them holds unless `label` is given.
        batch: images in flight at a time, at least 1.
        shape: (C, *size) of an image; by default that of the network, which functions have none of.
        device: where images are drawn; by default where the parameters are, and the CPU for a function.
        on_images: called after each evaluation with the number of images finished; those in flight count by their part.
        on_step: called after each evaluation with what went in and came out.

    Yields:
        Seeds, labels (int64 `[n]`, mixtures `[n, classes]` between seeds that draw classes, None for an unconditional
        network) and images `[n, C, *size]`, float32, a batch at a time in the order of `seeds`.

    Raises:
        ValueError: if a seed or a label is out of range, or a label is given for an unconditional network, or there are
            not as many labels, conditions or weights of guidance as seeds, or `batch` is not positive, or `shape` is
            missing.
    """
    seeds = as_seeds(seeds)
    check_batch(batch)
    spec, shape = _spec_and_shape(denoiser, shape)
    per_seed = None if label is None else _per_seed(denoiser, label, len(seeds))
    if isinstance(conditions, Conditions) and len(conditions) != len(seeds):
        raise ValueError(f"conditions of {len(conditions)} samples for {len(seeds)} seeds: give one per seed")
    if isinstance(denoiser, Guided):
        denoiser.check_samples(len(seeds))
    device = device or _device(denoiser)
    network = tiled(denoiser, device) if isinstance(denoiser, DenoiserLike) else denoiser
    for start in range(0, len(seeds), batch):
        part = seeds[start : start + batch]
        generators = SampleGenerators(part, device)
        noise = generators.randn(shape)
        labels = generators.randint(spec.label_dim) if spec and spec.label_dim else None
        rows = slice(start, start + batch)
        told = _told(conditions, part, rows, device)
        if per_seed is not None:
            labels = torch.tensor(per_seed[rows], device=device)
        elif told is not None and told.label is not None:
            labels = told.label
        told = labels if told is None else told.with_label(labels)
        denoise = _bind(network, told, rows)
        denoise = _watched(denoise, part, start, sampler.evaluations(sigmas), on_images, on_step)
        yield part, labels, sampler(denoise, noise, sigmas, functools.partial(generators.randn, shape))


def check_batch(batch: int) -> None:
    """Raise `ValueError` unless images can be in flight so many at a time."""
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")


def _told(
    conditions: Conditions | Callable[[Sequence[AnySeed]], Conditions] | None,
    seeds: Sequence[AnySeed],
    rows: slice,
    device: torch.device | str,
) -> Conditions | None:
    """What these seeds get beside a label."""
    if conditions is None:
        return None
    told = conditions[rows] if isinstance(conditions, Conditions) else conditions(seeds)
    if broken := told.not_finite():
        name, place = broken
        raise ValueError(
            f"condition {name!r} of seed {seeds[place]} holds NaN or infinite values: repair it, or mask it as missing"
        )
    return told.to(device)


def _spec_and_shape(denoiser: object, shape: Sequence[int] | None) -> tuple[NetworkSpec | None, Sequence[int]]:
    """What the network is, if it says so, and (C, *size) of an image."""
    spec = denoiser.spec if isinstance(denoiser, DenoiserLike) else None
    if shape is not None:
        return spec, shape
    if spec is None:
        raise ValueError("a denoiser without a spec does not say how large its images are: pass shape=(C, H, W)")
    return spec, (spec.channels, *spec.size)


def _per_seed(denoiser: object, label: Class | Sequence[Class], seeds: int) -> list[int]:
    """The number of the class of each image."""
    labels = label if isinstance(label, Sized) and not isinstance(label, str) else [label] * seeds
    if len(labels) != seeds:
        raise ValueError(f"{len(labels)} labels for {seeds} seeds: give one per seed, or one for all")
    return classes_of(denoiser).numbers(labels)


def _device(denoiser: object) -> torch.device:
    parameters = denoiser.parameters() if isinstance(denoiser, nn.Module) else iter(())
    first = next(parameters, None)
    return torch.device("cpu") if first is None else first.device


def _bind(denoiser: Callable[[Tensor, Tensor, Label], Tensor], label: Label, rows: slice) -> Denoise:
    of_batch = denoiser.of_samples(rows) if isinstance(denoiser, Guided) else denoiser
    return lambda x, sigma: of_batch(x, sigma, label)


def _watched(
    denoise: Denoise,
    seeds: Sequence[Seed],
    finished: int,
    evaluations: int,
    on_images: Callable[[float], None] | None,
    on_step: Callable[[Step], None] | None,
) -> Denoise:
    """The same, telling after each evaluation how far a batch is; `finished` images came before it."""
    if on_images is None and on_step is None:
        return denoise
    numbers = itertools.count(1)

    def watched(x: Tensor, sigma: Tensor) -> Tensor:
        denoised, number = denoise(x, sigma), next(numbers)
        if on_images is not None:
            on_images(finished + len(seeds) * min(number / evaluations, 1))
        if on_step is not None:
            on_step(Step(seeds, number, evaluations, float(sigma), x, denoised))
        return denoised

    return watched
