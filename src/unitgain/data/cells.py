"""Values of conditions, as tables and files have them: numbers, lists, or files of arrays and pictures beside them.

Which condition a column is: `NAME`, `NAME=COLUMN`, or with what its values are, `NAME=COLUMN:KIND`.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unitgain.data.fit import ImageError, decode_flat
from unitgain.data.frames import Frame
from unitgain.data.manifest import ConditionColumn
from unitgain.data.media import read_raw
from unitgain.data.settings import BY_DIMENSIONS, ConditionKind, dimensions_of, known_kind
from unitgain.serial import suggest
from unitgain.size import show_size
from unitgain.text import one_line
from unitgain.trust import Limits, read_regular

USUAL = ("vector", "condition", "tokens")  # columns that are conditions without being named
EXPECTED = "numbers, lists of numbers, or a file of an array or a picture are expected"
Files = Callable[[str], bytes]


@dataclass(frozen=True)
class Wanted:
    """A condition that is asked for.

    Attributes:
        name: of the condition.
        column: of the table, or array of the file, that holds its values.
        kind: what these are; None where they tell it.
    """

    name: str
    column: str
    kind: ConditionKind | None = None


@dataclass(frozen=True)
class Value:
    """A value of a condition.

    Attributes:
        array: float32 or, of pixels, uint8; of an image `[C, *size]`.
        kind: what it is.
    """

    array: NDArray[Any]
    kind: ConditionKind


@dataclass(frozen=True)
class Cell:
    """A value that is read when it is asked for.

    Attributes:
        wanted: the condition.
        get: what the table holds; any thread may call it.
        files: the bytes of a file that the value is the path of; None where there are no files.
    """

    wanted: Wanted
    get: Callable[[], Any]
    files: Files | None = None

    def read(self, limits: Limits, frame: Frame) -> Value | None:
        """The value; None if there is none.

        Args:
            limits: what it may take.
            frame: of the picture or array that it goes with: what became of that becomes of an image.

        Raises:
            ImageError: if it cannot be used; the message says why, and names the condition.
        """
        try:
            value = _value(self.get(), self.wanted.kind, self.files, limits, frame)
            if value is None or value.kind != "image":
                return value
            return Value(np.ascontiguousarray(frame.same_of(value.array)), "image")
        except ImageError as error:
            raise ImageError(f"has a condition {self.wanted.name!r} that cannot be used: it {error}") from error
        except (OSError, ValueError) as error:
            raise ImageError(f"has a condition {self.wanted.name!r} that cannot be read: {error}") from error


def files_below(root: Path, limits: Limits) -> Files:
    """Reads files by their paths in a folder, and none out of it."""
    return lambda name: read_regular(root / name, limits, below=root)


def wanted_of(asked: Sequence[str] | None, columns: Sequence[str], where: str) -> list[Wanted]:
    """The conditions of a table.

    Args:
        asked: as `NAME=COLUMN:KIND`; None for those columns that are called vector, condition or tokens.
        columns: that there are.
        where: the table, for messages.

    Raises:
        ValueError: if a name or a kind is none, or a column is not there.
    """
    if asked is None:
        return [Wanted(name, name) for name in USUAL if name in columns]
    found = parse_all(asked)
    for text, one in zip(asked, found, strict=True):
        if one.column not in columns:
            raise ValueError(
                f"condition {text!r}: {where} has no column {one.column!r}; {suggest(one.column, columns)}"
            )
    return found


def parse_all(asked: Sequence[str]) -> list[Wanted]:
    """Conditions that are asked for, each as in `parse_wanted`.

    Raises:
        ValueError: if the name or the kind of one is none, or two have one name.
    """
    found = [parse_wanted(text) for text in asked]
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise ValueError(f"conditions {', '.join(asked)}: two have one name")
    return found


def parse_wanted(text: str) -> Wanted:
    """A condition that is asked for as `NAME`, `NAME=COLUMN`, `NAME:KIND` or `NAME=COLUMN:KIND`.

    Raises:
        ValueError: if the name or the kind is none.
    """
    name, _, rest = text.partition("=")
    column, _, kind = (rest or name).rpartition(":") if ":" in text else (rest or name, "", "")
    name = name.partition(":")[0]
    check_column(name)
    return Wanted(name, column, known_kind(kind, text))


def check_column(name: str) -> None:
    """Raise `ValueError` if a condition of prepared data cannot be called so."""
    from unitgain.arch.conditions import check_name  # brings torch

    check_name(name)
    if name == "key":
        raise ValueError("a condition named 'key', which is the name of a row in its source: take another name")


def column_of(name: str, value: Value) -> ConditionColumn:
    """What the values of a condition are, by one of them."""
    shape: tuple[int | None, ...] = value.array.shape
    shape = (None, *shape[1:]) if value.kind == "tokens" else shape
    return ConditionColumn(name=name, shape=shape, dtype="uint8" if value.array.dtype == np.uint8 else "float32")


def _value(value: Any, kind: ConditionKind | None, files: Files | None, limits: Limits, frame: Frame) -> Value | None:
    if isinstance(value, str):
        value = parse_cell(value.strip())
    if isinstance(value, dict):  # as the datasets library has files: bytes, and a path
        if not value.keys() & {"bytes", "path"}:
            raise ImageError(f"is an object of {one_line(', '.join(map(str, value)))[:100]}: {EXPECTED}")
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    name = ""
    if isinstance(value, str):
        if files is None:
            raise ImageError(f"is text, {one_line(value)[:100]!r}, where no files are: numbers, or lists of them")
        try:
            name, value = value, files(value)
        except FileNotFoundError as error:
            raise ImageError(
                f"is text, {one_line(value)[:100]!r}, and no such file is there: numbers, lists of them, or paths of "
                "files; text has to be embedded first, or leave the condition out"
            ) from error
    if isinstance(value, bytes):
        array, kind = _of_file(value, name, kind, limits, frame)
    else:
        array, kind = _arranged(_of_numbers(value), kind, frame)
    limits.check_item("it", array.nbytes)
    return Value(_checked(array, kind, frame), kind)


def parse_cell(text: str) -> Any:
    """What is in a cell of text: nothing, numbers, lists of them, or a path."""
    if not text:
        return None
    try:
        number = json.loads(text) if text[0] in "[-0123456789." else text
    except (ValueError, RecursionError):
        return text
    return number if isinstance(number, list | int | float) else text


def path_of(cell: Any) -> str | None:
    """The path of the file that a cell names; None if it holds something else."""
    if isinstance(cell, Mapping):  # as the datasets library has files
        cell = cell.get("path") if cell.get("bytes") is None else None
    text = cell.strip() if isinstance(cell, str) else ""
    value = None if text[:1] == "[" and text[-1:] == "]" else parse_cell(text)  # long lists are parsed once, when read
    return value if isinstance(value, str) else None


def _of_file(
    data: bytes, name: str, kind: ConditionKind | None, limits: Limits, frame: Frame
) -> tuple[NDArray[Any], ConditionKind]:
    """What a file holds, and what that is: pictures, audio and volumes say what their axes are, and are images."""
    raw = read_raw(data, name, limits, empty=True)
    if raw is not None and raw.layout is None:
        return _arranged(raw.array, kind, frame)
    if raw is None:
        array = np.asarray(decode_flat(data, frame.fit, limits))
        layout = "no-channels" if array.ndim == 2 else "channels-last"
    else:
        array, layout = raw.array, raw.layout
    return np.moveaxis(array, -1, 0) if layout == "channels-last" else array[None], kind or "image"


def _arranged(array: NDArray[Any], kind: ConditionKind | None, frame: Frame) -> tuple[NDArray[Any], ConditionKind]:
    """An array that does not say what its axes are, and what it is: those of an image are as in what it goes with."""
    if kind is None and not array.size and array.ndim == 1:
        kind = "tokens"  # none
    told = kind or (BY_DIMENSIONS[array.ndim] if array.ndim < len(BY_DIMENSIONS) else "image")
    if told != "image" or array.ndim > len(frame.before) + 1:
        return array, told
    if array.ndim == len(frame.before):
        return array[None], told
    return np.moveaxis(array, -1, 0) if frame.layout == "channels-last" else array, told


def _of_numbers(value: Any) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except ValueError as error:
        lengths = sorted({len(one) for one in value if isinstance(one, list)}) if isinstance(value, list) else []
        raise ImageError(f"is ragged, with rows of {lengths} numbers: each token has as many") from error


def _checked(array: NDArray[Any], kind: ConditionKind, frame: Frame) -> NDArray[Any]:
    if not array.size and kind == "tokens" and array.ndim <= 2:
        return np.zeros((0, array.shape[1] if array.ndim == 2 else 0), np.float32)
    if array.dtype.kind not in "biuf":
        raise ImageError(f"holds {array.dtype}: {EXPECTED}")
    if array.ndim != dimensions_of(kind, len(frame.before)):
        why = f", which no {kind} has"
        if kind == "image":
            why = ": beside channels, which come first, an image has as many sides as what it goes with, which is "
            why += show_size(frame.before)
        raise ImageError(f"has the shape {array.shape}{why}")
    if not array.size:
        raise ImageError(f"has the shape {array.shape}, with nothing in it: at least one number is expected")
    pixels = kind == "image" and array.dtype == np.uint8
    array = np.ascontiguousarray(array, dtype="u1" if pixels else "<f4").reshape(array.shape)
    if not np.isfinite(array).all():
        raise ImageError("holds values that are NaN or infinite")
    return array
