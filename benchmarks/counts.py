"""Write down what the recipes' networks cost: python benchmarks/counts.py, when a network or the counting changes.

Minutes: every network of both papers is evaluated three times, on the meta device.
"""

import json
from pathlib import Path

import unitgain.analysis.counts
from unitgain.analysis.cost import network_cost, network_memory
from unitgain.analysis.counts import RecipeCost
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


def main() -> None:
    """Count and write, a line for each recipe."""
    lines = [f"{json.dumps(name)}: {json.dumps(to_dict(count(recipe)))}" for name, recipe in RECIPES.items()]
    Path(unitgain.analysis.counts.__file__).with_suffix(".json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
