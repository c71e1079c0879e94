"""Images of seeds."""

import functools
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unitgain.denoiser import Denoiser, DenoiserLike
from unitgain.guide import Guided
from unitgain.sample.generators import SampleGenerators
from unitgain.sample.samplers import Denoise, Sampler, heun
from unitgain.sample.seeds import check_seeds
from unitgain.sample.tiles import tiled


@torch.inference_mode()
def generate(
    denoiser: Denoiser | Guided,
    seeds: Sequence[int],
    sigmas: Float[Tensor, " steps"],
    *,
    sampler: Sampler = heun,
    label: int | Sequence[int] | None = None,
    batch: int = 64,
    on_images: Callable[[float], None] | None = None,
) -> Iterator[tuple[Sequence[int], Int[Tensor, " n"] | None, Float[Tensor, "n c h w"]]]:
    """Draw the image of each seed; an image depends on its seed alone, not on `batch` or its neighbours.

    Args:
        denoiser: in evaluation mode, guided or not; images are drawn on its device.
        seeds: one per image.
        sigmas: schedule, as from `sigma_grid`.
        sampler: one of `unitgain.sample`, its settings bound: `functools.partial(stochastic_heun, S_churn=10)`.
        label: class of all images, or one per seed; by default each seed draws its own.
        batch: images in flight at a time, at least 1.
        on_images: called after each step with the number of images finished; those in flight count by their part.

    Yields:
        Seeds, labels (int64 `[n]`, None for an unconditional network) and images `[n, C, H, W]`, float32, a batch at a
        time in the order of `seeds`.

    Raises:
        ValueError: if a seed or a label is out of range, or a label is given for an unconditional network, or there are
            not as many as seeds, or as many weights of guidance, or `batch` is not positive.
    """
    spec = denoiser.spec
    check_seeds(seeds)
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    asked = [label] * len(seeds) if isinstance(label, int) else label
    if asked is not None:
        check_labels(asked, len(seeds), spec.label_dim)
    if isinstance(denoiser, Guided):
        denoiser.check_samples(len(seeds))
    device = next(denoiser.parameters()).device
    evaluated = tiled(denoiser, device)
    num_steps = len(sigmas) - 1
    for start in range(0, len(seeds), batch):
        chosen = seeds[start : start + batch]
        generators = SampleGenerators(chosen, device)
        noise = generators.randn((spec.channels, spec.resolution, spec.resolution))
        labels = generators.randint(spec.label_dim) if spec.label_dim else None
        if asked is not None:
            labels = torch.tensor(asked[start : start + batch], device=device)
        images = sampler(
            _bind(evaluated, labels, slice(start, start + batch)),
            noise,
            sigmas,
            randn=functools.partial(generators.randn, noise.shape[1:]),
            on_step=_counter(on_images, start, len(chosen), num_steps),
        )
        yield chosen, labels, images


def check_labels(labels: Sequence[int], seeds: int, classes: int) -> None:
    """Raise `ValueError` unless there is a label per seed, each a class of the network."""
    if len(labels) != seeds:
        raise ValueError(f"{len(labels)} labels for {seeds} seeds: give one per seed, or one for all")
    wrong = [label for label in labels if not 0 <= label < classes]
    if wrong:
        known = f"the network knows the classes 0 to {classes - 1}" if classes else "it is unconditional"
        raise ValueError(f"label {wrong[0]} is out of range: {known}")


def _bind(denoiser: DenoiserLike, labels: Tensor | None, rows: slice) -> Denoise:
    of_batch = denoiser.of_samples(rows) if isinstance(denoiser, Guided) else denoiser
    return lambda x, sigma: of_batch(x, sigma, labels)


def _counter(
    on_images: Callable[[float], None] | None, finished: int, batch: int, num_steps: int
) -> Callable[[int], None] | None:
    return None if on_images is None else lambda step: on_images(finished + batch * step / num_steps)
