"""What the cells of a sweep draw, at the same seeds: EMA lengths from left to right, weights of guidance downwards."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image, PngImagePlugin

from unitgain.data.captions import enlarged, named_rows
from unitgain.data.encoder import encoder_from_dict
from unitgain.data.images import grid
from unitgain.data.preview import pictures_of
from unitgain.files import atomic
from unitgain.sweep.cells import Cell, CellResult, best, best_by
from unitgain.sweep.run import Sweep
from unitgain.sweep.table import key_of
from unitgain.text import evenly
from unitgain.trust import open_regular

SEEDS = 4  # images of a cell
MOST = 12  # cells in a row, and in a column
KEY = "unitgain"  # in the file: what it was drawn with


def draw_pictures(
    bench: Sweep,
    results: Sequence[CellResult],
    path: Path,
    *,
    seeds: Sequence[int] = range(SEEDS),
    on_images: Callable[[float, int], None] | None = None,
) -> bool:
    """Draw a picture of the cells: a column per EMA length, a row per weight of guidance, or per pattern of tensors.

    Where the guide's length was swept too, that is drawn which the first metric found best. Of more than 12 lengths or
    weights 12 are shown, the first and the last among them. A picture of the same cells that is there is left alone.

    Args:
        bench: what was swept.
        results: of the sweep.
        path: the `.png` file to write.
        seeds: of the images of each cell.
        on_images: called with (images drawn, images in all).

    Returns:
        Whether there was anything to draw: a single cell is not.
    """
    own = [result for result in results if result.metric == results[0].metric]
    cells = {
        place: result.cell
        for place, result in best_by(own, lambda one: (one.cell.pattern, one.cell.guidance, one.cell.length)).items()
    }
    rows = evenly(list(dict.fromkeys(place[:2] for place in cells)), MOST)
    lengths = evenly(sorted({place[2] for place in cells}), MOST)
    if len(cells) < 2:
        return False
    shown = [[cells.get((*row, length)) for length in lengths] for row in rows]
    wanted = [cell for line in shown for cell in line if cell is not None]
    seeds, peak = list(seeds), best(own)
    footer = f"best {peak.metric}: EMA {peak.cell.length:g}, w = {peak.cell.guidance:g}"
    keys = [bench.keys(cell, range(min(seeds), max(seeds) + 1)) for cell in wanted]
    key = key_of({"cells": keys, "seeds": seeds, "footer": footer})
    if _key(path) == key:
        return True
    drawn = _drawn(bench, wanted, seeds, on_images)
    blank = Image.new("RGB", drawn[wanted[0]].size, (255, 255, 255))
    sheet = named_rows(
        [f"{pattern}, w = {weight:g}" if pattern else f"w = {weight:g}" for pattern, weight in rows],
        [[blank if cell is None else drawn[cell] for cell in line] for line in shown],
        heads=[f"EMA {length:g}" for length in lengths],
        footer=footer,
    )
    about = PngImagePlugin.PngInfo()
    about.add_text(KEY, key)
    with atomic(path) as temporary:
        sheet.save(temporary, format="PNG", pnginfo=about)
    return True


def _drawn(
    bench: Sweep, cells: Sequence[Cell], seeds: Sequence[int], on_images: Callable[[float, int], None] | None
) -> dict[Cell, Image.Image]:
    """A grid of each cell."""
    total, drawn = len(cells) * len(seeds), dict[Cell, Image.Image]()
    for number, cell in enumerate(cells):
        before = number * len(seeds)
        report = None if on_images is None else lambda done, before=before: on_images(before + done, total)
        images = bench.images(cell, seeds, report)
        samples = torch.cat([*images.batches(range(len(seeds)))])
        pixels = pictures_of(samples, encoder_from_dict(images.main.encoder))
        drawn[cell] = enlarged(grid(pixels, math.ceil(len(seeds) ** 0.5)))
    bench.release()
    return drawn


def _key(path: Path) -> str | None:
    """What a picture was drawn with; None if it is none of ours."""
    try:
        with open_regular(path, below=path.parent) as file, Image.open(file, formats=("PNG",)) as image:
            key = image.info.get(KEY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return key if isinstance(key, str) else None
