"""Training steps of a recipe on random images of the right shape."""

from collections.abc import Mapping, Sequence

import torch

from unitgain.bench.cases import Case
from unitgain.bench.forward import forward_macs
from unitgain.bench.measure import Comparison, Pace, Work, measure
from unitgain.bench.memory import PeakMemory
from unitgain.bench.steps import Variant, parse_step
from unitgain.loss import EDMLoss
from unitgain.recipe import Recipe
from unitgain.recipes import DIGITS
from unitgain.train.step import Microbatch

LARGEST = 16  # images of a step where nobody has said how many


def training(
    cases: Sequence[Case],
    *,
    batch: int | None = None,
    device: torch.device | str = "cpu",
    pace: Pace | None = None,
    variants: Mapping[str, Variant] | None = None,
) -> Comparison:
    """Measure training steps, all cases in turns.

    Args:
        cases: recipes with steps of `parse_step` or `variants` as modes; ratios are to the first.
        batch: images of a step; by default those of the recipe, at most 16.
        device: where.
        pace: how long.
        variants: steps of your own, by the name that modes call them.

    Returns:
        Rows in images; each case has its own weights, optimizer and averages, which `held` contains.

    Raises:
        ValueError: if a recipe or step is unknown, or a microbatch does not divide the batch.
    """
    device, known = torch.device(device), dict(variants or {})
    works = []
    rehearse(device)
    for case in cases:
        variant = known[case.mode] if case.mode in known else parse_step(case.mode)
        works.append(_work(case, variant, sized(case.recipe, batch), device))
    settings = {"batch": batch if batch is not None else [work.items for work in works]}
    return measure(works, what="train", device=device, pace=pace, settings=settings)


def sized(recipe: Recipe, batch: int | None) -> Recipe:
    """The recipe with another batch, and durations that are multiples of it."""
    size = min(recipe.batch, LARGEST) if batch is None else batch
    if size < 1:
        raise ValueError(f"batch = {batch}: must be at least 1")
    return recipe.replace(batch=size, duration=size, snapshot_every=size)


def microbatches(recipe: Recipe, size: int | None, device: torch.device) -> list[Microbatch]:
    """A batch of random images, noise levels, noise and classes, in parts of `size` images.

    Raises:
        ValueError: if `size` does not divide the batch.
    """
    size = size or recipe.batch
    if recipe.batch % size:
        raise ValueError(f"microbatch={size} must divide the batch of {recipe.batch} images")
    spec, loss = recipe.network, EDMLoss(recipe.P_mean, recipe.P_std)
    generator = torch.Generator(device).manual_seed(2)
    shape = (size, spec.channels, spec.resolution, spec.resolution)
    parts = []
    for start in range(0, recipe.batch, size):
        clean = torch.randn(shape, device=device, generator=generator) * recipe.sigma_data
        sigma, noise = loss.draw(clean, generator)
        label = (torch.arange(start, start + size, device=device) % spec.label_dim) if spec.label_dim else None
        last = start + size == recipe.batch
        parts.append(Microbatch(clean=clean, sigma=sigma, noise=noise, label=label, last=last))
    return parts


def rehearse(device: torch.device) -> None:
    """Steps of a tiny network: what torch imports for them, 80 MB of modules, is no part of any step's memory."""
    network = DIGITS.network.replace(model_channels=8, channels_per_head=8)
    recipe = sized(DIGITS.replace(network=network), 1)
    for mode in ("plain", "float32"):
        parse_step(mode).start(recipe, device)(microbatches(recipe, 1, device))


def _work(case: Case, variant: Variant, recipe: Recipe, device: torch.device) -> Work:
    size = variant.microbatch or recipe.batch
    parts = microbatches(recipe, size, device)
    torch.manual_seed(0)
    with PeakMemory(device) as memory:
        step = variant.start(recipe, device)
        step(parts)  # makes what optimizers make in their first step
    return Work(
        name=case.name,
        run=lambda: step(parts),
        items=recipe.batch,
        dtype=variant.dtype,
        macs=3 * recipe.batch * forward_macs(recipe.network),  # forward, for the input, and for the weight
        held=memory.kept,
        facts={"microbatch": size},
    )
