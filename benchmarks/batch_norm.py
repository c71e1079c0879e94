"""Averages and batch normalization: `python benchmarks/batch_norm.py`. Figures go to `results/batch_norm.*`.

A small convolutional classifier of scikit-learn's digits is trained with two `SnapshotStore`s: one copies the running
statistics of the last step, one averages them like the weights (the default). Averages of several lengths are
reconstructed and measured on the 449 images that were left out; beside them the weights of the last step, and each
average with statistics taken anew from the training images (`torch.optim.swa_utils.update_bn`). Three settings: weights
that move fast to the end, weights that settle, and a run of so few steps that the statistics have hardly begun.
"""

import argparse
import copy
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from arguments import parse
from machine import write_results
from unitgain.ema import Buffers
from unitgain.posthoc import SnapshotStore, load_into, reconstruct

LENGTHS = (0.03, 0.05, 0.10, 0.15, 0.20, 0.25)
HOW: tuple[Buffers, ...] = ("copy", "statistics")
SETTINGS = ((320, 0.05), (320, 0.01), (40, 0.01))  # steps, and the learning rate of Adam
BATCH = 64


def network() -> nn.Module:
    """Two convolutions and a linear layer, each convolution normalized."""
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 10))


def sets() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images `[N, 1, 8, 8]` and labels, of training and test."""
    digits = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    rest, held = order[449:], order[:449]
    return images[rest], labels[rest], images[held], labels[held]


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images that are named right, in evaluation mode."""
    return (model.eval()(images).argmax(1) == labels).float().mean().item()


def run(seed: int, steps: int, lr: float, folder: Path) -> dict[str, Any]:
    """Train, and measure every average."""
    torch.manual_seed(seed)
    images, labels, test, named = sets()
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr)
    every = max(steps // 32, 1)
    stores = {how: SnapshotStore(folder / how, model, every=every, buffers=how) for how in HOW}
    for step in range(1, steps + 1):
        rows = torch.randint(len(images), (BATCH,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.train()(images[rows]), labels[rows]).backward()
        optimizer.step()
        for store in stores.values():
            store.update(step, 1)
    found: dict[str, Any] = {"seed": seed, "raw": accuracy(model, test, named)}
    averaged = copy.deepcopy(model)
    for how in HOW:
        made = reconstruct(folder / how, LENGTHS, folder / f"{how}-averages")
        found[how] = []
        for one in made:
            load_into(averaged, one.path)
            found[how].append(accuracy(averaged, test, named))
    found["anew"] = []
    for one in made:
        load_into(averaged, one.path)
        update_bn(list(images.split(BATCH)), averaged)
        found["anew"].append(accuracy(averaged, test, named))
    return found


def table(found: dict[str, Any]) -> list[str]:
    """Of one setting: the mean over seeds, and the lowest."""
    rows = found["runs"]

    def shown(values: Sequence[float]) -> str:
        return f"{statistics.mean(values):.3f} ({min(values):.3f})"

    lines = [
        f"## {found['steps']} steps, learning rate {found['lr']:g}",
        "",
        f"Accuracy, the mean of {len(rows)} seeds, and the lowest. Weights of the last step: "
        f"{shown([row['raw'] for row in rows])}.",
        "",
        "| EMA length | statistics copied | averaged | taken anew |",
        "|---|---|---|---|",
    ]
    for place, length in enumerate(LENGTHS):
        cells = [shown([row[how][place] for row in rows]) for how in (*HOW, "anew")]
        lines.append(f"| {length:g} | {' | '.join(cells)} |")
    return [*lines, ""]


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    args = parse(parser, arguments)
    seeds, tried = (2, ((8, 0.01),)) if args.small else (args.seeds, SETTINGS)
    settings = []
    for steps, lr in tried:
        runs = []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as temporary:
                runs.append(run(seed, steps, lr, Path(temporary)))
            print(steps, lr, runs[-1], flush=True)
        settings.append({"steps": steps, "lr": lr, "runs": runs})
    lines = ["# Batch normalization", "", (__doc__ or "").partition("\n\n")[2].strip(), ""]
    text = "\n".join([*lines, *(line for one in settings for line in table(one))])
    write_results("batch_norm", {"lengths": LENGTHS, "settings": settings}, text, folder=args.folder)
    print(text)


if __name__ == "__main__":
    main()
