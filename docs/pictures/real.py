"""Puts samples of the evidence's pictures side by side: `python docs/pictures/real.py`.

The picture is `real.png` beside this file: the first four samples of each class of clothes, and all eight of those
kinds of emoji that can be named; `benchmarks/results/evidence-pictures-emoji32.png` has the others. Both sets were
trained and drawn by `benchmarks/evidence/run.py`.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS / "evidence"))

from sets import EMOJI_CLASSES, FASHION_CLASSES  # noqa: E402

TILE, GAP, STEP, HEAD = 64, 2, 66, 22  # pixels, the first three as in the pictures
ROWS = 4
NAMED = ("Smileys & Emotion", "People & Body", "Symbols", "Flags")
SETS = (  # name, classes, those that are shown, columns and rows in the picture of each
    ("fashion32", FASHION_CLASSES, FASHION_CLASSES, 1, 1),
    ("emoji32", EMOJI_CLASSES, NAMED, 2, 2),
)


def draw(results: Path, out: Path) -> None:
    """Write the picture."""
    height, width = HEAD + ROWS * STEP, len(FASHION_CLASSES) * STEP
    canvas = Image.new("RGB", (width, len(SETS) * height), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for number, (name, classes, shown, columns, rows) in enumerate(SETS):
        margin = (width - len(shown) * columns * STEP) // 2
        with Image.open(results / f"evidence-pictures-{name}.png") as picture:
            for place, label in enumerate(shown):
                left, top = margin + place * columns * STEP, number * height
                middle = (left + columns * STEP / 2, top + HEAD / 2)
                pen.text(middle, label.partition(" & ")[0], fill="black", font=font, anchor="mm")
                for sample in range(ROWS * columns):
                    x, y = GAP + sample * STEP, GAP + rows * classes.index(label) * STEP
                    row, column = divmod(sample, columns)
                    tile = picture.crop((x, y, x + TILE, y + TILE))
                    canvas.paste(tile, (left + column * STEP, top + HEAD + row * STEP))
    canvas.save(out, optimize=True)


if __name__ == "__main__":
    draw(BENCHMARKS / "results", Path(__file__).with_name("real.png"))
