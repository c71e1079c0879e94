"""Averaged weights on disk while training, and the weights themselves at the end: written beside the training."""

from concurrent.futures import Future
from pathlib import Path

from unitgain.checkpoint.facts import SnapshotHeader
from unitgain.data.dataset import Dataset
from unitgain.ema import RAW
from unitgain.parallel import beside
from unitgain.posthoc import SnapshotStore
from unitgain.serial import to_dict
from unitgain.train.config import TrainConfig
from unitgain.train.context import Run
from unitgain.train.state import TrainState
from unitgain.train.step import Observer, StepReport


class Snapshots(Observer):
    """Writes each average at its interval and at the end; training goes on while they are on their way to the disk.

    Args:
        run: under way; where it goes on from a checkpoint, snapshots of a later time are replaced as it comes to them.

    Attributes:
        store: of the averages.
        pending: what is being written on this process; a checkpoint that follows is not sealed before it is done.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.store = store_of(run.config, run.folder, run.dataset, run.state, run.resumed)
        self.pending: Future[None] | None = None

    def report(self, report: StepReport) -> None:
        """Begin to write what is due."""
        if self.run.finished or self.run.due(self.run.config.recipe.snapshot_every):
            self.write()
        if self.run.finished:
            self.write(raw=True)

    def end(self) -> None:
        """Wait for what is being written."""
        self.finish()

    def write(self, raw: bool = False) -> None:
        """Begin to write the averages as they are now, or the weights themselves in float32; all processes together.

        Raises:
            SharedError, SnapshotError, OSError: if those before could not be written; see `finish`.
        """
        self.finish()
        self.pending = beside("unitgain-snapshots", self.store.take(raw))

    def finish(self) -> None:
        """Wait until what was begun is on the disk; all processes must call this together.

        Raises:
            SharedError: if it is not, on any of several processes.
            SnapshotError, OSError: if it is not, on the only one.
        """
        if self.pending is not None:
            pending, self.pending = self.pending, None
            self.run.world.together(f"writing snapshots to {self.store.folder}", pending.result)

    def abandon(self) -> None:
        """Wait until what this process has begun to write is done, well or badly."""
        if self.pending is not None:
            self.pending.exception()


def store_of(config: TrainConfig, folder: Path, dataset: Dataset, state: TrainState, resumed: bool) -> SnapshotStore:
    """Where the averages of a run go; nothing is written yet.

    Raises:
        ValueError: if the budget is too small.
    """
    return SnapshotStore(
        folder / "snapshots",
        state.emas,
        every=config.recipe.snapshot_every,
        dtype=config.snapshot_dtype,
        budget=config.snapshot_budget,
        header=header_of(config, dataset),
        resumed=resumed,
        main=state.world.main,
    )


def header_of(config: TrainConfig, dataset: Dataset) -> SnapshotHeader:
    """What snapshots of a run say of themselves, but for time and profile."""
    recipe, init = config.recipe, config.init
    return SnapshotHeader(
        network=recipe.network,
        sigma_data=recipe.sigma_data,
        nimg=0,
        profile=RAW,
        recipe=recipe.name,
        encoder=to_dict(dataset.encoder),
        classes=dataset.classes if recipe.network.label_dim else None,
        data=dataset.name,
        label_dropout=recipe.label_dropout if recipe.network.label_dim else None,
        license=init.license if init is not None else None,
    )
