"""Any picture file to 8-bit pixels of one size."""

import dataclasses
import functools
import io
import math
import struct
import threading
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from unitgain.data.settings import Layout
from unitgain.npz import read_npy
from unitgain.size import MOST_SIDES, SIZE_TEXT, Size, show_size, sides_of, size_of
from unitgain.text import printable
from unitgain.trust import DEFAULT_LIMITS, LimitError, Limits

FitMode = Literal["crop", "pad", "stretch"]
Format = Literal["png", "webp"]
# What Pillow decodes by itself: others start programs, such as Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO", "QOI")
WHOLE = 2**25  # pixels; larger pictures than that are cut before they are enlarged, which may round otherwise
MOST = 4  # times the square that is cut out of it
AROUND = 8  # pixels that bicubic needs around a part, when it shrinks to no less than half
ICON = b"\0\0\1\0"
TIFF_BITS = 258  # tag of the bits of each channel
_lock = threading.Lock()  # of Pillow's limit, which is one for all threads


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How pictures become images of one size; and signals, fields and volumes arrays of one size.

    Args:
        resolution: of the images in pixels: 64 for a square, 48x64 for height x width; of signals their length, of
            volumes 32x64x64, or one number for all sides. None for that of the source, all of whose pictures or arrays
            must have one size then.
        fit: "crop": the middle of that shape, as ADM does; "pad": the whole picture on the background; "stretch": the
            whole picture, whatever its shape. Arrays are cut, signals at their end, and with "pad" shorter ones padded
            with zeros.
        channels: 3: RGB; 1: grey, and stereo mixed to mono. Other arrays keep theirs.
        background: colour behind transparent pixels and around padded pictures: a name or #rrggbb.
        format: how images are stored, both without loss.
        layout: of arrays: "channels-first" [C, ...], "channels-last" [..., C], "no-channels" for those without, or
            "latents", means and standard deviations [2 C, h, w]. Told from the shape where only one can be.

    Raises:
        ValueError: if a field is out of its range.
    """

    resolution: Annotated[Size | None, SIZE_TEXT]
    fit: FitMode = "crop"
    channels: Literal[3, 1] = 3
    background: str = "white"
    format: Format = "png"
    layout: Layout | None = None

    def __post_init__(self) -> None:
        if self.resolution is not None:
            sides = sides_of(self.resolution)
            most = 16384 if len(sides) == 2 and sides[0] != sides[1] else 2**16
            if not 1 <= len(sides) <= MOST_SIDES or not all(1 <= side <= most for side in sides):
                raise ValueError(
                    f"resolution {self.resolution}: must be 1 to 16384 pixels, or height and width of such; of arrays "
                    f"one to {MOST_SIDES} sides"
                )
            object.__setattr__(self, "resolution", size_of(self.resolution))
        if self.channels not in (1, 3):
            raise ValueError(f"channels {self.channels}: must be 3 (RGB) or 1 (grey)")
        try:
            ImageColor.getrgb(self.background)
        except ValueError as error:
            raise ValueError(f"background {self.background!r}: must be a name such as white, or #rrggbb") from error

    @property
    def colour(self) -> tuple[int, int, int]:
        """The background as RGB."""
        return ImageColor.getrgb(self.background)[:3]


class ImageError(Exception):
    """A picture cannot be read or used; the message says why."""


def fit_image(
    picture: bytes | NDArray[np.uint8], fit: Fit, limits: Limits = DEFAULT_LIMITS
) -> tuple[Image.Image, bool, tuple[int, int]]:
    """The picture in a file, or of pixels `[C, H, W]`, as an image of the wanted size.

    Returns:
        The image, upright, RGB or grey; whether it was enlarged; and its height and width before.

    Raises:
        ImageError: if it cannot be decoded, or is larger than `limits` allow.
    """
    if fit.resolution is not None and (len(sides_of(fit.resolution)) != 2 or max(_size(fit)) > 16384):
        raise ImageError(
            f"is a picture: resolution {show_size(fit.resolution)} must be 1 to 16384 pixels, or height and width of "
            "such"
        )
    whole = flatten(of_pixels(picture) if isinstance(picture, np.ndarray) else decode(picture, limits), fit)
    return *resize(whole, fit), (whole.height, whole.width)


def resize(image: Image.Image, fit: Fit) -> tuple[Image.Image, bool]:
    """An 8-bit image at the wanted size, and whether it was enlarged."""
    if fit.resolution is None or image.size == _size(fit):
        return image, False
    smaller = [edge < side for edge, side in zip(image.size, _size(fit), strict=True)]
    method = {"crop": adm_crop, "pad": pad, "stretch": stretch}[fit.fit]
    return _of_any_size(functools.partial(method, image, fit)), all(smaller) if fit.fit == "pad" else any(smaller)


def encode_image(image: Image.Image, format: Format) -> bytes:
    """The bytes of a PNG or lossless WebP file."""
    buffer = io.BytesIO()
    if format == "webp":
        image.save(buffer, format="WEBP", lossless=True)
    else:
        # Runs alone, after PNG's filters: half the time of the usual search, and within a few percent of its size.
        image.save(buffer, format="PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return buffer.getvalue()


def read_pixels(data: Any, channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Pixels `[H, W, C]` of an encoded image of the prepared form.

    Args:
        data: bytes or a buffer of them.
        channels: 3 or 1.
        size: width and height that it must have.

    Raises:
        ImageError: if it is another picture than that; and whatever Pillow raises at a damaged one.
    """

    def check(image: Image.Image) -> None:
        modes = ("L",) if channels == 1 and image.format == "PNG" else ("RGB",)  # WebP has no grey
        if image.size != size or image.mode not in modes:
            raise ImageError(f"is {image.width}x{image.height}, {image.mode}, not {size[0]}x{size[1]}, {modes[0]}")

    image = _load(data, check, ("PNG", "WEBP"))
    image = image.convert("L") if channels == 1 and image.mode != "L" else image
    return np.asarray(image).reshape(image.height, image.width, channels)


