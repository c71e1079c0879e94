"""How many images per second a recipe trains here: some steps of it, on noise."""

import time

import torch

from unitgain.analysis.cost import network_cost
from unitgain.analysis.counts import PASSES
from unitgain.arch.values import placeholder
from unitgain.checkpoint.snapshot import DTYPES
from unitgain.native.memory import kept_memory
from unitgain.recipe import Precision, Recipe
from unitgain.train.rules import network_for, recipe_for
from unitgain.train.state import TrainState
from unitgain.train.step import Microbatch, train_step

SMALL = {"cpu": (32, 8), "cuda": (128, 64)}  # base channels and images of a step, of the small network
SECONDS = 2.0  # that are measured at least
LONG = 4.0  # seconds of a first step after which there is no second: what it sets up hardly counts


def images_per_second(recipe: Recipe, images: int, device: torch.device | str, seconds: float = SECONDS) -> float:
    """Measure how fast training goes, whole steps with optimizer and averages, as the process computes now.

    It draws no number from the global generators. The first step, which sets libraries up, does not count, unless it
    takes long.

    Args:
        recipe: what is trained.
        images: per step; fewer than the recipe's need less memory, and the work per step weighs a little more.
        device: where.
        seconds: to measure for, at least; the last step may end later.
    """
    device = torch.device(device)
    one = recipe.replace(batch=images, duration=images, snapshot_every=images)
    with kept_memory(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        state = TrainState.start(one, device)
        state.denoiser.dtype = DTYPES[recipe.precision]
        batch = microbatches(one, images, device)
        first = _step(state, one, batch)
        if first > LONG:
            return images / first
        steps, took = 0, 0.0
        while not steps or took < seconds:
            steps, took = steps + 1, took + _step(state, one, batch)
    return images * steps / took


def training_rate(device: torch.device | str, precision: Precision = "float32", seconds: float = 1.0) -> float:
    """Operations per second of training, as `Cost.flops` counts them, measured on a small network.

    A network of EDM2 for 32x32, of 32 channels on CPUs and 128 on GPUs. Others are faster or slower by this count
    (`benchmarks/recipe_times.py`): it says the order of what training takes.

    Args:
        device: where.
        precision: of the network.
        seconds: as in `images_per_second`.
    """
    width, images = SMALL[torch.device(device).type]
    one = recipe_for(network_for((3, 32, 32), 0, width, 1, depthwise=False), images, precision=precision, batch=images)
    return PASSES * network_cost(one.network).flops * images_per_second(one, images, device, seconds)


def microbatches(recipe: Recipe, size: int, device: torch.device) -> list[Microbatch]:
    """A batch of random images, noise levels, noise and classes, in parts of `size` images.

    Raises:
        ValueError: if `size` does not divide the batch.
    """
    if recipe.batch % size:
        raise ValueError(f"microbatch={size} must divide the batch of {recipe.batch} images")
    spec, loss = recipe.network, recipe.loss
    generator = torch.Generator(device).manual_seed(2)
    shape = (size, spec.channels, *spec.size)
    parts = []
    for start in range(0, recipe.batch, size):
        clean = torch.randn(shape, device=device, generator=generator) * recipe.sigma_data
        sigma, noise = loss.draw(clean, generator)
        label = (torch.arange(start, start + size, device=device) % spec.label_dim) if spec.label_dim else None
        last = start + size == recipe.batch
        told = placeholder(spec, label, size, device)
        parts.append(Microbatch(clean=clean, sigma=sigma, noise=noise, label=told, last=last))
    return parts


def _step(state: TrainState, recipe: Recipe, batch: list[Microbatch]) -> float:
    """Seconds of a step; waits for the device."""
    start = time.perf_counter()
    train_step(state, recipe, batch)
    return time.perf_counter() - start
