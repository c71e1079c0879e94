"""The demo: train on the embedded digits, average post hoc, sample, measure, report."""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from unitgain import console
from unitgain.analysis.counts import recipe_costs
from unitgain.bench.measure import machine
from unitgain.data.dataset import ArrayDataset
from unitgain.data.digits import digits
from unitgain.demo.settings import DemoConfig
from unitgain.denoiser import Denoiser
from unitgain.draw.settings import DrawSettings
from unitgain.explore.export import ExportConfig, export_page
from unitgain.explore.session import Session
from unitgain.explore.sources import Run
from unitgain.explore.views import Average, View
from unitgain.extras import require
from unitgain.files import require_empty, write_text
from unitgain.hub import load
from unitgain.metrics.frechet import frechet_distance, statistics
from unitgain.posthoc import Reconstruction, reconstruct
from unitgain.posthoc.estimate import PAIR
from unitgain.recipes import DIGITS
from unitgain.report.digits import digits_page
from unitgain.sample import generate
from unitgain.serial import to_dict
from unitgain.train import TrainConfig, train
from unitgain.train.errors import TrainingError
from unitgain.train.rows import read_ticks
from unitgain.train.run import load_config

COLUMNS = 10  # of the grids, one per class
ROWS = 8
EXPLORER = "explore.html"
WEIGHTS = (1.0, 1.5, 2.0, 3.0)  # of guidance, in the explorer


