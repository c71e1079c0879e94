"""Conditions of pictures in folders and archives: of a table in their folder, or of files beside each in a tar."""

import functools
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from unitgain.data.cells import Cell, Wanted, path_of, wanted_of
from unitgain.data.sources.labels import FILE_COLUMNS, find_column, look_up, once, same_name
from unitgain.data.sources.lines import Line, Lines
from unitgain.data.sources.listing import parents, plain_path
from unitgain.data.sources.source import SourceOptions


@dataclass(frozen=True)
class Cells:
    """Cells of the conditions of some pictures.

    Attributes:
        wanted: the conditions.
        places: of each picture the folder that paths start at, and its cells by column; none for what has no row.
        read: the bytes of a file of the source, by its path.
        notes: on rows that are left over.
    """

    wanted: Sequence[Wanted]
    places: Sequence[tuple[str, Line] | None]
    read: Callable[[str], bytes]
    notes: tuple[str, ...] = ()

    def of(self, number: int) -> tuple[Cell, ...]:
        """Those of a picture, by its number."""
        folder, line = self.places[number] or ("", {})
        files = functools.partial(self._file, folder)
        return tuple(Cell(one, functools.partial(line.get, one.column), files) for one in self.wanted)

    def _file(self, folder: str, name: str) -> bytes:
        path = plain_path(posixpath.join(folder, name), backslashes=False)
        if path is None or name.startswith("/"):
            raise ValueError(f"{name!r} leads out of what holds the pictures")
        return self.read(path)


class Beside:
    """Conditions of the pictures of a source, as far as they are asked for.

    Args:
        name: of the source, for messages.
        options: name the conditions.
        tables: by folder: the names of tables there, for messages, and their rows.
        samples: cells by column of pictures, by the path of each.

    Attributes:
        wanted: the conditions.

    Raises:
        ValueError: if one that is asked for is in none of them.
    """

    def __init__(
        self,
        name: str,
        options: SourceOptions,
        tables: Mapping[str, Sequence[tuple[str, Lines]]],
        samples: Mapping[str, Line],
    ) -> None:
        self.name, self.samples = name, samples
        columns = dict.fromkeys(column for line in samples.values() for column in line)
        for each in tables.values():
            for _, lines in each:
                if (files := _files(lines)) is not None:
                    columns |= dict.fromkeys(column for column in lines.names if column != files)
        self.wanted = wanted_of(options.conditions or (), list(columns), name) if columns else []
        own = {one.column for one in self.wanted}
        self.tables = {
            folder: kept
            for folder, each in tables.items()
            if (kept := [table for table in each if _files(table[1]) is not None and own & set(table[1].names)])
        }

    @property
    def sheets(self) -> set[str]:
        """Names of the tables that hold some of it."""
        return {name for each in self.tables.values() for name, _ in each}

    def values(self) -> set[str]:
        """Paths of the files that are values of conditions, and are named as pictures nowhere."""
        values, pictures = set[str](), set[str]()
        for folder, lines in ((folder, lines) for folder, each in self.tables.items() for _, lines in each):
            files = _files(lines)
            for _, line in lines.rows:
                pictures.add(_path(folder, line.get(files or "")))
                values |= {_path(folder, line.get(one.column)) for one in self.wanted}
        for picture, line in self.samples.items():
            values |= {_path(posixpath.dirname(picture), line.get(one.column)) for one in self.wanted}
        return values - pictures - {""}

    def cells(self, keys: Sequence[str], read: Callable[[str], bytes], others: Sequence[str] = ()) -> Cells:
        """The cells of these pictures.

        Args:
            keys: paths of the pictures.
            others: those of pictures that are left out.
            read: the bytes of a file of the source, by its path; any thread may call it.

        Raises:
            ValueError: if a table has rows for none of the pictures in its folder.
        """
        own = {key: (posixpath.dirname(key), self.samples[key]) for key in keys if key in self.samples}
        rows, notes = rows_below(self.tables, keys, [one.column for one in self.wanted], others)
        found = own | rows
        return Cells(self.wanted, [found.get(key) for key in keys], read, tuple(notes))


def rows_below(
    tables: Mapping[str, Sequence[tuple[str, Lines]]],
    keys: Sequence[str],
    columns: Sequence[str],
    others: Sequence[str] = (),
) -> tuple[dict[str, tuple[str, Line]], list[str]]:
    """What tables say of pictures, by the path of each: the folder of the table, and cells by column; and notes.

    Args:
        tables: by folder, as for `Beside`.
        keys: paths of the pictures.
        columns: that are wanted.
        others: paths of pictures that are left out, of which rows may speak, too.

    Raises:
        ValueError: if a table has rows for none of the pictures in its folder.
    """
    found, notes = dict[str, tuple[str, Line]](), list[str]()
    apart = below(tables, others)
    for folder, own in below(tables, keys).items():
        start, told = len(folder) + 1 if folder else 0, dict[str, Line]()
        for where, lines in tables[folder]:
            named = once(_named(lines, columns, where), where, "values")
            further = [key[start:] for key in apart.get(folder, ())]
            places, left = look_up(named, [key[start:] for key in own], where, "rows", further)
            told |= {
                key: {**line, **told.get(key, {})} for key, line in zip(own, places, strict=True) if line is not None
            }
            notes += left
        found |= {key: (folder, line) for key, line in told.items()}
    return found, notes


def _named(lines: Lines, columns: Sequence[str], where: str) -> Iterator[tuple[str, Line]]:
    """The names of pictures in the rows of a table, and what these have in some columns."""
    files = _files(lines) or ""
    for number, line in lines.rows:
        name = str(line.get(files) or "").strip()
        if not name:
            raise ValueError(f"{where}, line {number}: file is missing")
        yield name, {column: line[column] for column in columns if column in line}


def below(folders: Mapping[str, object], keys: Sequence[str]) -> dict[str, list[str]]:
    """The paths that lie in each of these folders or below it, outer folders first."""
    found: dict[str, list[str]] = {}
    for key in keys:
        for folder in ("", *parents(key)):
            if folder in folders:
                found.setdefault(folder, []).append(key)
    return dict(sorted(found.items(), key=lambda place: (bool(place[0]), place[0].count("/"))))


def _files(lines: Lines) -> str | None:
    return find_column(lines.names, FILE_COLUMNS)


def _path(folder: str, cell: object) -> str:
    """The path of the file that a cell names; empty if it names none."""
    value = path_of(cell) if isinstance(cell, str) else None
    return same_name(plain_path(posixpath.join(folder, value), False) or "") if value else ""
