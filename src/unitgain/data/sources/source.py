"""What every source of images offers."""

import hashlib
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unitgain.trust import DEFAULT_LIMITS, Limits, printable

# What is taken for a picture by its name; everything Pillow decodes without help from outside, and arrays.
SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "gif", "tif", "tiff", "avif", "jp2"),
        *("ppm", "pgm", "pbm", "pnm", "tga", "ico", "qoi", "npy"),
    )
)


@dataclass(frozen=True)
class Item:
    """An encoded picture.

    Attributes:
        key: its name in the source.
        data: the bytes of its file; None if they could not be read.
        label: number of its class; None without labels.
        error: why there are no data.
    """

    key: str
    data: bytes | None
    label: int | None = None
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What may have to be said about a source.

    Args:
        labels: CSV file, or JSON in the official form, with the class of each file.
        no_labels: drop labels.
        split: of a data set that has several.
        config: of a data set on the Hub that has several.
        image_column: of a table; found by its type and name by default.
        label_column: of a table; found by its name by default.
        classes: names of the classes, where a stream has its labels as text.
        limit: take only this many images, the first.
        limits: what an item and all of them may take.
    """

    labels: Path | None = None
    no_labels: bool = False
    split: str | None = None
    config: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    classes: tuple[str, ...] | None = None
    limit: int | None = None
    limits: Limits = DEFAULT_LIMITS

    @property
    def wants_labels(self) -> bool:
        """Whether the labels that a source brings are to be used."""
        return self.labels is None and not self.no_labels


class Source(Protocol):
    """Pictures with labels, in an order that never changes.

    Attributes:
        name: for messages.
        classes: their names; None without labels.
        fingerprint: changes when the source does.
        notes: what the user should know, such as files that were left out.
    """

    name: str
    classes: tuple[str, ...] | None
    fingerprint: str
    notes: tuple[str, ...]


@dataclass(kw_only=True)
class Indexed(Source):
    """A source that any process reads from any place; picklable.

    Attributes:
        keys: name of each picture.
        labels: int64, one per picture; None without.
        limits: what an item may take.
    """

    name: str
    keys: Sequence[str]
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] | None = None
    fingerprint: str = ""
    notes: tuple[str, ...] = ()
    limits: Limits = DEFAULT_LIMITS

    def __len__(self) -> int:
        return len(self.keys)

    def fetch(self, index: int) -> bytes:
        """The file of one picture.

        Raises:
            OSError: if it cannot be read.
        """
        raise NotImplementedError

    def read(self, start: int, stop: int) -> Iterator[Item]:
        """Pictures number `start` to `stop - 1`; one that cannot be read comes without data."""
        for index in range(start, stop):
            label = None if self.labels is None else int(self.labels[index])
            try:
                yield Item(self.keys[index], self.fetch(index), label)
            except Exception as error:  # a damaged archive raises whatever its format does
                why = printable(error) or type(error).__name__
                yield Item(self.keys[index], None, label, f"cannot be read: {why}")

    def limited(self, limit: int | None) -> "Indexed":
        """This source, with the first `limit` pictures only."""
        if limit is not None:
            self.keys = self.keys[:limit]
            self.labels = None if self.labels is None else self.labels[:limit]
        return self


@dataclass(kw_only=True)
class Stream(Source):
    """A source that is read from its beginning, by one process.

    Attributes:
        length: number of pictures, if known.
        limits: what an item may take.
    """

    name: str
    length: int | None = None
    classes: tuple[str, ...] | None = None
    fingerprint: str = ""
    notes: tuple[str, ...] = ()
    limits: Limits = DEFAULT_LIMITS

    def read(self, start: int) -> Iterator[Item]:
        """Pictures from number `start` on."""
        raise NotImplementedError


@dataclass
class Notes:
    """Collects what a scan leaves out, to say it in a few lines."""

    rows: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, name: str) -> None:
        """One more file of this sort."""
        self.rows.setdefault(what, []).append(name)

    def lines(self) -> tuple[str, ...]:
        """One line per sort: how many, and the first few."""
        return tuple(
            f"{len(names)} {what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
            for what, names in self.rows.items()
        )


def digest(parts: Iterable[Any]) -> str:
    """A fingerprint of a list of values."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part.tobytes() if isinstance(part, np.ndarray) else f"{part!r}\n".encode())
    return state.hexdigest()


def stamp(path: Path) -> tuple[str, int, int]:
    """Name, size and time of a file."""
    status = path.stat()
    return path.name, status.st_size, status.st_mtime_ns


def is_picture(name: str) -> bool:
    """Whether a name is that of a picture."""
    return posixpath.splitext(name)[1].lower() in SUFFIXES


def is_hidden(name: str) -> bool:
    """Whether a path is what an operating system leaves lying about."""
    return "/." in f"/{name}" or "/__MACOSX/" in f"/{name}/"
