"""A training step against the plain one: `python benchmarks/training_step.py`. Figures go to `results/training_step.*`.

Small recipes at 3x32x32, base width 64. The plain step gives the same numbers in float32, contiguous, with weights
projected, gradients cleaned, Adam and the averages computed parameter by parameter. All take turns in one process.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from machine import RESULTS, write_results
from unitgain.bench.cases import Case
from unitgain.bench.measure import Pace
from unitgain.bench.tables import cells, markdown, notes
from unitgain.bench.training import training
from unitgain.recipe import Recipe
from unitgain.recipes import PIXELS32
from unitgain.serial import to_dict

WIDTH = 64
BRANCHES = {"EDM2": "s c m s c", "EDM2+": PIXELS32.network.branch}
MODES = ("plain", "float32", "bfloat16")


def recipes(small: bool) -> dict[str, Recipe]:
    """`pixels32` at another width, with the residual branch of either paper; or tiny ones with the same blocks."""
    changes: dict[str, Any] = {"model_channels": WIDTH}
    if small:
        changes = {"model_channels": 8, "channels_per_head": 8, "num_blocks": 1, "channel_mult": (1,)}
    return {
        label: PIXELS32.replace(name=label, network=PIXELS32.network.replace(branch=branch, **changes))
        for label, branch in BRANCHES.items()
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modes", nargs="*", default=list(MODES), help="steps, as in `unitgain bench train`")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=90.0, help="for each network")
    parser.add_argument("--small", action="store_true", help="tiny networks, to try the script")
    parser.add_argument("--folder", type=Path, help="of the results")
    args = parser.parse_args(arguments)
    folder = args.folder or (Path(tempfile.gettempdir()) / "unitgain-benchmarks" if args.small else RESULTS)
    made = recipes(args.small)
    found: dict[str, Any] = {}
    parts = ["# Training step", "", (__doc__ or "").partition("\n\n")[2].strip()]
    for label, recipe in made.items():
        print(f"{label} ...", flush=True)
        cases = [Case(recipe, mode, f"{label} {mode}") for mode in args.modes]
        report = training(cases, batch=args.batch, pace=Pace(seconds=args.seconds))
        found[label] = to_dict(report)
        parts += ["", f"## {label}, batch {args.batch}", "", markdown(cells(report)), "", " ".join(notes(report))]
    text = "\n".join(parts)
    write_results("training_step", found, text, folder=folder)
    print(text)


if __name__ == "__main__":
    main()
