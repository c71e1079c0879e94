"""The training loop: batches in, steps, statistics, snapshots, checkpoints, and an end at any time."""

import math
import os
import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unitgain.analysis.magnitude import watch
from unitgain.checkpoint.snapshot import DTYPES, SnapshotHeader, power_profile, write_snapshot
from unitgain.checkpoint.state import checkpoint_nimg, clear_partial, list_checkpoints
from unitgain.data.dataset import ArrayDataset
from unitgain.data.order import derive
from unitgain.ema import ExponentialEMA, PowerEMA
from unitgain.parallel import World, full, processes
from unitgain.serial import to_dict
from unitgain.train.batches import Batches
from unitgain.train.config import Execution, TrainConfig
from unitgain.train.errors import TrainingError, together
from unitgain.train.lock import FolderLock
from unitgain.train.log import StatsLog, TrainProgress
from unitgain.train.preflight import check_disk, check_folder, preflight
from unitgain.train.run import Window, check_data, check_run, clear_leftovers, resume_from_newest, save_config
from unitgain.train.saver import Saver
from unitgain.train.signals import StopSignal
from unitgain.train.step import StepReport, TrainState, state_tensors, train_step


@dataclass(frozen=True)
class TrainResult:
    """How a call of `train` ended.

    Attributes:
        nimg: images seen.
        finished: whether the whole duration is done.
        signal: name of the signal that stopped it, or "--max-time", or None.
        main: whether this is the process that says so.
    """

    nimg: int
    finished: bool
    signal: str | None
    main: bool = True


def train(
    config: TrainConfig,
    run: Path,
    dataset: ArrayDataset,
    *,
    resume: bool = False,
    execution: Execution | None = None,
    **how: Any,
) -> TrainResult:
    """Train to the end of the recipe's duration, or until SIGINT, SIGTERM or SIGUSR1.

    The run folder holds `config.json`, `stats.jsonl`, `snapshots/`, `checkpoints/` and `tensorboard/`. A run that is
    stopped and resumed ends with the same bytes in its snapshots as one that was not. Under torchrun all processes call
    this together; a process group that is there already is used.

    Args:
        config: what to train.
        run: folder of the run; empty, unless `resume`.
        dataset: images and labels; must fit the recipe's network.
        resume: go on from the newest valid checkpoint of the run, or start where there is none. A restart by torchrun
            (`--max-restarts`) always does.
        execution: how to carry it out.
        how: fields of `Execution`, instead of it or to change some.

    Raises:
        ValueError: if the data do not fit the network, or `config` would change the numbers of the run to resume.
        FileExistsError: if the folder is not empty and `resume` is not given.
        FolderInUseError: if another process trains in it.
        PreflightError: if several processes do not fit together.
        SharedError: if something failed on some of several processes.
        TrainingError: if gradients stay non-finite.
        CheckpointError: if a checkpoint cannot be written, or none of those there is intact.
        OSError: if something else cannot be written; the last checkpoint is intact.
    """
    execution = replace(execution or Execution(), **how)
    resume = resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    with StopSignal(execution.max_time) as stop, processes(execution.device, cancelled=lambda: stop.received) as world:
        together(world, "checking the data", lambda: check_data(config, dataset))
        fingerprint = preflight(world, config, dataset)
        together(world, "checking the run folder", lambda: check_run(config, run, resume) if world.main else None)
        lock = FolderLock(run) if world.main else nullcontext()
        with ExitStack() as stack:
            together(world, "locking the run folder", lambda: stack.enter_context(lock))
            check_folder(world, run)
            return _train(config, execution, run, Batches(config, dataset, world), stop, resume, fingerprint)


def _train(
    config: TrainConfig,
    execution: Execution,
    run: Path,
    batches: Batches,
    stop: StopSignal,
    resume: bool,
    fingerprint: str,
) -> TrainResult:
    world, folder = batches.world, run / "checkpoints"
    torch.manual_seed(derive(config.seed))
    state = TrainState.start(
        config.recipe,
        world.device,
        world=world,
        shard=execution.shard,
        recompute=execution.recompute,
        ema_device=execution.ema_device,
    )
    state.denoiser.dtype = DTYPES[config.dtype]
    window = Window()
    if resume:
        resume_from_newest(config, state, window, folder, fingerprint)
    together(world, "preparing the run folder", lambda: _prepare(config, run, state) if world.main else None)
    saver = Saver(folder, world, config.keep_checkpoints, config.keep_every, execution.on_checkpoint_error)
    log = StatsLog(run, state.nimg, execution.tensorboard) if world.main else None
    with ExitStack() as stack:
        if log is not None:
            stack.callback(log.close)
        progress = TrainProgress(config.recipe.duration, state.nimg, execution.quiet or not world.main)
        stack.enter_context(progress)
        trainer = Trainer(config, run, batches, state, window, saver, stop, fingerprint, log, progress)
        try:
            trainer.run_to_end()
        except KeyboardInterrupt:  # the second signal: what is under way does not count
            raise
        except BaseException:
            _let_finish(saver, world)
            raise
    return TrainResult(state.nimg, state.nimg >= config.recipe.duration, stop.agreed, world.main)


