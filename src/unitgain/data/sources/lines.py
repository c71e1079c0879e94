"""Rows of tables of text: CSV, TSV and JSON Lines."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unitgain.trust import parse_json

SUFFIXES = (".csv", ".tsv", ".jsonl")
Line = Mapping[str, Any]


@dataclass(frozen=True)
class Lines:
    """A table.

    Attributes:
        names: of its columns.
        rows: each with the number of the line that it begins in, as editors count.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[int, Line], ...]


def parse_lines(name: str, data: bytes, where: str) -> Lines:
    """The rows of a table: an object per line of `.jsonl`, else cells below a header, between tabs in `.tsv`.

    Args:
        name: of the file, which says what it is.
        data: its bytes.
        where: for messages.

    Raises:
        ValueError: if it is not what its name says.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is no text in UTF-8, as tables are") from error
    name = name.lower()
    return _objects(text, where) if name.endswith(".jsonl") else _cells(text, where, name.endswith(".tsv"))


def _objects(text: str, where: str) -> Lines:
    rows = list[tuple[int, Line]]()
    for line, entry in enumerate(text.splitlines(), 1):
        if entry.strip():
            row = parse_json(entry, f"{where}, line {line}")
            if not isinstance(row, dict):
                raise ValueError(f"{where}, line {line} is {type(row).__name__}; expected an object per picture")
            rows.append((line, row))
    return Lines(tuple(dict.fromkeys(name for _, row in rows for name in row)), tuple(rows))


def _cells(text: str, where: str, tabs: bool) -> Lines:
    rows = csv.DictReader(io.StringIO(text), delimiter="\t" if tabs else ",")
    try:
        own = [{name: cell for name, cell in row.items() if isinstance(name, str)} for row in rows]
        return Lines(tuple(rows.fieldnames or ()), tuple(enumerate(own, 2)))
    except csv.Error as error:
        raise ValueError(f"{where}, line {rows.line_num} is no CSV: {error}") from error
