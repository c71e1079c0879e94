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
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from arguments import parse

MODES = ("float32", "bfloat16")
WARM, STEPS, BATCH = 5, 15, 8


def step(mode: str, small: bool) -> float:
    """Processor milliseconds of a step of the library that is imported here, median."""
    from unitgain.bench.cases import Case
    from unitgain.bench.training import training_work
    from unitgain.recipes import PIXELS64_MINI

    torch.set_num_threads(1)
    warm, steps, batch = (0, 1, 1) if small else (WARM, STEPS, BATCH)
    work = training_work(Case(PIXELS64_MINI, mode, mode), batch, torch.device("cpu"))
    kept = getattr(importlib.import_module("unitgain.native.memory"), "kept_memory", nullcontext)
    taken = []
    with kept():
        for _ in range(warm + steps):
            began = time.process_time()
            work.run()
            taken.append(1e3 * (time.process_time() - began))
    return statistics.median(taken[warm:])


def measure(source: Path, mode: str, small: bool) -> float:
    """The same of a checkout, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--here", mode, *["--small"] * small],
        env={**os.environ, "PYTHONPATH": str(source / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, help="the other checkout")
    parser.add_argument("--name", default="the peer", help="of the peer, in the table")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--here", choices=MODES, help="measure what is imported here, and print")
    args = parse(parser, arguments)
    if args.here:
        print(step(args.here, args.small))
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
    checkouts = (Path(__file__).parents[1], args.peer)
    for mode in MODES[:1] if args.small else MODES:
        count = 1 if args.small else args.turns
        turns = [[measure(checkout, mode, args.small) for checkout in checkouts] for _ in range(count)]
        here, peer = (statistics.median(each) for each in zip(*turns, strict=True))
        rows.append({"mode": mode, "here": here, "peer": peer, "turns": turns})
        lines.append(f"| {mode} | {here:.0f} | {peer:.0f} | {peer / here:.2f} |")
        print(lines[-1], flush=True)
    load = os.getloadavg()[2]
    text = "\n".join([*lines, "", f"Load average {load:.1f}."])
    write_results("training_peer", {"load": load, "rows": rows}, text, folder=args.folder)


if __name__ == "__main__":
    main()
