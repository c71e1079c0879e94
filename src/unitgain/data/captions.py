"""Pictures with the names of their classes: a row for each class, or a caption under each picture."""

import importlib.util
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unitgain.data.images import grid, to_image

GAP = 2
SIZE = 13  # of letters, pixels
SMALLEST = 48  # pixels; smaller pictures are enlarged by a whole factor
INK, PAPER = (32, 32, 32), (255, 255, 255)


def captioned_grid(pixels: UInt8[Tensor, "n c h w"], names: Sequence[str], columns: int | None = None) -> Image.Image:
    """As `unitgain.data.images.grid`, with the name of each picture: beside a row whose pictures all have the same,
    once where rows go on with it; else below each, as much of it as there is room for. Without names, that grid.

    Args:
        pixels: `[N, C, H, W]`, N >= 1.
        names: one for each, of one line; or none.
        columns: pictures in a row; about square by default.
    """
    if not names:
        return grid(pixels, columns)
    columns = min(columns or math.ceil(math.sqrt(len(pixels))), len(pixels))
    rows = [names[start : start + columns] for start in range(0, len(names), columns)]
    if all(len(set(row)) == 1 for row in rows):
        firsts = [row[0] for row in rows]
        lines = [name if number == 0 or name != firsts[number - 1] else "" for number, name in enumerate(firsts)]
        pictures = [enlarged(to_image(one)) for one in pixels]
        return named_rows(lines, [pictures[start : start + columns] for start in range(0, len(pictures), columns)])
    return _below(pixels, names, columns)


def named_rows(
    lines: Sequence[str],
    pictures: Sequence[Sequence[Image.Image]],
    columns: int = 0,
    footer: str = "",
    heads: Sequence[str] = (),
) -> Image.Image:
    """Rows of pictures of one size, each with a line of text on its left.

    Args:
        lines: one for each row.
        pictures: of each row; there may be fewer in some.
        columns: to leave room for, where rows have fewer.
        footer: a line below.
        heads: of the columns, each as much as there is room for.
    """
    font = font_for([*lines, *heads, footer])
    edge = next((one.size for row in pictures for one in row), (SMALLEST, SMALLEST))
    columns = max(columns, *(len(row) for row in pictures))
    margin = max(math.ceil(font.getlength(line)) for line in lines) + 4 * GAP
    width = max(margin + columns * (edge[0] + GAP), math.ceil(font.getlength(footer)) + 4 * GAP)
    head = SIZE + 2 * GAP if heads else 0
    height = head + len(lines) * (edge[1] + GAP) + GAP + (24 if footer else 0)
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, name in enumerate(heads):
        text = Image.new("RGB", (edge[0], head), PAPER)
        ImageDraw.Draw(text).text((edge[0] // 2, SIZE), name, fill=INK, font=font, anchor="ms")
        sheet.paste(text, (margin + column * (edge[0] + GAP), 0))
    for index, (line, row) in enumerate(zip(lines, pictures, strict=True)):
        top = head + GAP + index * (edge[1] + GAP)
        pen.text((2 * GAP, top + edge[1] // 2), line, fill=INK, font=font, anchor="lm")
        for column, picture in enumerate(row):
            sheet.paste(picture, (margin + column * (edge[0] + GAP), top))
    if footer:
        pen.text((2 * GAP, height - 12), footer, fill=INK, font=font, anchor="lm")
    return sheet


def font_for(texts: Iterable[str]) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """The font of Pillow, which has ASCII alone; for other texts DejaVu Sans, where matplotlib is there and brings it.

    That one has Latin with accents, Greek, Cyrillic, Hebrew, Arabic and more; what it lacks is drawn as a box.
    """
    matplotlib = None if all(map(str.isascii, texts)) else importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        font = Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if font.is_file():
            return ImageFont.truetype(font, SIZE - 1)  # whose letters are larger
    return ImageFont.load_default(size=SIZE)


def enlarged(image: Image.Image) -> Image.Image:
    """A picture that is not smaller than can be seen."""
    if max(image.size) >= SMALLEST:
        return image
    factor = math.ceil(SMALLEST / max(image.size))
    return image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)


def _below(pixels: UInt8[Tensor, "n c h w"], names: Sequence[str], columns: int) -> Image.Image:
    font = font_for(names)
    pictures = [enlarged(to_image(one)) for one in pixels]
    width, height = pictures[0].width + GAP, pictures[0].height + SIZE + 2 * GAP
    sheet = Image.new("RGB", (columns * width + GAP, math.ceil(len(pictures) / columns) * height + GAP), PAPER)
    for number, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        left, top = GAP + number % columns * width, GAP + number // columns * height
        sheet.paste(picture, (left, top))
        caption = Image.new("RGB", (picture.width, SIZE + GAP), PAPER)
        ImageDraw.Draw(caption).text((0, SIZE), _fitting(name, picture.width, font), fill=INK, font=font, anchor="ls")
        sheet.paste(caption, (left, top + picture.height))
    return sheet


def _fitting(name: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """As much of a name as there is room for."""
    if font.getlength(name) <= width:
        return name
    return next((text for end in range(len(name), 0, -1) if font.getlength(text := f"{name[:end]}...") <= width), "...")
