"""A contact sheet: some images of each class in a row, with the name of the class and how many there are."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from unitgain.classes import shown_name
from unitgain.data.captions import enlarged, named_rows
from unitgain.data.dataset import Dataset
from unitgain.data.encoder import ArrayEncoder
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


def draw(
    dataset: Dataset, rows: np.ndarray, decode: Callable[[Tensor], Tensor] | None = None
) -> UInt8[Tensor, "n c h w"]:
    """Pictures of rows: pixels as they are, latents through the VAE, their means undrawn, and previews of arrays.

    Args:
        dataset: any.
        rows: their numbers.
        decode: makes pictures of latents as the network sees them; the VAE that the data name by default.
    """
    stored, _ = dataset.rows(rows)
    if dataset.latents:
        stored = stored.clone()
        stored[:, stored.shape[1] // 2 :] = 0
    elif stored.dtype == torch.uint8 or isinstance(dataset.encoder, ArrayEncoder):
        return pictures_of(stored, dataset.encoder)
    else:
        decode = None
    with torch.inference_mode():
        return (decode or dataset.encoder.decode)(dataset.encode(stored))


def _sized(image: Image.Image) -> Image.Image:
    longest = max(image.size)
    if longest > LARGEST:
        width, height = (max(round(edge * LARGEST / longest), 1) for edge in image.size)
        return image.resize((width, height), Image.Resampling.BOX)
    return enlarged(image)
