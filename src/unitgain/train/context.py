"""A run under way, as everything that takes part in it sees it on one of its processes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unitgain.data.dataset import Dataset
from unitgain.parallel import World
from unitgain.train.batches import Batches
from unitgain.train.config import Execution, TrainConfig
from unitgain.train.log import StatsLog, TrainProgress
from unitgain.train.run import Window
from unitgain.train.signals import StopSignal
from unitgain.train.state import TrainState


@dataclass
class Run:
    """A run under way.

    Attributes:
        config: what it is.
        execution: how it is carried out.
        folder: where it writes.
        dataset: what it trains on.
        batches: its data, as this process sees them.
        state: what changes.
        window: sums since the last line of statistics; changes too.
        stop: whether it is to stop.
        resumed: whether it goes on, rather than begins.
        log: of rank 0; None elsewhere.
        progress: what is shown.
        paused: seconds in which training waited for an evaluation, since the process began.
    """

    config: TrainConfig
    execution: Execution
    folder: Path
    dataset: Dataset
    batches: Batches
    state: TrainState
    window: Window
    stop: StopSignal
    resumed: bool
    log: StatsLog | None
    progress: TrainProgress
    paused: float = 0.0

    @property
    def world(self) -> World:
        """The processes of the run."""
        return self.state.world

    @property
    def finished(self) -> bool:
        """Whether the whole duration is done."""
        return self.state.nimg >= self.config.recipe.duration

    def due(self, every: int, ahead: bool = False) -> bool:
        """Whether the step just made, or with `ahead` the one about to be made, passes a multiple of so many images."""
        batch = self.config.recipe.batch
        after = self.state.nimg + batch if ahead else self.state.nimg
        return after // every > (after - batch) // every

    def write(self, row: dict[str, Any]) -> None:
        """Write a line of statistics, on rank 0."""
        if self.log is not None:
            self.log.write({"nimg": self.state.nimg, **row})

    def listen(self) -> bool:
        """Hear whether any process is to stop; costs a message of its own."""
        votes = torch.tensor(self.stop.votes(), dtype=torch.float64)
        self.world.sum([votes])
        self.stop.hear(votes.tolist())
        return self.stop.agreed is not None
