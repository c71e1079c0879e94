"""The training loop: batches in, steps, statistics, snapshots, checkpoints, and an end at any time."""

import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unitgain.analysis.magnitude import watch
from unitgain.checkpoint.snapshot import DTYPES, SnapshotHeader, power_profile, write_snapshot
from unitgain.checkpoint.state import (
    CheckpointError,
    checkpoint_nimg,
    list_checkpoints,
    prune_checkpoints,
    read_checkpoint,
    set_aside,
    write_checkpoint,
)
from unitgain.data.loader import Dataset, Loader
from unitgain.data.order import derive
from unitgain.ema import ExponentialEMA, PowerEMA
from unitgain.files import require_empty, sweep, write_text
from unitgain.loss import EDMLoss
from unitgain.serial import from_dict, to_dict
from unitgain.train.config import TrainConfig
from unitgain.train.log import StatsLog, TrainProgress
from unitgain.train.signals import StopSignal
from unitgain.train.step import Microbatch, StepReport, TrainState, restore, state_tensors, train_step


class TrainingError(Exception):
    """Training cannot go on, or what it left is damaged; the last checkpoint is intact."""


@dataclass(frozen=True)
class TrainResult:
    """How a call of `train` ended.

    Attributes:
        nimg: images seen.
        finished: whether the whole duration is done.
        signal: name of the signal that stopped it, or None.
    """

    nimg: int
    finished: bool
    signal: str | None


def train(
    config: TrainConfig,
    run: Path,
    dataset: Dataset,
    *,
    resume: bool = False,
    device: torch.device | str = "cpu",
    quiet: bool = False,
    tensorboard: bool = True,
) -> TrainResult:
    """Train to the end of the recipe's duration, or until SIGINT or SIGTERM.

    The run folder holds `config.json`, `stats.jsonl`, `snapshots/`, `checkpoints/` and `tensorboard/`. A run that is
    stopped and resumed ends with the same bytes in its snapshots as one that was not.

    Args:
        config: what to train and how.
        run: folder of the run; empty, unless `resume`.
        dataset: images and labels; must fit the recipe's network.
        resume: go on from the newest valid checkpoint of the run, or start where there is none.
        device: where to train.
        quiet: no progress.
        tensorboard: write TensorBoard events, if it is installed.

    Raises:
        ValueError: if the data do not fit the network, or `config` would change the numbers of the run to resume.
        FileExistsError: if the folder is not empty and `resume` is not given.
        TrainingError: if gradients stay non-finite.
        OSError: if something cannot be written; the last checkpoint is intact.
    """
    with StopSignal() as stop:
        return _train(config, run, dataset, stop, resume, torch.device(device), quiet, tensorboard)


def _train(
    config: TrainConfig,
    run: Path,
    dataset: Dataset,
    stop: StopSignal,
    resume: bool,
    device: torch.device,
    quiet: bool,
    tensorboard: bool,
) -> TrainResult:
    check_data(config, dataset)
    check_run(config, run, resume)
    torch.manual_seed(derive(config.seed))
    state = TrainState.start(config.recipe, device)
    state.denoiser.dtype = DTYPES[config.dtype]
    window = Window()
    if resume:
        resume_from_newest(config, state, window, run / "checkpoints")
        sweep(run / "snapshots")
    write_text(run / "config.json", json.dumps(to_dict(config), indent=1) + "\n")
    log = StatsLog(run, state.nimg, tensorboard)
    options = {"flip": config.flip, "workers": config.workers, "cache": config.cache, "pin": device.type == "cuda"}
    loader = Loader(dataset, config.seed, **options)
    try:
        with TrainProgress(config.recipe.duration, state.nimg, quiet) as progress:
            trainer = Trainer(config, run, dataset, loader, state, window, log, progress)
            _loop(trainer, stop)
            if stop.received and state.nimg not in map(checkpoint_nimg, list_checkpoints(run / "checkpoints")):
                trainer.checkpoint()  # the signal came before the first step, or between two
    finally:
        loader.close()
        log.close()
    return TrainResult(state.nimg, state.nimg >= config.recipe.duration, stop.received)


@dataclass
class Window:
    """Sums since the last tick, part of what a checkpoint keeps so that statistics resume too."""

    loss: float = 0.0
    steps: int = 0
    finite_steps: int = 0
    nonfinite_steps: int = 0
    nonfinite_run: int = 0


