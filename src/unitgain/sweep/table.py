"""What sweeps have measured, on disk: a line of JSON per value, appended and never changed."""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unitgain.console import warn
from unitgain.files import write_text
from unitgain.sweep.cells import CellResult
from unitgain.text import csv_cell
from unitgain.trust import Limits, is_number, open_own, read_regular, read_rows

COLUMNS = (
    "metric",
    "nimg",
    "length",
    "guidance",
    "guide_length",
    "pattern",
    "value",
    "worst",
    "error",
    "repeat",
    "images",
)

MOST = Limits(max_item_bytes=2**24)  # of a table that is replaced


def key_of(identity: dict[str, Any]) -> str:
    """16 hexadecimal digits that stand for all that a value depends on."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


class Table:
    """Values by key; each process appends to a file of its own.

    Args:
        folder: of the files.
        rank: of this process.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder = folder
        self._own = folder / f"cells-{rank}.jsonl"

    def rows(self) -> dict[str, dict[str, Any]]:
        """All rows that are whole, by key.

        Without those of networks guided by themselves, which earlier versions measured without their labels.
        """
        rows: dict[str, dict[str, Any]] = {}
        for path in sorted(self.folder.glob("cells-*.jsonl")):
            for row in read_rows(path):  # without one that was cut short when the process was killed
                if isinstance(row.get("key"), str) and is_number(row.get("value")) and not _led_by_itself(row):
                    rows[row["key"]] = row
        return rows

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows, in one write, after one that was cut short too."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(open_own(self._own), "a+b") as file:
            if size := file.seek(0, io.SEEK_END):
                file.seek(size - 1)
                if file.read() != b"\n":
                    file.write(b"\n")
            file.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode())


def _led_by_itself(row: Mapping[str, Any]) -> bool:
    network, guide = row.get("network"), row.get("guide")
    if not (isinstance(network, dict) and isinstance(guide, dict)):
        return False
    return isinstance(guide.get("name"), str) and guide["name"] == network.get("name")


def reference_of(record: Mapping[str, Any]) -> str:
    """What tells the reference of a value from others: equal images are one, whatever their name."""
    about = record.get("reference")
    told = (about.get(one) for one in ("fingerprint", "hash", "name")) if isinstance(about, dict) else ()
    return str(next(filter(None, told), None))


def write_csv(path: Path, results: Sequence[CellResult]) -> None:
    """One line per cell and metric, atomically: the value is the best of the repetitions, beside it the worst.

    It replaces the table that is there; a warning says how many other rows that had, which stay in `cells-*.jsonl`.
    """
    rows: list[tuple[str, ...]] = [COLUMNS]
    for result in results:
        cell = result.cell
        nimg = None if result.nimg is None else f"{result.nimg:.0f}"
        place = (result.metric, nimg, cell.length, cell.guidance, cell.guide_length, cell.pattern)
        row = (*place, result.value, result.worst, result.error, len(result.values), result.images)
        rows.append(tuple("" if each is None else str(csv_cell(each)) for each in row))
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    if lost := len(_cells(path) - set(map(_cell, rows))):
        warn(
            f"{path} held {lost} rows of other cells, metrics or numbers of images, and has those of this call: the "
            "others are in cells-*.jsonl, and a sweep that names them too has all in its table, none drawn again"
        )
    write_text(path, buffer.getvalue())


def _cells(path: Path) -> set[tuple[str, ...]]:
    """The cells of a table that is there; none of what is no table of ours."""
    try:
        lines = read_regular(path, MOST, below=path.parent).decode().splitlines()
        rows = list(csv.reader(lines))
    except (OSError, ValueError, csv.Error):
        return set()
    return set(map(_cell, rows)) if rows and tuple(rows[0]) == COLUMNS else set()


def _cell(row: Sequence[str]) -> tuple[str, ...]:
    """What a row is of: all that it says but what came out."""
    return (*row[: COLUMNS.index("value")], row[-1])
