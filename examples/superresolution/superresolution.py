"""Sprites from a sixteenth of their pixels: `python examples/superresolution/superresolution.py sprites run`.

The folder is that of `examples/sprites/sprites.py`. A network is told the class and a small version of each picture, a
quarter as wide and high; a tenth of the pictures is held out, and drawn with their own small version, with that of
another one, and with none. A call that was interrupted goes on where it was; with `--hours` it stops in time, and what
there is by then is measured.
"""

import argparse
import json
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
DRAWS = 8  # of each picture


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


def enlarged(small: Tensor) -> Tensor:
    """Small versions as large as the pictures: what can be done without a network."""
    return F.interpolate(small, scale_factor=FACTOR, mode="bilinear", align_corners=False)


def drawn(snapshot: Path, held: ArrayDataset) -> dict[str, Tensor]:
    """What the network draws of the class of held-out pictures with the right small version, a wrong one, none.

    Returns:
        `[draws, N, C, H, W]` of each, in 0...255; one draw of the small version, enlarged.
    """
    denoiser = unitgain.prepare(unitgain.load(snapshot), torch.float32)
    rows, settings = np.arange(min(DRAWN, len(held))), DrawSettings(steps=10)
    firsts = range(0, DRAWS * len(rows), len(rows))
    draws = [draw_heeded(denoiser, held, rows.tolist(), first=first, settings=settings) for first in firsts]
    small = held.conditions_of(rows).values["small"].add(1).mul(127.5)
    return {"enlarged": enlarged(small)[None]} | {
        name: torch.stack([one[name] for one in draws]).float() for name in draws[0]
    }


def measured(draws: Tensor, truth: Tensor) -> dict[str, float]:
    """How near draws `[draws, N, C, H, W]` come to the truth `[N, C, H, W]`, of 255 but for `detail`.

    Attributes of the result:
        mean_error: root mean square error of the mean of the draws: the mean over all pictures that fit what was told
            has the least that there can be. A single draw, which is one of them, has more by as much as they differ.
        error: of a single draw.
        small_error: of the draws' own small versions to that of the truth: does what was drawn fit what was told?
        detail: root mean square of differences of neighbouring pixels, over the truth's: 1 is as sharp.
    """

    def size(values: Tensor) -> float:
        return values.square().mean().sqrt().item()

    def steps(values: Tensor) -> float:
        return size(values.diff(dim=-1)) + size(values.diff(dim=-2))

    small = F.avg_pool2d(draws.flatten(0, 1), FACTOR).unflatten(0, draws.shape[:2])
    return {
        "mean_error": size(draws.mean(0) - truth),
        "error": size(draws - truth),
        "small_error": size(small - F.avg_pool2d(truth, FACTOR)),
        "detail": steps(draws) / steps(truth),
    }


def main() -> None:
    """Train, draw, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=60_000, help="of the training")
    parser.add_argument("--side", type=int, default=32, help="of the pictures; four times that of their small versions")
    parser.add_argument("--hours", type=float, help="of this call's training, at most")
    given = parser.parse_args()
    data, held = opened(given.folder, given.side)
    network = fit(network_for(data.shape, data.label_dim, 16, 1, depthwise=False), data)
    recipe = recipe_for(network, given.images, batch=32)
    limit = None if given.hours is None else 3600 * given.hours
    config = TrainConfig(recipe=recipe, data=data.name)
    train(config, given.out / "run", data, resume=True, tensorboard=False, max_time=limit)
    snapshot = max((given.out / "run" / "snapshots").glob("*-0.100.safetensors"))
    found = drawn(snapshot, held)
    truth = held.images[: found["right"].shape[1]].float()
    pictures = [*(draws[0].round().byte() for draws in found.values()), truth.byte()]
    grid(torch.cat([one[:SHOWN] for one in pictures]), columns=SHOWN).save(given.out / "samples.png")
    record = {
        "images": int(snapshot.name.partition("-")[0]),
        "side": given.side,
        "pictures": len(truth),
        "draws": DRAWS,
        "drawn": {name: measured(draws, truth) for name, draws in found.items()},
    }
    (given.out / "result.json").write_text(json.dumps({**record, "machine": machine()}, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
