"""Values of conditions, as tables and files have them: numbers, lists, or files of arrays and pictures beside them.

Which condition a column is: `NAME`, `NAME=COLUMN`, or with what its values are, `NAME=COLUMN:KIND`.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from unitgain.data.fit import ImageError, decode
from unitgain.data.manifest import ConditionColumn
from unitgain.data.media import read_raw
from unitgain.serial import suggest
from unitgain.text import one_line
from unitgain.trust import Limits, read_regular

CellKind = Literal["scalar", "vector", "image", "tokens"]
USUAL = ("vector", "condition", "tokens")  # columns that are conditions without being named
Files = Callable[[str], bytes]
BY_DIMENSIONS: tuple[CellKind, ...] = ("scalar", "vector", "tokens")
DIMENSIONS = {"scalar": (0,), "vector": (1,), "image": (2, 3, 4), "tokens": (2,)}


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
    kind: CellKind | None = None


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

    def read(self, limits: Limits) -> NDArray[Any] | None:
        """The value, float32 or, of pictures, uint8 `[C, H, W]`; None if there is none.

        Raises:
            ImageError: if it cannot be used; the message says why, and names the condition.
        """
        try:
            return _value(self.get(), self.wanted.kind, self.files, limits)
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
    found = [parse_wanted(text) for text in asked]
    for text, one in zip(asked, found, strict=True):
        if one.column not in columns:
            raise ValueError(
                f"condition {text!r}: {where} has no column {one.column!r}; {suggest(one.column, columns)}"
            )
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
    if kind and kind not in get_args(CellKind):
        raise ValueError(f"condition {text!r}: unknown kind {kind!r}; {suggest(kind, get_args(CellKind))}")
    return Wanted(name, column, kind or None)  # type: ignore[arg-type]


def check_column(name: str) -> None:
    """Raise `ValueError` if a condition of prepared data cannot be called so."""
    from unitgain.arch.conditions import check_name  # brings torch

    check_name(name)
    if name == "key":
        raise ValueError("a condition named 'key', which is the name of a row in its source: take another name")


def column_of(name: str, value: NDArray[Any], kind: CellKind | None) -> ConditionColumn:
    """What the values of a condition are, by one of them."""
    tokens = kind == "tokens" or (kind is None and value.ndim == 2)
    shape: tuple[int | None, ...] = (None, *value.shape[1:]) if tokens else value.shape
    return ConditionColumn(name=name, shape=shape, dtype="uint8" if value.dtype == np.uint8 else "float32")


def _value(value: Any, kind: CellKind | None, files: Files | None, limits: Limits) -> NDArray[Any] | None:
    if isinstance(value, str):
        value = parse_cell(value.strip())
    if isinstance(value, dict):  # as the datasets library has files: bytes, and a path
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
    array = _of_file(value, name, kind, limits) if isinstance(value, bytes) else _flat(_of_numbers(value), kind)
    limits.check_item("it", array.nbytes)
    return _checked(array, kind)


def parse_cell(text: str) -> Any:
    """What is in a cell of text: nothing, numbers, lists of them, or a path."""
    if not text:
        return None
    try:
        number = json.loads(text) if text[0] in "[-0123456789." else text
    except (ValueError, RecursionError):
        return text
    return number if isinstance(number, list | int | float) else text


def _of_file(data: bytes, name: str, kind: CellKind | None, limits: Limits) -> NDArray[Any]:
    """What a file holds, channels first where it says what its axes are: pictures, audio and volumes do."""
    raw = read_raw(data, name, limits)
    if raw is not None and raw.layout is None:
        return _flat(raw.array, kind)
    if raw is None:
        image = decode(data, limits)
        array = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
        layout = "no-channels" if array.ndim == 2 else "channels-last"
    else:
        array, layout = raw.array, raw.layout
    return np.moveaxis(array, -1, 0) if layout == "channels-last" else array[None]


def _flat(array: NDArray[Any], kind: CellKind | None) -> NDArray[Any]:
    """An array that does not say what its axes are: as an image, one of two has one channel."""
    return array[None] if kind == "image" and array.ndim == 2 else array


def _of_numbers(value: Any) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except ValueError as error:
        lengths = sorted({len(one) for one in value if isinstance(one, list)}) if isinstance(value, list) else []
        raise ImageError(f"is ragged, with rows of {lengths} numbers: each token has as many") from error


def _checked(array: NDArray[Any], kind: CellKind | None) -> NDArray[Any]:
    if not array.size and array.ndim <= 2 and kind in (None, "tokens"):
        array = np.zeros((0, array.shape[1] if array.ndim == 2 else 0), np.float32)  # no tokens
    if array.dtype.kind not in "biuf":
        raise ImageError(f"holds {array.dtype}: numbers, lists of numbers, or a file of an array or a picture")
    told = kind or (BY_DIMENSIONS[array.ndim] if array.ndim < len(BY_DIMENSIONS) else "image")
    if array.ndim not in DIMENSIONS[told]:
        raise ImageError(f"has the shape {array.shape}, which no {told} has")
    pixels = told == "image" and array.dtype == np.uint8
    array = np.ascontiguousarray(array, dtype="u1" if pixels else "<f4").reshape(array.shape)
    if not np.isfinite(array).all():
        raise ImageError("holds values that are NaN or infinite")
    return array
