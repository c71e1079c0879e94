"""Figs. 3 and 15 on the digits: how activations and weights of rungs C, D, E and G grow, or do not, while they train.

    python benchmarks/magnitudes.py [--steps 600] [--width 16]

Trains each rung through `unitgain`'s own loop with magnitudes on, and draws them side by side. The learning rate is
that of the digits in D-G and a tenth of it in C, whose weights are not normalized. It does not decay in any, so
that nothing but the rung keeps magnitudes down.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import torch

from machine import RESULTS, write_results
from tiny import EDM2, tiny_recipe
from unitgain.analysis.magnitude import QUANTITIES
from unitgain.analysis.plots import magnitude_figure, save
from unitgain.cli.magnitudes import read_magnitudes
from unitgain.data.digits import digits
from unitgain.train import TrainConfig, train


def run_rung(label: str, folder: Path, width: int, steps: int, batch: int) -> list[dict]:
    """Train a rung; its measurements."""
    made = tiny_recipe(EDM2[label], width, steps, batch)
    made = made.replace(t_ref=0, snapshot_every=made.duration)
    config = TrainConfig(
        recipe=made,
        data="digits",
        tick=made.duration,
        magnitudes_every=max(steps // 30, 1) * batch,
        checkpoint_every=made.duration,
    )
    train(config, folder, digits(), quiet=True, tensorboard=False)
    return read_magnitudes(folder)


def growth(rows: list[dict]) -> dict[str, float]:
    """Last over first measurement after the ramp-up, the largest over the buckets."""
    first, last = rows[0]["magnitudes"], rows[-1]["magnitudes"]
    return {key: max(last[bucket][key] / first[bucket][key] for bucket in last) for key in QUANTITIES}


def main() -> None:
    """Train, draw, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rungs", default="cdeg")
    args = parser.parse_args()
    torch.set_num_threads(1)
    measured = {}
    for rung in args.rungs:
        label = f"EDM2 {rung.upper()}"
        folder = Path(tempfile.mkdtemp()) / "run"
        measured[label] = run_rung(label, folder, args.width, args.steps, args.batch)
        shutil.rmtree(folder.parent)
        print(label, growth(measured[label]), flush=True)
    save(magnitude_figure(measured), RESULTS / "magnitudes.svg")
    rows = {label: growth(found) for label, found in measured.items()}
    settings = {"steps": args.steps, "batch": args.batch, "width": args.width}
    write_results("magnitudes", {"settings": settings, "growth": rows, "measured": measured}, report(rows, settings))


def report(rows: dict[str, dict[str, float]], settings: dict[str, int]) -> str:
    """The table as text."""
    lines = [
        "# Magnitudes of activations and weights while training (Figs. 3 and 15)",
        "",
        f"The digits, {settings['steps']} steps of {settings['batch']} images, base width {settings['width']}, "
        "constant learning rate: 0.002 in C, 0.02 in D-G. Growth is the last measurement over the first, the "
        "largest of all buckets (encoder and decoder at 8x8 and 4x4). [magnitudes.svg](magnitudes.svg) draws them over "
        "training. In G the linear layers of the modulation start at 0, behind a gain that is learned: part of what "
        "grows there is that.",
        "",
        "| rung | activations, max | activations, mean | weights, max | weights, mean |",
        "|---|---|---|---|---|",
    ]
    for label, found in rows.items():
        lines.append(f"| {label} | " + " | ".join(f"x {found[key]:.2f}" for key in QUANTITIES) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
