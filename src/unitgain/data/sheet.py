"""A contact sheet: some images of each class in a row, with the name of the class and how many there are."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unitgain.classes import shown_name
from unitgain.data.captions import enlarged, named_rows
from unitgain.data.encoder import LatentEncoder
from unitgain.data.images import grid, to_image
from unitgain.data.order import indices
from unitgain.data.prepared import PreparedDataset
from unitgain.data.preview import pictures_of

LARGEST = 256  # pixels; larger images are made smaller


def contact_sheet(dataset: PreparedDataset, columns: int = 12, rows: int = 20, seed: int = 0) -> Image.Image:
    """Images picked at random, the same for the same seed.

    Args:
        dataset: pixels, arrays, or latents whose VAE is at hand.
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
    lines, pictures = [], []
    for number, name in enumerate(dataset.classes[:rows]):
        members = np.flatnonzero(labels == number)
        lines.append(f"{shown_name(name)} ({len(members):,})")
        chosen = members[indices(0, min(columns, len(members)), len(members), seed)] if len(members) else members
        pictures.append([_sized(to_image(one)) for one in draw(dataset, chosen)] if len(members) else [])
    left = len(dataset.classes) - rows
    footer = f"and {left:,} more classes" if left > 0 else ""
    return named_rows(lines, pictures, columns, footer)


def draw(dataset: PreparedDataset, rows: np.ndarray) -> Tensor:
    """Pictures of rows, uint8 `[n, c, h, w]`: pixels as they are, latents through the VAE, their means undrawn, and
    previews of arrays.
    """
    stored, _ = dataset.rows(rows)
    if not isinstance(dataset.encoder, LatentEncoder):
        return pictures_of(stored, dataset.encoder)
    mean = stored.clone()
    mean[:, mean.shape[1] // 2 :] = 0
    with torch.inference_mode():
        return dataset.encoder.decode(dataset.encode(mean))


def _sized(image: Image.Image) -> Image.Image:
    longest = max(image.size)
    if longest > LARGEST:
        width, height = (max(round(edge * LARGEST / longest), 1) for edge in image.size)
        return image.resize((width, height), Image.Resampling.BOX)
    return enlarged(image)