def decode(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Image.Image:
    """The first picture of a file, upright, with all its pixels in memory; NPY arrays `[C, H, W]` of uint8 too.

    Raises:
        ImageError: if this is no picture, a damaged one, or one larger than `limits` allow.
    """
    if data[:6] == b"\x93NUMPY":
        return _from_array(data)
    try:
        if data[:4] == ICON:
            _check_icon(data, limits)
        image = _load(data, lambda image: _check_size(image, limits), FORMATS)
        with suppress(Exception):  # damaged EXIF is no reason to lose a picture
            ImageOps.exif_transpose(image, in_place=True)
        return image
    except UnidentifiedImageError as error:  # its text has an address, which would differ from run to run
        raise ImageError("is empty" if not data else "cannot be decoded: it is no picture of a known format") from error
    except LimitError as error:
        raise ImageError(str(error)) from error
    except Exception as error:  # the decoders raise whatever they like: OSError, SyntaxError, struct.error, ...
        raise ImageError(f"cannot be decoded: {printable(error) or type(error).__name__}") from error


def decode_flat(data: bytes, fit: Fit, limits: Limits = DEFAULT_LIMITS) -> Image.Image:
    """The first picture of a file, upright, 8 bits: grey if it is, otherwise RGB, on the background of `fit`.

    Raises:
        ImageError: if it cannot be decoded, or is larger than `limits` allow.
    """
    image = decode(data, limits)
    grey = image.mode.startswith(("1", "L", "I", "F"))
    return flatten(image, dataclasses.replace(fit, channels=1 if grey else 3))


def flatten(image: Image.Image, fit: Fit) -> Image.Image:
    """8-bit RGB or grey: palettes looked up, transparent pixels laid over the background, 16 bits cut to 8.

    Raises:
        ImageError: if the range of its values is unknown.
    """
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (*fit.colour, 255))
        image = Image.alpha_composite(background, rgba)
    mode = "RGB" if fit.channels == 3 else "L"
    return image if image.mode == mode else image.convert(mode)


def adm_crop(image: Image.Image, fit: Fit) -> Image.Image:
    """The middle of the wanted shape, as ADM takes that of a square.

    Halve with a box filter while both edges are at least twice the target, resize the whole with bicubic so that one
    edge fits and the other is no shorter, crop.
    """
    size = _size(fit)
    image = _halved(image, size, all)
    scale = max(side / edge for side, edge in zip(size, image.size, strict=True))
    width, height = (max(round(edge * scale), side) for side, edge in zip(size, image.size, strict=True))
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    box = (left, top, left + size[0], top + size[1])
    if width * height > max(WHOLE, MOST * math.prod(size)):
        return _part(image, (width, height), box)
    return image.resize((width, height), Image.Resampling.BICUBIC).crop(box)