@dataclass
class Timer:
    """Seconds by part, and a line on the terminal as each begins."""

    say: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part."""
        self.say(f"{name} ...")
        began = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - began


def run_demo(
    config: DemoConfig, out: Path, *, fresh: bool = False, quiet: bool = False, say: Callable[[str], None] = console.say
) -> dict[str, Any] | None:
    """Run the demo in the folder `out`, or what is left of it to do.

    Args:
        config: what to do.
        out: gets `run/`, `ema/`, `report.html`, `explore.html` and `report.json`. A finished report with the same
            settings is returned as it is; a finished or interrupted training run is gone on with.
        fresh: delete what an earlier demo left in `out` and start again; other files stay.
        quiet: show no progress bar.
        say: prints a line.

    Returns:
        The contents of `report.json`; None if a signal stopped the training.

    Raises:
        FileExistsError: if `out` holds something that is no demo.
        ValueError: if it holds a demo with other settings, and `fresh` is not given.
    """
    run = out / "run"
    timer = Timer(say)
    dataset = digits()
    training = dataclasses.replace(config.training(dataset.name), data_fingerprint=dataset.fingerprint)
    if not is_demo(out):
        require_empty(out, "choose another folder with --out")
    elif fresh:
        remove_demo(out)
    else:
        check_settings(training, run)
        if (report := finished_report(config, out)) is not None:
            say("the demo was run before with these settings; --fresh runs it again")
            return report
    resumed = run.exists()
    earlier = sum(row["seconds"] for row in read_ticks(run))  # what was done before counts too
    with timer.part("training"):
        result = train(training, run, dataset, resume=resumed, quiet=quiet, tensorboard=False)
    if not result.finished:
        return None
    timer.seconds["training"] += earlier
    with timer.part("reconstructing averages"):
        shutil.rmtree(out / "ema", ignore_errors=True)
        averages = reconstruct(run, config.lengths, out / "ema", dtype="float32")
    with timer.part("sampling and measuring"):
        judge = Judge(dataset)
        raw = measure(load(run / "snapshots" / f"{result.nimg:010d}-raw.safetensors"), judge, config)
        results = Results(raw, averages, [measure(load(average.path), judge, config) for average in averages])
    with timer.part("drawing the report"):
        samples, real = grids(load(averages[results.best].path), dataset, config)
        report = summarize(config, judge, result.nimg, timer.seconds, results)
        write_text(out / "report.html", digits_page(report, read_ticks(run), samples, real, COLUMNS))
    with timer.part("drawing the explorer"):
        write_text(out / EXPLORER, explorer(run, config))
    report["seconds"] = sum(timer.seconds.values())
    write_text(out / "report.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    return report


def is_demo(out: Path) -> bool:
    """Whether the folder is that of an earlier demo, which may be gone on with or deleted."""
    try:
        return load_config(out / "run").data == "digits" and load_config(out / "run").recipe.name == DIGITS.name
    except (FileNotFoundError, TrainingError):
        return False


def remove_demo(out: Path) -> None:
    """Delete what a demo writes, and nothing else."""
    for folder in ("ema", "run"):
        shutil.rmtree(out / folder, ignore_errors=True)
    for file in ("report.html", "report.json", EXPLORER):
        (out / file).unlink(missing_ok=True)


def finished_report(config: DemoConfig, out: Path) -> dict[str, Any] | None:
    """The report of an earlier demo with the same settings, if it is all there."""
    if not all((out / name).is_file() for name in ("report.json", "report.html", EXPLORER)):
        return None
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return report if report.get("settings") == settings(config) else None


def check_settings(training: TrainConfig, run: Path) -> None:
    """Raise `ValueError` if the training run of an earlier demo is not the one that is asked for."""
    saved = load_config(run)
    changes = training.changes(saved)
    if saved.recipe.duration != training.recipe.duration:
        changes.append(f"duration: {saved.recipe.duration} -> {training.recipe.duration}")
    if changes:
        where = f"{run.parent} holds a demo with other settings"
        raise ValueError(f"{where} ({'; '.join(changes)}): add --fresh to replace it")


def settings(config: DemoConfig) -> dict[str, Any]:
    """The settings as the report shows them."""
    return {"recipe": DIGITS.name, "batch": DIGITS.batch, "sampler": "heun", **to_dict(config)}


@dataclass(frozen=True)
class Measurement:
    """How good a set of samples is: Frechet distance, accuracy, accuracy per class."""

    fd: float
    accuracy: float
    per_class: list[float | None]  # None where a class was never drawn


@dataclass(frozen=True)
class Results:
    """What was measured of the raw weights and of the averages, these in the order of the lengths."""

    raw: Measurement
    averages: Sequence[Reconstruction]
    sweep: Sequence[Measurement]

    @property
    def best(self) -> int:
        """Index of the average with the smallest distance."""
        return min(range(len(self.sweep)), key=lambda i: self.sweep[i].fd)


class Judge:
    """Measures samples against the real digits, in the standardized pixels that the network is trained on.

    The classifier is a support vector machine fitted to all real digits; `accuracy` is its cross-validated accuracy.
    """

    def __init__(self, dataset: ArrayDataset) -> None:
        assert dataset.labels is not None
        svm = require("sklearn.svm", extra="demo")
        selection = require("sklearn.model_selection", extra="demo")
        self.encoder = dataset.encoder
        features, labels = self.features(dataset.images), dataset.labels.numpy()
        self.real = statistics(features)
        self.classes = dataset.classes or ()
        self.classifier = svm.SVC(gamma="scale", C=10)
        self.accuracy = float(selection.cross_val_score(self.classifier, features, labels, cv=5).mean())
        self.classifier.fit(features, labels)

    def features(self, pixels: UInt8[Tensor, "n c h w"]) -> np.ndarray:
        """Standardized pixels `[n, 64]`, float64."""
        return self.encoder.encode(pixels).flatten(1).double().numpy()

    def __call__(self, pixels: UInt8[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> Measurement:
        """Measure samples that were asked to show `labels`."""
        features, asked = self.features(pixels), labels.numpy()
        fd = frechet_distance(*statistics(features), *self.real)
        right = self.classifier.predict(features) == asked
        per_class = [right[asked == index] for index in range(len(self.classes))]
        return Measurement(fd, float(right.mean()), [float(one.mean()) if len(one) else None for one in per_class])


def measure(denoiser: Denoiser, judge: Judge, config: DemoConfig) -> Measurement:
    """Draw the images of seeds 0, 1, ... and judge them."""
    pixels, labels = [], []
    for _, label, images in generate(denoiser, range(config.images), config.sigmas(), batch=256):
        assert label is not None
        pixels.append(judge.encoder.decode(images))
        labels.append(label)
    return judge(torch.cat(pixels), torch.cat(labels))


def grids(denoiser: Denoiser, dataset: ArrayDataset, config: DemoConfig) -> tuple[Tensor, Tensor]:
    """Samples and real digits, `ROWS` of each class, the class changing fastest."""
    assert dataset.labels is not None
    labels = [label for _ in range(ROWS) for label in range(COLUMNS)]
    (drawn,) = generate(denoiser, range(len(labels)), config.sigmas(), label=labels, batch=len(labels))
    real = torch.stack([dataset.images[dataset.labels == label][:ROWS] for label in range(COLUMNS)], 1)
    return dataset.encoder.decode(drawn[2]), real.flatten(0, 1)


def explorer(run: Path, config: DemoConfig) -> str:
    """The page on which lengths, weights of guidance and seeds are chosen; an earlier average of the run guides."""
    settings = DrawSettings(
        steps=config.steps, sigma_min=config.sigma_min, sigma_max=config.sigma_max, label=tuple(range(COLUMNS))
    )
    with Session(run, settings=settings) as session:
        assert isinstance(session.source, Run)
        times = session.source.times()
        early = Average(length=PAIR[0], t=times[len(times) // 4])
        view = View(guide=session.source.name, guide_average=early, settings=settings)
        return export_page(session, ExportConfig(lengths=config.lengths, weights=WEIGHTS, view=view))


def summarize(
    config: DemoConfig, judge: Judge, nimg: int, seconds: dict[str, float], results: Results
) -> dict[str, Any]:
    """The contents of `report.json`."""
    best = results.sweep[results.best]
    return {
        "fd_raw": results.raw.fd,
        "fd_best": best.fd,
        "best_sigma_rel": results.averages[results.best].sigma_rel,
        "class_accuracy": best.accuracy,
        "images_seen": nimg,
        "seconds": sum(seconds.values()),
        "seed": config.seed,
        "parameters": recipe_costs()[DIGITS.name].evaluation.parameters,
        "sweep": [
            {
                "sigma_rel": average.sigma_rel,
                "fd": result.fd,
                "accuracy": result.accuracy,
                "profile_error": average.error,
            }
            for average, result in zip(results.averages, results.sweep, strict=True)
        ],
        "classes": [
            {"name": name, "accuracy": accuracy} for name, accuracy in zip(judge.classes, best.per_class, strict=True)
        ],
        "classifier_accuracy": judge.accuracy,
        "seconds_by_part": dict(seconds),
        "settings": settings(config),
        "machine": machine("cpu"),
    }
