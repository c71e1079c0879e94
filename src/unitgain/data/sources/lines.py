"""Rows of tables of text: CSV, TSV and JSON Lines."""

import csv
import io
import itertools
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from unitgain.text import brief
from unitgain.trust import parse_json

SUFFIXES = (".csv", ".tsv", ".jsonl")
Line = Mapping[str, Any]
_CELLS = threading.Lock()


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
        ValueError: if it is not what its name says, has a column twice, or a row with more cells than columns.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is no text in UTF-8, as tables are") from error
    name = name.lower()
    return _objects(text, where) if name.endswith(".jsonl") else _cells(text, where, name.endswith(".tsv"))


def _objects(text: str, where: str) -> Lines:
    rows = list[tuple[int, Line]]()
    for line, entry in enumerate(io.StringIO(text, newline=None), 1):
        if entry.strip():
            row = parse_json(entry, f"{where}, line {line}", unique=True)
            if not isinstance(row, dict):
                raise ValueError(f"{where}, line {line} is {type(row).__name__}; expected an object per picture")
            rows.append((line, row))
    return Lines(tuple(dict.fromkeys(name for _, row in rows for name in row)), tuple(rows))


def _cells(text: str, where: str, tabs: bool) -> Lines:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if tabs else ",", strict=True)
    rows, line = list[tuple[int, Line]](), 1
    try:
        with _cells_of_any_length(len(text)):
            names = next(reader, [])
            check_columns(names, where)
            line = reader.line_num + 1
            for cells in reader:
                if any(cell.strip() for cell in cells[len(names) :]):
                    raise ValueError(
                        f"{where}, line {line} has {len(cells)} cells, and the header names {len(names)} columns: put "
                        f"quotes around a cell that has {'tabs' if tabs else 'commas'} in it, or name the columns"
                    )
                if cells:  # a line of nothing is no row
                    rows.append((line, dict(itertools.zip_longest(names, cells[: len(names)]))))
                line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f'{where}, line {line} is no CSV: {error}; a quote (") that opens a cell closes it, too, and is doubled '
            "within it"
        ) from error
    return Lines(tuple(names), tuple(rows))


def check_columns(names: Sequence[str], where: str) -> None:
    """Raise `ValueError` if a table has a column twice; those without a name may be several."""
    twice = [name for name, count in Counter(filter(None, names)).items() if count > 1]
    if twice:
        raise ValueError(f"{where} has the column {brief(twice[0])} twice: rename one, or leave it out")


@contextmanager
def _cells_of_any_length(most: int) -> Iterator[None]:
    """Lists of tokens are longer than what `csv` takes, by a limit that all of the process share and get back."""
    with _CELLS:
        before = csv.field_size_limit()
        csv.field_size_limit(max(before, most))
        try:
            yield
        finally:
            csv.field_size_limit(before)
