"""Training steps of a recipe on random images of the right shape."""

from collections.abc import Sequence

import torch

from unitgain.analysis.cost import network_cost
from unitgain.bench.cases import DTYPES, Case, parse_mode
from unitgain.bench.measure import Comparison, Pace, Work, measure
from unitgain.bench.memory import PeakMemory
from unitgain.native.memory import kept_memory
from unitgain.recipe import Recipe
from unitgain.recipes import DIGITS, recipe
from unitgain.train.config import Execution
from unitgain.train.state import TrainState
from unitgain.train.step import train_step
from unitgain.train.warmup import microbatches

LARGEST = 16  # images of a step where nobody has said how many
WORDS = tuple(DTYPES)
OPTIONS = ("microbatch=N", "recompute", "compile", "kernels", "normalize-each")


def training(
    cases: Sequence[Case],
    *,
    batch: int | None = None,
    device: torch.device | str = "cpu",
    pace: Pace | None = None,
) -> Comparison:
    """Measure training steps, all cases in turns.

    Args:
        cases: recipes in a precision, with options; ratios are to the first.
        batch: images of a step; by default those of the recipe, at most 16.
        device: where.
        pace: how long.

    Returns:
        Rows in images; each case has its own weights, optimizer and averages, which `held` contains.

    Raises:
        ValueError: if a recipe or mode is unknown, or a microbatch does not divide the batch.
    """
    device = torch.device(device)
    rehearse(device)
    with kept_memory():  # from the first on, as in training
        return measure([training_work(case, batch, device) for case in cases], device, pace)


def training_work(case: Case, batch: int | None, device: torch.device) -> Work:
    """The step of `unitgain train` on one process."""
    mode = parse_mode(case.mode, device, WORDS, OPTIONS)
    trained = sized(recipe(case.network) if isinstance(case.network, str) else case.network, batch)
    size = int(mode.options.get("microbatch", trained.batch))
    parts = microbatches(trained, size, device)
    torch.manual_seed(0)
    with PeakMemory(device) as memory:
        state = TrainState.start(
            trained,
            device,
            execution=Execution(
                recompute="recompute" in mode.options,
                compile="compile" in mode.options,
                kernels="kernels" in mode.options,
            ),
            normalize_once="microbatch" in mode.options and "normalize-each" not in mode.options,
        )
        state.denoiser.dtype = mode.dtype
        train_step(state, trained, parts)  # makes what optimizers make in their first step
    return Work(
        name=case.name,
        run=lambda: train_step(state, trained, parts),
        items=trained.batch,
        dtype=mode.dtype,
        macs=3 * trained.batch * network_cost(trained.network).macs,  # forward, for the input, and for the weight
        held=memory.kept,
        facts={"microbatch": size},
    )


def sized(recipe: Recipe, batch: int | None) -> Recipe:
    """The recipe with another batch, and durations that are multiples of it."""
    size = min(recipe.batch, LARGEST) if batch is None else batch
    if size < 1:
        raise ValueError(f"batch = {batch}: must be at least 1")
    return recipe.replace(batch=size, duration=size, snapshot_every=size)


def rehearse(device: torch.device) -> None:
    """A step of a tiny network: what torch imports for it, 80 MB of modules, is no part of any step's memory."""
    network = DIGITS.network.replace(model_channels=8, channels_per_head=8)
    training_work(Case(DIGITS.replace(network=network), "float32"), 1, device)