@dataclass
class Trainer:
    """The parts of a run under way."""

    config: TrainConfig
    run: Path
    dataset: Dataset
    loader: Loader
    state: TrainState
    window: Window
    log: StatsLog
    progress: TrainProgress

    def microbatches(self) -> Iterator[Microbatch]:
        """The next batch; every random draw is a function of the seed, the images seen and the microbatch."""
        recipe, nimg, device = self.config.recipe, self.state.nimg, self.state.device
        size = recipe.batch // self.config.microbatches
        loss = EDMLoss(recipe.P_mean, recipe.P_std)
        for index in range(self.config.microbatches):
            stored, label = self.loader.fetch(nimg + index * size, size)
            label = label.to(device) if label is not None and recipe.network.label_dim else None
            seed = derive(self.config.seed, nimg, index)
            generator = torch.Generator(device).manual_seed(seed)
            clean = self.dataset.encode(stored.to(device, non_blocking=True), generator)
            sigma, noise = loss.draw(clean, generator)
            torch.manual_seed(derive(seed))  # for dropout
            yield Microbatch(clean=clean, sigma=sigma, noise=noise, label=label)

    def step(self) -> StepReport:
        """One step; the first one, and one at each interval, with the magnitudes of the network as it runs."""
        every, nimg = self.config.magnitudes_every, self.state.nimg
        if not every or not (nimg == 0 or _crossed(nimg, nimg + self.config.recipe.batch, every)):
            return train_step(self.state, self.config.recipe, self.microbatches())
        with watch(self.state.denoiser) as probe:
            report = train_step(self.state, self.config.recipe, self.microbatches())
        self.log.write({"nimg": self.state.nimg, "magnitudes": probe.buckets()})
        return report

    def header(self, profile: dict) -> SnapshotHeader:
        """What a snapshot taken now says of itself."""
        recipe = self.config.recipe
        return SnapshotHeader(
            network=recipe.network,
            sigma_data=recipe.sigma_data,
            nimg=self.state.nimg,
            profile=profile,
            recipe=recipe.name,
            encoder=to_dict(self.dataset.encoder),
            classes=self.dataset.classes if recipe.network.label_dim else None,
            data=self.dataset.name,
        )

    def snapshot(self) -> None:
        """Write the averages."""
        for ema in self.state.emas:
            header = self.header(profile_entry(ema))
            write_snapshot(
                self.run / "snapshots" / header.filename(), header, ema.tensors(), self.config.snapshot_dtype
            )

    def raw_snapshot(self) -> None:
        """Write the weights themselves, without averaging, in float32."""
        header = self.header({"kind": "raw"})
        tensors = self.state.denoiser.state_dict()
        write_snapshot(self.run / "snapshots" / header.filename(), header, tensors, "float32")

    def checkpoint(self) -> None:
        """Write the whole state, and delete what is too old."""
        tensors, values = state_tensors(self.state)
        device = self.state.device.type
        mine = {"window": to_dict(self.window), "config": to_dict(self.config), "device": device}
        folder = self.run / "checkpoints"
        write_checkpoint(folder, self.state.nimg, tensors, {**values, **mine})
        prune_checkpoints(folder, self.config.keep_checkpoints)

    def account(self, report: StepReport) -> None:
        """Add a step to the window; stop the run if its gradients stay non-finite."""
        window = self.window
        loss = report.loss.item()
        window.loss += loss if math.isfinite(loss) else 0.0
        window.finite_steps += math.isfinite(loss)
        window.steps += 1
        window.nonfinite_steps += bool(report.nonfinite)
        window.nonfinite_run = window.nonfinite_run + 1 if report.nonfinite else 0
        if report.nonfinite:
            worst = ", ".join(f"{name} ({count})" for name, count in list(report.nonfinite.items())[:3])
            self.log.write({"nimg": self.state.nimg, "nonfinite": report.nonfinite})
            self.progress.say(f"non-finite gradients replaced by 0 at {self.state.nimg} images: {worst}")
            if window.nonfinite_run >= self.config.nonfinite_limit:
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
        self.log.write(row)
        self.progress.tick(row)
        window.loss, window.steps, window.finite_steps, window.nonfinite_steps = 0.0, 0, 0, 0


def profile_entry(ema: PowerEMA | ExponentialEMA) -> dict[str, Any]:
    """The `profile` entry of a snapshot of this average."""
    if isinstance(ema, PowerEMA):
        return power_profile(ema.sigma_rel, ema.gamma)
    return {"kind": "exponential", "half_life": ema.half_life}


