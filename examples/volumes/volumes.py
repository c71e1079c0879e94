"""Blocks of a head from a sixty-fourth of their voxels: `python examples/volumes/volumes.py cut blocks`, then `draw`.

`cut` takes the scan of a head (Colin 27) out of the Debian package mricron-data (BSD), halves its resolution to 2 mm,
and cuts it into blocks of 16x16x16 voxels, each with a version of 4x4x4 beside it, as NIfTI files with tables that pair
them. A slab across the head is held out: no block that is trained on touches it. `draw` draws it anew, block by block,
told the small version of each, another one's, or none.
"""

import argparse
import csv
import json
import math
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

import unitgain
from unitgain.bench.measure import machine
from unitgain.data import open_data
from unitgain.draw import DrawSettings
from unitgain.evaluate.heeded import draw_heeded
from unitgain.report.known import newest_average

PACKAGE = "mricron-data"
SCAN = "usr/share/mricron/templates/ch2.nii.gz"
SIDE, FACTOR, STRIDE = 16, 4, 4  # voxels of 2 mm: of a block, of a block to one of its small version, between blocks
SLAB = 48  # where the 16 planes begin that are held out, from the back
LEAST = 20  # mean grey of 255 of a block that is trained on; below that is air
Corner = tuple[int, int, int]


def fetch(folder: Path) -> Path:
    """The scan, as NIfTI."""
    debs = sorted(Path().glob(f"{PACKAGE}_*.deb"))
    if not debs:
        if shutil.which("apt-get") is None:
            sys.exit(f"apt-get is not installed: put the .deb of {PACKAGE} here and call again")
        subprocess.run(["apt-get", "download", PACKAGE], check=True)
        debs = sorted(Path().glob(f"{PACKAGE}_*.deb"))
    subprocess.run(["dpkg-deb", "-x", debs[-1], folder], check=True)
    return folder / SCAN


def opened(path: Path) -> NDArray[np.uint8]:
    """The scan at half its resolution, with air around it so that blocks fill it, `[x, y, z]`."""
    voxels = np.asarray(nibabel.load(path).dataobj)
    filled = [-size % (2 * SIDE) for size in voxels.shape]
    return shrunk(np.pad(voxels, [(short // 2, short - short // 2) for short in filled]), 2)


def shrunk(voxels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Means of cubes of so many voxels a side."""
    x, y, z = (size // factor for size in voxels.shape)
    means = voxels.reshape(x, factor, y, factor, z, factor).mean((1, 3, 5))
    return means.round().astype(np.uint8)


def corners(voxels: NDArray[np.uint8]) -> tuple[list[Corner], list[Corner]]:
    """Where blocks begin that are trained on, and those that fill the slab that is held out."""
    last = [size - SIDE for size in voxels.shape]
    behind, before = range(0, SLAB - SIDE + 1, STRIDE), range(SLAB + SIDE, last[1] + 1, STRIDE)
    trained = [
        (x, y, z)
        for y in (*behind, *before)
        for x in range(0, last[0] + 1, STRIDE)
        for z in range(0, last[2] + 1, STRIDE)
        if block(voxels, (x, y, z)).mean() >= LEAST
    ]
    return trained, [(x, SLAB, z) for x in range(0, last[0] + 1, SIDE) for z in range(0, last[2] + 1, SIDE)]


def block(voxels: NDArray[np.uint8], corner: Corner) -> NDArray[np.uint8]:
    """The block that begins there."""
    x, y, z = corner
    return voxels[x : x + SIDE, y : y + SIDE, z : z + SIDE]


def write(voxels: NDArray[np.uint8], folder: Path) -> None:
    """Blocks and their small versions, and a table of each part."""
    (folder / "blocks").mkdir(parents=True)
    (folder / "small").mkdir()
    for name, places in zip(("train", "held"), corners(voxels), strict=True):
        with open(folder / f"{name}.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file", "small"])
            for corner in places:
                own = "-".join(map(str, corner)) + ".nii"
                whole = block(voxels, corner)
                for part, values, edge in (("blocks", whole, 2), ("small", shrunk(whole, FACTOR), 2 * FACTOR)):
                    nibabel.save(nibabel.Nifti1Image(values, np.diag([edge, edge, edge, 1])), folder / part / own)
                table.writerow([f"blocks/{own}", f"small/{own}"])
        print(f"{len(places):,} blocks in {folder / name}.csv")


def slab(blocks: Tensor) -> Tensor:
    """The slab `[x, y, z]` that blocks `[N, 1, 16, 16, 16]` fill, as many high as wide."""
    wide = math.isqrt(len(blocks))
    placed = blocks.reshape(wide, wide, SIDE, SIDE, SIDE).permute(0, 2, 3, 1, 4)
    return placed.reshape(wide * SIDE, SIDE, wide * SIDE)


def picture(drawn: dict[str, Tensor], path: Path) -> None:
    """The plane in the middle of the slab, seen from the front, of each of them."""
    planes = [slab(blocks)[:, SIDE // 2].flip(1).T for blocks in drawn.values()]
    whole = Image.fromarray(torch.cat(planes, 1).round().to(torch.uint8).numpy())
    whole.resize((whole.width * 2, whole.height * 2), Image.Resampling.NEAREST).save(path)


def draw(run: Path, data: str, out: Path) -> None:
    """Draw the slab that is held out, block by block, and measure."""
    denoiser, held = unitgain.prepare(unitgain.load(newest_average(run)), torch.float32), open_data(data)
    rows = np.arange(len(held))
    drawn = draw_heeded(denoiser, held, rows.tolist(), settings=DrawSettings(steps=12))
    small = held.conditions_of(rows).values["small"].add(1).mul(127.5)  # grey, 0 to 255
    enlarged = functional.interpolate(small, scale_factor=FACTOR, mode="trilinear", align_corners=False)
    whole = {"enlarged": enlarged, **drawn, "truth": held.rows(rows)[0]}
    greys = {name: blocks.float() for name, blocks in whole.items()}
    truth = greys["truth"]
    errors = {name: (one - truth).square().mean().sqrt().item() for name, one in greys.items() if name != "truth"}
    out.mkdir(parents=True, exist_ok=True)
    picture(greys, out / "samples.png")
    record = {"blocks": len(rows), "rms_error": errors}
    (out / "result.json").write_text(json.dumps({**record, "machine": machine()}, indent=1) + "\n")
    print(json.dumps(record))


def main() -> None:
    """Cut the scan, or draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("cut").add_argument("folder", type=Path)
    drawing = commands.add_parser("draw")
    drawing.add_argument("run", type=Path)
    drawing.add_argument("data", help="prepared data that are held out")
    drawing.add_argument("out", type=Path)
    given = parser.parse_args()
    if given.command == "draw":
        draw(given.run, given.data, given.out)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            write(opened(fetch(Path(temporary))), given.folder)


if __name__ == "__main__":
    main()
