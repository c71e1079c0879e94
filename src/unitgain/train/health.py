"""What a run says of its health beside the loss: noise levels, magnitudes of gradients and updates, speed."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from unitgain.checkpoint.snapshot import DTYPES
from unitgain.train.batches import Batches
from unitgain.train.config import Execution, TrainConfig
from unitgain.train.levels import NoiseLevels, added, level_row, uncertainty_at
from unitgain.train.parts import StepProbe, watch_step
from unitgain.train.run import Window
from unitgain.train.speed import Speed
from unitgain.train.state import TrainState
from unitgain.train.step import Microbatch


@dataclass
class Health:
    """Looks at a run without changing a number of it.

    Every method with a result is called by all processes together. Between ticks there is nothing that waits for the
    device: sums by noise level stay on it, and the optimizer is watched in the last step before a tick alone.

    Args:
        state: of the run.
        levels: sums by noise level.
        speed: of the machine.
    """

    state: TrainState
    levels: NoiseLevels
    speed: Speed
    _probe: StepProbe | None = field(default=None, init=False)

    @classmethod
    def start(cls, config: TrainConfig, execution: Execution, batches: Batches, state: TrainState) -> "Health":
        """Get ready to look, before the first step; all processes together."""
        recipe = config.recipe
        levels = NoiseLevels(recipe.P_mean, recipe.P_std, state.device)
        dtype, world = DTYPES[config.dtype], state.world
        speed = Speed.measure(recipe.network, dtype, execution.recompute, batches.loader, world)
        return cls(state, levels, speed)

    def watch(self) -> AbstractContextManager[None]:
        """Sort the losses of all steps made while the block runs by noise level."""
        return self.levels.watch(self.state.objective, self.state.uncertainty)

    @contextmanager
    def watch_step(self, last: bool) -> Iterator[None]:
        """Look at the step made while the block runs, if it is the `last` one before a tick."""
        if not last:
            yield
            return
        with watch_step(self.state.optimizer, self.state.modules) as self._probe:
            yield

    def shown(self, microbatches: Iterator[Microbatch]) -> Iterator[Microbatch]:
        """Microbatches on their way into the step: those that do not count there do not count here."""
        for microbatch in microbatches:
            self.levels.counts = microbatch.counts
            yield microbatch

    def settle(self, window: Window) -> None:
        """Add up what the processes have seen since the last time into what a checkpoint keeps."""
        window.levels = added(window.levels, self.levels.collect(self.state.world))

    def row(self, window: Window, images: int, seconds: float) -> dict[str, Any]:
        """What a line of statistics says; takes the noise levels out of the window.

        Args:
            window: sums since the last tick.
            images: since then.
            seconds: since then.
        """
        self.settle(window)
        sums, window.levels = window.levels, []
        u = uncertainty_at(self.state.uncertainty, self.levels.centres.exp())
        row: dict[str, Any] = {
            **self.speed.row(images, seconds),
            "noise_levels": level_row(self.levels.centres, sums, u),
        }
        if self._probe is not None:
            row["parts"] = self._probe.parts(self.state.world)
            self._probe = None
        return row
