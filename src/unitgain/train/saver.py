"""Checkpoints written beside the training: it goes on while the last one is on its way to the disk."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

from torch import Tensor

from unitgain.checkpoint.sharded import save_tensors
from unitgain.checkpoint.state import (
    CheckpointError,
    checkpoint_nimg,
    clear_partial,
    commit,
    list_checkpoints,
    partial_folder,
    prune_checkpoints,
)
from unitgain.console import warn
from unitgain.parallel import World
from unitgain.serial import to_dict
from unitgain.train.config import OnCheckpointError
from unitgain.train.context import Run
from unitgain.train.snapshots import Snapshots
from unitgain.train.state import state_tensors
from unitgain.train.statistics import Statistics
from unitgain.train.step import Observer, StepReport


class Saver:
    """Writes the checkpoints of a run, one at a time; all processes do the same with theirs.

    Args:
        folder: of the checkpoints.
        world: the processes.
        keep: how many of the newest are kept.
        keep_every: as in `prune_checkpoints`.
        on_error: "stop" the run when one cannot be written, or "continue" with a warning.
    """

    def __init__(
        self, folder: Path, world: World, keep: int, keep_every: int = 0, on_error: OnCheckpointError = "stop"
    ) -> None:
        self.folder = folder
        self.world = world
        self.keep = keep
        self.keep_every = keep_every
        self.on_error = on_error
        self.nimg = -1
        self._pending: Future[None] | None = None

    def begin(
        self, nimg: int, tensors: dict[str, Tensor], values: dict[str, Any], after: Future[None] | None = None
    ) -> None:
        """Begin to write a checkpoint, when the one before is done; the tensors may change when this returns.

        It is not sealed before `after` is done: what a run writes before it stays written when it goes on from here.

        Raises:
            CheckpointError: if the one before could not be written; see `finish`.
        """
        self.finish()
        self.nimg = nimg
        self._pending = save_tensors(
            partial_folder(self.folder, nimg), tensors, self.world, then=lambda: self._seal(values, after)
        )

    def failed(self) -> bool:
        """Whether this process knows that the checkpoint under way cannot be written; does not wait."""
        return self._pending is not None and self._pending.done() and self._pending.exception() is not None

    def finish(self) -> None:
        """Wait until the checkpoint under way is on the disk; all processes must call this together.

        Raises:
            CheckpointError: if it is not, on any process, unless errors are to be lived with.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        error = pending.exception()
        errors = [text for text in self.world.gather(None if error is None else str(error)) if text]
        if not errors:
            return
        nimg, self.nimg = self.nimg, -1
        intact = list_checkpoints(self.folder)
        last = f"the last good one, {intact[-1].name}, is intact" if intact else "there is none before it"
        text = f"the checkpoint at {nimg} images could not be written: {errors[0]}; {last}"
        if self.on_error == "stop":
            raise CheckpointError(text)
        if self.world.main:
            clear_partial(self.folder)
            warn(f"{text}. The run does not stop for it")

    def abandon(self) -> None:
        """Wait until what this process has begun to write is done, well or badly."""
        if self._pending is not None:
            self._pending.exception()

    def _seal(self, values: dict[str, Any], after: Future[None] | None) -> None:
        """What follows when all processes have written: rank 0 makes it a checkpoint."""
        if after is not None and (error := after.exception()) is not None:
            raise CheckpointError(f"snapshots could not be written: {error}")
        if self.world.main:
            commit(self.folder, values["nimg"], values)
            prune_checkpoints(self.folder, self.keep, self.keep_every)


class Checkpoints(Saver, Observer):
    """Writes the whole state before the first step, at its interval, at the end, and when the run is to stop.

    Args:
        run: under way.
        statistics: of the run, whose window a checkpoint keeps.
        snapshots: of the run.
    """

    def __init__(self, run: Run, statistics: Statistics, snapshots: Snapshots) -> None:
        config, on_error = run.config, run.execution.on_checkpoint_error
        folder = run.folder / "checkpoints"
        super().__init__(folder, run.world, config.keep_checkpoints, config.keep_every, on_error)
        self.run, self.statistics, self.snapshots = run, statistics, snapshots

    def start(self) -> None:
        """Have something to resume from before anything is trained: a run that is killed early begins again."""
        if self.run.state.nimg == 0 and not self._there():
            self.write()
            self.finish()

    def report(self, report: StepReport) -> None:
        """Hear whether the one under way has failed anywhere, and begin the one that is due."""
        if report.votes[-1]:
            self.finish()
        if self.run.finished or self.run.stop.agreed or self.run.due(self.run.config.checkpoints_every):
            self.write()

    def end(self) -> None:
        """Leave no state behind that is not on the disk: a signal may have come before the first step."""
        if self.run.stop.agreed and self.nimg != self.run.state.nimg and not self._there():
            self.write()
        self.finish()

    def write(self) -> None:
        """Begin to write the whole state; what is too old is deleted when it is there."""
        run = self.run
        window = self.statistics.settle()
        tensors, values = state_tensors(run.state)
        mine = {
            "window": to_dict(window),
            "config": to_dict(run.config),
            "device": run.state.device.type,
            "processes": run.world.size,
        }
        self.begin(run.state.nimg, tensors, {**values, **mine}, after=self.snapshots.pending)

    def _there(self) -> bool:
        names = map(checkpoint_nimg, list_checkpoints(self.folder))
        return self.run.world.broadcast(self.run.state.nimg in names)
