"""A run under way on one of its processes: steps, statistics, snapshots, checkpoints."""

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unitgain.analysis.magnitude import Probe, watch
from unitgain.checkpoint.snapshot import SnapshotHeader, power_profile, write_snapshot
from unitgain.checkpoint.state import checkpoint_nimg, list_checkpoints
from unitgain.ema import ExponentialEMA, PowerEMA
from unitgain.parallel import World, full
from unitgain.serial import to_dict
from unitgain.train.batches import Batches
from unitgain.train.config import TrainConfig
from unitgain.train.errors import TrainingError, together
from unitgain.train.evaluation import Evaluator
from unitgain.train.health import Health
from unitgain.train.log import StatsLog, TrainProgress
from unitgain.train.run import Window
from unitgain.train.saver import Saver
from unitgain.train.signals import StopSignal
from unitgain.train.state import TrainState, state_tensors
from unitgain.train.step import Microbatch, StepReport, train_step


@dataclass
class Trainer:
    """The parts of a run under way, on one of its processes."""

    config: TrainConfig
    run: Path
    batches: Batches
    state: TrainState
    window: Window
    saver: Saver
    stop: StopSignal
    fingerprint: str
    log: StatsLog | None
    progress: TrainProgress
    health: Health
    evaluator: Evaluator | None = None

    @property
    def world(self) -> World:
        """The processes of the run."""
        return self.state.world

    def run_to_end(self) -> None:
        """Step until the duration is over, or all processes have agreed to stop."""
        config, state = self.config, self.state
        recipe = config.recipe
        began = time.monotonic()
        self.listen()  # a signal that came while the run was being set up
        began += self.evaluate(state.nimg - recipe.batch)  # what a signal cut short
        evaluated = 0.0
        while state.nimg < recipe.duration and not self.stop.agreed:
            previous = state.nimg
            report = self.step()
            self.account(report)
            finished = state.nimg >= recipe.duration
            self.progress.step(state.nimg)
            if self.ticks(previous):
                now = time.monotonic()
                self.tick(report.lr, now - began, evaluated)
                began, evaluated = now, 0.0
            if finished or _crossed(previous, state.nimg, recipe.snapshot_every):
                self.snapshot()
            if finished:
                self.raw_snapshot()
            if finished or self.stop.agreed or _crossed(previous, state.nimg, config.checkpoint_every):
                self.checkpoint()
            seconds = self.evaluate(previous)
            began, evaluated = began + seconds, evaluated + seconds
        # A signal that came before the first step, or between two.
        if self.stop.agreed and self.saver.nimg != state.nimg and not self.has_checkpoint():
            self.checkpoint()
        self.saver.finish()

    def has_checkpoint(self) -> bool:
        """Whether the state as it is now is on the disk."""
        there = map(checkpoint_nimg, list_checkpoints(self.run / "checkpoints"))
        return self.world.broadcast(self.state.nimg in there)

    def listen(self) -> bool:
        """Hear whether any process is to stop; costs a message of its own."""
        votes = torch.tensor(self.stop.votes(), dtype=torch.float64)
        self.world.sum([votes])
        self.stop.hear(votes.tolist())
        return self.stop.agreed is not None

    def evaluate(self, previous: int) -> float:
        """Draw and measure what is due after `previous` images; the seconds it took."""
        if self.evaluator is None or self.stop.agreed:
            return 0.0
        return self.evaluator.evaluate(self.state, previous, self.listen, self.log, self.progress)

    def votes(self) -> list[float]:
        """What this process has to say to the others in each step."""
        return [*self.stop.votes(), float(self.saver.failed())]

    def step(self) -> StepReport:
        """One step; the first one, and one at each interval, with the magnitudes of the network as it runs."""
        every, nimg, recipe = self.config.magnitudes_every, self.state.nimg, self.config.recipe
        measured = every and (nimg == 0 or _crossed(nimg, nimg + recipe.batch, every))
        with (
            watch(self.state.denoiser) if measured else nullcontext() as probe,
            self.health.watch_step(self.ticks(nimg)),
        ):
            microbatches = self.health.shown(_shown_to(probe, self.batches.at(nimg)))
            report = train_step(self.state, recipe, microbatches, self.votes)
        if probe is not None:
            probe.merge(self.world)
            self.write({"nimg": self.state.nimg, "magnitudes": probe.buckets()})
        return report

    def ticks(self, nimg: int) -> bool:
        """Whether the step that begins at `nimg` images is the last one before a line of statistics."""
        recipe = self.config.recipe
        after = nimg + recipe.batch
        return after >= recipe.duration or _crossed(nimg, after, self.config.tick)

    def write(self, row: dict[str, Any]) -> None:
        """Write a line of statistics."""
        if self.log is not None:
            self.log.write(row)

    def header(self, profile: dict) -> SnapshotHeader:
        """What a snapshot taken now says of itself."""
        recipe, dataset = self.config.recipe, self.batches.dataset
        return SnapshotHeader(
            network=recipe.network,
            sigma_data=recipe.sigma_data,
            nimg=self.state.nimg,
            profile=profile,
            recipe=recipe.name,
            encoder=to_dict(dataset.encoder),
            classes=dataset.classes if recipe.network.label_dim else None,
            data=dataset.name,
            license=self.config.init.license if self.config.init is not None else None,
        )

    def snapshot(self) -> None:
        """Write the averages."""
        for ema in self.state.emas:
            tensors = {name: self.kept(tensor) for name, tensor in ema.full_tensors()}
            self.write_snapshot(self.header(profile_entry(ema)), tensors, self.config.snapshot_dtype)

    def raw_snapshot(self) -> None:
        """Write the weights themselves, without averaging, in float32."""
        tensors = {name: self.kept(full(tensor)) for name, tensor in self.state.denoiser.state_dict().items()}
        self.write_snapshot(self.header({"kind": "raw"}), tensors, "float32")

    def kept(self, tensor: Tensor) -> Tensor:
        """A tensor that was gathered on all processes, where it is needed; elsewhere nothing of it."""
        return tensor.cpu() if self.world.main else torch.empty(0)

    def write_snapshot(self, header: SnapshotHeader, tensors: dict[str, Tensor], dtype: str) -> None:
        """Write one file, on rank 0."""
        path = self.run / "snapshots" / header.filename()
        work = lambda: write_snapshot(path, header, tensors, dtype) if self.world.main else None  # noqa: E731
        together(self.world, f"writing {path}", work)

    def checkpoint(self) -> None:
        """Begin to write the whole state; what is too old is deleted when it is there."""
        self.health.settle(self.window)
        tensors, values = state_tensors(self.state)
        mine = {
            "window": to_dict(self.window),
            "config": to_dict(self.config),
            "device": self.state.device.type,
            "data": self.fingerprint,
            "processes": self.world.size,
        }
        self.saver.start(self.state.nimg, tensors, {**values, **mine})

    def account(self, report: StepReport) -> None:
        """Hear what the others say, and add a step to the window; stop the run if its gradients stay non-finite."""
        *stop, failed = report.votes
        self.stop.hear(stop)
        if failed:
            self.saver.finish()
        window = self.window
        loss = report.loss
        window.loss += loss if math.isfinite(loss) else 0.0
        window.finite_steps += math.isfinite(loss)
        window.steps += 1
        window.nonfinite_steps += bool(report.nonfinite)
        window.nonfinite_run = window.nonfinite_run + 1 if report.nonfinite else 0
        if report.nonfinite:
            worst = ", ".join(f"{name} ({count})" for name, count in list(report.nonfinite.items())[:3])
            self.write({"nimg": self.state.nimg, "nonfinite": report.nonfinite})
            self.progress.say(f"non-finite gradients replaced by 0 at {self.state.nimg} images: {worst}")
            if window.nonfinite_run >= self.config.nonfinite_limit:
                self.saver.finish()
                raise TrainingError(
                    f"gradients were not finite in {window.nonfinite_run} steps in a row, the last at "
                    f"{self.state.nimg} images, in {worst}: lower the learning rate, or train in float32 or bfloat16; "
                    "the last checkpoint is intact"
                )

    def tick(self, lr: float, seconds: float, evaluated: float = 0.0) -> None:
        """Write and show the statistics since the last tick: of so many seconds, and others of evaluation."""
        window = self.window
        images = window.steps * self.config.recipe.batch
        row = {
            "nimg": self.state.nimg,
            "loss": window.loss / window.finite_steps if window.finite_steps else None,
            "lr": lr,
            "images_per_second": images / max(seconds, 1e-9),
            "seconds": seconds,
            **({"evaluation_seconds": evaluated} if evaluated else {}),
            "nonfinite_steps": window.nonfinite_steps,
            **self.health.row(window, images, seconds),
        }
        self.write(row)
        self.progress.tick(row)
        window.loss, window.steps, window.finite_steps, window.nonfinite_steps = 0.0, 0, 0, 0


def profile_entry(ema: PowerEMA | ExponentialEMA) -> dict[str, Any]:
    """The `profile` entry of a snapshot of this average."""
    if isinstance(ema, PowerEMA):
        return power_profile(ema.sigma_rel, ema.gamma)
    return {"kind": "exponential", "half_life": ema.half_life}


def _shown_to(probe: Probe | None, microbatches: Iterator[Microbatch]) -> Iterator[Microbatch]:
    for microbatch in microbatches:
        if probe is not None:
            probe.counts = microbatch.counts
        yield microbatch


def _crossed(previous: int, nimg: int, every: int) -> bool:
    return nimg // every > previous // every