def _prepare(config: TrainConfig, run: Path, state: TrainState) -> None:
    clear_leftovers(run)
    clear_partial(run / "checkpoints")
    check_disk(state, config, run)
    save_config(config, run)


def _let_finish(saver: Saver, world: World) -> None:
    """Let a checkpoint under way get whole before an error ends the run, where no other process must be waited for."""
    if world.size == 1:
        saver.settle()


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
        while state.nimg < recipe.duration and not self.stop.agreed:
            previous = state.nimg
            report = self.step()
            self.account(report)
            finished = state.nimg >= recipe.duration
            self.progress.step(state.nimg)
            if finished or _crossed(previous, state.nimg, config.tick):
                now = time.monotonic()
                self.tick(report.lr, now - began)
                began = now
            if finished or _crossed(previous, state.nimg, recipe.snapshot_every):
                self.snapshot()
            if finished:
                self.raw_snapshot()
            if finished or self.stop.agreed or _crossed(previous, state.nimg, config.checkpoint_every):
                self.checkpoint()
        # A signal that came before the first step, or between two.
        if self.stop.agreed and self.saver.nimg != state.nimg and not self.has_checkpoint():
            self.checkpoint()
        self.saver.finish()

    def has_checkpoint(self) -> bool:
        """Whether the state as it is now is on the disk."""
        there = map(checkpoint_nimg, list_checkpoints(self.run / "checkpoints"))
        return self.world.broadcast(self.state.nimg in there)

    def listen(self) -> None:
        """Hear whether any process is to stop; costs a message of its own."""
        votes = torch.tensor(self.stop.votes(), dtype=torch.float64)
        self.world.sum([votes])
        self.stop.hear(votes.tolist())

    def votes(self) -> list[float]:
        """What this process has to say to the others in each step."""
        return [*self.stop.votes(), float(self.saver.failed())]

    def step(self) -> StepReport:
        """One step; the first one, and one at each interval, with the magnitudes of the network as it runs."""
        every, nimg, recipe = self.config.magnitudes_every, self.state.nimg, self.config.recipe
        measured = every and (nimg == 0 or _crossed(nimg, nimg + recipe.batch, every))
        with watch(self.state.denoiser) if measured else nullcontext() as probe:
            report = train_step(self.state, recipe, self.batches.at(nimg), self.votes)
        if probe is not None:
            self.world.sum(list(probe.squares.values()))
            probe.evaluations = {name: count * self.world.size for name, count in probe.evaluations.items()}
            self.write({"nimg": self.state.nimg, "magnitudes": probe.buckets()})
        return report

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
        loss = report.loss.item()
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

    def tick(self, lr: float, seconds: float) -> None:
        """Write and show the statistics since the last tick."""
        window = self.window
        images = window.steps * self.config.recipe.batch
        row = {
            "nimg": self.state.nimg,
            "loss": window.loss / window.finite_steps if window.finite_steps else None,
            "lr": lr,
            "images_per_second": images / max(seconds, 1e-9),
            "seconds": seconds,
            "nonfinite_steps": window.nonfinite_steps,
        }
        self.write(row)
        self.progress.tick(row)
        window.loss, window.steps, window.finite_steps, window.nonfinite_steps = 0.0, 0, 0, 0


def profile_entry(ema: PowerEMA | ExponentialEMA) -> dict[str, Any]:
    """The `profile` entry of a snapshot of this average."""
    if isinstance(ema, PowerEMA):
        return power_profile(ema.sigma_rel, ema.gamma)
    return {"kind": "exponential", "half_life": ema.half_life}


def _crossed(previous: int, nimg: int, every: int) -> bool:
    return nimg // every > previous // every
