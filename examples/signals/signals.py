"""Heartbeats with the time to the next one: `python examples/signals/signals.py cut beats`, and then `draw`.

`cut` takes 25 minutes of an electrocardiogram out of the source package systole of PyPI (GPL-3.0), and writes a file
for each heartbeat: 1.5 seconds around it, with the next beat in them, and tables that say how many seconds later that
comes. The last tenth of the recording is held out. `draw` draws heartbeats anew that are told that time, another one's,
or none.
"""

import argparse
import csv
import itertools
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

import unitgain
from unitgain.bench.measure import machine
from unitgain.data import open_data
from unitgain.draw import DrawSettings
from unitgain.evaluate.heeded import draw_heeded
from unitgain.report.known import newest_average

PACKAGE, ECG = "systole==0.3.1", "src/systole/datasets/Task1_ECG.npy"
RECORDED, RATE = 1000, 125  # samples per second of the recording, and of what is made of it
BEFORE, LENGTH = 32, 192  # samples before the peak of a beat, and in all
SOONEST = 60  # samples after which the next beat may come: the pulse stays below 125
DRAWN, SHOWN = 60, 6


def fetch(folder: Path) -> NDArray[np.float64]:
    """The recording, in millivolts."""
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, PACKAGE], check=True)
    path = next(folder.glob("systole-*.tar.gz"))
    with tarfile.open(path) as archive:
        archive.extract(f"{path.name.removesuffix('.tar.gz')}/{ECG}", folder, filter="data")
    return np.load(next(folder.glob(f"systole-*/{ECG}")), allow_pickle=False)


def peaks(signal: NDArray[np.float64]) -> NDArray[np.int64]:
    """Where beats are: the highest above their surroundings within half a second, and above half the highest near."""
    above = signal - np.convolve(signal, np.ones(25) / 25, "same")

    def highest(reach: int) -> NDArray[np.float64]:
        return sliding_window_view(np.pad(above, reach, mode="edge"), 2 * reach + 1).max(1)

    return np.flatnonzero((above == highest(RATE // 4)) & (above > 0.5 * highest(5 * RATE // 2)))


def write(recording: NDArray[np.float64], folder: Path) -> None:
    """A file for each beat, and tables of those to train on and of those that are held out."""
    step = RECORDED // RATE
    signal = recording[: len(recording) // step * step].reshape(-1, step).mean(1)
    places, end = peaks(signal), len(signal) * 9 // 10
    rows: dict[str, list[tuple[str, float]]] = {"train": [], "held": []}
    (folder / "beats").mkdir(parents=True)
    for number, (place, following) in enumerate(itertools.pairwise(places)):
        first, last = place - BEFORE, place - BEFORE + LENGTH
        if first >= 0 and last <= len(signal) and (last <= end or first >= end):
            np.save(folder / "beats" / f"{number:04d}.npy", signal[first:last].astype(np.float32))
            part = "train" if last <= end else "held"
            rows[part].append((f"beats/{number:04d}.npy", float(following - place) / RATE))
    for part, lines in rows.items():
        with open(folder / f"{part}.csv", "w", newline="") as file:
            csv.writer(file).writerows([("file", "interval"), *lines])
        print(f"{len(lines):,} heartbeats in {folder / part}.csv")


def interval(signals: Tensor) -> Tensor:
    """Seconds to the next beat of signals `[N, 1, L]`: to what is highest from half a second after the first on."""
    return (signals[:, 0, BEFORE + SOONEST :].argmax(-1) + SOONEST) / RATE


def picture(drawn: dict[str, Tensor], told: Tensor, path: Path) -> None:
    """Some of them, from the shortest interval to the longest, each with the time that belongs there as a line."""
    from matplotlib.figure import Figure

    shown = told.argsort()[torch.linspace(0, len(told) - 1, min(SHOWN, len(told))).round().long()]
    figure = Figure(figsize=(12, 5), layout="constrained")
    axes = figure.subplots(len(drawn), len(shown), sharex=True, sharey=True, squeeze=False)
    seconds = (np.arange(LENGTH) - BEFORE) / RATE
    for line, (name, signals) in zip(axes, drawn.items(), strict=True):
        for place, row in zip(line, shown.tolist(), strict=True):
            place.axvline(told[row], color="#d62728", linewidth=3, alpha=0.35)
            place.plot(seconds, signals[row, 0], color="#222222", linewidth=0.9)
            place.set_axis_off()
        line[0].set_title(name, loc="left", fontsize=10)
    figure.savefig(path, dpi=80)


def draw(run: Path, data: str, out: Path) -> None:
    """Draw what is held out, and measure."""
    denoiser, held = unitgain.prepare(unitgain.load(newest_average(run)), torch.float32), open_data(data)
    rows = np.unique(np.linspace(0, len(held) - 1, min(DRAWN, len(held))).round().astype(np.int64))
    drawn = draw_heeded(denoiser, held, rows.tolist(), settings=DrawSettings(steps=16))
    told = held.conditions_of(rows).values["interval"]
    errors = {name: (interval(signals) - told).abs().mean().item() * 1000 for name, signals in drawn.items()}
    usual = (told - told.mean()).abs().mean().item() * 1000
    out.mkdir(parents=True, exist_ok=True)
    picture({**drawn, "recorded": held.rows(rows)[0].float()}, told, out / "samples.png")
    record = {"heartbeats": len(rows), "error_ms": {"the mean of all": usual, **errors}}
    (out / "result.json").write_text(json.dumps({**record, "machine": machine()}, indent=1) + "\n")
    print(json.dumps(record))


def main() -> None:
    """Cut the recording, or draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("cut").add_argument("folder", type=Path)
    drawing = commands.add_parser("draw")
    drawing.add_argument("run", type=Path)
    drawing.add_argument("data", help="prepared data that are held out")
    drawing.add_argument("out", type=Path)
    given = parser.parse_args()
    if given.command == "draw":
        draw(given.run, given.data, given.out)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            write(fetch(Path(temporary)), given.folder)


if __name__ == "__main__":
    main()
