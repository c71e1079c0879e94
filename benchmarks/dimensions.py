"""Square images before and after networks took one to three dimensions.

    python benchmarks/dimensions.py --peer FOLDER --commit NAME

The peer is another checkout, from before. Both train a step and draw images with the same networks, in turns in one
process. What is measured is the processor's time, which other programs lengthen less than they do the clock's. Ratios
are those of a turn; given are the median and the quartiles over all turns. Figures go to `results/dimensions.*`.
"""

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from arguments import parse
from machine import write_results
from training_step import BRANCHES, MINI, Peer, recipe_of, recipes
from unitgain.serial import to_dict

JOBS = ("training", "drawing")
STEPS = 4  # of Heun's method


def work_of(job: str, values: dict[str, Any], batch: int) -> Callable[[], object]:
    """A job of whichever library is in place, warmed up: a training step, or a batch of images.

    Args:
        job: of `JOBS`.
        values: the recipe, as JSON.
        batch: images.
    """
    recipe, cpu = recipe_of(values), torch.device("cpu")
    cases = importlib.import_module("unitgain.bench.cases")
    if job == "training":
        training = importlib.import_module("unitgain.bench.training")
        run = training.training_work(cases.Case(recipe, "float32"), batch, cpu).run
    else:
        sample, infer = importlib.import_module("unitgain.sample"), importlib.import_module("unitgain.infer")
        denoiser = infer.prepare(cases.open_denoiser(recipe, cpu), torch.float32)
        sigmas = sample.sigma_grid(STEPS)

        def run() -> object:
            return list(sample.generate(denoiser, range(batch), sigmas, batch=batch))

    run()
    return run


def measure(ours: Callable[[], object], theirs: Callable[[], object], turns: int) -> dict[str, Any]:
    """Seconds of the processor of both, and how many times as fast ours is."""
    seconds: list[tuple[float, float]] = []
    for turn in range(turns):
        own = [0.0, 0.0]
        for who in (0, 1) if turn % 2 else (1, 0):  # neither always comes first
            began = time.process_time()
            (ours, theirs)[who]()
            own[who] = time.process_time() - began
        seconds.append((own[0], own[1]))
    low, middle, high = statistics.quantiles([their / our for our, their in seconds], n=4)
    return {
        "now": statistics.median(our for our, _ in seconds),
        "before": statistics.median(their for _, their in seconds),
        "ratio": middle,
        "quartiles": [low, high],
        "turns": turns,
    }


def page(found: dict[str, dict[str, Any]], commit: str) -> str:
    """The figures as Markdown."""
    lines = ["# Square images before and after", "", (__doc__ or "").partition("--commit NAME")[2].strip(), ""]
    lines += [
        "| network | job | images | s before | s now | times as fast | quartiles | turns |",
        "|---|---|" + "---:|" * 6,
    ]
    for name, one in found.items():
        label, job = name.rsplit(" ", 1)
        low, high = one["quartiles"]
        numbers = f"{one['images']} | {one['before']:.3f} | {one['now']:.3f} | {one['ratio']:.2f}"
        lines.append(f"| {label} | {job} | {numbers} | {low:.2f} to {high:.2f} | {one['turns']} |")
    lines += ["", f"Before is commit {commit}. The machine was busy with other programs all the while; one thread."]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="checkout from before")
    parser.add_argument("--commit", default="not named", help="of the peer, for the table")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--networks", nargs="*", default=[*BRANCHES, MINI], choices=[*BRANCHES, MINI])
    args = parse(parser, arguments)
    if args.small:
        args.turns, args.batch = 2, 1
    torch.set_num_threads(1)
    peer, found = Peer(args.peer), dict[str, dict[str, Any]]()
    for label in args.networks:
        values = to_dict(recipes(args.small)[label])
        for job in JOBS:
            print(f"{label} {job} ...", flush=True)
            ours = work_of(job, values, args.batch)
            with peer.instead():
                theirs = work_of(job, values, args.batch)
            found[f"{label} {job}"] = {**measure(ours, peer.within(theirs), args.turns), "images": args.batch}
            print(found[f"{label} {job}"], flush=True)
    text = page(found, args.commit)
    write_results("dimensions", {"commit": args.commit, "found": found}, text, folder=args.folder)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
