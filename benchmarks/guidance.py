"""Train the three networks of results/guidance.md on the digits: `python benchmarks/guidance.py`, into `runs/guidance`.

`main` by the recipe `digits`; `weak`, half as wide and trained for a quarter of the time; `unconditional`, half as wide
and trained for half of it. The sweeps and the pictures are made by `unitgain sweep`, as the document says.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from arguments import parse
from unitgain.data.digits import digits
from unitgain.recipe import Recipe
from unitgain.recipes import DIGITS
from unitgain.train import TrainConfig, train

NARROW = DIGITS.network.replace(model_channels=DIGITS.network.model_channels // 2)
RECIPES = {
    "main": DIGITS,
    "weak": DIGITS.replace(
        name="digits-weak", network=NARROW, duration=DIGITS.duration // 4, snapshot_every=DIGITS.snapshot_every // 2
    ),
    "unconditional": DIGITS.replace(
        name="digits-unconditional",
        network=NARROW.replace(label_dim=0),
        duration=DIGITS.duration // 2,
        snapshot_every=DIGITS.snapshot_every // 2,
    ),
}


def run(recipe: Recipe, out: Path) -> None:
    """Train one, unless it is there."""
    config = TrainConfig(
        recipe=recipe, data="digits", tick=recipe.snapshot_every // 5, checkpoint_every=recipe.duration
    )
    train(config, out, digits(), resume=out.exists(), tensorboard=False)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(argparse.ArgumentParser(description=__doc__), arguments, Path("runs/guidance"))
    torch.set_num_threads(1)
    for name, recipe in RECIPES.items():
        tiny = {"batch": 8, "duration": 80, "snapshot_every": 40}
        run(recipe.replace(**tiny) if args.small else recipe, args.folder / name)


if __name__ == "__main__":
    main()
