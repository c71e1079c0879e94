"""Tables of text, CSV, TSV and JSON Lines, that pair pictures or arrays with classes and conditions."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unitgain.data.cells import Cell, files_below, path_of, wanted_of
from unitgain.data.sources.labels import FILE_COLUMNS, LABEL_COLUMNS, TABLE, find_column
from unitgain.data.sources.lines import Line, parse_lines
from unitgain.data.sources.numbering import Label, check_label, number
from unitgain.data.sources.paths import stamps
from unitgain.data.sources.source import Indexed, SourceOptions, digest, size_and_time, stamp
from unitgain.data.sources.splits import SPLIT, RowSplits
from unitgain.trust import Limits, read_regular


def open_pairs(path: Path, options: SourceOptions, splits: RowSplits) -> Indexed:
    """The rows of a table; paths in it are relative to its folder, and lead nowhere out of that.

    Args:
        path: of the table.
        options: may name the columns of pictures, labels and conditions, and a split.
        splits: what the file is called by, as from `choose_files`.

    Raises:
        ValueError: if it is no table, has no column of files, lacks one in some row, or labels do not fit.
    """
    names, lines, left = _lines(path, splits)
    column = find_column(names, (options.image_column,) if options.image_column else FILE_COLUMNS)
    if column is None:
        raise ValueError(
            f"{path} has no column of files ({options.image_column or ', '.join(FILE_COLUMNS)}); its columns are "
            f"{', '.join(names) or 'none'}: choose one with --image-column"
        )
    keys = [_file(line.get(column), f"{path}, row {row}: column {column!r}") for row, line in lines]
    wanted = wanted_of(options.conditions, [name for name in names if name != column], str(path))
    numbers, classes, notes = number(_labels(path, lines, names, options), keys, str(path), options.classes)
    root = path.parent
    files = files_below(root, options.limits)

    def cells(index: int) -> tuple[Cell, ...]:
        line = lines[index][1]
        return tuple(Cell(one, functools.partial(line.get, one.column), files) for one in wanted)

    return Indexed(
        kind="table",
        name=str(path),
        keys=keys,
        fetch=lambda index: files(keys[index]),
        labels=numbers,
        classes=classes,
        notes=(*notes, *left),
        fingerprint=digest([stamp(path), *(size_and_time(root / key) for key in keys), classes, numbers]),
        stamps=lambda: stamps(root, (path_of(line.get(one.column)) for _, line in lines for one in wanted)),
        conditioned=tuple(one.name for one in wanted),
        conditions=cells,
    )


def _file(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where} names no file")
    return value.strip()


def _lines(path: Path, splits: RowSplits) -> tuple[list[str], Sequence[tuple[int, Line]], tuple[str, ...]]:
    """Names of the columns, the rows of a split with their numbers, from 1, and a note on the others."""
    lines = parse_lines(path.name, read_regular(path, Limits(max_item_bytes=TABLE.max_item_bytes)), str(path))
    if not lines.rows:
        raise ValueError(f"{path} holds no rows")
    column = find_column(lines.names, (SPLIT,))
    rows = [(row, line) for row, (_, line) in enumerate(lines.rows, 1)]
    splits.add(path.name, len(rows), lambda: None if column is None else [line.get(column) for _, line in rows])
    chosen, left = splits.choose(str(path))
    return list(lines.names), [rows[index] for index in chosen.tolist()], left


def _labels(path: Path, lines: Sequence[tuple[int, Line]], names: list[str], options: SourceOptions) -> list[Label]:
    wanted = options.label_column
    column = find_column(names, (wanted,) if wanted else LABEL_COLUMNS)
    if wanted and column is None:
        raise ValueError(f"{path} has no column {wanted!r}; its columns are {', '.join(names)}")
    if column is None or options.no_labels:
        return [None] * len(lines)
    values = [line.get(column) for _, line in lines]
    for (row, _), value in zip(lines, values, strict=True):
        if value is not None:
            check_label(value, f"{path}, row {row}:")
    return [value.strip() if isinstance(value, str) else value for value in values]
