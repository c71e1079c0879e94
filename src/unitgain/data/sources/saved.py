"""Directories that the `datasets` library saved."""

import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from unitgain.data.arrow import map_batches, read_schema
from unitgain.data.cells import Cell, Wanted, files_below, wanted_of
from unitgain.data.manifest import MANIFEST
from unitgain.data.sources.columns import (
    Table,
    features_of,
    find_columns,
    named_values,
    picture_bytes,
    split_column,
    take_rows,
)
from unitgain.data.sources.labels import find_column
from unitgain.data.sources.numbering import Label, Told, by_name, number
from unitgain.data.sources.paths import stamps_of
from unitgain.data.sources.source import SourceOptions, digest, stamp
from unitgain.data.sources.splits import SPLIT, RowSplits, choose_split
from unitgain.trust import DEFAULT_LIMITS, parse_json, plain_name, read_regular


def open_saved(root: Path, options: SourceOptions) -> Table:
    """A directory of `datasets.Dataset.save_to_disk` or `DatasetDict.save_to_disk`; a prepared one too.

    Raises:
        ImportError: if pyarrow is missing.
        ValueError: if it is damaged, has several splits and none is chosen, or no column of pictures, or labels do not
            fit.
    """
    folder, splits = _choose_folder(root, options.split)
    where = str(root) if folder == root else f"{root} ({folder.name})"
    files = _files(folder)
    try:
        schema = read_schema(files[0])
        features = _features(folder) or features_of(schema, str(files[0]))
        column, label_column, names = find_columns(schema, features, str(root), options)
        wanted = _wanted(root, folder, [name for name in schema.names if name != column], options)
        told = find_column(schema.names, (SPLIT,))
        taken = dict.fromkeys([column, *filter(None, [label_column, told]), *(one.column for one in wanted)])
        batches = _batches(files, schema, list(taken))
        pictures = [batch.column(column) for batch in batches]
        starts = np.cumsum([0, *map(len, pictures)])
        told_by = functools.partial(_splits, schema, features, batches, splits.split, str(folder))
        splits.add(folder.name, int(starts[-1]), told_by)
        rows, left = splits.choose(str(folder))
        values: list[Label] = _values(batches, label_column) if label_column else [None] * int(starts[-1])
    except OSError as error:
        raise ValueError(f"{root} is damaged: {error}") from error
    keys = [f"{row:09d}" for row in rows.tolist()]
    (own,), names = by_name([Told(str(root), [values[row] for row in rows.tolist()], names)])
    numbers, classes, notes = number(own, keys, str(root), options.classes, names)
    ordered = [numbers] if options.classes and names else []

    def value(name: str, index: int) -> Any:
        row = int(rows[index])
        part = int(np.searchsorted(starts, row, side="right")) - 1
        return batches[part].column(name)[row - int(starts[part])].as_py()

    def cells(index: int) -> tuple[Cell, ...]:
        return tuple(Cell(one, functools.partial(value, one.column, index), files_of) for one in wanted)

    files_of = files_below(folder, options.limits)

    return Table(
        kind="prepared",
        name=where,
        keys=keys,
        fetch=lambda index: picture_bytes(value(column, index), folder, options.limits),
        parts=lambda: take_rows(pictures, rows),
        labels=numbers,
        classes=classes,
        notes=(*notes, *left),
        fingerprint=digest([*map(stamp, files), column, label_column, classes, *ordered]),
        stamps=lambda: itertools.chain.from_iterable(
            stamps_of(folder, batch.column(name), name != column)
            for name in dict.fromkeys((column, *(one.column for one in wanted)))
            for batch in batches
        ),
        conditioned=tuple(one.name for one in wanted),
        conditions=cells,
    )


def _choose_folder(root: Path, split: str | None) -> tuple[Path, RowSplits]:
    """The folder of a split, and how to choose rows in it, which may be of others.

    Raises:
        ValueError: if it is not there, or there are several and none is "train".
    """
    if not (root / "dataset_dict.json").exists():
        return root, RowSplits(split)
    splits = _names(root / "dataset_dict.json", "splits")
    if len(splits) == 1 and split not in splits:
        return root / splits[0], RowSplits(split, splits)
    chosen = choose_split(splits, split, str(root))
    return root / chosen, RowSplits(chosen, None)


def _batches(files: list[Path], schema: Any, columns: list[str]) -> list[Any]:
    """The rows of all files, mapped; a `ValueError` if columns of one are of other types than the schema has."""
    kinds, batches = [schema.field(one).type for one in columns], list[Any]()
    for path in files:
        batches += map_batches(path, columns)
        if any(batch.schema.types != kinds for batch in batches[-1:]):
            raise ValueError(f"{path} is damaged: columns {', '.join(columns)} are of other types than in {files[0]}")
    return batches


def _values(batches: list[Any], column: str) -> list[Any]:
    return [value for batch in batches for value in batch.column(column).to_pylist()]


def _splits(schema: Any, features: Any, batches: list[Any], split: str | None, where: str) -> list[Any] | None:
    told = split_column(schema, split, where)
    return None if told is None else named_values(_values(batches, told), features, told)


def _wanted(root: Path, folder: Path, columns: list[str], options: SourceOptions) -> list[Wanted]:
    """The conditions of a directory; none of prepared data, which have them as bytes.

    Raises:
        ValueError: if some are asked for and are not there, or of prepared data.
    """
    if not (folder / MANIFEST).exists():
        return wanted_of(options.conditions or (), columns, str(root))
    if options.conditions:
        raise ValueError(
            f"conditions {', '.join(options.conditions)}: {root} are prepared data, of which pictures and classes are "
            "taken alone: prepare the source of theirs again"
        )
    return []


def _files(folder: Path) -> list[Path]:
    """The Arrow files of a split, which lie in its folder."""
    state = _object(folder / "state.json")
    entries = state.get("_data_files")
    if state.get("_indices_data_files"):
        raise ValueError(f"{folder} holds a choice of rows by their numbers: save it after flatten_indices()")
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{folder / 'state.json'} names no files")
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries]
    return [folder / plain_name(name, f"{folder / 'state.json'}: a file") for name in names]


def _names(path: Path, field: str) -> list[str]:
    names = _object(path).get(field)
    if not isinstance(names, list) or not names:
        raise ValueError(f"{path} names no {field}")
    return [plain_name(name, f"{path}: one of {field}") for name in names]


def _features(folder: Path) -> Any:
    path = folder / "dataset_info.json"
    return _object(path).get("features") if path.is_file() else None


def _object(path: Path) -> dict[str, Any]:
    try:
        values = parse_json(read_regular(path, DEFAULT_LIMITS), str(path))
    except OSError as error:
        raise ValueError(f"{path.parent} is no directory of the datasets library: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is no directory of the datasets library: it holds {type(values).__name__}")
    return values
