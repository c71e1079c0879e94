"""What `--compile` gains in training on a CPU, and what it costs: `python benchmarks/training_compile.py`.

Steps of networks that PyTorch compiles (block by block, `unitgain train --compile`), and of those with passes in C, as
a CPU computes otherwise: in turns in one process, on one thread. Seconds are the processor's, those of the compiler
among them. Where the last column has a number, a run pays that is longer.
"""

import argparse
import os
import resource
import statistics
import time
from typing import Any

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # compilers that are waited for, whose time is counted

import torch

from arguments import parse
from machine import write_results
from training_step import MINI, recipes
from unitgain.bench.cases import Case
from unitgain.bench.training import training_work
from unitgain.native.memory import kept_memory
from unitgain.recipes import DIGITS

MODES = ("float32", "bfloat16")


def taken() -> float:
    """Processor seconds of this process and those that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def measure(label: str, mode: str, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds until the first step is over, and of later ones, without compiling and with."""
    recipe = DIGITS if label == "digits" else recipes(args.small)[label]
    if args.small and label == "digits":
        recipe = recipe.replace(network=recipe.network.replace(model_channels=8, channels_per_head=8))
    works, first, later = {}, {}, {False: [], True: []}
    for compiled in later:
        began = taken()
        option = "+compile" if compiled else ""
        works[compiled] = training_work(Case(recipe, mode + option, label), args.batch, torch.device("cpu"))
        first[compiled] = taken() - began  # it makes one step
    with kept_memory():
        for _ in range(args.steps):
            for compiled, work in works.items():
                began = taken()
                work.run()
                later[compiled].append(taken() - began)
    plain, compiled = (statistics.median(later[kind][1:] or later[kind]) for kind in later)
    cost = first[True] - first[False]
    pays = cost / (plain - compiled) * compiled if compiled < plain else None
    return {"network": label, "mode": mode, "ms": 1e3 * plain, "compiled": 1e3 * compiled, "cost": cost, "pays": pays}


def page(rows: list[dict[str, Any]], load: float) -> str:
    """The table."""
    lines = ["# Compiling in training", "", *(__doc__ or "").partition("\n\n")[2].strip().splitlines(), ""]
    lines += ["| network | ms in C | ms compiled | gain | compiling, s | pays after, s |", "|---|---|---|---|---|---|"]
    for row in rows:
        pays = "never" if row["pays"] is None else f"{row['pays']:.0f}"
        name, gain = f"{row['network']} {row['mode']}", row["ms"] / row["compiled"]
        lines.append(f"| {name} | {row['ms']:.1f} | {row['compiled']:.1f} | {gain:.2f} | {row['cost']:.0f} | {pays} |")
    return "\n".join([*lines, "", f"Load average {load:.1f}."])


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="*", default=["digits", MINI, "EDM2"])
    parser.add_argument("--modes", nargs="*", default=list(MODES))
    parser.add_argument("--batch", type=int, help="of all networks, by default as in training_step.py")
    parser.add_argument("--steps", type=int, default=12)
    args = parse(parser, arguments)
    if args.small:
        args.networks, args.modes, args.batch, args.steps = args.networks[:1], args.modes[:1], 2, 2
    torch.set_num_threads(1)
    rows = []
    for label in args.networks:
        for mode in args.modes:
            rows.append(measure(label, mode, args))
            print(rows[-1], flush=True)
            load = os.getloadavg()[2]
            write_results("training_compile", {"load": load, "rows": rows}, page(rows, load), folder=args.folder)


if __name__ == "__main__":
    main()
