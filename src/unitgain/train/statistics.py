"""The lines of `stats.jsonl`: loss, noise levels, magnitudes of gradients and updates, speed; and when to give up."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unitgain.analysis.magnitude import Probe, watch
from unitgain.loss import Loss
from unitgain.train.context import Run
from unitgain.train.errors import TrainingError
from unitgain.train.levels import NoiseLevels, added, level_row, uncertainty_at
from unitgain.train.parts import StepProbe
from unitgain.train.run import Window
from unitgain.train.speed import Speed
from unitgain.train.step import Microbatch, Observer, StepReport


class Statistics(Observer):
    """A line of statistics per tick, and the end of a run whose gradients stay non-finite.

    Between ticks nothing waits for the device: sums by noise level stay on it, and the optimizer is watched in the last
    step before a tick alone.

    Args:
        run: under way.
    """

    def __init__(self, run: Run) -> None:
        recipe = run.config.recipe
        self.run, self.window = run, run.window
        self.speed = Speed.measure(recipe, run.batches.loader, run.world, run.execution.recompute)
        self.levels = NoiseLevels(recipe.loss, run.state.device)
        self._probe: StepProbe | None = None
        self._began = self._paused = 0.0

    def start(self) -> None:
        """The clock starts."""
        self._began, self._paused = time.monotonic(), self.run.paused

    def after(self, microbatch: Microbatch, loss: Loss) -> None:
        """Sort the losses by noise level."""
        self.levels.add(microbatch.sigma, loss)

    def before_update(self) -> None:
        """Look at gradients and weights, if a tick follows."""
        if self._ticks(ahead=True):
            self._probe = StepProbe(self.run.state.modules)
            self._probe.before()

    def after_update(self) -> None:
        """Look at what the optimizer changed."""
        if self._probe is not None:
            self._probe.after()

    def report(self, report: StepReport) -> None:
        """Add a step to the window, and write and show a tick.

        Raises:
            TrainingError: if gradients were not finite in too many steps in a row.
        """
        window, run = self.window, self.run
        finite = math.isfinite(report.loss)
        window.loss += report.loss if finite else 0.0
        window.finite_steps += finite
        window.steps += 1
        window.nonfinite_steps += bool(report.nonfinite)
        window.nonfinite_run = window.nonfinite_run + 1 if report.nonfinite else 0
        if report.nonfinite:
            self._complain(report.nonfinite)
        run.progress.step(run.state.nimg)
        if self._ticks():
            self._tick(report.lr)

    def settle(self) -> Window:
        """The window with all that the processes have seen by now, as a checkpoint keeps it; called by all together."""
        self.window.levels = added(self.window.levels, self.levels.collect(self.run.world))
        return self.window

    def _ticks(self, ahead: bool = False) -> bool:
        recipe = self.run.config.recipe
        last = self.run.state.nimg + ahead * recipe.batch >= recipe.duration
        return last or self.run.due(self.run.config.ticks_every, ahead)

    def _complain(self, nonfinite: dict[str, int]) -> None:
        run, nimg = self.run, self.run.state.nimg
        worst = ", ".join(f"{name} ({count})" for name, count in list(nonfinite.items())[:3])
        run.write({"nonfinite": nonfinite})
        run.progress.say(f"non-finite gradients replaced by 0 at {nimg} images: {worst}")
        if self.window.nonfinite_run >= run.config.nonfinite_limit:
            raise TrainingError(
                f"gradients were not finite in {self.window.nonfinite_run} steps in a row, the last at {nimg} images, "
                f"in {worst}: lower the learning rate, or train in float32 or bfloat16; the last checkpoint is intact"
            )

    def _tick(self, lr: float) -> None:
        run, window = self.run, self.settle()
        now, paused = time.monotonic(), run.paused - self._paused
        seconds, images = now - self._began - paused, window.steps * run.config.recipe.batch
        sums, window.levels = window.levels, []
        u = uncertainty_at(run.state.uncertainty, self.levels.centres.exp())
        row: dict[str, Any] = {
            "nimg": run.state.nimg,
            "loss": window.loss / window.finite_steps if window.finite_steps else None,
            "lr": lr,
            "images_per_second": images / max(seconds, 1e-9),
            "seconds": seconds,
            **({"evaluation_seconds": paused} if paused else {}),
            "nonfinite_steps": window.nonfinite_steps,
            **self.speed.row(images, seconds),
            "noise_levels": level_row(self.levels.centres, sums, u),
        }
        if self._probe is not None:
            row["parts"], self._probe = self._probe.parts(run.world), None
        run.write(row)
        run.progress.tick(row)
        window.loss, window.steps, window.finite_steps, window.nonfinite_steps = 0.0, 0, 0, 0
        self._began, self._paused = now, run.paused


class Magnitudes(Observer):
    """Magnitudes of activations and weights, in the first step and in one at each interval.

    Args:
        run: under way.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._probe: Probe | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the network through a step that is due."""
        run, every = self.run, self.run.config.magnitudes_every
        if not (every and (run.state.nimg == 0 or run.due(every, ahead=True))):
            yield
            return
        with watch(run.state.denoiser) as self._probe:
            yield

    def before(self, microbatch: Microbatch) -> None:
        """Leave out what only fills up the share of this process."""
        if self._probe is not None:
            self._probe.counts = microbatch.counts

    def report(self, report: StepReport) -> None:
        """Write what was seen."""
        if self._probe is not None:
            self._probe.merge(self.run.world)
            self.run.write({"magnitudes": self._probe.buckets()})
            self._probe = None
