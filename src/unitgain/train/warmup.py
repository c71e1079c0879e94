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
        first = _step(state, one, images)
        if first > LONG:
            return images / first
        steps, took = 0, 0.0
        while not steps or took < seconds:
            steps, took = steps + 1, took + _step(state, one, images)
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


def _step(state: TrainState, recipe: Recipe, images: int) -> float:
    """Seconds of a step on noise."""
    spec, device = recipe.network, state.device
    clean = torch.randn(images, spec.channels, *spec.size, device=device) * recipe.sigma_data
    label = torch.zeros(images, dtype=torch.int64, device=device) if spec.label_dim else None
    label = placeholder(spec, label, images, device)
    sigma, noise = recipe.loss.draw(clean)
    start = time.perf_counter()
    train_step(state, recipe, [Microbatch(clean=clean, sigma=sigma, noise=noise, label=label)])  # waits for the device
    return time.perf_counter() - start
