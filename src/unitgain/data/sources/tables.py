"""Parquet files, `datasets` directories and sets of the Hugging Face Hub."""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unitgain.data.sources.labels import LABEL_COLUMNS, Label, find_column, number
from unitgain.data.sources.source import Indexed, Item, SourceOptions, Stream, digest, stamp
from unitgain.extras import require

IMAGE_COLUMNS = ("image", "img", "images", "picture", "pixel_values", "jpg", "png", "webp")
EXTRA = "data"
JPEG_START = b"\xff\xd8\xff"


@dataclass(kw_only=True)
class Parquet(Indexed):
    """Rows of parquet files, in the order of the files."""

    paths: Sequence[Path]
    column: str
    where: NDArray[np.int64]  # [n, 3]: file, row group, row in it

    def fetch(self, index: int) -> bytes:
        """The bytes of the picture in a row."""
        file, group, row = self.where[index].tolist()
        return picture_bytes(_row_group(self.paths[file], group, self.column)[row].as_py(), self.paths[file].parent)


@dataclass(kw_only=True)
class SavedDataset(Indexed):
    """Rows of a directory that `datasets.Dataset.save_to_disk` wrote."""

    root: Path
    split: str | None
    column: str

    def fetch(self, index: int) -> bytes:
        """The bytes of the picture in a row."""
        return picture_bytes(_saved(self.root, self.split, self.column)[index][self.column], self.root)


@dataclass(kw_only=True)
class Hub(Stream):
    """A set on the Hub, or whatever else `datasets.load_dataset` takes, read as it arrives."""

    repository: str
    config: str | None
    split: str
    column: str
    label_column: str | None
    limit: int | None = None

    def read(self, start: int) -> Iterator[Item]:
        """Rows from number `start` on."""
        datasets = require("datasets", extra=EXTRA)
        rows = datasets.load_dataset(self.repository, self.config, split=self.split, streaming=True)
        rows = rows.select_columns([name for name in (self.column, self.label_column) if name])
        if isinstance(rows.features and rows.features.get(self.column), datasets.Image):
            rows = rows.cast_column(self.column, datasets.Image(decode=False))
        if self.limit is not None:
            rows = rows.take(self.limit)
        names = {name: index for index, name in enumerate(self.classes or ())}
        for index, row in enumerate(rows.skip(start), start):
            key = f"{self.split}/{index:09d}"
            label = self._number(row[self.label_column], names, key) if self.label_column else None
            try:
                yield Item(key, picture_bytes(row[self.column], None), label)
            except (OSError, ValueError) as error:
                yield Item(key, None, label, f"cannot be read: {error}")

    def _number(self, label: Any, names: Mapping[str, int], key: str) -> int:
        value = names.get(label) if isinstance(label, str) else label
        if not isinstance(value, int) or not 0 <= value < len(names):
            raise ValueError(f"{self.name}: {key} has label {label!r}, which is none of the {len(names)} classes")
        return value


def open_parquet(paths: Sequence[Path], options: SourceOptions) -> Parquet:
    """Parquet files with a column of pictures (bytes, or a struct of bytes and path) and perhaps one of labels.

    Raises:
        ImportError: if pyarrow is missing.
        ValueError: if there is no such column, or labels do not fit.
    """
    require("pyarrow", extra=EXTRA)
    import pyarrow as pa

    name = str(paths[0]) if len(paths) == 1 else f"{paths[0].parent} ({len(paths)} files)"
    where: list[tuple[int, int, int]] = []
    labels: list[Label] = []
    column = label_column = names = None
    for index, path in enumerate(paths):
        try:
            file = _parquet(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path} is no whole parquet file: {error}") from error
        if column is None:
            column, label_column, names = _columns(file.schema_arrow, name, options)
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            where += [(index, group, row) for row in range(rows)]
        if label_column:
            labels += file.read(columns=[label_column]).column(0).to_pylist()
    if not where or column is None:
        raise ValueError(f"{name} holds no rows")
    keys = [f"{paths[file].name}/{index:09d}" for index, (file, _, _) in enumerate(where)]
    numbers, classes = number(labels or [None] * len(keys), keys, name, options.classes or names)
    return Parquet(
        name=name,
        paths=list(paths),
        column=column,
        where=np.array(where, dtype=np.int64),
        keys=keys,
        labels=numbers,
        classes=classes,
        fingerprint=digest([*map(stamp, paths), column, label_column, classes]),
    )


def open_saved(root: Path, options: SourceOptions) -> SavedDataset:
    """A directory of `datasets.Dataset.save_to_disk` or `DatasetDict.save_to_disk`; a prepared one too.

    Raises:
        ImportError: if datasets is missing.
        ValueError: if it has several splits and none is chosen, or no column of pictures, or labels do not fit.
    """
    split = options.split
    if (root / "dataset_dict.json").exists():
        split = choose_split(json.loads((root / "dataset_dict.json").read_text())["splits"], split, str(root))
    table = _saved(root, split, None)
    column, label_column, names = _columns(table.features.arrow_schema, str(root), options)
    keys = [f"{index:09d}" for index in range(len(table))]
    labels: list[Label] = list(table.with_format(None)[label_column]) if label_column else [None] * len(keys)
    numbers, classes = number(labels, keys, str(root), options.classes or names)
    return SavedDataset(
        name=str(root) if split is None else f"{root} ({split})",
        root=root,
        split=split,
        column=column,
        keys=keys,
        labels=numbers,
        classes=classes,
        fingerprint=digest([table._fingerprint, column, label_column, classes]),
    )


