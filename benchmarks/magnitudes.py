"""Figs. 3 and 15 on the digits: how activations and weights of configs C, D, E and G grow, or do not, while they train.

    python benchmarks/magnitudes.py [--steps 1500] [--width 16]

Trains each config through `unitgain`'s own loop with magnitudes on, and draws them side by side. The learning rate does
not decay in any config, so that nothing but the config keeps magnitudes down, and it is high: where weights are
normalized when they are used, an update is at a right angle to the weight, so that T steps of Adam at the rate lr make
its square grow by about T lr^2. The paper's runs have 10^6 steps; these make up for their number with their size.
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from arguments import parse
from machine import write_results
from tiny import EDM2, tiny_recipe
from unitgain.analysis.magnitude import QUANTITIES
from unitgain.analysis.plots import magnitude_figure
from unitgain.data.digits import digits
from unitgain.figures import save
from unitgain.recipes import DIGITS
from unitgain.report.history import read_history
from unitgain.train import TrainConfig, train

FASTER = 2.5  # times the learning rate of the digits
SETTLED = 0.2  # part of the run after which growth is no longer that of the first steps


def run_config(label: str, folder: Path, width: int, steps: int, batch: int) -> list[dict]:
    """Train a config; its measurements."""
    made = tiny_recipe(EDM2[label], width, steps, batch)
    made = made.replace(t_ref=0, snapshot_every=made.duration, lr=made.lr * FASTER)
    config = TrainConfig(
        recipe=made,
        data="digits",
        tick=made.duration,
        magnitudes_every=max(steps // 30, 1) * batch,
        checkpoint_every=made.duration,
    )
    train(config, folder, digits(), quiet=True, tensorboard=False)
    return read_history(folder).magnitudes


def growth(rows: list[dict], since: float) -> dict[str, float]:
    """Last measurement over the first that comes after the part `since` of the run, the largest over the buckets."""
    start = next(row for row in rows if row["nimg"] >= since * rows[-1]["nimg"])
    first, last = start["magnitudes"], rows[-1]["magnitudes"]
    return {key: max(last[bucket][key] / first[bucket][key] for bucket in last) for key in QUANTITIES}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, draw, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--configs", default="cdeg")
    args = parse(parser, arguments)
    if args.small:
        args.steps, args.batch, args.configs = 4, 8, "cg"
    torch.set_num_threads(1)
    measured = {}
    for config in args.configs:
        label = f"EDM2 {config.upper()}"
        folder = Path(tempfile.mkdtemp()) / "run"
        measured[label] = run_config(label, folder, args.width, args.steps, args.batch)
        shutil.rmtree(folder.parent)
        print(label, growth(measured[label], SETTLED), flush=True)
    save(magnitude_figure(measured), args.folder / "magnitudes.svg")
    settings = {"steps": args.steps, "batch": args.batch, "width": args.width}
    rows = {since: {label: growth(found, since) for label, found in measured.items()} for since in (0.0, SETTLED)}
    results = {"settings": settings, "growth": {str(since): found for since, found in rows.items()}}
    write_results("magnitudes", {**results, "measured": measured}, report(rows, settings), folder=args.folder)


def report(rows: dict[float, dict[str, dict[str, float]]], settings: dict[str, int]) -> str:
    """The tables as text."""
    rates = f"{DIGITS.lr * FASTER * 0.1:g} in C, {DIGITS.lr * FASTER:g} in D-G"
    lines = [
        "# Magnitudes of activations and weights while training (Figs. 3 and 15)",
        "",
        f"The digits, {settings['steps']} steps of {settings['batch']} images, base width {settings['width']}, "
        f"constant learning rate: {rates}. Growth is the last measurement over an earlier one, the largest of all "
        "buckets (encoder and decoder at 8x8 and 4x4). [magnitudes.svg](magnitudes.svg) draws them over training.",
    ]
    for since, found in rows.items():
        title = "From initialization" if not since else f"From {since:.0%} of the run, when the loss has settled"
        lines += [
            "",
            f"## {title}",
            "",
            "| config | activations, max | activations, mean | weights, max | weights, mean |",
        ]
        lines += ["|---|---|---|---|---|"]
        for label, values in found.items():
            lines.append(f"| {label} | " + " | ".join(f"x {values[key]:.2f}" for key in QUANTITIES) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
