"""Parquet files with a column of pictures."""

import itertools
import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unitgain.data.cells import Cell, files_below, wanted_of
from unitgain.data.sources.columns import (
    Table,
    check_labels,
    fail,
    features_of,
    find_columns,
    named_values,
    names_of,
    picture_bytes,
    split_column,
    take_rows,
)
from unitgain.data.sources.lines import check_columns
from unitgain.data.sources.numbering import LONGEST_LABEL, Label, Told, by_name, number
from unitgain.data.sources.pages import page_sizes
from unitgain.data.sources.paths import Stamp, stamps_of
from unitgain.data.sources.source import SourceOptions, digest, stamp
from unitgain.data.sources.splits import RowSplits
from unitgain.extras import require
from unitgain.text import printable
from unitgain.trust import LimitError, Limits, open_regular

ROWS = 32  # at a time, where they are small
LABELS = 8192


def open_parquet(paths: Sequence[Path], options: SourceOptions, splits: RowSplits) -> Table:
    """Parquet files with a column of pictures (bytes, or a struct of bytes and path) and perhaps one of labels.

    Args:
        paths: of the files.
        options: may name columns, and a split, which rows tell in the column `split`.
        splits: what the files are called by, as from `choose_files`.

    Raises:
        ImportError: if pyarrow is missing.
        ValueError: if one is damaged, there is no such column, several splits and none is chosen, or labels do not fit.
    """
    name = str(paths[0]) if len(paths) == 1 else f"{paths[0].parent} ({len(paths)} files)"
    scan = _Scan(paths, name, options, splits)
    column, label_column = scan.columns
    numbers, left = splits.choose(name)
    places = scan.places[numbers]
    keys = [f"{paths[file].name}/{row:09d}" for file, row in zip(places[:, 0].tolist(), numbers.tolist(), strict=True)]
    labels, classes, notes = scan.number(numbers, keys, name, options.classes)
    ordered = [labels] if options.classes and any(one.names for one in scan.told) else []
    rows = _Rows(paths, column, options.limits)
    told = [(one, _Rows(paths, one.column, options.limits)) for one in scan.wanted]

    def fetch(index: int) -> bytes:
        file, group, row = places[index].tolist()
        return picture_bytes(rows.at(file, group, row).as_py(), paths[file].parent, options.limits)

    def cells(index: int) -> tuple[Cell, ...]:
        file, group, row = places[index].tolist()
        files = files_below(paths[file].parent, options.limits)
        return tuple(Cell(one, _getter(column, file, group, row), files) for one, column in told)

    return Table(
        kind="parquet",
        name=name,
        keys=keys,
        fetch=fetch,
        parts=lambda: _parts(paths, column, places, options.limits),
        labels=labels,
        classes=classes,
        notes=(*notes, *left),
        fingerprint=digest([*map(stamp, paths), column, label_column, classes, *ordered]),
        stamps=lambda: _stamps(paths, column, [one.column for one in scan.wanted], options.limits),
        conditioned=tuple(one.name for one in scan.wanted),
        conditions=cells,
    )


class _Scan:
    """What is read of all rows of some files.

    Attributes:
        columns: of pictures and labels, as from `find_columns`, by the first file.
        wanted: the conditions, likewise.
        places: int64 [rows, 3]: file, row group, and row in it.
        told: of each file what it says of classes; none without a column.

    Raises:
        ValueError: as of `open_parquet`.
    """

    def __init__(self, paths: Sequence[Path], name: str, options: SourceOptions, splits: RowSplits) -> None:
        places = list[NDArray[np.int64]]()
        self.told = list[Told]()
        for index, path in enumerate(paths):
            with _whole(path):
                table = _open(path)
                groups, schema = _groups(path, table)
                check_columns(schema.names, str(path))
                if not index:
                    self.columns = find_columns(schema, features_of(schema, name), name, options)[:2]
                    self.wanted = wanted_of(options.conditions, schema.names, name)
                self._check(schema, path)
                if label := self.columns[1]:
                    names = names_of(features_of(schema, str(path)), label, str(path))
                    self.told.append(Told(str(path), _labels(path, table, label, options.limits), names))
                splits.add(path.name, sum(groups), partial(_splits, path, table, schema, options))
            places += [_places(index, group, rows) for group, rows in enumerate(groups)]
        if not places:
            raise ValueError(f"{name} holds no rows")
        self.places = np.concatenate(places)

    def number(
        self, rows: NDArray[np.int64], keys: Sequence[str], name: str, classes: Sequence[str] | None
    ) -> tuple[NDArray[np.int64] | None, tuple[str, ...] | None, tuple[str, ...]]:
        """Labels of these rows, classes, and notes, as from `unitgain.data.sources.numbering.number`."""
        if not self.told:
            return None, None, ()
        told, start = list[Told](), 0
        for one in self.told:
            first, end = np.searchsorted(rows, (start, start + len(one.labels)))
            own = [one.labels[row] for row in (rows[first:end] - start).tolist()]
            told.append(Told(one.where, own, one.names))
            start += len(one.labels)
        each, names = by_name(told)
        return number(list(itertools.chain.from_iterable(each)), keys, name, classes, names)

    def _check(self, schema: Any, path: Path) -> None:
        """Raise unless a file has the columns that the first one has, with labels that name classes."""
        column, label = self.columns
        needed = [column, *([label] if label else []), *(one.column for one in self.wanted)]
        if lacking := [one for one in needed if one not in schema.names]:
            raise ValueError(f"{path} has no column {lacking[0]!r}, which files before it have")
        if label:
            check_labels(schema, label, str(path))


