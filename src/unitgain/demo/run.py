"""The demo: train on the embedded digits, sweep averages of several lengths, and write the pages about it."""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from unitgain import console
from unitgain.analysis.counts import recipe_costs
from unitgain.data.dataset import ArrayDataset
from unitgain.data.digits import digits
from unitgain.demo.page import digits_sections
from unitgain.demo.settings import DemoConfig
from unitgain.draw.decode import decoder_of
from unitgain.draw.images import draw_images
from unitgain.draw.networks import open_network
from unitgain.evaluate.generated import Generated
from unitgain.evaluate.judge import Judge
from unitgain.explore.export import ExportConfig, export_page
from unitgain.explore.session import Session
from unitgain.explore.sources import Run
from unitgain.explore.views import Average, View
from unitgain.extras import require
from unitgain.files import require_empty, write_text
from unitgain.posthoc.estimate import PAIR
from unitgain.recipes import DIGITS
from unitgain.report.history import read_history
from unitgain.report.run import run_page
from unitgain.report.samples import lengths_of, real_pictures, samples_of
from unitgain.serial import to_dict
from unitgain.sweep import CellResult, Sweep, sweep
from unitgain.sweep.cells import best
from unitgain.train import TrainConfig, train
from unitgain.train.errors import TrainingError
from unitgain.train.rows import read_ticks
from unitgain.train.run import load_config

TIMES = 6  # of training, at which samples are shown
CLASSES = 10
EXPLORER = "explore.html"
WEIGHTS = (1.0, 1.5, 2.0, 3.0)  # of guidance, in the explorer


def run_demo(
    config: DemoConfig, out: Path, *, fresh: bool = False, quiet: bool = False, say: Callable[[str], None] = console.say
) -> dict[str, Any] | None:
    """Run the demo in the folder `out`, or what is left of it to do.

    Args:
        config: what to do.
        out: gets `run/` with its sweep, `report.html`, `explore.html` and `report.json`. A finished report with the
            same settings is returned as it is; a finished or interrupted training run is gone on with.
        fresh: delete what an earlier demo left in `out` and start again; other files stay.
        quiet: show no progress bar.
        say: prints a line.

    Returns:
        The contents of `report.json`; None if a signal stopped the training.

    Raises:
        FileExistsError: if `out` holds something that is no demo.
        ValueError: if it holds a demo with other settings, and `fresh` is not given.
    """
    run, dataset = out / "run", digits()
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
    began = time.monotonic() - sum(row["seconds"] for row in read_ticks(run))  # what was done before counts too
    say("training ...")
    if not train(training, run, dataset, resume=run.exists(), quiet=quiet, tensorboard=False).finished:
        return None
    say("reconstructing averages, drawing with them, measuring ...")
    bench = Sweep(run, Judge.open(["fd_pixels"], dataset.name), run / "sweep", settings=config.drawing())
    results = sweep(bench, config.cells())
    report = summarize(config, dataset, bench, results)
    say("drawing the report and the explorer ...")
    write_text(out / "report.html", report_page(report, run, config.lengths))
    write_text(out / EXPLORER, explorer(run, config))
    report["seconds"] = time.monotonic() - began
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
    shutil.rmtree(out / "run", ignore_errors=True)
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
    """The settings as `report.json` has them."""
    return {"recipe": DIGITS.name, "batch": DIGITS.batch, "sampler": "heun", **to_dict(config)}


def summarize(config: DemoConfig, dataset: ArrayDataset, bench: Sweep, results: Sequence[CellResult]) -> dict[str, Any]:
    """The contents of `report.json`: Frechet distances of the averages and of the raw weights, and how many images of
    the best average a classifier names as the class that was asked for.
    """
    peak, drawing, seeds = best(results), config.drawing(), range(config.images)
    nimg = round(bench.main.t)
    raw = open_network(str(bench.run / "snapshots" / f"{nimg:010d}-raw.safetensors"), settings=drawing)
    images = Generated(raw, None, drawing, seeds)
    (record,) = bench.judge(images.batches(seeds), images.source)
    network = open_network(str(bench.main.path(peak.cell.target())), settings=drawing)
    classifier = Classifier(dataset)
    parts = list(draw_images(network.denoiser, decoder_of(network.denoiser), seeds, drawing))
    asked = torch.cat([labels for _, labels, _ in parts if labels is not None]).numpy()
    right = classifier.names(torch.cat([pixels for *_, pixels in parts])) == asked
    return {
        "fd_raw": record.value,
        "fd_best": peak.value,
        "best_sigma_rel": peak.cell.length,
        "network": network.name,
        "class_accuracy": float(right.mean()),
        "images_seen": nimg,
        "seed": config.seed,
        "parameters": recipe_costs()[DIGITS.name].evaluation.parameters,
        "sweep": [{"sigma_rel": result.cell.length, "fd": result.value} for result in results],
        "classes": [
            {"name": name, "accuracy": float(right[asked == number].mean()) if (asked == number).any() else None}
            for number, name in enumerate(dataset.classes or ())
        ],
        "classifier_accuracy": classifier.accuracy,
        "settings": settings(config),
    }


class Classifier:
    """A support vector machine that names digits, fitted to all real ones; `accuracy` is its cross-validated one."""

    def __init__(self, dataset: ArrayDataset) -> None:
        assert dataset.labels is not None
        svm = require("sklearn.svm", extra="demo")
        selection = require("sklearn.model_selection", extra="demo")
        self.encoder = dataset.encoder
        pixels, labels = self.features(dataset.images), dataset.labels.numpy()
        self._machine = svm.SVC(gamma="scale", C=10)
        self.accuracy = float(selection.cross_val_score(self._machine, pixels, labels, cv=5).mean())
        self._machine.fit(pixels, labels)

    def features(self, pixels: UInt8[Tensor, "n c h w"]) -> NDArray[np.float64]:
        """Pixels as the network sees them, `[n, 64]`."""
        return self.encoder.encode(pixels).flatten(1).double().numpy()

    def names(self, pixels: UInt8[Tensor, "n c h w"]) -> NDArray[np.int64]:
        """The class of each, `[n]`."""
        return self._machine.predict(self.features(pixels))


def report_page(report: dict[str, Any], run: Path, lengths: Sequence[float]) -> str:
    """The report of the run, with what the demo has measured in front."""
    history = read_history(run)
    drawings, note = samples_of(history, TIMES)
    own, real, first = lengths_of(history, lengths), real_pictures(history), digits_sections(report)
    return run_page(history, drawings, note, lengths=own, real=real, first=first, title="unitgain demo: digits")


def explorer(run: Path, config: DemoConfig) -> str:
    """The page on which lengths, weights of guidance and seeds are chosen; an earlier average of the run guides."""
    settings = config.drawing().replace(label=tuple(range(CLASSES)))
    with Session(run, settings=settings) as session:
        assert isinstance(session.source, Run)
        times = session.source.times()
        early = Average(length=PAIR[0], t=times[len(times) // 4])
        view = View(guide=session.source.name, guide_average=early, settings=settings)
        return export_page(session, ExportConfig(lengths=config.lengths, weights=WEIGHTS, view=view))
