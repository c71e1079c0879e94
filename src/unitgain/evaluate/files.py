"""Files of images or arrays to measure, decoded a few at a time ahead of their use."""

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Shaped
from numpy.typing import NDArray
from torch import Tensor

from unitgain.data.arrays import OTHERS, Sample, read_moments, sample_of
from unitgain.data.fit import Fit, ImageError, decode_flat
from unitgain.data.images import from_image
from unitgain.data.media import NPY, Raw, read_raw
from unitgain.data.settings import Layout
from unitgain.data.sources import Indexed, Item
from unitgain.data.workers import cores, in_order
from unitgain.metrics.detectors import Scale, are_pictures
from unitgain.metrics.record import Source
from unitgain.metrics.summary import PIXELS, as_seen, tile_of
from unitgain.text import printable
from unitgain.trust import DEFAULT_LIMITS, LimitError, Limits

READERS = 8  # threads, where there are as many cores
WAITING = 3 * PIXELS  # bytes of a picture that is decoded ahead of its turn


class FileImages:
    """Encoded images or arrays, decoded a few at a time ahead of their use.

    Args:
        files: where they are.
        source: what they are.
        layout: of arrays in NPY files; told from their shapes by default.
        scratch: what `files` has unpacked, which goes with this object.

    Raises:
        ImportError: if they need a package that is missing.
    """

    def __init__(
        self,
        files: Indexed,
        source: Source,
        *,
        layout: Layout | None = None,
        scratch: tempfile.TemporaryDirectory | None = None,
    ) -> None:
        self.files, self.source, self._scratch = files, source, scratch
        self.layout: Layout | None = layout
        self.scale: Scale | None = None
        self.arrays = self._arrays()

    def __len__(self) -> int:
        return len(self.files)

    def _arrays(self) -> bool:
        """Whether these are arrays, by the first of them."""
        try:
            return not are_pictures(self._decode(self.files.item(0), self.files.options.limits)[None])
        except ImageError:  # which is said when it is its turn
            return False

    def batches(self, numbers: Sequence[int]) -> Iterator[Shaped[Tensor, "n c *size"]]:
        """As in `Images`.

        Raises:
            ImageError: if one cannot be read, or is an array among pictures or the other way; the message names it.
        """
        waiting: list[Tensor] = []
        images = in_order(self._ahead, map(self.files.item, numbers), min(cores(), READERS))
        for number, image in zip(numbers, images, strict=True):
            whole = self._decode(image, self.files.options.limits) if isinstance(image, Item) else image
            if self.arrays == are_pictures(whole[None]):
                mixed = "a picture among arrays" if self.arrays else "an array among pictures"
                raise ImageError(f"{self.source.name}: {self.files.keys[number]} is {mixed}: measure them apart")
            most = tile_of(whole.shape[1:])
            if waiting and (len(waiting) >= most or whole.shape != waiting[0].shape):
                yield torch.stack(waiting)
                waiting = []
            if most == 1:
                yield whole[None]  # without a copy
            else:
                waiting.append(whole)
            del image, whole  # before the next one, which may be as large
        if waiting:
            yield torch.stack(waiting)

    def _ahead(self, item: Item) -> Tensor | Item:
        """A picture, or one that would take too much of the memory while it waits, to be decoded later."""
        limits = self.files.options.limits
        try:
            return self._decode(item, dataclasses.replace(limits, max_item_bytes=min(WAITING, limits.max_item_bytes)))
        except ImageError as error:
            if isinstance(error.__cause__, LimitError):
                return item
            raise

    def _decode(self, item: Item, limits: Limits) -> Tensor:
        try:
            return decode(item.load(), limits, name=item.key, layout=self.layout, column=self.files.array_name)
        except ImportError:
            raise
        except ImageError as error:
            raise ImageError(f"{self.source.name}: {item.key} {error}") from error.__cause__
        except Exception as error:  # such as a MemoryError
            why = f"cannot be used: {type(error).__name__} {printable(error)}".rstrip()
            raise ImageError(f"{self.source.name}: {item.key} {why}") from error


def decode(
    data: bytes,
    limits: Limits = DEFAULT_LIMITS,
    *,
    name: str = "",
    layout: Layout | None = None,
    column: str | None = None,
) -> Tensor:
    """A picture as `unitgain data prepare` reads it: upright, on white, 8 bits; 1 channel if it is grey, 3 otherwise.

    Also the whole of an array, of audio or of a volume, `[C, *size]`, as `as_seen` has them.

    Args:
        data: the bytes of the file.
        limits: what it may take.
        name: of the file.
        layout: of an array, where its file does not say it; told from its shape by default.
        column: of the array, where a file holds several.

    Raises:
        ImageError: if it cannot be decoded, or is larger than `limits` allow.
        ImportError: if a package is missing.
    """
    raw = read_raw(data, name, limits, column)
    if raw is None:
        return from_image(decode_flat(data, Fit(resolution=None), limits))
    sample = _sample(raw, layout, data[:6] == NPY)
    if not isinstance(sample, Sample):
        return torch.from_numpy(sample.copy())
    try:
        limits.check_item("its numbers, as float32,", 4 * sample.array.size)
    except LimitError as error:
        raise ImageError(str(error)) from error
    return as_seen(torch.from_numpy(sample.array.copy())[None])[0]


def _sample(raw: Raw, layout: Layout | None, npy: bool) -> Sample | NDArray[np.uint8]:
    """The array of a file, or the pixels of one that is a picture."""
    whole = Fit(resolution=None, layout=layout)
    try:
        if npy and read_moments(raw.array, whole) is not None:
            raise ImageError("holds latents: decode them to images first")
        return sample_of(raw, whole)
    except ImageError as error:
        remedy = " to unitgain data prepare, and measure what that makes" if OTHERS in str(error) else ""
        raise ImageError(f"{error}{remedy}") from error.__cause__
