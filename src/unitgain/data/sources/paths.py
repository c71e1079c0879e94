"""Files beside a table that its rows name by paths: stamped, so that a table shows when one of them changes."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from unitgain.data.cells import path_of
from unitgain.data.sources.source import size_and_time
from unitgain.extras import require

Stamp = tuple[str, int, int]


def stamps(root: Path, names: Iterable[str | None]) -> Iterator[Stamp]:
    """Name, size and time of files by their paths in a folder."""
    return ((name, *size_and_time(root / name)) for name in names if name)


def stamps_of(root: Path, column: Any, conditions: bool) -> Iterator[Stamp]:
    """Those that part of a column of Arrow names.

    Args:
        root: folder that paths start at.
        column: of texts, or structs of bytes and path; one of anything else names none.
        conditions: whether it holds values of conditions, which may be numbers as text.
    """
    pa, compute = require("pyarrow", extra="data"), require("pyarrow.compute", extra="data")
    if pa.types.is_struct(column.type) and column.type.get_field_index("path") >= 0:
        packed = column.type.get_field_index("bytes") >= 0
        own = compute.struct_field(column, "bytes").is_null() if packed else None
        column = compute.struct_field(column, "path")
        column = column if own is None else compute.filter(column, own)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return iter(())
    return stamps(root, map(path_of, column.to_pylist()) if conditions else column.to_pylist())
