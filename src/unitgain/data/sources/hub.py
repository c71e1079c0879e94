"""Sets of the Hugging Face Hub, streamed."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from unitgain.data.cells import Cell, Wanted, wanted_of
from unitgain.data.sources.columns import (
    features_of,
    find_columns,
    named_values,
    picture_bytes,
    split_column,
)
from unitgain.data.sources.numbering import Label, places_of
from unitgain.data.sources.source import Item, Notes, Source, SourceOptions, digest
from unitgain.data.sources.splits import ALL, UNREAD, OneKind, SeveralSplitsError, choose_split, is_of, is_word
from unitgain.extras import require
from unitgain.text import brief, printable

ASK = f"choose one with --split, or take all together with --split {ALL}"
OTHERS = "rows are left out that say in the column {told!r} that they are of another split than {chosen!r}"
FILES = "download its files, and choose among the rows of these with --split"


@dataclass(kw_only=True)
class Hub(Source):
    """A set on the Hub, or whatever else `datasets.load_dataset` takes, read as it arrives.

    Attributes:
        rows: as `datasets` streams them.
        split: that they are of.
        column: of the pictures.
        label_column: None without labels.
        places: the number of each class, by what labels say of it.
        wanted: the conditions.
    """

    rows: Any
    split: str
    column: str
    label_column: str | None
    places: Mapping[Label, int]
    wanted: tuple[Wanted, ...] = ()

    def read(self, start: int = 0) -> Iterator[Item]:
        """Rows from number `start` on."""
        index = start - 1
        for index, row in enumerate(self._arriving(self.rows.skip(start)), start):
            key = f"{self.split}/{index:09d}"
            label = self._number(row[self.label_column], key) if self.label_column else None
            cells = tuple(Cell(one, functools.partial(row.get, one.column)) for one in self.wanted)
            yield Item(key, functools.partial(picture_bytes, row[self.column], None, self.options.limits), label, cells)
        if index < 0:
            raise ValueError(f"{self.name} has no rows" + "".join(f": {note}" for note in self.notes))

    def _arriving(self, rows: Iterable[Any]) -> Iterator[Any]:
        """The rows, and one kind of error for all that may happen on the way."""
        try:
            yield from rows
        except SeveralSplitsError:
            raise
        except Exception as error:  # of the network, the Hub or the format
            raise ValueError(f"{self.name} cannot be read on: {type(error).__name__}: {printable(error)}") from error

    def _number(self, label: Any, key: str) -> int:
        if isinstance(label, bool) or not isinstance(label, int | str) or label not in self.places:
            raise ValueError(
                f"{self.name}: {key} has label {brief(label)}, which is none of the {len(self.classes or ())} classes"
            )
        return self.places[label]


def open_hub(repository: str, options: SourceOptions) -> Hub:
    """A set on the Hub, streamed.

    Raises:
        ImportError: if datasets is missing.
        ValueError: if it cannot be found, has several splits and none is chosen, no column of pictures, or labels as
            text without `options.classes`.
    """
    datasets, where = require("datasets", extra="data"), f"hub:{repository}"
    with _opening(where):
        builder = datasets.load_dataset_builder(repository, options.config)
        splits = dict(builder.info.splits or {})
    alone = len(splits) == 1 and options.split not in (None, *splits)  # rows of it may be of others
    split = options.split or "train"
    if splits:
        split = choose_split(list(splits), None if alone else options.split, where)
    with _opening(where):
        rows = datasets.load_dataset(repository, options.config, split=split, streaming=True)
        schema = (builder.info.features or rows._resolve_features().features).arrow_schema
    column, label_column, names = find_columns(schema, features_of(schema, where), where, options)
    if label_column and not (options.classes or names):
        raise ValueError(
            f"{where}: the column {label_column!r} does not name its classes, and a stream cannot number them before "
            "it ends: give --classes a b c, or --no-labels"
        )
    classes, places = places_of(options.classes, names, where) if label_column else (None, {})
    ordered = [names] if options.classes and names else []
    told, notes = _split_column(schema, options.split, where, split)
    if alone and told is None and options.split != ALL:
        choose_split(list(splits), options.split, where)  # which it has not
    wanted = tuple(wanted_of(options.conditions or (), [name for name in schema.names if name != column], where))
    names = dict.fromkeys(name for name in (column, label_column, told, *(one.column for one in wanted)) if name)
    rows = rows.select_columns(list(names))
    for name in names:
        if isinstance(rows.features and rows.features.get(name), datasets.Image):
            rows = rows.cast_column(name, datasets.Image(decode=False))
    known = splits[split].num_examples if split in splits else None
    if told is not None:
        takes: Callable[[Any], bool] = OneKind(f"{where} ({split})", ASK if len(splits) == 1 else FILES)
        chosen = options.split or split
        if alone or is_word(chosen):
            takes, known = functools.partial(is_of, split=chosen, named=not alone), None
            notes = (OTHERS.format(told=told, chosen=chosen),)
        heed = functools.partial(_takes, takes=takes, column=told, features=features_of(schema, where))
        rows = rows.filter(heed, input_columns=[told])
    return Hub(
        name=f"{where} ({split})",
        rows=rows if options.limit is None else rows.take(options.limit),
        split=split,
        column=column,
        label_column=label_column,
        places=places,
        wanted=wanted,
        conditioned=tuple(one.name for one in wanted),
        length=known if options.limit is None else min(known or options.limit, options.limit),
        classes=classes,
        notes=notes,
        fingerprint=digest([repository, options.config, split, builder.hash, column, label_column, classes, *ordered]),
    )


def _split_column(schema: Any, wanted: str | None, where: str, name: str) -> tuple[str | None, tuple[str, ...]]:
    """The column that tells of which split a row is, and a note where there is one that holds no names."""
    notes = Notes()
    try:
        return split_column(schema, wanted, where), ()
    except ValueError:
        notes.add(UNREAD, name)
        return None, notes.lines()


def _takes(value: Any, takes: Callable[[Any], bool], column: str, features: Any) -> bool:
    """Whether a row is taken for what it has in the column of splits."""
    return takes(named_values([value], features, column)[0])


@contextmanager
def _opening(where: str) -> Iterator[None]:
    """One kind of error for all that may be wrong with a set."""
    try:
        yield
    except Exception as error:  # of the Hub, the network or the format
        raise ValueError(f"cannot open {where}: {type(error).__name__}: {printable(error)}") from error
