"""Images as pictures to look at: PNG files and grids."""

import io
import math

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

GAP = 1  # pixels between images, before they are enlarged


def to_image(pixels: UInt8[Tensor, "c h w"]) -> Image.Image:
    """A Pillow image, grey or RGB.

    Raises:
        ValueError: unless there are 1 or 3 channels.
    """
    if pixels.shape[0] not in (1, 3):
        raise ValueError(f"a picture has 1 or 3 channels, not {pixels.shape[0]}; decode latents first")
    array = pixels.permute(1, 2, 0).contiguous().cpu().numpy()
    return Image.fromarray(array[:, :, 0] if pixels.shape[0] == 1 else array)


def png(image: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def from_image(image: Image.Image) -> UInt8[Tensor, "c h w"]:
    """The pixels of a Pillow image, grey or RGB: the inverse of `to_image`."""
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def pairs(left: UInt8[Tensor, "n c h w"], right: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c tall wide"]:
    """Each picture beside another, with a white gap of a pixel between them; enlarged as `grid` enlarges them."""
    scale = max(1, 64 // max(left.shape[-2:]))
    left, right = (one.repeat_interleave(scale, -2).repeat_interleave(scale, -1) for one in (left, right))
    return torch.cat([left, left.new_full((*left.shape[:3], 1), 255), right], -1)


def grid(pixels: UInt8[Tensor, "n c h w"], columns: int | None = None) -> Image.Image:
    """All images in rows, with white gaps between them, enlarged by a whole factor when they are small.

    Args:
        pixels: `[N, C, H, W]`, N >= 1.
        columns: images in a row; about square by default.
    """
    n, c, h, w = pixels.shape
    columns = min(columns or math.ceil(math.sqrt(n)), n)
    rows = math.ceil(n / columns)
    canvas = torch.full((c, rows * (h + GAP) + GAP, columns * (w + GAP) + GAP), 255, dtype=torch.uint8)
    for i, image in enumerate(pixels.cpu()):
        top, left = GAP + (i // columns) * (h + GAP), GAP + (i % columns) * (w + GAP)
        canvas[:, top : top + h, left : left + w] = image
    scale = max(1, 64 // max(h, w))
    return to_image(canvas.repeat_interleave(scale, 1).repeat_interleave(scale, 2))
