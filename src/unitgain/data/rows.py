"""A picture, latent or array of a source as a row of prepared data, checked; what is wrong with it is in the row."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unitgain.data.arrays import Sample, read_moments, sample_of, signal_length
from unitgain.data.cells import column_of
from unitgain.data.fit import Fit, ImageError, encode_image, fit_image
from unitgain.data.frames import Frame
from unitgain.data.manifest import ConditionColumn, Kind, Shard
from unitgain.data.media import NPY, read_raw
from unitgain.data.numbers import Numbers
from unitgain.data.shards import array_sums, latent_sums
from unitgain.data.sources import Item
from unitgain.size import show_size, sides_of
from unitgain.text import printable
from unitgain.trust import Limits


@dataclass(frozen=True)
class Shape:
    """What a row holds.

    Attributes:
        kind: as in `Manifest`.
        channels: as stored.
        size: sides.
        array: of arrays, what their numbers are.
        conditions: what else there is, as far as it is known.
        empty: names of conditions of which there was a sequence of nothing, as only tokens may be.
    """

    kind: Kind = "image"
    channels: int = 0
    size: tuple[int, ...] = (0, 0)
    array: Numbers | None = None
    conditions: tuple[ConditionColumn, ...] = ()
    empty: frozenset[str] = frozenset()

    def __str__(self) -> str:
        dtype = "" if self.array is None else f", {self.array.dtype}"
        return f"{self.kind} of {self.channels} channels, {show_size(self.size)}{dtype}"

    def differs(self, first: "Shape") -> str:
        """Why it does not go with the first row of a set, in words that follow its name; empty if it does."""
        ours, theirs = self.array or Numbers(), first.array or Numbers()
        if (self.kind, ours.media) != (first.kind, theirs.media):
            return f"is {self}{_of(ours)} where others are {first}{_of(theirs)}: one set holds one kind"
        if len(self.size) != len(first.size):
            return (
                f"has {len(self.size)} dimensions ({show_size(self.size)}) where others have {len(first.size)} "
                f"({show_size(first.size)}): prepare them apart"
            )
        if ours.rate != theirs.rate:
            return (
                f"has {ours.rate:,} samples per second where others have {theirs.rate:,}: resample it, such as by "
                f"ffmpeg -ar {theirs.rate}"
            )
        if self.array is not None and self.channels != first.channels:
            mono = "; --channels 1 mixes stereo to mono" if ours.media == "audio" else ""
            return f"has {self.channels} channels where others have {first.channels}{mono}"
        if ours.dtype != theirs.dtype:
            return f"holds {ours.dtype} where others hold {theirs.dtype}: convert it"
        if (self.channels, self.size) != (first.channels, first.size):
            return f"is {self} where others are {first}: give a resolution"
        known = {column.name: column for column in first.conditions}
        for column in self.conditions:
            other = known.get(column.name, column)
            if (column.shape, column.dtype) != (other.shape, other.dtype):
                image = ", and an image keeps its proportion to what it goes with" if len(column.shape) > 2 else ""
                return (
                    f"has a condition {column.name!r} of {column.dtype}, {column}, where others have {other.dtype}, "
                    f"{other}: all have one shape, but for the number of tokens{image}; mend it, or leave it out"
                )
        for column in (*self.conditions, *first.conditions):
            if not column.tokens and column.name in self.empty | first.empty:
                return f"or another has nothing in a list for the condition {column}: give its numbers, or no value"
        return ""

    def joined(self, other: "Shape") -> "Shape":
        """With the conditions that are known of either."""
        if self.conditions == other.conditions and self.empty >= other.empty:
            return self
        known = {column.name: column for column in (*other.conditions, *self.conditions)}
        return dataclasses.replace(
            self, conditions=tuple(known[name] for name in sorted(known)), empty=self.empty | other.empty
        )


@dataclass(frozen=True)
class Row:
    """What became of a picture or an array.

    Attributes:
        key: its name in the source.
        label: number of its class.
        data: as it is stored; None if it could not be used.
        error: why not.
        shape: what the data are.
        sums: of its values per channel.
        squares: sums of their squares.
        enlarged: whether it had to be enlarged.
        conditions: the bytes of what else there is, by name; none of what is missing.
        layout_told: whether its file is of a kind that says what its axes are.
    """

    key: str
    label: int | None
    data: bytes | None = None
    error: str = ""
    shape: Shape = Shape()
    sums: tuple[float, ...] = ()
    squares: tuple[float, ...] = ()
    enlarged: bool = False
    conditions: Mapping[str, bytes] = field(default_factory=dict)
    layout_told: bool = False


def shape_of(shard: Shard) -> Shape:
    """Of the rows in a shard."""
    assert shard.resolution is not None, "it has rows"
    channels = len(shard.sums) * (2 if shard.kind == "latent" else 1)
    return Shape(shard.kind, channels, sides_of(shard.resolution), shard.array, shard.conditions)


def fit_item(item: Item, fit: Fit, limits: Limits, column: str | None = None, allow_missing: bool = False) -> Row:
    """A picture or an array as a row; what is wrong with it is in the row.

    Args:
        item: of the source.
        fit: what becomes of it.
        limits: what it may take.
        column: name of the array, where its file may hold several.
        allow_missing: whether a condition may have no value.

    Raises:
        ImportError: if a package is missing.
    """
    row, frame = _fitted(item, fit, limits, column)
    return row if frame is None or not item.conditions else _with_conditions(row, frame, item, limits, allow_missing)


def _fitted(item: Item, fit: Fit, limits: Limits, column: str | None) -> tuple[Row, Frame | None]:
    """The row, and what became of its sides; None if it could not be used."""
    try:
        data = item.load()
        raw = read_raw(data, item.key, limits, column, signal_length(fit))
        if raw is not None and data[:6] == NPY and (moments := read_moments(raw.array, fit)) is not None:
            return _latent_row(item, moments), Frame(moments.shape[1:], moments.shape[1:], fit)
        sample = data if raw is None else sample_of(raw, fit)
        told = raw is None or raw.media != "array"
        if isinstance(sample, Sample):
            frame = Frame(sample.before, sample.array.shape[1:], fit, layout=sample.layout)
            return dataclasses.replace(_array_row(item, sample), layout_told=told), frame
        image, enlarged, before = fit_image(sample, fit, limits)
        frame = Frame(before, (image.height, image.width), fit, pixels=True, layout=fit.layout)
        return dataclasses.replace(_image_row(item, image, enlarged, fit), layout_told=told), frame
    except ImageError as error:
        return Row(item.key, item.label, error=str(error)), None
    except ImportError:
        raise
    except Exception as error:  # such as a MemoryError: one picture may not end the job of all
        why = f"cannot be used: {type(error).__name__} {printable(error)}".rstrip()
        return Row(item.key, item.label, error=why), None


def _with_conditions(row: Row, frame: Frame, item: Item, limits: Limits, allow_missing: bool) -> Row:
    columns, empty, found = list[ConditionColumn](), list[str](), dict[str, bytes]()
    try:
        for cell in item.conditions:
            name, value = cell.wanted.name, cell.read(limits, frame)
            if value is None and not allow_missing:
                raise ImageError(
                    f"has no value of the condition {name!r}: fill it in, or take it as absent with --allow-missing"
                )
            found[name] = b"" if value is None else value.array.tobytes()
            if value is not None and value.array.size:
                columns.append(column_of(name, value))
            elif value is not None:
                empty.append(name)
        shape = dataclasses.replace(row.shape, conditions=tuple(columns), empty=frozenset(empty))
        return dataclasses.replace(row, shape=shape, conditions=found)
    except (ImageError, ValueError) as error:
        return Row(item.key, item.label, error=str(error))


def check_heeded(row: Row, fit: Fit, conditioned: bool) -> None:
    """Check that all that is asked of a row counts for it.

    Args:
        row: one that can be used.
        fit: what is asked.
        conditioned: whether it has conditions, which may be pictures or arrays where it is none.

    Raises:
        ValueError: naming what would be ignored, and why.
    """
    idle = {
        f"--fit {fit.fit}": (fit.fit != "crop" and fit.resolution is None, "it keeps its size without --resolution"),
        f"--layout {fit.layout}": (
            fit.layout is not None and row.layout_told and (fit.layout == "latents" or not conditioned),
            "its file says what its axes are",
        ),
    }
    if row.shape.kind != "image":
        why = f"it is no picture but {row.shape}"
        idle[f"--format {fit.format}"] = fit.format != "png", why
        idle[f"--background {fit.background}"] = fit.background != "white" and not conditioned, why
    for option, (ignored, why) in idle.items():
        if ignored:
            raise ValueError(f"{option} would be ignored: {row.key}: {why}; leave it out")


def sum_rows(rows: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """The sum of sums per channel, in the order of rows."""
    return tuple(np.array(rows, dtype=np.float64).sum(axis=0).tolist()) if rows else ()


def _image_row(item: Item, image: Image.Image, enlarged: bool, fit: Fit) -> Row:
    counts = np.array(image.histogram(), dtype=np.int64).reshape(-1, 256)
    return Row(
        item.key,
        item.label,
        encode_image(image, fit.format),
        shape=Shape("image", len(counts), (image.height, image.width)),
        sums=tuple((counts @ np.arange(256)).tolist()),
        squares=tuple((counts @ np.arange(256) ** 2).tolist()),
        enlarged=enlarged,
    )


def _latent_row(item: Item, moments: NDArray[np.float32]) -> Row:
    sums, squares = latent_sums(moments[None])
    shape = Shape("latent", moments.shape[0], moments.shape[1:])
    return Row(item.key, item.label, moments.tobytes(), shape=shape, sums=sums, squares=squares)


def _array_row(item: Item, sample: Sample) -> Row:
    array = sample.array
    sums, squares = array_sums(array[None])
    shape = Shape("array", array.shape[0], array.shape[1:], sample.numbers)
    assert math.prod(array.shape) > 0
    return Row(item.key, item.label, array.tobytes(), shape=shape, sums=sums, squares=squares)


def _of(numbers: Numbers) -> str:
    return "" if numbers.media == "array" else f" ({numbers.media})"