def _parts(paths: Sequence[Path], column: str, places: NDArray[np.int64], limits: Limits) -> Iterator[Any]:
    """The column of pictures at these places, in their order, some rows at a time."""
    groups, starts = np.unique(places[:, :2], axis=0, return_index=True)
    pairs = zip(groups.tolist(), np.split(places[:, 2], starts[1:]), strict=True)
    for file, own in itertools.groupby(pairs, lambda pair: pair[0][0]):
        table = _open(paths[file])
        for (_, group), rows in own:
            yield from take_rows(_read(paths[file], table, group, column, limits, ROWS), rows)


def _stamps(paths: Sequence[Path], column: str, further: Sequence[str], limits: Limits) -> Iterator[Stamp]:
    """Stamps of the files that rows name, of pictures and of values of conditions, as far as these can be read."""
    for path, name in itertools.product(paths, dict.fromkeys((column, *further))):
        with suppress(Exception):  # of whatever pyarrow makes of it, and again of each row, when it is read
            table = _open(path)
            kind = str(table.schema_arrow.field(name).type)
            own = f"{name}.path" if kind.startswith("struct") else name
            if own == name and kind not in ("string", "large_string"):
                continue
            for group in range(table.num_row_groups):
                if not _has_all(table.metadata.row_group(group), f"{name}.bytes"):
                    for part in _read(path, table, group, own, limits, LABELS):
                        yield from stamps_of(path.parent, part, name != column)


def _has_all(group: Any, column: str) -> bool:
    """Whether no row of a group lacks a value in a column, as far as the file tells."""
    chunks = [chunk for chunk in map(group.column, range(group.num_columns)) if chunk.path_in_schema == column]
    return bool(chunks) and all(chunk.is_stats_set and chunk.statistics.null_count == 0 for chunk in chunks)


class _TableError(Exception):
    """A file is no whole table."""


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """The error of users, for what is raised of a file that is no whole table."""
    try:
        yield
    except _TableError as error:
        raise ValueError(f"{path} is no whole parquet file: {error}") from error


def _open(path: Path) -> Any:
    """A file, open: of thousands, no more than are read.

    Raises:
        _TableError: if it is damaged.
    """
    parquet = require("pyarrow.parquet", extra="data")
    try:
        with open_regular(path):
            pass
        return parquet.ParquetFile(path, memory_map=True)
    except Exception as error:  # pyarrow raises whatever its parts do
        raise _TableError(printable(error) or type(error).__name__) from error


def _groups(path: Path, table: Any) -> tuple[list[int], Any]:
    """The number of rows in each group, and the schema.

    Raises:
        _TableError: if the file is damaged, or cannot hold as many rows as it says: of pictures, each takes a byte.
    """
    size = path.stat().st_size
    try:
        groups = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
        schema = table.schema_arrow
        list(schema.names)  # which may be no text
    except Exception as error:  # as above
        raise _TableError(printable(error) or type(error).__name__) from error
    if min(groups, default=0) < 0 or sum(groups) > size:
        raise _TableError(f"it says that it holds {sum(groups):,} rows in {size:,} bytes")
    return groups, schema


