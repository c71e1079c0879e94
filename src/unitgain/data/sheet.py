"""A contact sheet: some images of each class in a row, with the name of the class and how many there are."""

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unitgain.data.encoder import LatentEncoder
from unitgain.data.images import grid, to_image
from unitgain.data.order import indices
from unitgain.data.prepared import PreparedDataset

GAP = 2
SMALLEST = 48  # pixels; smaller images are enlarged by a whole factor
LARGEST = 256
INK, PAPER = (32, 32, 32), (255, 255, 255)


def contact_sheet(dataset: PreparedDataset, columns: int = 12, rows: int = 20, seed: int = 0) -> Image.Image:
    """Images picked at random, the same for the same seed.

    Args:
        dataset: pixels, or latents whose VAE is at hand.
        columns: images per row, at least 1.
        rows: classes, or rows of images without classes, at most; classes past them are counted in the last line.
        seed: of the choice.

    Raises:
        ValueError: if `columns` or `rows` is not positive.
    """
    if columns < 1 or rows < 1:
        raise ValueError(f"a contact sheet needs at least one column and one row, not {columns} and {rows}")
    if dataset.labels is None or dataset.classes is None:
        chosen = indices(0, min(columns * rows, len(dataset)), len(dataset), seed)
        return grid(draw(dataset, chosen), columns)
    labels = dataset.labels.numpy()
    font = ImageFont.load_default(size=13)
    lines, pictures = [], []
    for number, name in enumerate(dataset.classes[:rows]):
        members = np.flatnonzero(labels == number)
        lines.append(f"{name} ({len(members):,})")
        chosen = members[indices(0, min(columns, len(members)), len(members), seed)] if len(members) else members
        pictures.append([_sized(to_image(one)) for one in draw(dataset, chosen)] if len(members) else [])
    left = len(dataset.classes) - rows
    footer = f"and {left:,} more classes" if left > 0 else ""
    return _compose(lines, pictures, footer, columns, font)


def draw(dataset: PreparedDataset, rows: np.ndarray) -> Tensor:
    """Pictures of rows, uint8 `[n, c, h, w]`: pixels as they are, latents through the VAE, their means undrawn."""
    stored, _ = dataset.rows(rows)
    if not isinstance(dataset.encoder, LatentEncoder):
        return stored
    mean = stored.clone()
    mean[:, mean.shape[1] // 2 :] = 0
    with torch.inference_mode():
        return dataset.encoder.decode(dataset.encode(mean))


def _sized(image: Image.Image) -> Image.Image:
    if image.width < SMALLEST:
        factor = math.ceil(SMALLEST / image.width)
        return image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    if image.width > LARGEST:
        return image.resize((LARGEST, LARGEST), Image.Resampling.BOX)
    return image


def _compose(
    lines: list[str],
    pictures: list[list[Image.Image]],
    footer: str,
    columns: int,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> Image.Image:
    edge = next((one.width for row in pictures for one in row), SMALLEST)
    step = edge + GAP
    margin = max(math.ceil(font.getlength(line)) for line in [*lines, footer]) + 4 * GAP
    height = len(lines) * step + GAP + (24 if footer else 0)
    sheet = Image.new("RGB", (margin + columns * step, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    for index, (line, row) in enumerate(zip(lines, pictures, strict=True)):
        top = GAP + index * step
        pen.text((2 * GAP, top + edge // 2), line, fill=INK, font=font, anchor="lm")
        for column, picture in enumerate(row):
            sheet.paste(picture, (margin + column * step, top))
    if footer:
        pen.text((2 * GAP, height - 12), footer, fill=INK, font=font, anchor="lm")
    return sheet
