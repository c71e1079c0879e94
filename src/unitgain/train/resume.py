"""Where a run goes on: the newest checkpoint that is whole, each value of it checked before it is used."""

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from unitgain.checkpoint.sharded import ShardError, load_tensors
from unitgain.checkpoint.state import (
    CheckpointError,
    checkpoint_nimg,
    list_checkpoints,
    read_manifest,
    set_aside,
    verify_files,
)
from unitgain.console import note, warn
from unitgain.parallel import World
from unitgain.serial import from_dict
from unitgain.text import printable
from unitgain.train.config import TrainConfig
from unitgain.train.levels import BINS
from unitgain.train.rows import read_stats
from unitgain.train.run import Window, refuse_changes
from unitgain.train.state import TrainState, restore, state_tensors


def resume_from_newest(config: TrainConfig, state: TrainState, run: Path) -> Window:
    """Restore the newest valid checkpoint, saying loudly which ones are damaged; the sums since its last tick.

    Where there is none the state stays new, if nothing was trained.

    Args:
        config: of the run.
        state: changed in place, on all processes alike, however many wrote the checkpoint.
        run: its folder.

    Raises:
        ValueError: if the checkpoint was made with other data, or settings that differ in what changes the numbers.
        CheckpointError: if none is valid, and checkpoints, statistics, snapshots or samples tell of work that would be
            lost.
    """
    world = state.world
    for path in reversed(world.broadcast(list_checkpoints(run / "checkpoints"))):
        manifest, damage = _verify(path, world)
        if not damage:
            return _restore(config, state, path, manifest)
        if world.main:
            aside = set_aside(path).name
            warn(f"skipping a damaged checkpoint, now {aside}: {damage}")
        world.barrier()
    world.on_main(lambda: refuse_to_start_over(run))
    return Window()


def refuse_to_start_over(run: Path) -> None:
    """Raise `CheckpointError` if a run has left traces of work, and no valid checkpoint to go on from."""
    damaged = sorted(path.name for path in (run / "checkpoints").glob("*.damaged"))
    snapshots = [path for path in (run / "snapshots").glob("*.safetensors") if path.name[:10].isdecimal()]
    grids = [path for path in (run / "samples").glob("*.png") if len(path.stem) == 10 and path.stem.isdecimal()]
    images = max([trained_images(run), *(int(path.name[:10]) for path in (*snapshots, *grids))])
    if not (damaged or snapshots or images):
        return
    has = [f"{len(damaged)} damaged ones ({', '.join(damaged)})"] if damaged else []
    has += [f"statistics, snapshots or samples of {images:,} images"] if images else []
    text = (
        f"{run / 'checkpoints'} has no checkpoint to resume from, but the run has left {' and '.join(has)}; nothing "
        "was overwritten. Put a checkpoint back if you have a copy. To start over, move the run away first: "
        f"mv {shlex.quote(str(run))} {shlex.quote(f'{run}.old')}"
    )
    averages = [path for path in snapshots if not path.stem.endswith("-raw")]
    if averages:
        text += (
            f". To start a new run, in another folder, from the weights that are there, give it "
            f"--init {shlex.quote(str(max(averages)))}"
        )
    raise CheckpointError(text)


def trained_images(run: Path) -> int:
    """Images that a run was trained on, as far as its statistics tell."""
    return max((row["nimg"] for row in read_stats(run)), default=0)


def _restore(config: TrainConfig, state: TrainState, path: Path, manifest: dict[str, Any]) -> Window:
    world = state.world
    values = _read_values(manifest, path, state)
    _check_values(config, values, path, state.device.type)
    tensors, _ = state_tensors(state)
    world.together(f"reading {path}", lambda: _load(path, manifest["files"], tensors))
    restore(state, tensors, values.nimg, values.ema)
    if world.main and not values.nimg and (images := trained_images(path.parents[1])):
        note(f"{path.parents[1]} was stopped after {images:,} images, before its first checkpoint: it begins again")
    if world.main and values.processes != world.size:
        note(
            f"{path.name} was written by {values.processes} processes and goes on with {world.size}: the same "
            "up to the order of floating-point sums"
        )
    return values.window


def _verify(path: Path, world: World) -> tuple[dict[str, Any], str | None]:
    """The manifest of a checkpoint, and what is wrong with it on any process; each checks a share of the files."""

    def check() -> tuple[dict[str, Any], str | None]:
        try:
            manifest = read_manifest(path)
            verify_files(path, manifest["files"], world.share(sorted(manifest["files"])))
        except CheckpointError as error:
            return {}, str(error)
        return manifest, None

    manifest, damage = world.together(f"checking {path}", check)
    damages = [text for text in world.gather(damage) if text]
    return manifest, damages[0] if damages else None


@dataclass(frozen=True, kw_only=True)
class Values:
    """What a checkpoint holds beside tensors.

    Attributes:
        nimg: images seen.
        ema: time of each average, `{"t": ...}`.
        window: sums since the last tick.
        config: of the run.
        device: kind of device that it was made on.
        processes: that wrote it.
    """

    nimg: int
    ema: list[dict[str, float]]
    window: Window
    config: TrainConfig
    device: str
    processes: int


def _read_values(manifest: dict[str, Any], path: Path, state: TrainState) -> Values:
    """The values of a checkpoint, each of its type and in its range."""
    try:
        values = from_dict(Values, manifest["values"], "values")
        window, times = values.window, [float(average["t"]) for average in values.ema]
        levels = [[float(number) for number in row] for row in window.levels]
        counts = [window.steps, window.finite_steps, window.nonfinite_steps, window.nonfinite_run, values.nimg, *times]
        numbers = [window.loss, *counts, *(number for row in levels for number in row)]
        if len(times) != len(state.emas) or [len(row) for row in levels] not in ([], [BINS] * 3):
            raise ValueError(f"there are {len(times)} times of averages and {len(levels)} rows of noise levels")
        if min(counts) < 0 or not all(map(math.isfinite, numbers)):
            raise ValueError("a number is negative or not finite")
        if values.nimg != checkpoint_nimg(path):
            raise ValueError(f"it is of {values.nimg} images")
    except (ValueError, KeyError, TypeError, OverflowError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is no checkpoint of this run: {printable(f'{type(error).__name__}: {error}')[:1000]}"
        ) from error
    return values


def _load(path: Path, files: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    try:
        load_tensors(path, files, tensors)
    except ShardError as error:
        raise CheckpointError(str(error)) from error


def _check_values(config: TrainConfig, values: Values, path: Path, device: str) -> None:
    refuse_changes(config, values.config, path)
    if values.device != device:
        raise ValueError(f"{path} was made on {values.device}: resume with --device {values.device}")
    if config.recipe.duration < values.nimg:
        raise ValueError(f"duration = {config.recipe.duration}: the run in {path.parent} is at {values.nimg} images")