def open_hub(repository: str, options: SourceOptions) -> Hub:
    """A set on the Hub, streamed.

    Raises:
        ImportError: if datasets is missing.
        ValueError: if it cannot be found, has several splits and none is chosen, no column of pictures, or labels as
            text without `options.classes`.
    """
    datasets = require("datasets", extra=EXTRA)
    try:
        builder = datasets.load_dataset_builder(repository, options.config)
    except Exception as error:  # of the Hub, the network or the format; all end here
        raise ValueError(f"cannot open hub:{repository}: {type(error).__name__}: {error}") from error
    splits = dict(builder.info.splits or {})
    split = choose_split(list(splits), options.split, f"hub:{repository}") if splits else options.split or "train"
    features = builder.info.features
    if features is None:
        features = datasets.load_dataset(repository, options.config, split=split, streaming=True)._resolve_features()
        features = features.features
    column, label_column, names = _columns(features.arrow_schema, f"hub:{repository}", options)
    classes = options.classes or (tuple(names) if names else None)
    if label_column and classes is None:
        raise ValueError(
            f"hub:{repository}: the column {label_column!r} does not name its classes, and a stream cannot number them "
            "before it ends: give --classes a,b,c, or --no-labels"
        )
    known = splits[split].num_examples if split in splits else None
    length = known if options.limit is None else options.limit if known is None else min(known, options.limit)
    return Hub(
        name=f"hub:{repository} ({split})",
        repository=repository,
        config=options.config,
        split=split,
        column=column,
        label_column=label_column,
        limit=options.limit,
        length=length,
        classes=classes if label_column else None,
        fingerprint=digest([repository, options.config, split, builder.hash, column, label_column, classes]),
    )


def choose_split(splits: Sequence[str], wanted: str | None, where: str) -> str:
    """The split that is wanted, the only one, or "train".

    Raises:
        ValueError: if it is not there, or there are several and none is "train".
    """
    if wanted is not None and wanted in splits:
        return wanted
    if wanted is None and (len(splits) == 1 or "train" in splits):
        return "train" if "train" in splits else splits[0]
    raise ValueError(f"{where} has the splits {', '.join(splits)}: choose one with --split")


def picture_bytes(value: Any, root: Path | None) -> bytes:
    """The file of a picture as a table holds it: bytes, or a struct of bytes and path.

    Raises:
        OSError: if there are no bytes, or the path leads nowhere.
    """
    if isinstance(value, Mapping):
        if value.get("bytes") is not None:
            return value["bytes"]
        if value.get("path"):
            return (root / value["path"] if root is not None else Path(value["path"])).read_bytes()
    if isinstance(value, bytes):
        return value
    raise OSError(f"the row holds no picture but {type(value).__name__}")


def count_jpegs(rows: Parquet | SavedDataset) -> int:
    """How many pictures are JPEG files, by their first bytes."""
    compute = require("pyarrow.compute", extra=EXTRA)
    if isinstance(rows, SavedDataset):
        columns = iter([_saved(rows.root, rows.split, rows.column).with_format("arrow")[:][rows.column]])
    else:
        groups = np.unique(rows.where[:, :2], axis=0).tolist()
        columns = (_row_group(rows.paths[file], group, rows.column) for file, group in groups)
    found = 0
    for column in columns:
        files = compute.struct_field(column, "bytes") if hasattr(column.type, "fields") else column
        starts = compute.binary_slice(files, 0, len(JPEG_START))
        found += compute.sum(compute.equal(starts, JPEG_START)).as_py() or 0
    return found


def _columns(schema: Any, name: str, options: SourceOptions) -> tuple[str, str | None, list[str] | None]:
    """The columns of pictures and labels, and the names of the classes if the table says them."""
    import pyarrow as pa

    def holds_pictures(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    known = f"its columns are {', '.join(schema.names)}"
    fitting = [field.name for field in schema if holds_pictures(field.type)]
    if not options.image_column and "latent" in schema.names and not find_column(fitting, IMAGE_COLUMNS):
        raise ValueError(f"{name} holds latents: decode them to images first")
    column = _chosen(fitting, options.image_column, IMAGE_COLUMNS)
    if column is None and len(fitting) == 1:
        column = fitting[0]
    if column is None or column not in fitting:
        raise ValueError(
            f"{name} has no column {column!r} with encoded pictures; {known}"
            if column
            else f"{name} has {'several columns' if fitting else 'no column'} of encoded pictures; {known}; choose "
            "with --image-column"
        )
    label = _chosen(schema.names, options.label_column, LABEL_COLUMNS)
    if options.no_labels or label is None:
        return column, None, None
    if label not in schema.names:
        raise ValueError(f"{name} has no column {label!r}; {known}")
    kind = schema.field(label).type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ValueError(
            f"{name}: the labels in {label!r} are {kind}; one integer or text per picture (or --no-labels)"
        )
    feature = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return column, label, feature.get(label, {}).get("names")


def _chosen(names: Sequence[str], wanted: str | None, usual: Sequence[str]) -> str | None:
    """The column that is wanted, as the table spells it if it is there; else the first usual one."""
    return find_column(names, (wanted,)) or wanted if wanted is not None else find_column(names, usual)


@functools.lru_cache(maxsize=8)
def _parquet(path: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(path)


@functools.lru_cache(maxsize=2)
def _row_group(path: Path, group: int, column: str) -> Any:
    return _parquet(path).read_row_group(group, columns=[column], use_threads=False).column(0)


@functools.lru_cache(maxsize=2)
def _saved(root: Path, split: str | None, column: str | None) -> Any:
    datasets = require("datasets", extra=EXTRA)
    try:
        table = datasets.load_from_disk(str(root))
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"{root} is no directory of the datasets library: {error}") from error
    table = table if split is None else table[split]
    if column is not None and isinstance(table.features[column], datasets.Image):
        table = table.cast_column(column, datasets.Image(decode=False))
    return table
