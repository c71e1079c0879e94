"""What becomes of the sides of a picture or an array, and the same of an image that it is told of.

An image that a network is told shows what the picture shows that it goes with. Where that is cropped, padded or
resized, so is the other, and keeps its proportion to it: a picture of 256x256 and one of 64x64 become 64x64 and 16x16.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unitgain.data.fit import Fit, ImageError, of_pixels, resize
from unitgain.data.settings import Layout
from unitgain.size import show_size


@dataclass(frozen=True)
class Span:
    """What is kept of a side.

    Attributes:
        start: where it begins.
        length: of the result.
        border: what is added before it.
    """

    start: int
    length: int
    border: int


def spans(size: Sequence[int], wanted: Sequence[int]) -> list[Span]:
    """What is kept of the sides of an array: of signals the beginning, of all others the middle."""
    centred = len(size) > 1
    return [
        Span(max(side - want, 0) // 2 * centred, want, max(want - side, 0) // 2 * centred)
        for side, want in zip(size, wanted, strict=True)
    ]


def cut(array: NDArray[Any], kept: Sequence[Span]) -> NDArray[Any]:
    """An array `[C, *size]` cut, and padded with zeros, to what is kept."""
    part = array[(slice(None), *(slice(span.start, span.start + span.length) for span in kept))]
    sides = zip(kept, part.shape[1:], strict=True)
    return np.pad(part, [(0, 0), *((span.border, span.length - span.border - side) for span, side in sides)])


@dataclass(frozen=True)
class Frame:
    """What became of the sides of a picture or an array.

    Attributes:
        before: the sides in its file, upright.
        after: as it is stored.
        fit: what made these of those.
        pixels: whether it is a picture, which is resized, rather than an array, which is cut and padded.
        layout: of arrays; None for channels first.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    fit: Fit
    pixels: bool = False
    layout: Layout | None = None

    def same_of(self, image: NDArray[Any]) -> NDArray[Any]:
        """What becomes of an image `[C, *smaller]` that goes with it.

        Raises:
            ImageError: if it is larger, of another shape than a picture that is resized, or would have to be cut
                between its values.
        """
        size = image.shape[1:]
        if self.pixels and _lies(size) == -_lies(self.before) != 0:
            raise ImageError(
                f"is {show_size(size)} where its picture is {show_size(self.before)} when it is upright: turn it, too"
            )
        if any(side > most for side, most in zip(size, self.before, strict=True)):
            raise ImageError(
                f"is {show_size(size)}, larger than the {show_size(self.before)} of what it goes with: make it smaller"
            )
        if self.before == self.after:
            return image
        return self._resized(image) if self.pixels else cut(image, self._spans(size))

    def _resized(self, image: NDArray[Any]) -> NDArray[Any]:
        size = image.shape[1:]
        change = f"its picture is brought from {show_size(self.before)} to {show_size(self.after)}"
        if image.dtype != np.uint8:
            raise ImageError(
                f"holds {image.dtype} numbers, which are not resized, where {change}: bring both to their size before"
            )
        scale = Fraction(max(size), max(self.before))
        if any(abs(side - scale * whole) >= 1 for side, whole in zip(size, self.before, strict=True)):
            raise ImageError(
                f"is {show_size(size)}, of another shape than its picture, where {change}: give it the same shape, so "
                "that it can be cut as that is, or bring both to their size before"
            )
        fit = dataclasses.replace(self.fit, resolution=tuple(max(round(side * scale), 1) for side in self.after))
        parts = [image] if len(image) in (1, 3) else [plane[None] for plane in image]
        planes = [np.atleast_3d(np.asarray(resize(of_pixels(part), fit)[0])) for part in parts]
        return np.concatenate(planes, axis=2).transpose(2, 0, 1)

    def _spans(self, size: tuple[int, ...]) -> list[Span]:
        """What is kept of a smaller array."""
        kept = list[Span]()
        for side, whole, span in zip(size, self.before, spans(self.before, self.after), strict=True):
            if span == Span(0, whole, 0):
                kept.append(Span(0, side, 0))
                continue
            scales = _scales(side, whole)
            fitting = [(scale, own) for scale in scales if (own := _at_scale(span, scale)) is not None]
            fitting = [(scale, own) for scale, own in fitting if scale * whole == side] or fitting
            if len({own for _, own in fitting}) > 1:
                times = " or in ".join(str(scale.denominator) for scale, _ in fitting)
                raise ImageError(
                    f"is {show_size(size)}, and {side} of {whole} may be one in {times}, rounded: choose another "
                    "--resolution, or cut both before"
                )
            if not fitting:
                raise ImageError(
                    f"is {show_size(size)}, and would be cut between its values where what it goes with is brought "
                    f"from {show_size(self.before)} to {show_size(self.after)}: choose another --resolution, or cut "
                    "both before"
                )
            kept.append(fitting[0][1])
        return kept


def _scales(side: int, whole: int) -> list[Fraction]:
    """By what a side may have been made smaller: one in so many, rounded up or down; else by the ratio as it is."""
    near = range(max(whole // (side + 1), 1), whole // max(side - 1, 1) + 2)  # one in 80 of 8,074 are 100, or 101
    return [Fraction(1, times) for times in near if abs(Fraction(whole, times) - side) < 1] or [Fraction(side, whole)]


def _at_scale(span: Span, scale: Fraction) -> Span | None:
    """The same of fewer values, if it is whole."""
    own = [scale * value for value in (span.start, span.length, span.border)]
    return Span(*map(int, own)) if all(value.denominator == 1 for value in own) else None


def _lies(size: Sequence[int]) -> int:
    """1 of a picture that is wider than high, -1 of one that is higher than wide, 0 of a square."""
    return (size[1] > size[0]) - (size[1] < size[0])
