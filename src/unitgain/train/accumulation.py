"""Whether a step fits into the memory that is free, and the gradient accumulation with which it does."""

import math
import os
from dataclasses import dataclass, replace

import torch

from unitgain.analysis.memory import copy_bytes
from unitgain.arch import NetworkSpec
from unitgain.parallel import World
from unitgain.recipe import Recipe
from unitgain.room import Room, free_memory
from unitgain.train.config import Execution, TrainConfig
from unitgain.train.estimate import estimate, trained_shapes

PART = 0.9  # of the free memory that a run may take: data read ahead, and estimates within some percent
# Bytes of a pass that no network exceeds, for each number that a block gives: networks of the papers take 50 to 140, in
# float32. Where even these fit, the pass is not estimated, which takes longer than a small network trains.
MOST_BYTES = 600


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What fits.

    Attributes:
        microbatch: images per pass; None if not even one fits.
        bytes: at the peak of a step with it, or with one image where nothing fits.
    """

    microbatch: int | None
    bytes: int


def fitting(
    recipe: Recipe,
    room: int,
    device: torch.device,
    *,
    processes: int = 1,
    microbatch: int | None = None,
    execution: Execution | None = None,
) -> Fit:
    """The largest microbatch with which a step fits into memory.

    Args:
        recipe: what is trained.
        room: bytes that may be taken beside what this process has now.
        device: where.
        processes: that share a batch.
        microbatch: none larger than this; None for the share of a process, or the most below it that divides the batch.
        execution: how it is carried out.

    Raises:
        ValueError: if the microbatch does not divide the batch.
    """
    share = microbatch or _divisor(recipe.batch, recipe.batch / processes)

    def takes(size: int) -> tuple[int, int]:
        found = estimate(
            recipe, processes=processes, microbatch=size, execution=execution, device=device.type, process=0
        )
        return found.total + (found.host if device.type == "cpu" else 0), found.activations + found.kept

    total, of_pass = takes(share)
    size = share
    while total > room and size > 1:
        # A pass takes in proportion to its images; what is left over says how many fit, but never as many again.
        most = min((room - total + of_pass) * size / of_pass, size - 1)
        size = _divisor(recipe.batch, most)
        total, of_pass = takes(size)
    return Fit(microbatch=size if total <= room else None, bytes=total)


def _divisor(batch: int, most: float) -> int:
    """The largest divisor of a batch that is no larger; 1 where there is none."""
    return max((count for count in range(1, batch + 1) if batch % count == 0 and count <= most), default=1)


def share_of(room: Room, world: World) -> int:
    """Bytes of what is free that a run may take in one process; those of one machine share the memory of its CPU."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world.size)) if world.device.type == "cpu" else 1
    return int(PART * room.bytes) // here


def check_memory(config: TrainConfig, execution: Execution, world: World, resumes: bool = False) -> None:
    """Refuse a run whose step takes more memory than is free.

    Args:
        config: complete.
        execution: how it is carried out.
        world: the processes.
        resumes: its microbatch is settled.

    Raises:
        ValueError: if it does, with the gradient accumulation that fits.
    """
    room = free_memory(world.device)
    share = share_of(room, world)
    asked = config.recipe.batch // config.microbatches
    if _bound(config.recipe, asked) < share:
        return

    def fit(**changes: bool) -> Fit:
        how = replace(execution, **changes)
        return fitting(config.recipe, share, world.device, processes=world.size, microbatch=asked, execution=how)

    fits = fit()
    if fits.microbatch == asked:
        return
    head = f"a pass of {asked} images does not fit into memory: {show_bytes(room.bytes)} are {room.source}"
    anyway = "--no-check-memory starts it all the same"
    if resumes:
        raise ValueError(f"{head}; free some, or add --recompute if it does not say so yet; {anyway}")
    recompute = "" if fits.microbatch or execution.recompute else "--recompute "
    fits = fit(recompute=True) if recompute else fits
    if fits.microbatch is None:
        width = max(config.recipe.network.model_channels // 2, 1)
        raise ValueError(
            f"{head}, and one image takes {show_bytes(fits.bytes)}: take a smaller network, such as --width {width}, "
            f"or leave the name of the recipe out, and one is planned; {anyway}"
        )
    raise ValueError(
        f"{head}. Add {recompute}--microbatch {fits.microbatch}: the gradients of "
        f"{config.recipe.batch // fits.microbatch} passes are accumulated, in about {show_bytes(fits.bytes)}; {anyway}"
    )


def show_bytes(count: int) -> str:
    """Bytes as people say them, in powers of ten: 14.2 GB, 310 MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _bound(recipe: Recipe, microbatch: int) -> int:
    """Bytes that training does not exceed."""
    copies = 8 + 2 * (len(recipe.ema) + 1)  # weights, gradients, Adam, averages; and the copy for a checkpoint
    state = copies * copy_bytes(trained_shapes(recipe), 1, False)
    return state + MOST_BYTES * microbatch * numbers(recipe.network)


def numbers(network: NetworkSpec) -> int:
    """Numbers that all blocks give for one image."""
    levels = zip(network.level_sizes, network.widths, strict=True)
    return blocks_per_level(network) * sum(math.prod(sides) * width for sides, width in levels)


def blocks_per_level(network: NetworkSpec) -> int:
    """Blocks of the encoder and the decoder at one resolution, with those that resample."""
    return 2 * network.num_blocks + 3
