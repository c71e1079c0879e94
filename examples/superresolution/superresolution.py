"""Sprites from a sixteenth of their pixels: `python examples/superresolution/superresolution.py sprites run`.

The folder is that of `examples/sprites/sprites.py`. A network is told the class and a small version of each picture, a
quarter as wide and high; a tenth of the pictures is held out, and drawn with their own small version, with that of
another one, and with none.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import unitgain
from unitgain.bench.measure import machine
from unitgain.data import Fit, open_data
from unitgain.data.dataset import ArrayDataset
from unitgain.data.images import grid
from unitgain.draw import DrawSettings
from unitgain.evaluate.heeded import draw_heeded
from unitgain.train import TrainConfig, fit, train
from unitgain.train.rules import network_for, recipe_for

FACTOR, DRAWN, SHOWN = 4, 64, 10


def told(images: Tensor, labels: Tensor, classes: tuple[str, ...]) -> ArrayDataset:
    """Pictures with their small versions."""
    small = F.avg_pool2d(images.float(), FACTOR).round().byte()
    values = {"small": small}
    return ArrayDataset(name="sprites", images=images, labels=labels, classes=classes, conditions=values)


def opened(folder: str, side: int) -> tuple[ArrayDataset, ArrayDataset]:
    """What is trained on, and what is held out: every tenth picture."""
    data = open_data(folder, fit=Fit(resolution=side, channels=3))
    images, labels = data.rows(np.arange(len(data)))
    assert labels is not None and data.classes is not None
    held = torch.arange(len(images)) % 10 == 0
    return told(images[~held], labels[~held], data.classes), told(images[held], labels[held], data.classes)


def drawn(snapshot: Path, held: ArrayDataset) -> dict[str, Tensor]:
    """Held-out pictures, and what the network draws of their class with the right small version, a wrong one, none."""
    denoiser = unitgain.prepare(unitgain.load(snapshot), torch.float32)
    rows = np.arange(min(DRAWN, len(held)))
    pictures = draw_heeded(denoiser, held, rows.tolist(), settings=DrawSettings(steps=12))
    small = held.conditions_of(rows).values["small"].add(1).mul(127.5)
    enlarged = F.interpolate(small, scale_factor=FACTOR, mode="bilinear", align_corners=False)
    return {"enlarged": enlarged.round().byte(), **pictures, "truth": held.images[: len(rows)]}


def main() -> None:
    """Train, draw, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=30_000, help="of the training")
    parser.add_argument("--side", type=int, default=32, help="of the pictures; four times that of their small versions")
    given = parser.parse_args()
    data, held = opened(given.folder, given.side)
    network = fit(network_for(data.shape, data.label_dim, 16, 1, depthwise=False), data)
    recipe = recipe_for(network, given.images, batch=32)
    began = time.monotonic()
    train(TrainConfig(recipe=recipe, data=data.name), given.out / "run", data, resume=True, tensorboard=False)
    trained = time.monotonic() - began
    pictures = drawn(max((given.out / "run" / "snapshots").glob("*-0.100.safetensors")), held)
    truth = pictures["truth"].float()
    errors = {name: (one.float() - truth).square().mean().sqrt().item() for name, one in pictures.items()}
    del errors["truth"]
    rows = torch.cat([one[:SHOWN] for one in pictures.values()])
    grid(rows, columns=SHOWN).save(given.out / "samples.png")
    record = {
        "images": recipe.duration,
        "seconds": round(trained),
        "side": given.side,
        "pictures": len(truth),
        "rms_error": errors,
    }
    (given.out / "result.json").write_text(json.dumps({**record, "machine": machine()}, indent=1) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