def _labels(path: Path, table: Any, column: str, limits: Limits) -> list[Label]:
    """The labels of a file's rows, or the splits that these are of.

    Raises:
        _TableError: if it is damaged.
        ValueError: if one is longer than names of classes and splits are.
    """
    labels: list[Label] = []
    known: dict[Label, Label] = {}
    for group in range(table.num_row_groups):
        for part in _read(path, table, group, column, limits, LABELS):
            for label in part.to_pylist():
                if isinstance(label, str) and len(label) > LONGEST_LABEL:
                    raise ValueError(
                        f"{path}: column {printable(column)} has a text of {len(label):,} characters, and more than "
                        f"{LONGEST_LABEL:,} name no class or split"
                    )
                labels.append(known.setdefault(label, label))
    return labels


def _splits(path: Path, table: Any, schema: Any, options: SourceOptions) -> list[Any] | None:
    """What the rows of a file say of their split; None without a column of splits.

    Raises:
        ValueError: if it holds no names, or longer texts.
    """
    column = split_column(schema, options.split, str(path))
    if column is None:
        return None
    return named_values(_labels(path, table, column, options.limits), features_of(schema, str(path)), column)


def _places(file: int, group: int, rows: int) -> NDArray[np.int64]:
    return np.stack([np.full(rows, file), np.full(rows, group), np.arange(rows)], axis=1)


def _read(path: Path, table: Any, group: int, column: str, limits: Limits, most: int) -> Iterator[Any]:
    """A column of a row group, in parts that take no more than an item may.

    One value may stand for all rows of a group, so as many rows may each take all that the group takes.

    Raises:
        _TableError: if it is damaged.
        LimitError: if a page takes more than an item may.
    """
    try:
        sizes = list(_page_sizes(path, table.metadata.row_group(group), column))
        what = f"a page of column {printable(column)} of {printable(path.name)}"
        limits.check_item(what, max((largest for largest, _ in sizes), default=0))
        step = max(1, min(most, limits.max_item_bytes // max(sum(total for _, total in sizes), 1)))
        for batch in table.iter_batches(step, row_groups=[group], columns=[column], use_threads=False):
            yield batch.column(0)
    except LimitError:
        raise
    except Exception as error:  # as above
        raise _TableError(printable(error) or type(error).__name__) from error


def _page_sizes(path: Path, group: Any, column: str) -> Iterator[tuple[int, int]]:
    """What the pages of a column take in a row group, for each of its parts, by the pages' own headers."""
    with open_regular(path) as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    for chunk in map(group.column, range(group.num_columns)):
        if _is_of(chunk.path_in_schema, column):
            start = chunk.data_page_offset
            if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:  # as pyarrow does
                start = chunk.dictionary_page_offset
            if not 0 <= start <= start + chunk.total_compressed_size <= len(data):
                raise _TableError(f"column {printable(column)} lies outside of the file")
            yield page_sizes(data[start : start + chunk.total_compressed_size])


def _is_of(path: str, column: str) -> bool:
    return path == column or path.startswith(f"{column}.")


class _Rows:
    """The rows of tables, forward: one before the last that was asked for costs reading its group from the first."""

    def __init__(self, paths: Sequence[Path], column: str, limits: Limits) -> None:
        self._paths, self._column, self._limits = paths, column, limits
        self._table: Any = None
        self._place, self._part, self._start = (-1, -1), None, 0
        self._parts: Iterator[Any] = iter(())

    def at(self, file: int, group: int, row: int) -> Any:
        """The value of a row of a group of a file, as Arrow has it."""
        if self._part is None or self._place != (file, group) or row < self._start:
            if self._table is None or self._place[0] != file:
                self._table = _open(self._paths[file])
            self._place, self._start = (file, group), 0
            self._parts = _read(self._paths[file], self._table, group, self._column, self._limits, ROWS)
            self._part = next(self._parts, None)
        while self._part is not None and row >= self._start + len(self._part):
            self._start += len(self._part)
            self._part = next(self._parts, None)
        if self._part is None:
            raise OSError(f"row {row} is not there")
        return self._part[row - self._start]


def _getter(rows: _Rows, file: int, group: int, row: int) -> Callable[[], Any]:
    """What gives the value of a row, which is read at once: tables are read forward, by one thread."""
    try:
        return rows.at(file, group, row).as_py
    except Exception as error:  # of this row, when its value is asked for
        return partial(fail, OSError(printable(error)))
