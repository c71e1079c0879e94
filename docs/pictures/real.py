"""Puts samples of the evidence's pictures side by side: `python docs/pictures/real.py`.

The picture is `real.png` beside this file: a column per class, the first four of its samples. Those of
`benchmarks/results/evidence-pictures-*.png`, which have more, were trained and drawn by `benchmarks/evidence/run.py`.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS / "evidence"))

from sets import EMOJI_CLASSES, FASHION_CLASSES  # noqa: E402

TILE, GAP = 64, 2  # pixels, as in the pictures
ROWS = 4
SETS = (("fashion32", FASHION_CLASSES, 1), ("emoji32", EMOJI_CLASSES, 2))  # classes, and rows of each in the picture
STEP, HEAD = TILE + GAP, 22


def draw(results: Path, out: Path) -> None:
    """Write the picture."""
    height = HEAD + ROWS * STEP
    canvas = Image.new("RGB", (len(FASHION_CLASSES) * STEP, len(SETS) * height), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for number, (name, classes, rows) in enumerate(SETS):
        with Image.open(results / f"evidence-pictures-{name}.png") as picture:
            for column, label in enumerate(classes):
                left, top = column * STEP, number * height
                text = label.partition(" & ")[0]
                pen.text((left + TILE / 2, top + HEAD / 2), text, fill="black", font=font, anchor="mm")
                for row in range(ROWS):
                    x, y = GAP + row * STEP, GAP + rows * column * STEP
                    sample = picture.crop((x, y, x + TILE, y + TILE))
                    canvas.paste(sample, (left, top + HEAD + row * STEP))
    canvas.save(out, optimize=True)


if __name__ == "__main__":
    draw(BENCHMARKS / "results", Path(__file__).with_name("real.png"))
