"""Puts samples of the evidence's pictures side by side: `python docs/pictures/real.py`.

The picture is `real.png` beside this file: the first four samples of each class of clothes, and the first twenty of
animals and of food, above the drawings that they are to be. The sets were trained and drawn by
`benchmarks/evidence/run.py`; the pictures of `benchmarks/results/evidence.md` have all.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS / "evidence"))

from run import STYLED_COLUMNS  # noqa: E402
from sets import FASHION_CLASSES  # noqa: E402

TILE, GAP, STEP, HEAD = 64, 2, 66, 22  # pixels, the first three as in the pictures
ACROSS = len(FASHION_CLASSES)
CLOTHES = 4  # rows
STYLED = {"animals32": "Animals and plants", "food32": "Food"}
KEPT = ": drawn from name and style, and below each the real drawing, kept from training"
Move = tuple[int, int, int, int]  # column and row in a picture of the results, column and row here


def clothes() -> Iterator[Move]:
    """A row per class there, a column here."""
    for label in range(ACROSS):
        for row in range(CLOTHES):
            yield row, label, label, row


def styled() -> Iterator[Move]:
    """Three rows there, of samples, of what they are to be, and of their nearest training images; two of them here."""
    for place in range(2 * ACROSS):
        (there, left), (here, across) = divmod(place, STYLED_COLUMNS), divmod(place, ACROSS)
        for row in range(2):
            yield left, 3 * there + row, across, 2 * here + row


def draw(results: Path, out: Path) -> None:
    """Write the picture."""
    parts = [("fashion32", clothes(), CLOTHES), *((name, styled(), 4) for name in STYLED)]
    canvas = Image.new("RGB", (ACROSS * STEP, sum(HEAD + rows * STEP for *_, rows in parts)), "white")
    pen, font, top = ImageDraw.Draw(canvas), ImageFont.load_default(12), 0
    for name, moves, rows in parts:
        told = [STYLED[name] + KEPT] if name in STYLED else FASHION_CLASSES
        for place, words in enumerate(told):
            middle = (place + 0.5) * ACROSS * STEP / len(told)
            pen.text((middle, top + HEAD / 2), words, fill="black", font=font, anchor="mm")
        with Image.open(results / f"evidence-pictures-{name}.png") as picture:
            for column, row, left, down in moves:
                x, y = GAP + column * STEP, GAP + row * STEP
                tile = picture.crop((x, y, x + TILE, y + TILE))
                canvas.paste(tile, (left * STEP, top + HEAD + down * STEP))
        top += HEAD + rows * STEP
    canvas.save(out, optimize=True)


if __name__ == "__main__":
    draw(BENCHMARKS / "results", Path(__file__).with_name("real.png"))
