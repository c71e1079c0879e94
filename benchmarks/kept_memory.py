"""What it gains to keep freed memory while training, in large pages: `python benchmarks/kept_memory.py`.

Steps of the networks of `training_step.py` with `unitgain.native.memory.kept_memory`, the same without large pages,
and without either: in turns, in processes of their own, as a C library stays as it was once set. Medians of their
steps, by the clock, and processor time of the system alone.
"""

import argparse
import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext

import torch

from arguments import parse
from machine import write_results
from training_step import recipes
from unitgain.bench.cases import Case
from unitgain.bench.training import training_work
from unitgain.native.memory import kept_memory

WARM = 4  # steps before those that count
MODES = ("float32", "bfloat16")
KINDS = ("usual", "kept", "kept, large pages")
NO_LARGE_PAGES = 41  # PR_SET_THP_DISABLE of Linux, for the process


def steps(label: str, mode: str, kind: str, count: int, small: bool) -> dict[str, float]:
    """Medians of these steps, here and now: milliseconds, those of the system, page faults; memory in MB."""
    if kind != KINDS[-1]:
        ctypes.CDLL(None).prctl(NO_LARGE_PAGES, 1, 0, 0, 0)
    rows = []
    with nullcontext() if kind == KINDS[0] else kept_memory():
        work = training_work(Case(recipes(small)[label], mode, label), None, torch.device("cpu"))
        for index in range(WARM + count):
            before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            work.run()
            after, taken = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - began
            if index >= WARM:
                rows.append((1e3 * taken, 1e3 * (after.ru_stime - before.ru_stime), after.ru_minflt - before.ru_minflt))
    values = dict(zip(("ms", "system", "faults"), map(statistics.median, zip(*rows, strict=True)), strict=True))
    return {**values, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="*", default=list(recipes(False)))
    parser.add_argument("--modes", nargs="*", default=list(MODES))
    parser.add_argument("--steps", type=int, default=12, help="of each process")
    parser.add_argument("--turns", type=int, default=3, help="processes of each kind")
    parser.add_argument("--one", nargs=3, metavar=("NETWORK", "MODE", "MEMORY"), help="measure here, and print")
    args = parse(parser, arguments)
    if args.small:
        args.networks, args.modes, args.steps, args.turns = args.networks[:1], args.modes[:1], 1, 1
    if args.one:
        print(json.dumps(steps(*args.one, args.steps, args.small)))
        return
    rows = []
    for label in args.networks:
        for mode in args.modes:
            found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
            for _ in range(args.turns):
                for kind, seen in found.items():
                    own = ["--one", label, mode, kind, "--steps", str(args.steps)] + ["--small"] * args.small
                    done = subprocess.run([sys.executable, __file__, *own], capture_output=True, text=True, check=True)
                    seen.append(json.loads(done.stdout.splitlines()[-1]))
            for kind, seen in found.items():
                median = {name: statistics.median(each[name] for each in seen) for name in seen[0]}
                rows.append({"network": label, "mode": mode, "memory": kind, **median})
                print(rows[-1], flush=True)
    load = os.getloadavg()[2]
    write_results("kept_memory", {"load": load, "rows": rows}, page(rows, load), folder=args.folder)


def page(rows: list[dict], load: float) -> str:
    """The table."""
    lines = ["# Memory kept while training", "", *(__doc__ or "").partition("\n\n")[2].strip().splitlines(), ""]
    lines += ["| network | memory | ms | of the system | page faults | peak MB |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {r['network']} {r['mode']} | {r['memory']} | {r['ms']:.0f} | {r['system']:.1f} | {r['faults']:,.0f} "
        f"| {r['peak']:.0f} |"
        for r in rows
    ]
    return "\n".join([*lines, "", f"Load average {load:.1f}."])


if __name__ == "__main__":
    main()
