"""Arrays stacked along the first axis of a file: NPY, mapped; NPZ; HDF5, read row by row."""

import functools
import math
import mmap
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unitgain.data.cells import Cell, Wanted, wanted_of
from unitgain.data.fit import ImageError
from unitgain.data.media import ARRAYS, HDF5, NPY, choose_array, hdf5_array, hdf5_names, npy
from unitgain.data.sources.labels import LABEL_COLUMNS, find_column
from unitgain.data.sources.numbering import Label, number
from unitgain.data.sources.source import Indexed, SourceOptions, digest, stamp
from unitgain.data.sources.splits import ALL, SPLIT, RowSplits
from unitgain.extras import require
from unitgain.files import near
from unitgain.npz import npz_names, read_npy, read_npz_member
from unitgain.text import printable
from unitgain.trust import Limits, open_regular, read_regular

SUFFIXES = (".npy", *ARRAYS)
LABEL_NAMES = (*LABEL_COLUMNS, "y")


@dataclass(frozen=True)
class Stack:
    """An array of a file, row by row.

    Attributes:
        shape: rows first.
        dtype: of its values.
        row: the values of a row, by its number; any thread may call it.
        labels: of the rows, where the file has them.
        conditions: what else the rows have, each as `row`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    row: Callable[[int], NDArray[Any]]
    labels: list[Label] | None = None
    conditions: tuple[tuple[Wanted, Callable[[int], NDArray[Any]]], ...] = ()


def is_stack(path: Path, magic: bytes) -> bool:
    """Whether a file holds arrays, by its first bytes, and its name where these are those of any zip archive."""
    return magic[:4] in (NPY[:4], HDF5[:4]) or (magic[:2] == b"PK" and path.suffix.lower() == ".npz")


def open_stacks(
    paths: Sequence[Path], options: SourceOptions, name: str, splits: RowSplits, names: Sequence[str] | None = None
) -> Indexed:
    """The rows of the arrays in files, one after the other.

    Args:
        paths: of the files.
        options: may name the array and the labels in files of several; `labels` may be an NPY file of them.
        name: of the source.
        splits: what the files are called by, as from `choose_files`.
        names: of the files, paths within the folder that they lie in.

    Raises:
        ImportError: if a package is missing.
        ValueError: if one is damaged, holds no array that is meant, several splits and none is chosen, or labels do not
            fit.
    """
    stacks = [open_stack(path, options, splits) for path in paths]
    counts = [stack.shape[0] for stack in stacks]
    starts = np.cumsum([0, *counts])
    rows, left = splits.choose(name)
    files = np.searchsorted(starts, rows, side="right") - 1
    own_rows = rows - starts[files]
    prefixes = [f"{file}/" for file in _short_names(paths, names)] if len(paths) > 1 else [""]
    keys = [f"{prefixes[file]}{row:09d}" for file, row in zip(files.tolist(), own_rows.tolist(), strict=True)]
    own: list[Label] | None = None
    if options.labels is not None:
        own = _read_labels(options.labels, int(starts[-1]))
    elif not options.no_labels:
        own = _joined([stack.labels for stack in stacks], counts)
    labels = [None if own is None else own[row] for row in rows.tolist()]
    numbers, classes, notes = number(labels, keys, name, options.classes)

    def fetch(index: int) -> bytes:
        return npy(stacks[files[index]].row(int(own_rows[index])))

    def cells(index: int) -> tuple[Cell, ...]:
        row = int(own_rows[index])
        return tuple(Cell(wanted, functools.partial(get, row)) for wanted, get in stacks[files[index]].conditions)

    return Indexed(
        kind="stack",
        name=name,
        keys=keys,
        fetch=fetch,
        labels=numbers,
        classes=classes,
        notes=(*notes, *left),
        fingerprint=digest([*map(stamp, paths), options.image_column, classes, numbers]),
        conditioned=tuple(wanted.name for wanted, _ in stacks[0].conditions),
        conditions=cells,
    )


def _short_names(paths: Sequence[Path], names: Sequence[str] | None) -> list[str]:
    """The name of each file, or its path within the folder where others have that name, too."""
    counts = Counter(path.name for path in paths)
    pairs = zip(paths, names or [path.name for path in paths], strict=True)
    return [path.name if counts[path.name] == 1 else name for path, name in pairs]


def _joined(values: Sequence[list[Label] | None], counts: Sequence[int]) -> list[Label] | None:
    """What the rows of files have, None in those without; None if none has any."""
    if all(one is None for one in values):
        return None
    return [value for one, count in zip(values, counts, strict=True) for value in one or [None] * count]


def open_stack(path: Path, options: SourceOptions, splits: RowSplits) -> Stack:
    """The array in a file, and labels beside it; what its rows say of their splits is added to `splits`.

    Raises:
        ImportError: if a package is missing.
        ValueError: if it is damaged, or holds no array that is meant.
    """
    try:
        with open_regular(path) as file:
            magic = file.read(8)
        if magic[:6] == NPY:
            stack = _npy(path, options, splits)
        elif magic == HDF5:
            stack = _hdf5(path, options, splits)
        elif magic[:2] == b"PK":
            stack = _npz(path, options, splits)
        else:
            raise ImageError("is empty" if not magic else "is no NPY, NPZ or HDF5 file")
        if stack.dtype.kind not in "biuf":
            raise ImageError(f"holds {stack.dtype}: whole or floating numbers are expected")
        options.limits.check_item("one of its arrays", stack.dtype.itemsize * math.prod(stack.shape[1:]))
        if stack.labels is not None and len(stack.labels) != stack.shape[0]:
            raise ImageError(f"holds {len(stack.labels)} labels for {stack.shape[0]} arrays")
        return stack
    except (ImageError, ValueError) as error:
        raise ValueError(f"{path} {error}") from error
    except (ImportError, FileNotFoundError):
        raise
    except Exception as error:  # of whatever the libraries make of it
        raise ValueError(f"{path} cannot be read: {printable(error) or type(error).__name__}") from error


def _npy(path: Path, options: SourceOptions, splits: RowSplits) -> Stack:
    named = {"image column": options.image_column, "label column": options.label_column}
    for what, name in named.items():
        if name is not None:
            raise ImageError(f"is one array, which has no name: leave the {what} {name!r} out")
    array = _mapped(path)
    splits.add(path.name, _count(array), lambda: None)
    return Stack(array.shape, array.dtype, array.__getitem__)


def _mapped(path: Path) -> NDArray[Any]:
    with open_regular(path) as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        return read_npy(view)
    except ValueError as error:
        raise ImageError(f"is no readable NPY file: {error}") from error


def _npz(path: Path, options: SourceOptions, splits: RowSplits) -> Stack:
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        read, names = functools.partial(read_npz_member, archive, limits=options.limits), npz_names(archive)
        name, label, split = _columns(names, options)
        array = read(name)
        count = _count(array)
        labels = None if label is None else _as_labels(read(label))
        splits.add(path.name, count, lambda: _splits(split, count, read, _as_labels))
        wanted = [(one, read(one.column)) for one in _wanted(names, options)]
        further = _further(wanted, count, options.limits)
    return Stack(array.shape, array.dtype, array.__getitem__, labels, further)


def _hdf5(path: Path, options: SourceOptions, splits: RowSplits) -> Stack:
    h5py = require("h5py", extra="hdf5")
    file = h5py.File(path, "r")
    names = hdf5_names(file)
    name, label, split = _columns(names, options)
    read = functools.partial(hdf5_array, file, limits=options.limits)
    dataset, read_text = read(name), functools.partial(read, text=True)
    count = _count(dataset)
    texts = functools.partial(_hdf5_labels, limits=options.limits, size=path.stat().st_size)
    labels = None if label is None else texts(read_text(label))
    splits.add(path.name, count, lambda: _splits(split, count, read_text, texts))
    wanted = [(one, read(one.column)) for one in _wanted(names, options)]
    further = _further(wanted, count, options.limits)
    return Stack(dataset.shape, dataset.dtype, dataset.__getitem__, labels, further)


def _count(array: Any) -> int:
    """How many arrays are stacked in one.

    Raises:
        ImageError: if there are none.
    """
    if len(array.shape) < 2 or 0 in array.shape:
        raise ImageError(f"holds one array of shape {array.shape}: arrays are stacked along the first axis")
    return array.shape[0]


def _splits(
    name: str | None, count: int, read: Callable[[str], Any], texts: Callable[[Any], list[Label]]
) -> list[Label] | None:
    """The splits of the rows, None without an array of them.

    Raises:
        ValueError: if it cannot be read, or is not of text or whole numbers, one per row.
    """
    if name is None:
        return None
    try:
        array = read(name)
        if not _are_labels(array, count):
            raise ImageError(f"holds {array.dtype} {array.shape}, where {count} names or whole numbers are expected")
        return texts(array)
    except Exception as error:  # of whatever the libraries make of it
        raise ValueError(f"has an array {name!r} of splits that cannot be read: {printable(error)}") from error


def _hdf5_labels(dataset: Any, limits: Limits, size: int) -> list[Label]:
    """Labels in a file of `size` bytes, which each text in it may be as long as, and all may be the same one."""
    limits.check_item("its labels", dataset.size * dataset.dtype.itemsize)
    _check_labels(dataset)
    if dataset.dtype.kind in "iu":
        return _as_labels(dataset[:])
    labels, total, step = list[Label](), 0, max(limits.max_item_bytes // size, 1)
    for first in range(0, len(dataset), step):
        labels += _as_labels(dataset[first : first + step], first)
        total += sum(len(str(label)) for label in labels[first:])
        limits.check_item("its labels", total)
    return labels


def _columns(names: list[str], options: SourceOptions) -> tuple[str, str | None, str | None]:
    """The names of the array, of its labels and of the splits of its rows, which there may be none of."""
    wanted = options.label_column
    label = find_column(names, (wanted,) if wanted else LABEL_NAMES)
    if wanted and label is None:
        raise ImageError(f"holds no array {wanted!r} of labels, but {printable(', '.join(names[:10]))}")
    split = find_column([name for name in names if name != options.image_column], (SPLIT,))
    taken = {label, split, *(one.column for one in _wanted(names, options))}
    column = choose_array([name for name in names if name not in taken], options.image_column)
    return column, label if options.wants_labels else None, None if options.split == ALL else split


def _wanted(names: list[str], options: SourceOptions) -> list[Wanted]:
    return wanted_of(options.conditions or (), names, "it")


def _further(
    arrays: Sequence[tuple[Wanted, Any]], count: int, limits: Limits
) -> tuple[tuple[Wanted, Callable[[int], NDArray[Any]]], ...]:
    """The rows of further arrays.

    Raises:
        ImageError: if one has not as many rows.
        LimitError: if a row takes more than `limits` allow.
    """
    for wanted, array in arrays:
        if array.shape[:1] != (count,):
            raise ImageError(f"holds {wanted.column!r} of shape {array.shape} for {count} arrays: one value for each")
        limits.check_item(f"a row of {wanted.column!r}", array.dtype.itemsize * math.prod(array.shape[1:]))
    return tuple((wanted, array.__getitem__) for wanted, array in arrays)


def _read_labels(path: Path, count: int) -> list[Label]:
    if path.suffix.lower() != ".npy":
        raise ValueError(f"labels {path}: those of stacked arrays are an NPY file with one for each")
    if not path.exists():
        raise FileNotFoundError(f"no file of labels at {path}{near(path)}")
    try:
        labels = _as_labels(read_npy(read_regular(path, Limits())))
    except (ImageError, ValueError) as error:
        raise ValueError(f"labels {path} cannot be used: {error}") from error
    if len(labels) != count:
        raise ValueError(f"labels {path}: {len(labels)} for {count} arrays")
    return labels


def _as_labels(array: NDArray[Any], first: int = 0) -> list[Label]:
    """One class per row, as a number or a name; rows are numbered from `first` on in messages.

    Raises:
        ImageError: if they are anything else.
    """
    _check_labels(array)
    values = array.reshape(len(array)).tolist()
    for row, value in enumerate(values):
        try:
            values[row] = value.decode() if isinstance(value, bytes) else value
        except UnicodeDecodeError as error:
            raise ImageError(f"has a label that is no text in UTF-8, {value[:40]!r} in row {first + row}") from error
    return values


def _check_labels(array: Any) -> None:
    if not array.shape or not _are_labels(array, array.shape[0]):
        raise ImageError(f"has labels {array.dtype} {array.shape}; one class per array, as a number or a name")


def _are_labels(array: Any, count: int) -> bool:
    return array.shape in ((count,), (count, 1)) and array.dtype.kind in "iuUSO"
