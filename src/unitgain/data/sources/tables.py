"""Tables and files of labels in a source, or that are named for it: classes of its pictures, and their splits."""

import posixpath
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from unitgain.data.sources.beside import below, rows_below
from unitgain.data.sources.labels import (
    FILE_COLUMNS,
    LabelFile,
    find_column,
    labels_of,
    look_up,
    parse_labels,
    read_labels,
)
from unitgain.data.sources.lines import SUFFIXES, Line, Lines, parse_lines
from unitgain.data.sources.listing import LABEL_FILES, Listing, Place
from unitgain.data.sources.numbering import Label, Told, by_name, number
from unitgain.data.sources.source import SourceOptions, few
from unitgain.data.sources.splits import ALL, SPLIT, count_kinds
from unitgain.text import printable

GRID = "grid.png"  # all images on one sheet, beside those that this package drew


class Tables:
    """Tables and files of labels; each speaks of the pictures in its folder and below.

    Args:
        listing: what there is.
        name: of the source.
        options: may name another file of labels, or conditions and a split that tables tell.
        read: the bytes of a file, by its place.

    Attributes:
        lines: by folder: the names of tables there, for messages, and their rows, where conditions are asked for.
        unused: tables whose labels are not used, and why.
        sheets: paths of pictures that hold others.

    Raises:
        ValueError: if one is damaged.
    """

    def __init__(
        self, listing: Listing[Place], name: str, options: SourceOptions, read: Callable[[Place], bytes]
    ) -> None:
        self.listing, self.name, self.options, self.read = listing, name, options, read
        self.lines: dict[str, tuple[tuple[str, Lines], ...]] = {}
        self.unused: dict[str, str] = {}
        self.sheets = set[str]()
        self._labels: dict[str, LabelFile] = {}  # by folder
        self._splits: dict[str, tuple[tuple[str, Lines], ...]] = {}  # likewise, of tables that tell of splits
        if options.labels is not None:
            self._labels[""], lines = read_labels(options.labels, options.label_column)
            if lines is not None:
                self._add_splits("", lines, str(options.labels))
        for table in sorted(listing.tables, key=lambda table: LABEL_FILES.index(posixpath.basename(table).lower())):
            self._add(table)

    def _add(self, table: str) -> None:
        folder, file = posixpath.split(table)
        file, where, options = file.lower(), f"{self.name}/{table}", self.options
        is_table, is_own = file.endswith(SUFFIXES), file == "manifest.json"
        for_labels = options.wants_labels and folder not in self._labels
        for_rows = is_table and (bool(options.conditions) or options.split != ALL)
        if options.wants_labels and not for_labels and not is_own:
            self.unused[table] = "files of labels were not used: another beside them counts"
        if not (for_labels or for_rows or is_own):
            return
        try:
            data = self._bytes(table)
            lines = parse_lines(file, data, where) if is_table else None
        except ValueError:
            if for_labels or is_own or options.conditions or options.split is not None:
                raise
            self.unused[table] = "files cannot be read, and tell of no splits"
            return
        tells_splits = lines is not None and self._add_splits(folder, lines, where)
        if tells_splits:
            self.unused.pop(table, None)
        if lines is not None and options.conditions:
            self.lines[folder] = (*self.lines.get(folder, ()), (where, lines))
        if not (for_labels or is_own):
            return
        labels = (
            parse_labels(file, data, where) if lines is None else labels_of(file, lines, where, options.label_column)
        )
        if labels is None:
            if not tells_splits:
                self.unused[table] = "files hold no labels and were not used"
            return
        if is_own:
            self.sheets.add(posixpath.join(folder, GRID))
        if for_labels:
            self._labels[folder] = labels

    def _bytes(self, table: str) -> bytes:
        try:
            return self.read(self.listing.tables[table])
        except Exception as error:  # of whatever the decompressors make of it
            raise ValueError(f"{self.name}: {table} cannot be read: {printable(error)}") from error

    def _add_splits(self, folder: str, lines: Lines, where: str) -> bool:
        """Keep what rows of a table say of the splits that pictures are of, and tell whether it has the column."""
        file, split = find_column(lines.names, FILE_COLUMNS), find_column(lines.names, (SPLIT,))
        if file is None or split is None or self.options.split == ALL:
            return False
        rows = ((row, {"file": line[file], SPLIT: line.get(split)}) for row, line in lines.rows if line.get(file))
        self._splits[folder] = (*self._splits.get(folder, ()), (where, Lines(("file", SPLIT), tuple(rows))))
        return True

    def labels(
        self, keys: Sequence[str], others: Sequence[str] = ()
    ) -> tuple[NDArray[np.int64] | None, tuple[str, ...] | None, tuple[str, ...]] | None:
        """Labels, classes and notes; None if there is no file of labels. `others` are pictures that are left out."""
        places, apart = below(self._labels, keys), below(self._labels, others)
        if not places:
            return None
        told, more = list[Told](), list[str]()
        for folder, own in places.items():
            file, start = self._labels[folder], len(folder) + 1 if folder else 0
            further = [key[start:] for key in apart.get(folder, ())]
            values, notes = look_up(file.labels, [key[start:] for key in own], file.where, others=further)
            told.append(Told(file.where, values, file.names))
            more += notes
        each, names = by_name(told)
        labels = dict[str, Label]()
        for own, values in zip(places.values(), each, strict=True):
            labels |= {key: label for key, label in zip(own, values, strict=True) if label is not None}
        where = told[0].where if len(told) == 1 else f"{self.name}: {len(told)} files of labels"
        if len(told) > 1:
            where += f" ({few([file.where.removeprefix(f'{self.name}/') for file in told])})"
        classes = self.options.classes
        numbers, known, notes = number([labels.get(key) for key in keys], keys, where, classes, names)
        return numbers, known, (*more, *notes)

    def splits(self, keys: Sequence[str], samples: Mapping[str, Line]) -> list[object] | None:
        """What rows say of the split that each picture is of, None of those without; None if nothing has to be chosen.

        Args:
            keys: paths of the pictures.
            samples: what the source itself says of pictures, by column, by the path of each.

        Raises:
            ValueError: if a table tells of splits and names none of the pictures, or one twice with two splits.
        """
        split = self.options.split
        own = {key: samples[key][SPLIT] for key in keys if SPLIT in samples.get(key, ())}
        told = [line[SPLIT] for each in self._splits.values() for _, lines in each for _, line in lines.rows]
        told += own.values()
        if split == ALL or not told or (split is None and count_kinds(told) < 2):
            return None
        try:
            rows, _ = rows_below(self._splits, keys, (SPLIT,))
        except ValueError as error:
            raise ValueError(f"{error}; or take all together with --split {ALL}") from error
        return [rows[key][1][SPLIT] if key in rows else own.get(key) for key in keys]