def _loop(trainer: Trainer, stop: StopSignal) -> None:
    config, state = trainer.config, trainer.state
    recipe = config.recipe
    began = time.monotonic()
    while state.nimg < recipe.duration and not stop.received:
        previous = state.nimg
        report = trainer.step()
        trainer.account(report)
        finished = state.nimg >= recipe.duration
        trainer.progress.step(state.nimg)
        if finished or _crossed(previous, state.nimg, config.tick):
            now = time.monotonic()
            trainer.tick(report.lr, now - began)
            began = now
        if finished or _crossed(previous, state.nimg, recipe.snapshot_every):
            trainer.snapshot()
        if finished:
            trainer.raw_snapshot()
        if finished or stop.received or _crossed(previous, state.nimg, config.checkpoint_every):
            trainer.checkpoint()


def _crossed(previous: int, nimg: int, every: int) -> bool:
    return nimg // every > previous // every


def check_data(config: TrainConfig, dataset: Dataset) -> None:
    """Check that the network can be trained on the data.

    Raises:
        ValueError: if the shape of the images or the number of classes differ.
    """
    network = config.recipe.network
    expected = (network.channels, network.resolution, network.resolution)
    if dataset.shape != expected:
        remedy = "; encode the data first: unitgain data encode" if config.recipe.latents > dataset.latents else ""
        raise ValueError(
            f"data {dataset.name}: images are {dataset.shape}, the network takes {expected} (channels, height, width)"
            f"{remedy}"
        )
    if network.label_dim and network.label_dim != dataset.label_dim:
        raise ValueError(
            f"data {dataset.name}: {dataset.label_dim} classes, but the network has label_dim={network.label_dim}; "
            "use label_dim=0 to train without labels, or that of the data (--classes data)"
        )


def check_run(config: TrainConfig, run: Path, resume: bool) -> None:
    """Check that the folder may take a new run, or holds one that `config` continues.

    Raises:
        FileExistsError: if a new run finds the folder not empty.
        ValueError: if resuming would change the numbers of the run; the message names the fields.
    """
    if resume and (run / "config.json").exists():
        refuse_changes(config, load_config(run), run)
    else:
        require_empty(run, "choose another folder, or resume the run that is in it with --resume")


def refuse_changes(config: TrainConfig, saved: TrainConfig, where: Path) -> None:
    """Raise `ValueError` if `config` would change the numbers of a run that began as `saved`, naming the fields."""
    changes = config.changes(saved)
    if changes:
        raise ValueError(f"cannot resume from {where}, which was made with other settings: {'; '.join(changes)}")


def load_config(run: Path) -> TrainConfig:
    """The settings of the run in a folder.

    Raises:
        FileNotFoundError: if there is no run.
        TrainingError: if its `config.json` is damaged.
    """
    path = run / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{run} is not the folder of a run: it has no config.json")
    try:
        return from_dict(TrainConfig, json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise TrainingError(f"{path} is damaged: {error}") from error


def resume_from_newest(config: TrainConfig, state: TrainState, window: Window, folder: Path) -> None:
    """Restore the newest valid checkpoint, saying loudly which ones are damaged; without any the state stays new.

    Raises:
        ValueError: if the checkpoint was made with settings that differ in what changes the numbers.
        CheckpointError: if there are checkpoints and none is valid.
    """
    paths = list_checkpoints(folder)
    for path in reversed(paths):
        try:
            tensors, values = read_checkpoint(path)
        except CheckpointError as error:
            aside = set_aside(path)
            print(f"WARNING: skipping a damaged checkpoint, now {aside.name}: {error}", file=sys.stderr, flush=True)
            continue
        refuse_changes(config, from_dict(TrainConfig, values["config"]), path)
        if values["device"] != state.device.type:
            raise ValueError(f"{path} was made on {values['device']}: resume with --device {values['device']}")
        if config.recipe.duration < values["nimg"]:
            raise ValueError(
                f"duration = {config.recipe.duration}: the run in {path.parent} is at {values['nimg']} images"
            )
        restore(state, tensors, values)
        for name, value in values["window"].items():
            setattr(window, name, value)
        return
    if paths:
        raise CheckpointError(
            f"none of the {len(paths)} checkpoints in {folder} is intact: start again in another folder"
        )
