"""What must hold before many processes train together, checked in seconds rather than found out after hours."""

import math
import platform
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from unitgain import __version__
from unitgain.console import warn
from unitgain.data.dataset import Dataset
from unitgain.lock import LOCK
from unitgain.parallel import World
from unitgain.serial import differences, digest, to_dict
from unitgain.train.config import Execution, TrainConfig
from unitgain.train.errors import PreflightError
from unitgain.train.state import TrainState

GIB = 2**30
# What a process may have of its own. The rest all must do alike, or some wait for messages that others never send.
OWN = ("device", "max_time", "quiet", "tensorboard", "wandb")


def preflight(world: World, config: TrainConfig, dataset: Dataset, execution: Execution, resume: bool) -> None:
    """Check on all processes that they are to do the same, in the same way.

    Raises:
        PreflightError: if versions, settings or data differ between processes; names the ranks, and what.
        SharedError: if a check itself fails on a rank.
    """
    if world.size == 1:
        return
    agree(world, "versions", versions())
    agree(world, "data", {"data set": dataset.name, "fingerprint": config.data_fingerprint})
    agree(world, "settings", to_dict(config))
    shared = {name: value for name, value in to_dict(execution).items() if name not in OWN}
    agree(world, "options", {"resume": resume, **shared})
    check_reduction(world)
    warn_of_idle(world, config)


def warn_of_idle(world: World, config: TrainConfig) -> None:
    """Say so if some processes have less to do than others."""
    if world.main and (over := config.microbatches % world.size):
        warn(
            f"a batch of {config.microbatches} microbatches does not divide by {world.size} processes: in "
            f"every step {world.size - over} of them wait for the others. Choose --microbatch so that it does, or the "
            "number of processes where a run is resumed, which keeps its microbatch"
        )


def versions() -> dict[str, str]:
    """What computes here: versions of Python, torch and unitgain, and the kind of processor."""
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "torch": torch.__version__,
        "unitgain": __version__,
        "machine": platform.machine(),
    }


def agree(world: World, phase: str, ours: dict[str, Any]) -> None:
    """Raise `PreflightError` unless all processes have the same, naming the ranks that differ from rank 0, and how."""
    if len(set(world.gather(digest(ours)))) == 1:
        return
    first, *others = world.gather(ours)
    rows = [(rank, "; ".join(differences(first, other))) for rank, other in enumerate(others, start=1)]
    text = ". ".join(f"rank {rank} (rank 0's -> its own): {row}" for rank, row in rows if row)
    raise PreflightError(f"{phase} are not the same on all processes. {text}")


def check_reduction(world: World) -> None:
    """Raise `PreflightError` unless a sum over the processes is right."""
    ranks = torch.arange(1024, dtype=torch.float32, device=world.device) + world.rank
    world.sum([ranks])
    expected = torch.arange(1024, dtype=torch.float32) * world.size + world.size * (world.size - 1) / 2
    wrong = [rank for rank, right in enumerate(world.gather(torch.equal(ranks.cpu(), expected))) if not right]
    if wrong:
        raise PreflightError(
            f"a sum over all processes came out wrong on rank {', '.join(map(str, wrong))}: a device or the network "
            "between the machines is broken, or libraries differ"
        )


def check_folder(world: World, run: Path) -> None:
    """Raise `PreflightError` unless all processes see the run folder that rank 0 holds, lock in hand."""
    if world.size == 1:
        return
    lock = run / LOCK
    text = world.broadcast(lock.read_text(encoding="utf-8") if world.main else "")
    seen = world.gather((lock.is_file() and lock.read_text(encoding="utf-8") == text, socket.gethostname()))
    blind = [f"{rank} ({machine})" for rank, (sees, machine) in enumerate(seen) if not sees]
    if blind:
        raise PreflightError(
            f"rank {', '.join(blind)} does not see the run folder {run} of rank 0: it must be on a file system that "
            "all machines share"
        )


def check_disk(state: TrainState, config: TrainConfig, run: Path, free: Callable[[Path], int] | None = None) -> None:
    """Check that the disk takes what the run is going to write; to be called on rank 0.

    Raises:
        OSError: if there is no room for one checkpoint and one set of snapshots. If these fit, but not all that the run
            keeps, a warning says so.
    """
    available = (free or (lambda path: shutil.disk_usage(path).free))(run)
    numbers = sum(parameter.numel() for parameter in state.modules.parameters())
    checkpoint = 4 * numbers * (3 + len(state.emas))
    width = 4 if config.snapshot_dtype == "float32" else 2
    snapshots = width * numbers * len(state.emas)
    least = checkpoint + snapshots
    steps = (config.recipe.duration - state.nimg) // config.recipe.snapshot_every
    averages = min(snapshots * steps, config.snapshot_budget or math.inf)
    all_of_it = checkpoint * (config.keep_checkpoints + 1) + averages
    if available < least:
        raise OSError(
            f"{run} has {available / GIB:.2f} GiB free, a checkpoint and the snapshots of one time take "
            f"{least / GIB:.2f} GiB: free some, or choose another folder"
        )
    if available < all_of_it:
        warn(f"{run} has {available / GIB:.2f} GiB free, the whole run writes about {all_of_it / GIB:.2f} GiB")
