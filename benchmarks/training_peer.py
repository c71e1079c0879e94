"""A training step against that of another checkout: `python benchmarks/training_peer.py --peer FOLDER`.

Steps of `pixels64-mini` at batch 8 on one thread, in processes of their own, in turns, each with the memory that
its own training keeps; medians of medians. Processor time, which others on the machine disturb less than the clock.
"""

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch

MODES = ("float32", "bfloat16")
WARM, STEPS, BATCH = 5, 15, 8


def step(mode: str) -> float:
    """Processor milliseconds of a step of the library that is imported here, median."""
    from unitgain.bench.cases import Case
    from unitgain.bench.training import training_work
    from unitgain.recipes import PIXELS64_MINI

    torch.set_num_threads(1)
    work = training_work(Case(PIXELS64_MINI, mode, mode), BATCH, torch.device("cpu"))
    kept = getattr(importlib.import_module("unitgain.native.memory"), "kept_memory", nullcontext)
    taken = []
    with kept():
        for _ in range(WARM + STEPS):
            began = time.process_time()
            work.run()
            taken.append(1e3 * (time.process_time() - began))
    return statistics.median(taken[WARM:])


def measure(source: Path, mode: str) -> float:
    """The same of a checkout, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--here", mode],
        env={**os.environ, "PYTHONPATH": str(source / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, help="the other checkout")
    parser.add_argument("--name", default="the peer", help="of the peer, in the table")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--here", choices=MODES, help="measure what is imported here, and print")
    args = parser.parse_args(arguments)
    if args.here:
        print(step(args.here))
        return
    if args.peer is None or not (args.peer / "src" / "unitgain").is_dir():
        parser.error(f"--peer {args.peer} is no checkout: name a folder with src/unitgain in it")
    from machine import write_results  # not before: a peer has none

    lines = [
        "# A training step against another checkout",
        "",
        *(__doc__ or "").partition("\n\n")[2].strip().splitlines(),
    ]
    lines += ["", f"| `pixels64-mini` | here, ms | {args.name}, ms | gain |", "|---|---|---|---|"]
    rows = []
    for mode in MODES:
        turns = [(measure(Path(__file__).parents[1], mode), measure(args.peer, mode)) for _ in range(args.turns)]
        here, peer = (statistics.median(each) for each in zip(*turns, strict=True))
        rows.append({"mode": mode, "here": here, "peer": peer, "turns": turns})
        lines.append(f"| {mode} | {here:.0f} | {peer:.0f} | {peer / here:.2f} |")
        print(lines[-1], flush=True)
    load = os.getloadavg()[2]
    write_results("training_peer", {"load": load, "rows": rows}, "\n".join([*lines, "", f"Load average {load:.1f}."]))


if __name__ == "__main__":
    main()
