"""What planned runs take of memory, against the estimate that chooses their accumulation.

`python benchmarks/planned_memory.py` takes ten networks that plans choose from, for images from 8x8 to 72x72, of one or
three channels, square or not, and measures each in a fresh process of one thread: the most resident memory (VmHWM of
/proc) over three steps, as `benchmarks/memory.py` does. What is there already is not measured again. Estimates and
measurements have the process itself in them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import torch

from arguments import parse
from machine import in_parts
from unitgain.recipe import Recipe
from unitgain.serial import from_dict, to_dict
from unitgain.train import Microbatch, TrainState, train_step
from unitgain.train.estimate import estimate, process_bytes
from unitgain.train.rules import network_for, recipe_for
from unitgain.train.speed import peak_memory

STEPS = 3
MIB = 2**20
# Shape, base width, blocks per level, depthwise, batch, microbatch.
CASES: dict[str, tuple[tuple[int, ...], int, int, bool, int, int]] = {
    "8x8 grey": ((1, 8, 8), 32, 1, False, 64, 64),
    "28x28 grey": ((1, 28, 28), 16, 1, False, 32, 32),
    "30x30, padded": ((3, 30, 30), 16, 1, False, 32, 32),
    "32x32, EDM2+": ((3, 32, 32), 24, 1, True, 32, 16),
    "32x32": ((3, 32, 32), 32, 1, False, 32, 32),
    "32x32, wide": ((3, 32, 32), 64, 1, False, 32, 8),
    "32x32, deep": ((3, 32, 32), 48, 2, False, 32, 16),
    "48x64": ((3, 48, 64), 16, 1, False, 32, 32),
    "64x64": ((3, 64, 64), 16, 1, False, 32, 16),
    "72x72": ((3, 72, 72), 24, 1, False, 32, 16),
}


def planned(name: str) -> tuple[Recipe, int]:
    """The recipe of a case for one step, in float32, and its microbatch."""
    shape, width, blocks, depthwise, batch, microbatch = CASES[name]
    network = network_for(shape, 5, width, blocks, depthwise)
    return recipe_for(network, batch, batch=batch), microbatch


def train(recipe: Recipe, microbatch: int) -> None:
    """Train for some steps in this process, and print its peak."""
    torch.set_num_threads(1)
    spec, count = recipe.network, recipe.batch // microbatch
    state = TrainState.start(recipe, normalize_once=count > 1)
    for _ in range(STEPS):
        batch = []
        for turn in range(count):
            clean = torch.randn(microbatch, spec.channels, *spec.size)
            sigma, noise = recipe.loss.draw(clean)
            label = torch.zeros(microbatch, dtype=torch.int64)
            batch.append(Microbatch(clean=clean, sigma=sigma, noise=noise, label=label, last=turn == count - 1))
        train_step(state, recipe, batch)
    print(peak_memory(torch.device("cpu")))


def measure(name: str, process: int) -> dict[str, Any]:
    recipe, microbatch = planned(name)
    command = [sys.executable, __file__, "--measure", json.dumps([to_dict(recipe), microbatch])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    taken = int(done.stdout.split()[-1])
    expected = estimate(recipe, microbatch=microbatch, process=process).total
    return {"estimated": expected, "measured": taken, "ratio": expected / taken}


def page(found: dict[str, Any]) -> str:
    lines = ["# Memory of planned runs: estimated and measured", "", (__doc__ or "").split("\n\n", 1)[1].strip(), ""]
    lines += [
        "| planned for | width | batch | microbatch | estimated MiB | measured MiB | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    ratios = []
    for name, (_, width, _, _, batch, microbatch) in CASES.items():
        if name in found:
            row = found[name]
            ratios.append(row["ratio"])
            sizes = f"{row['estimated'] / MIB:.0f} | {row['measured'] / MIB:.0f}"
            lines.append(f"| {name} | {width} | {batch} | {microbatch} | {sizes} | {row['ratio']:.2f} |")
    if ratios:
        lines += ["", f"Ratios from {min(ratios):.2f} to {max(ratios):.2f}, median {statistics.median(ratios):.2f}."]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", help="one recipe and its microbatch as JSON, in this process")
    args = parse(parser, arguments)
    if args.measure:
        recipe, microbatch = json.loads(args.measure)
        train(from_dict(Recipe, recipe), microbatch)
        return
    process = process_bytes()
    parts = {name: (lambda name=name: measure(name, process)) for name in (list(CASES)[:1] if args.small else CASES)}
    in_parts("planned_memory", parts, page, settings={"steps": STEPS, "dtype": "float32"}, folder=args.folder)


if __name__ == "__main__":
    main()
