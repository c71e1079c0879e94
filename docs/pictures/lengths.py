"""Draws the same seeds with averages of several lengths: `python docs/pictures/lengths.py RUN`, within minutes.

The picture is `lengths.png` beside this file: a row per length, the last weights on top. That in the repository is of
the run of examples/sprites, whose README says how it was trained: on two cores of a Xeon with AMX.
"""

import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

import unitgain
from unitgain.data.images import grid

LENGTHS = (0.02, 0.05, 0.10, 0.15, 0.25)
SEEDS = range(8)
MARGIN = 110


def rows(run: Path, folder: Path) -> list[tuple[str, Path]]:
    """What draws each row, and what is written beside it."""
    last = max((run / "snapshots").glob("*-raw.safetensors"))
    averages = unitgain.reconstruct(run, LENGTHS, folder)
    return [("last weights", last), *((f"sigma_rel {one.sigma_rel:.2f}", one.path) for one in averages)]


def draw(run: Path, out: Path) -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as folder:
        named, drawn = [], []
        for name, path in rows(run, Path(folder)):
            denoiser = unitgain.prepare(unitgain.load(path), torch.float32)
            named.append(name)
            drawn.append(unitgain.sample_pixels(denoiser, SEEDS, label=[seed % 8 for seed in SEEDS]))
    picture = grid(torch.cat(drawn), columns=len(SEEDS))
    canvas = Image.new("RGB", (picture.width + MARGIN, picture.height), "white")
    canvas.paste(picture, (MARGIN, 0))
    font, height = ImageFont.load_default(14), picture.height / len(named)
    for number, name in enumerate(named):
        ImageDraw.Draw(canvas).text((4, (number + 0.5) * height), name, fill="black", font=font, anchor="lm")
    canvas.save(out, optimize=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(__file__).with_name("lengths.png"))
