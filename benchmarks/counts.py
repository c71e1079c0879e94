"""Write down what the recipes' networks cost: python benchmarks/counts.py, when a network or the counting changes.

Minutes: every network of both papers is evaluated three times, on the meta device.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import unitgain.analysis.counts
from arguments import parse
from unitgain.analysis.cost import network_cost, network_memory
from unitgain.analysis.counts import RecipeCost
from unitgain.files import write_text
from unitgain.recipe import Recipe, trained_parameters
from unitgain.recipes import RECIPES
from unitgain.serial import to_dict


def count(recipe: Recipe) -> RecipeCost:
    """What a recipe's network costs."""
    return RecipeCost(
        parameters=trained_parameters(recipe),
        activation_bytes=network_memory(recipe.network),
        evaluation=network_cost(recipe.network),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Count and write, a line for each recipe."""
    written = Path(unitgain.analysis.counts.__file__).with_suffix(".json")
    args = parse(argparse.ArgumentParser(description=__doc__), arguments, written.parent)
    counted = {"digits": RECIPES["digits"]} if args.small else RECIPES
    lines = [f"{json.dumps(name)}: {json.dumps(to_dict(count(recipe)))}" for name, recipe in counted.items()]
    write_text(args.folder / written.name, "{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