def pad(image: Image.Image, fit: Fit) -> Image.Image:
    """The whole picture, as large as the target holds, in the middle of the background."""
    size = _size(fit)
    image = _halved(image, size, any)
    scale = min(side / edge for side, edge in zip(size, image.size, strict=True))
    width, height = (min(max(round(edge * scale), 1), side) for side, edge in zip(size, image.size, strict=True))
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", size, fit.colour).convert(image.mode)
    canvas.paste(image, ((size[0] - width) // 2, (size[1] - height) // 2))
    return canvas


def stretch(image: Image.Image, fit: Fit) -> Image.Image:
    """The whole picture, each edge resized to the target."""
    return _halved(image, _size(fit), all).resize(_size(fit), Image.Resampling.BICUBIC)


def _halved(image: Image.Image, size: tuple[int, int], judge: Callable[[Iterable[bool]], bool]) -> Image.Image:
    """Halve with a box filter while `all` edges, or `any`, are at least twice the target."""
    while judge(edge >= 2 * side for edge, side in zip(image.size, size, strict=True)) and min(image.size) >= 2:
        image = halve(image)
    return image


def halve(image: Image.Image) -> Image.Image:
    """`image.resize((width // 2, height // 2), BOX)` to the bit, for 8-bit pixels, in half the time if edges are even.

    Pillow resizes columns first, but for pictures much taller than wide, and rounds in between. Where an edge is even,
    what its `reduce` does to that edge is the same.
    """
    box, (width, height) = Image.Resampling.BOX, image.size
    if height > 2 * width:
        return image.resize((width // 2, height // 2), box)
    image = image.resize((width // 2, height), box) if width % 2 else image.reduce((2, 1))
    return image.resize((width // 2, height // 2), box) if height % 2 else image.reduce((1, 2))


def _part(image: Image.Image, resized: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """What lies in a box of the picture resized to another size, to rounding, without the rest of it."""
    scales = [old / new for old, new in zip(image.size, resized, strict=True)] * 2
    sides = [side * scale for side, scale in zip(box, scales, strict=True)]
    left, top = (max(math.floor(side) - AROUND, 0) for side in sides[:2])
    right, bottom = (min(math.ceil(side) + AROUND, edge) for side, edge in zip(sides[2:], image.size, strict=True))
    part = image.crop((left, top, right, bottom))
    (width, height), bicubic = (box[2] - box[0], box[3] - box[1]), Image.Resampling.BICUBIC
    part = part.resize((width, part.height), bicubic, box=(sides[0] - left, 0, sides[2] - left, part.height))
    return part.resize((width, height), bicubic, box=(0, sides[1] - top, width, sides[3] - top))


def _size(fit: Fit) -> tuple[int, int]:
    """Width and height, as Pillow has them."""
    assert fit.resolution is not None
    height, width = sides_of(fit.resolution)
    return width, height


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F" or not math.isfinite(values.max()):
        raise ImageError("has floating-point pixels, whose range is unknown: convert it to 8 or 16 bits")
    low, high = int(values.min()), int(values.max())
    bits = getattr(image, "tag_v2", {}).get(TIFF_BITS)  # 16 bits may be opened as 32, too
    if low < 0 or high > 65535 or (bits == (32,) and 0 < high <= 255):
        raise ImageError(f"has 32-bit pixels from {low} to {high}: convert it to 8 or 16 bits")
    return Image.fromarray((values.astype(np.uint32) >> 8).astype(np.uint8))  # as Pillow does for 16-bit RGB


def _load(data: Any, check: Callable[[Image.Image], None], formats: tuple[str, ...]) -> Image.Image:
    """A picture with its pixels, if `check` has nothing against it before they are there."""

    def load() -> Image.Image:
        image = Image.open(io.BytesIO(data), formats=formats)
        check(image)
        image.load()
        return image

    return _of_any_size(load)


def _of_any_size(make: Callable[[], Image.Image]) -> Image.Image:
    """What `make` returns, without Pillow's own limit: one for the whole process, and lifted only where it is met."""
    try:
        return make()
    except Image.DecompressionBombError:
        with _lock:
            pillows, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                return make()
            finally:
                Image.MAX_IMAGE_PIXELS = pillows


def _check_size(image: Image.Image, limits: Limits) -> None:
    depth = 4 if image.mode in ("I", "F") else 2 if image.mode.startswith("I;16") else 1
    pixel = max(depth * len(image.getbands()), 3)  # whatever it is, it becomes RGB
    limits.check_item(f"decoded, its {image.width}x{image.height} pixels", image.width * image.height * pixel)


def _check_icon(data: bytes, limits: Limits) -> None:
    """Check the sizes of the pictures in an icon: Pillow decodes one on opening, whatever the icon says of its size."""
    for index in range(min(int.from_bytes(data[4:6], "little"), len(data) // 16)):
        start = int.from_bytes(data[18 + 16 * index : 22 + 16 * index], "little")
        header = data[start : start + 24].ljust(24, b"\0")
        is_png = header[:4] == b"\x89PNG"
        width, height = struct.unpack(">II", header[16:]) if is_png else struct.unpack("<ii", header[4:12])
        limits.check_item(f"decoded, its {width}x{height} pixels", 3 * abs(width * height))


def _from_array(data: bytes) -> Image.Image:
    try:
        array = read_npy(data)
    except ValueError as error:
        raise ImageError(f"is no readable NPY file: {error}") from error
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[0] not in (1, 3):
        raise ImageError(f"holds {array.dtype} {array.shape}; an image is uint8 [C, H, W] with 1 or 3 channels")
    return of_pixels(array)


def of_pixels(array: NDArray[np.uint8]) -> Image.Image:
    """The image of pixels `[C, H, W]` of 1 or 3 channels."""
    return Image.fromarray(array[0] if array.shape[0] == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))
