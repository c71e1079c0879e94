"""Sets of the Hugging Face Hub, streamed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unitgain.data.sources.columns import features_of, find_columns, picture_bytes
from unitgain.data.sources.source import Item, SourceOptions, Stream, digest
from unitgain.extras import require
from unitgain.trust import printable

EXTRA = "data"


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
        for index, row in enumerate(self._whole(rows.skip(start)), start):
            key = f"{self.split}/{index:09d}"
            label = self._number(row[self.label_column], names, key) if self.label_column else None
            try:
                yield Item(key, picture_bytes(row[self.column], None, self.limits), label)
            except (OSError, ValueError) as error:
                yield Item(key, None, label, f"cannot be read: {printable(error)}")

    def _whole(self, rows: Iterable[Any]) -> Iterator[Any]:
        """The rows, and one kind of error for all that may happen on the way."""
        try:
            yield from rows
        except Exception as error:  # of the network, the Hub or the format
            raise ValueError(f"{self.name} cannot be read on: {type(error).__name__}: {printable(error)}") from error

    def _number(self, label: Any, names: Mapping[str, int], key: str) -> int:
        value = names.get(label) if isinstance(label, str) else label
        if not isinstance(value, int) or not 0 <= value < len(names):
            raise ValueError(f"{self.name}: {key} has label {label!r}, which is none of the {len(names)} classes")
        return value


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
        splits = dict(builder.info.splits or {})
        split = choose_split(list(splits), options.split, f"hub:{repository}") if splits else options.split or "train"
        features = builder.info.features
        if features is None:
            rows = datasets.load_dataset(repository, options.config, split=split, streaming=True)
            features = rows._resolve_features().features
        schema = features.arrow_schema
    except _SplitError:
        raise
    except Exception as error:  # of the Hub, the network or the format; all end here
        raise ValueError(f"cannot open hub:{repository}: {type(error).__name__}: {printable(error)}") from error
    where = f"hub:{repository}"
    column, label_column, names = find_columns(schema, features_of(schema, where), where, options)
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
        limits=options.limits,
        length=length,
        classes=classes if label_column else None,
        fingerprint=digest([repository, options.config, split, builder.hash, column, label_column, classes]),
    )


class _SplitError(ValueError):
    """A split has to be chosen."""


def choose_split(splits: Sequence[str], wanted: str | None, where: str) -> str:
    """The split that is wanted, the only one, or "train".

    Raises:
        ValueError: if it is not there, or there are several and none is "train".
    """
    if wanted is not None and wanted in splits:
        return wanted
    if wanted is None and (len(splits) == 1 or "train" in splits):
        return "train" if "train" in splits else splits[0]
    raise _SplitError(f"{where} has the splits {', '.join(splits)}: choose one with --split")
