"""Evaluation of a run on the way: grids of samples at fixed seeds, and metrics, drawn by an average of the weights."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unitgain.checkpoint.snapshot import DTYPES
from unitgain.data.captions import captioned_grid
from unitgain.data.dataset import Dataset
from unitgain.denoiser import Denoiser, classes_of
from unitgain.draw import DataRows, DrawSettings, Network, draw_images
from unitgain.draw.decode import decoder, draws_arrays, painter
from unitgain.draw.rows import rows_of
from unitgain.ema import ExponentialEMA, PowerEMA
from unitgain.evaluate.generated import Generated
from unitgain.evaluate.images import scale_of_encoder
from unitgain.evaluate.judge import Judge
from unitgain.files import atomic
from unitgain.infer import prepare
from unitgain.metrics.reference import Reference
from unitgain.metrics.weights import DINOV2, Weights
from unitgain.parallel import World, full
from unitgain.serial import to_dict
from unitgain.train.config import TrainConfig
from unitgain.train.context import Run
from unitgain.train.rows import read_stats
from unitgain.train.state import TrainState
from unitgain.train.step import Observer, StepReport
from unitgain.trust import DEFAULT_LIMITS, Limits

IMAGES = 64  # of a grid
EITHER = ("ema", "steps", "batch", "dtype", "vae")  # settings of grids and measurements; and of these alone:
MEASURED = ("metrics_images", "reference", "inception", "dinov2")
FEW_CLASSES = 20  # a grid has a row for each of so many


class Evaluation(Observer):
    """Draws and measures with an average of a run's weights, on all its processes together.

    What is needed for it is checked here, before the run begins; `run` is set then. Networks of metrics are opened for
    each measurement and let go after it.

    Args:
        config: of the run.
        dataset: says how images become what the network sees.
        folder: of the run; grids go to `samples/` in it.
        world: the processes of the run.
        limits: of data that metrics are measured against.

    Attributes:
        run: under way.

    Raises:
        ValueError: if something is asked for that the network, the recipe or the reference does not give.
        FileNotFoundError: if a file is missing.
        ReferenceFileError: if the reference is damaged.
        DownloadError: if the weights of a detector are not there and cannot be fetched.
    """

    run: Run

    def __init__(
        self, config: TrainConfig, dataset: Dataset, folder: Path, world: World, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self.settings, self.recipe, self.world, self.folder = config.evaluation, config.recipe, world, folder
        self.from_start = config.init is not None
        self.encoder = to_dict(dataset.encoder)
        self.classes = dataset.classes if self.recipe.network.label_dim else None
        self.average = average_of(config)
        settings = self.settings
        spec = self.recipe.network
        rows = DataRows.mixed(dataset) if spec.conditions else None
        self.drawing = DrawSettings(steps=settings.steps, dtype=settings.dtype, vae=settings.vae, conditions=rows)
        self.scale = scale_of_encoder(dataset.encoder) if draws_arrays(self.encoder) else None
        self.decode = painter(self.encoder, spec.channels, world.device, settings.vae)
        self.intervals, self.images = settings.intervals(self.recipe.snapshot_every), settings.samples or IMAGES
        self.limits = limits
        self.references: Mapping[str, Reference] | None = None
        if self.intervals[1]:
            judge = self.judge(settings.reference)
            decode = decoder(self.encoder, spec.channels, world.device, settings.vae)
            judge.check(decode(torch.zeros(1, spec.channels, *spec.size, device=world.device)))
            self.references = judge.references

    def due(self, previous: int, nimg: int, last: bool) -> tuple[bool, bool]:
        """Whether a grid and metrics are due at `nimg` images, after `previous`, and not there yet; asked on rank 0."""
        if nimg == 0 and not self.from_start:
            return False, False  # the first network draws nothing yet
        s = self.settings
        sheet, metrics = (every and (last or nimg // every > previous // every) for every in self.intervals)
        rows = [row for row in read_stats(self.folder) if row.get("nimg") == nimg] if sheet or metrics else []
        drawn = self.path(nimg).exists() and self.grid in [row.get("grid") for row in rows]
        measured = self.measurement in [row.get("evaluation") for row in rows]
        return bool(sheet and not drawn), bool(s.metrics and metrics and not measured)

    def record(self, images: int) -> dict[str, Any]:
        """What a line of statistics says of how so many images were drawn; no length is the exponential average."""
        s, lengths = self.settings, self.recipe.ema
        length = lengths[self.average] if self.average < len(lengths) else None
        return {"ema": length, "images": images, "steps": s.steps, "dtype": s.dtype}

    @property
    def grid(self) -> dict[str, Any]:
        """What a line of statistics says of how a grid was drawn."""
        return {**self.record(self.images), "pairs": rows_of(self.drawing) is not None}

    @property
    def measurement(self) -> dict[str, Any]:
        """What a line of statistics says of how metrics were measured."""
        s = self.settings
        return {**self.record(s.metrics_images), "metrics": list(s.metrics), "reference": s.reference}

    def path(self, nimg: int) -> Path:
        """Where the grid at so many images goes."""
        return self.folder / "samples" / f"{nimg:010d}.png"

    def start(self) -> None:
        """Make up for what a signal cut short."""
        self.evaluate()

    def report(self, report: StepReport) -> None:
        """Evaluate what is due."""
        self.evaluate()

    def evaluate(self) -> None:
        """Draw and measure what is due, unless the run is to stop; all processes call this together.

        The state of the run is not touched, nor torch's random numbers. Its time to wait is added to, and all processes
        are asked between batches of images whether they are to stop, which abandons the evaluation.
        """
        run, began, nimg = self.run, time.monotonic(), self.run.state.nimg
        if run.stop.agreed:
            return
        previous = nimg - self.recipe.batch
        due = self.due(previous, nimg, run.finished) if self.world.main else (False, False)
        sheet, metrics = self.world.broadcast(due)
        if not (sheet or metrics):
            return
        run.progress.note(f"evaluating at {nimg:,} images")
        devices = [self.world.device] if self.world.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            network = self.network(run.state)
            try:
                if sheet:
                    self.draw(network)
                if metrics:
                    self.measure(network)
            except Abandoned:
                run.progress.note(f"evaluation at {nimg:,} images abandoned; it is made up for when the run is resumed")
        del network
        if devices:
            torch.cuda.empty_cache()
        run.paused += time.monotonic() - began

    def network(self, state: TrainState) -> Network:
        """The average as a network to draw with, whole on each process; a copy."""
        ema = state.emas[self.average]
        spec, sigma_data = state.denoiser.spec, state.denoiser.sigma_data
        with torch.device("meta"):
            denoiser = Denoiser(spec, sigma_data)
        tensors = {
            name: full(tensor).to(state.device) for name, tensor in [*ema.sharded().items(), *ema.buffers.items()]
        }
        denoiser.load_state_dict(tensors, assign=True)
        denoiser.encoder, denoiser.classes = self.encoder, self.classes
        prepared = prepare(denoiser.requires_grad_(False).eval(), DTYPES[self.settings.dtype])
        return Network(name=f"{self.folder.name}, EMA length {length_of(ema)}", denoiser=prepared, record={})

    def draw(self, network: Network) -> None:
        """Draw the grid and write it: a row per class where there are few; where the network is told more, of rows of
        the data, each beside the real picture.
        """
        run, spec, count, told = self.run, self.recipe.network, self.images, rows_of(self.drawing)
        columns = None
        labels: list[int] | None = None
        if not spec.conditions and 1 < spec.label_dim <= min(FEW_CLASSES, count):
            columns = count // spec.label_dim
            labels = [number // columns for number in range(columns * spec.label_dim)]
            count = len(labels)
        parts, nimg = [], run.state.nimg
        with run.progress.beside("drawing samples", count) as done:
            for seeds in turns(self.world, count, self.settings.batch, run.listen):
                label = None if labels is None else [labels[seed] for seed in seeds]
                here = self.world.progress(done, count, before=self.world.size * sum(map(len, parts)))
                batch = self.settings.batch
                drawn = draw_images(
                    network.denoiser, self.decode, seeds, self.drawing, label=label, batch=batch, on_images=here
                )
                parts += [images for *_, images in drawn]
        known = classes_of(network.denoiser)
        names = [known.label(number) for number in labels or ()]
        shares = self.world.gather(torch.cat(parts) if parts else None)

        def write() -> None:
            some = next(part for part in shares if part is not None)
            pixels = torch.empty(count, *some.shape[1:], dtype=torch.uint8)
            for rank, part in enumerate(shares):
                if part is not None:
                    pixels[rank :: self.world.size] = part
            shown = pixels if told is None else told.beside(range(count), pixels, self.decode)
            picture = captioned_grid(shown, names, columns)
            with atomic(self.path(nimg)) as temporary:
                picture.save(temporary, format="PNG")
            if run.log is not None:
                run.log.image("samples", nimg, np.asarray(picture))
            run.write({"grid": self.grid})

        self.world.together(f"writing {self.path(nimg)}", lambda: write() if self.world.main else None)

    def judge(self, reference: str | Mapping[str, Reference] | None) -> Judge:
        """What measures; its detectors are not kept, to leave the memory to the training."""
        s, alone = self.settings, World(device=self.world.device)
        weights = Weights(inception=Path(s.inception) if s.inception else None, dinov2=s.dinov2 or DINOV2)
        return Judge.open(s.metrics, reference, weights=weights, scale=self.scale, limits=self.limits, world=alone)

    def measure(self, network: Network) -> None:
        """Draw images, measure them as they come, and write a line of statistics; None for what is not finite."""
        run, s, world = self.run, self.settings, self.world
        images = Generated(network, None, self.drawing, range(s.metrics_images), device=world.device, batch=s.batch)
        judge = world.together("opening the networks of metrics", lambda: self.judge(self.references))
        with run.progress.beside("measuring", len(images)) as done:
            chosen = turns(world, len(images), s.batch, run.listen)
            batches = (batch for numbers in chosen for batch in images.batches(numbers))
            records = replace(judge, world=world)(batches, images.source, world.progress(done, len(images)))
        values = [record.value if math.isfinite(record.value) else None for record in records]
        named = {metric.label: value for metric, value in zip(judge.metrics, values, strict=True)}
        run.write({"metrics": named, "evaluation": self.measurement})
        results = (f"{name} {'not finite' if value is None else f'{value:.6g}'}" for name, value in named.items())
        run.progress.note(f"at {run.state.nimg:,} images: {', '.join(results)}")


class Abandoned(Exception):
    """All processes have agreed to stop, in the middle of an evaluation."""


def turns(world: World, total: int, batch: int, listen: Callable[[], object]) -> Iterator[Sequence[int]]:
    """This process's numbers below `total`, `batch` at a time; all processes take as many turns, some an empty one.

    Raises:
        Abandoned: on all processes before the same turn, if `listen` says so there.
    """
    mine = world.share(range(total))
    for start in range(0, math.ceil(total / world.size), batch):
        if listen():
            raise Abandoned
        yield mine[start : start + batch]


def open_evaluation(
    config: TrainConfig, dataset: Dataset, folder: Path, world: World, limits: Limits = DEFAULT_LIMITS
) -> Evaluation | None:
    """The evaluation of a run, or None where nothing is to be evaluated; rank 0 fetches weights before the others.

    Raises:
        ValueError: as `Evaluation` does.
    """
    if not any(config.evaluation.intervals(config.recipe.snapshot_every)):
        return None

    def opened() -> Evaluation:
        return Evaluation(config, dataset, folder, world, limits)

    first = world.together("preparing the evaluation", lambda: opened() if world.main else None)
    return world.together("preparing the evaluation", lambda: first or opened())


def refuse_idle(config: TrainConfig, saved: TrainConfig | None) -> None:
    """Refuse what is said of an evaluation that there is none of.

    Args:
        config: of the run.
        saved: of the run that is resumed, which may go on with what it had; None for a new one.

    Raises:
        ValueError: if something is said of grids or measurements, and none are made.
    """
    settings, before = config.evaluation, (saved or TrainConfig(recipe=config.recipe)).evaluation
    grids, metrics = settings.intervals(config.recipe.snapshot_every)
    for names, idle, what, remedy in (
        (("metrics",), not metrics, "measured", "give another --metrics-every"),
        (("samples",), not grids, "drawn", "give another --samples-every"),
        (EITHER + MEASURED, not (grids or metrics), "drawn or measured", "give --samples or --metrics"),
        (MEASURED, not metrics, "measured", "name the metrics (--metrics fid)"),
    ):
        given = [name for name in names if getattr(settings, name) != getattr(before, name)]
        if idle and given:
            said = ", ".join(f"evaluation.{name} = {getattr(settings, name)!r}" for name in given)
            raise ValueError(f"{said}: nothing is {what}; {remedy}, or leave this out")


def average_of(config: TrainConfig) -> int:
    """Index of the average that draws.

    Raises:
        ValueError: if the recipe keeps none of that length.
    """
    recipe, length = config.recipe, config.evaluation.ema
    if length is None:
        return 0
    if length not in recipe.ema:
        raise ValueError(
            f"--evaluate-ema {length:g}: the recipe {recipe.name} keeps averages of lengths "
            f"{', '.join(f'{known:g}' for known in recipe.ema) or 'none'}; others are reconstructed after training"
        )
    return recipe.ema.index(length)


def length_of(ema: PowerEMA | ExponentialEMA) -> str:
    """The length of an average in words."""
    return f"{ema.sigma_rel:g}" if isinstance(ema, PowerEMA) else f"{ema.half_life:g} images"
