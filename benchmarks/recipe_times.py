"""How good the times of `unitgain recipes` are: python benchmarks/recipe_times.py

Recipes from the smallest to EDM2+-XS are trained for some seconds each, in whole steps of few images, and the rate of
the small network that the estimate is made from is measured before and after each, in the same process. Some minutes.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch

from arguments import parse
from machine import write_results
from unitgain.analysis.counts import PASSES, recipe_costs
from unitgain.recipes import recipe
from unitgain.train.warmup import images_per_second, training_rate

STEPS = {"digits": 64, "pixels64-mini": 8, "pixels32": 8, "edm2-img512-xxs": 4, "edm2plus-img64-xs": 2}  # images of one
TURNS, SECONDS = 2, 1.0


def measured(name: str, images: int, turns: int, seconds: float) -> list[dict[str, Any]]:
    """Each turn of a recipe: images per second as estimated and as trained."""
    rows, costs = [], recipe_costs()[name]
    before = training_rate("cpu", seconds=seconds)
    float32 = recipe(name).replace(precision="float32")
    for _ in range(turns):
        trained = images_per_second(float32, images, torch.device("cpu"), seconds)
        after = training_rate("cpu", seconds=seconds)
        estimated = costs.images_per_second((before + after) / 2)
        rows.append({"recipe": name, "images": images, "estimated": estimated, "trained": trained})
        print(rows[-1], flush=True)
        before = after
    return rows


def page(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    lines = [
        "# Times of `unitgain recipes`: estimated and measured",
        "",
        f"float32. One multiply-add is one operation, training on an image costs {PASSES} evaluations.",
        "",
        "| recipe | images of a step | images/s estimated | images/s trained | trained / estimated |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        speeds = f"{row['estimated']:.3g} | {row['trained']:.3g} | {row['trained'] / row['estimated']:.2f}"
        lines.append(f"| {row['recipe']} | {row['images']} | {speeds} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(argparse.ArgumentParser(description=__doc__), arguments)
    steps, turns, seconds = ({"digits": 2}, 1, 0.0) if args.small else (STEPS, TURNS, SECONDS)
    rows = [row for name, images in steps.items() for row in measured(name, images, turns, seconds)]
    write_results("recipe_times", {"rows": rows}, page(rows), folder=args.folder)


if __name__ == "__main__":
    main()
