"""Columns of tables: which hold the pictures and their labels, and what is in a row."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unitgain.data.sources.labels import FILE_COLUMNS, LABEL_COLUMNS, find_column
from unitgain.data.sources.lines import check_columns
from unitgain.data.sources.numbering import class_names
from unitgain.data.sources.source import Indexed, Item, SourceOptions
from unitgain.data.sources.splits import ALL, SPLIT
from unitgain.extras import require
from unitgain.trust import Limits, parse_json, read_regular

IMAGE_COLUMNS = ("image", "img", "images", "picture", "pixel_values", "jpg", "png", "webp")
JPEG_START, JPEG_NAME = b"\xff\xd8\xff", r"\.(jpe?g|jpe|jfif)$"


@dataclass(kw_only=True)
class Table(Indexed):
    """Rows of a table.

    Attributes:
        parts: the column of pictures, some rows at a time.
    """

    parts: Callable[[], Iterator[Any]]

    def item(self, number: int) -> Item:
        """A picture, read at once: tables are read forward, by one thread."""
        item = super().item(number)
        try:
            data = item.fetch()
        except Exception as error:  # of this picture, when it is loaded
            return dataclasses.replace(item, fetch=functools.partial(fail, error))
        return dataclasses.replace(item, fetch=lambda: data)


def find_columns(
    schema: Any, features: Any, name: str, options: SourceOptions
) -> tuple[str, str | None, tuple[str, ...] | None]:
    """The columns of pictures and labels, and the names of the classes if the table says them.

    Args:
        schema: of Arrow.
        features: of the columns, as the `datasets` library describes them; anything at all.
        name: of the table, for messages.
        options: may name columns, or want no labels.

    Raises:
        ValueError: if there is no such column, one is there twice, or labels are neither whole numbers nor text nor
            categories of these.
    """
    import pyarrow as pa

    check_columns(schema.names, name)
    paths = {name for name in (options.image_column, *FILE_COLUMNS) if name in schema.names}

    def holds_pictures(name: str, kind: Any) -> bool:
        if name in paths and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            return True
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    known = f"its columns are {', '.join(schema.names)}"
    fitting = [field.name for field in schema if holds_pictures(field.name, field.type)]
    if not options.image_column and "latent" in schema.names and not find_column(fitting, IMAGE_COLUMNS):
        raise ValueError(f"{name} holds latents: decode them to images first")
    if not options.image_column and "array" in schema.names and not find_column(fitting, IMAGE_COLUMNS):
        raise ValueError(f"{name} holds arrays, which are no pictures")
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
    check_labels(schema, label, name)
    return column, label, names_of(features, label, name)


def check_labels(schema: Any, column: str, where: str) -> None:
    """Raise `ValueError` if the values of a column can name no classes."""
    kind = schema.field(column).type
    if not _is_name(kind):
        raise ValueError(
            f"{where}: the labels in {column!r} are {kind}; one integer, text or category per picture (or --no-labels)"
        )


def split_column(schema: Any, split: str | None, where: str) -> str | None:
    """The column that says of which split a row is, where there is one and that matters.

    Raises:
        ValueError: if it holds no names: neither text nor categories nor whole numbers.
    """
    name = None if split == ALL else find_column(schema.names, (SPLIT,))
    if name is None:
        return None
    kind = schema.field(name).type
    if not _is_name(kind):
        raise ValueError(f"{where}: the column {name!r} holds {kind}; names of splits are text or whole numbers")
    return name


def _is_name(kind: Any) -> bool:
    """Whether values of this type of Arrow can name classes or splits: text, whole numbers, or categories of them."""
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)


def named_values(values: Iterable[Any], features: Any, column: str) -> list[Any]:
    """The values of a column, numbers as the names that they stand for, if the table says these."""
    names = _names(features, column) or []
    return [names[one] if isinstance(one, int) and 0 <= one < len(names) else one for one in values]


def take_rows(parts: Iterable[Any], rows: NDArray[np.int64]) -> Iterator[Any]:
    """The rows of a column, in parts, that are of these numbers, in order."""
    start = 0
    for part in parts:
        first, end = np.searchsorted(rows, (start, start + len(part))).tolist()
        yield part if end - first == len(part) else part.take(rows[first:end] - start)
        start += len(part)


def features_of(schema: Any, name: str) -> Any:
    """What the `datasets` library left in a schema about its columns.

    Raises:
        ValueError: if it is no JSON.
    """
    about = parse_json((schema.metadata or {}).get(b"huggingface", b"{}"), f"{name}: what it says of its columns")
    info = about.get("info") if isinstance(about, dict) else None
    return info.get("features") if isinstance(info, dict) else None


def _chosen(names: Sequence[str], wanted: str | None, usual: Sequence[str]) -> str | None:
    """The column that is wanted, as the table spells it if it is there; else the first usual one."""
    return find_column(names, (wanted,)) or wanted if wanted is not None else find_column(names, usual)


def names_of(features: Any, column: str, where: str) -> tuple[str, ...] | None:
    """The names of the classes that a column's numbers stand for, by its description; None where it has none.

    Raises:
        ValueError: if two have the same.
    """
    return class_names(_names(features, column), f"{where}: {column!r}")


def _names(features: Any, column: str) -> list[str] | None:
    feature = features.get(column) if isinstance(features, dict) else None
    names = feature.get("names") if isinstance(feature, dict) else None
    return names if isinstance(names, list) and names and all(isinstance(name, str) for name in names) else None


def picture_bytes(value: Any, root: Path | None, limits: Limits) -> bytes:
    """The file of a picture as a table holds it: bytes, or a struct of bytes and path.

    Args:
        value: of the row; a path beside the table, too.
        root: folder that a path is in; None if there is none, as on the Hub.
        limits: what the picture may take.

    Raises:
        LimitError: if it takes more.
        OSError: if there are no bytes, or the path leads nowhere or out of the folder.
    """
    if isinstance(value, str) and root is not None:
        return read_regular(root / value, limits, below=root)
    if isinstance(value, Mapping):
        path = value.get("path")
        if value.get("bytes") is None and isinstance(path, str) and root is not None:
            return read_regular(root / path, limits, below=root)
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise OSError(f"the row holds no bytes of a picture but {type(value).__name__}")
    limits.check_item("it", len(value))
    return value


def count_jpegs(columns: Iterable[Any]) -> int:
    """How many pictures in parts of a column are JPEG files: by their first bytes, or the names of files beside it."""
    pa, compute = require("pyarrow", extra="data"), require("pyarrow.compute", extra="data")
    found = 0
    for column in columns:
        files = paths = column
        if pa.types.is_struct(column.type):
            files = compute.struct_field(column, "bytes")
            named = column.type.get_field_index("path") >= 0
            paths = compute.filter(compute.struct_field(column, "path"), files.is_null()) if named else None
        if paths is not None and (pa.types.is_string(paths.type) or pa.types.is_large_string(paths.type)):
            found += compute.sum(compute.match_substring_regex(paths, JPEG_NAME, ignore_case=True)).as_py() or 0
        if pa.types.is_binary(files.type) or pa.types.is_large_binary(files.type):
            starts = compute.binary_slice(files, 0, len(JPEG_START))
            found += compute.sum(compute.equal(starts, JPEG_START)).as_py() or 0
    return found


def fail(error: Exception) -> Any:
    """Raise an error that reading ended in."""
    raise error
