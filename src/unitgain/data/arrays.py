"""Arrays of one to three dimensions as rows of prepared data: `[C, *size]`, of one size, with values that are numbers.

Arrays are cut or padded to a size, never resampled.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unitgain.data.fit import Fit, ImageError
from unitgain.data.frames import cut, spans
from unitgain.data.media import Raw
from unitgain.data.numbers import MOST_CHANNELS, ArrayType, Numbers
from unitgain.data.settings import Layout
from unitgain.size import MOST_SIDES, show_size, sides_of

FEW = 4  # channels that are told from sides
LATENTS = 8  # channels of latents of the official VAE: means, then standard deviations
OTHERS = "--layout channels-first, channels-last or no-channels"


@dataclass(frozen=True)
class Sample:
    """An array as it is stored.

    Attributes:
        array: `[C, *size]`.
        numbers: what they are.
        before: sides in its file.
        layout: there.
    """

    array: NDArray[Any]
    numbers: Numbers
    before: tuple[int, ...]
    layout: Layout | None


def sample_of(raw: Raw, fit: Fit) -> Sample | NDArray[np.uint8]:
    """The array of a file as it is stored; the pixels `[C, H, W]` of a picture, which uint8 of 1 or 3 channels are.

    Raises:
        ImageError: if it cannot be used; the message says why, and what to do.
    """
    array, layout = raw.array, fit.layout
    bytes_alone = array.dtype == np.uint8 and raw.media == "array"
    if not (bytes_alone and layout is None and _has_colours(array)):
        check_numbers(array)
        layout = layout if raw.media == "array" else raw.layout
        layout = layout or (told_layout(array.shape) if array.ndim and array.size else "no-channels")
        array = arranged(array, layout)
    if bytes_alone and _has_colours(array):
        return array
    if raw.media == "audio" and fit.channels == 1:
        array = array.mean(axis=0, keepdims=True)
    before = (raw.frames,) if raw.media == "audio" else array.shape[1:]
    return _sample(fitted(array, fit), raw, before, layout if raw.media == "array" else None)


def read_moments(array: NDArray[Any], fit: Fit) -> NDArray[np.float32] | None:
    """Means and standard deviations of latents `[2 C, h, w]`, if that is what an array holds.

    That is what the layout says; without one, float `[8, h, w]`, as official archives have it.

    Raises:
        ImageError: if they cannot be latents.
    """
    told = fit.layout == "latents"
    if not told and (fit.layout is not None or array.ndim != 3 or len(array) != LATENTS or array.dtype.kind != "f"):
        return None
    if array.ndim != 3 or array.shape[0] % 2 or array.dtype.kind != "f":
        raise ImageError(f"holds {array.dtype} {array.shape}; latents are [2 C, h, w], means and standard deviations")
    if not np.isfinite(array).all():
        raise ImageError("holds values that are not finite")
    if (array[len(array) // 2 :] < 0).any():
        raise ImageError(
            f"holds {array.dtype} {array.shape}, as latents are, but some standard deviations are negative: if it "
            f"holds other values, give {OTHERS}"
        )
    height, width = array.shape[1:]
    if fit.resolution is not None and sides_of(fit.resolution) not in ((height, width), (8 * height, 8 * width)):
        raise ImageError(f"holds latents of {height}x{width}, which cannot be resized")
    return array.astype(np.float32)


def check_numbers(array: NDArray[Any]) -> None:
    """Raise `ImageError` unless an array holds real numbers."""
    if array.dtype.kind not in "biuf":
        raise ImageError(f"holds {array.dtype} {array.shape}: whole or floating numbers are expected")


def told_layout(shape: tuple[int, ...]) -> Layout:
    """The layout of an array by its shape, where only one can be: at most 4 channels at one end, all else far larger.

    Raises:
        ImageError: if it could be another.
    """
    if len(shape) == 1:
        return "no-channels"
    ends: tuple[tuple[int, Layout], ...] = ((0, "channels-first"), (len(shape) - 1, "channels-last"))
    found: list[Layout] = [
        layout
        for axis, layout in ends
        if shape[axis] <= FEW and all(side >= 2 * shape[axis] for at, side in enumerate(shape) if at != axis)
    ]
    if len(found) != 1:
        raise ImageError(f"has the shape {shape}, which does not tell its channels from its sides: give {OTHERS}")
    return found[0]


def arranged(array: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """An array as `[C, *size]`.

    Raises:
        ImageError: if it has no one to three dimensions beside channels.
    """
    if not array.ndim or not array.size:
        raise ImageError(f"is of shape {array.shape}: one to three dimensions are expected, none of them empty")
    if layout == "channels-last":
        array = np.moveaxis(array, -1, 0)
    array = array[None] if layout == "no-channels" else array
    if not 2 <= array.ndim <= MOST_SIDES + 1 or array.shape[0] > MOST_CHANNELS:
        raise ImageError(f"has {array.shape[0]} channels and {array.ndim - 1} dimensions: one to three can be used")
    return array


def fitted(array: NDArray[Any], fit: Fit) -> NDArray[Any]:
    """An array `[C, *size]` cut, and for "pad" padded with zeros, to the wanted size.

    Of signals the beginning stays where it is; of all others the middle.

    Raises:
        ImageError: if it is smaller and not to be padded, has other dimensions, or would have to be resampled.
    """
    if fit.resolution is None:
        return array
    size = array.shape[1:]
    wanted = (fit.resolution,) * len(size) if isinstance(fit.resolution, int) else fit.resolution
    if len(wanted) != len(size):
        raise ImageError(f"is {show_size(size)}: --resolution {show_size(wanted)} is for other dimensions")
    if fit.fit == "stretch":
        raise ImageError("cannot be resampled: arrays are cut (--fit crop), or padded with zeros, too (--fit pad)")
    if fit.fit != "pad" and any(side < want for side, want in zip(size, wanted, strict=True)):
        raise ImageError(
            f"is {show_size(size)}, smaller than {show_size(wanted)}: --fit pad adds zeros; or lower --resolution"
        )
    return cut(array, spans(size, wanted))


def stored_type(dtype: np.dtype) -> ArrayType:
    """As what numbers of a type are stored: without loss, but for whole ones beyond 2^24 and float64.

    Uint8 and signed whole ones of up to 16 bits stay whole; uint16 ones, for which PyTorch has few operations, do not.
    """
    if dtype == np.bool_ or dtype == np.uint8:
        return "uint8"
    return "int16" if dtype.kind == "i" and dtype.itemsize <= 2 else "float32"


def _has_colours(array: NDArray[Any]) -> bool:
    return array.ndim == 3 and array.shape[0] in (1, 3)


def _sample(array: NDArray[Any], raw: Raw, before: tuple[int, ...], layout: Layout | None) -> Sample:
    kind = stored_type(array.dtype)
    with np.errstate(over="ignore"):  # which is found below
        array = np.ascontiguousarray(array, dtype=np.dtype(kind).newbyteorder("<"))
    broken = ~np.isfinite(array)
    if broken.any():
        first = tuple(int(place) for place in np.argwhere(broken)[0])
        raise ImageError(f"holds {int(broken.sum()):,} values that are NaN or infinite, the first at {first}")
    try:
        numbers = Numbers(dtype=kind, media=raw.media, rate=raw.rate, spacing=raw.spacing)
        return Sample(array, numbers, before, layout)
    except ValueError as error:
        raise ImageError(f"says of itself what cannot be: {error}") from error


def signal_length(fit: Fit) -> int | None:
    """Samples that are wanted of a signal."""
    sides = (fit.resolution,) if isinstance(fit.resolution, int) else fit.resolution or ()
    return sides[0] if len(sides) == 1 else None
