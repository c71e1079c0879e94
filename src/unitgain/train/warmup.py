"""How many images per second a recipe trains here: some steps of it, on noise."""

import time

import torch

from unitgain.checkpoint.snapshot import DTYPES
from unitgain.recipe import Recipe
from unitgain.train.state import TrainState
from unitgain.train.step import Microbatch, train_step

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
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        state = TrainState.start(one, device)
        state.denoiser.dtype = DTYPES[recipe.precision]
        first = _step(state, one, images)
        if first > LONG:
            return images / first
        steps, took = 0, 0.0
        while took < seconds:
            steps, took = steps + 1, took + _step(state, one, images)
    return images * steps / took


def _step(state: TrainState, recipe: Recipe, images: int) -> float:
    """Seconds of a step on noise."""
    spec, device = recipe.network, state.device
    clean = torch.randn(images, spec.channels, *spec.size, device=device) * recipe.sigma_data
    label = torch.zeros(images, dtype=torch.int64, device=device) if spec.label_dim else None
    sigma, noise = recipe.loss.draw(clean)
    start = time.perf_counter()
    train_step(state, recipe, [Microbatch(clean=clean, sigma=sigma, noise=noise, label=label)])  # waits for the device
    return time.perf_counter() - start
