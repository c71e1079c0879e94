"""What every source of images offers."""

import functools
import hashlib
import posixpath
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unitgain.data.cells import Cell
from unitgain.data.fit import ImageError
from unitgain.data.media import is_array
from unitgain.text import one_line, printable
from unitgain.trust import DEFAULT_LIMITS, Limits

Kind = Literal["folder", "zip", "tar", "parquet", "prepared", "stack", "table"]
# What is taken for a picture by its name: everything Pillow decodes without help from outside, and NPY.
SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "gif", "tif", "tiff", "avif", "jp2"),
        *("ppm", "pgm", "pbm", "pnm", "tga", "ico", "qoi", "npy"),
    )
)
SHOWN = 200  # characters of a name in a note


@dataclass(frozen=True)
class Item:
    """An encoded picture.

    Attributes:
        key: its name in the source.
        fetch: reads its file; any thread may call it.
        label: number of its class; None without labels.
        conditions: what else it has.
    """

    key: str
    fetch: Callable[[], bytes]
    label: int | None = None
    conditions: tuple[Cell, ...] = ()

    def load(self) -> bytes:
        """The bytes of its file.

        Raises:
            ImageError: if it cannot be read.
        """
        try:
            return self.fetch()
        except Exception as error:  # a damaged archive raises whatever its format does
            raise ImageError(f"cannot be read: {printable(error) or type(error).__name__}") from error


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What may have to be said about a source.

    Args:
        labels: CSV file (columns file and label) or JSON in the official form with the class of each picture.
        no_labels: drop labels.
        split: of a data set that has several, such as the folders train, val and test, or what rows have in a column
            split, of metadata.csv too; all: take them together; by default train on the Hub and of the splits in a
            directory of the datasets library; else it has to be said.
        config: of a data set on the Hub that has several.
        image_column: of the pictures in a table, or the array in files of several (NPZ, HDF5); found by its type and
            name by default.
        label_column: of the labels in a table, metadata.csv too, or their key in the JSON beside a picture in a tar
            archive, cls for `.cls`, too; found by its name by default.
        classes: names of the classes, in order; where the source names them, as folders do, these are its own.
        conditions: columns of a table, metadata.csv too, keys of the JSON beside a picture in a tar archive, or arrays
            of a file of several, that are conditions: name, name=column, or with what its values are, name=column:kind
            (scalar, vector, image or tokens). Default: those called vector, condition or tokens, none of files of
            arrays.
        allow_missing: take values of conditions that are missing as absent, which networks may be told of, too.
        stacked: whether each file of arrays in a folder holds many, along its first axis, as a file that is the source.
        follow_links: whether links in a folder that lead out of it are followed; else they are left out, and a note
            counts them. Other people's folders may link to what is yours alone.
        archives: whether tar archives of one set are shards or each a class; told by their names by default.
        limit: take only the first so many pictures.
        limits: what an item and all of them may take.
    """

    labels: Path | None = None
    no_labels: bool = False
    split: str | None = None
    config: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    classes: tuple[str, ...] | None = None
    conditions: tuple[str, ...] | None = None
    allow_missing: bool = False
    stacked: bool = False
    follow_links: bool = False
    archives: Literal["shards", "classes"] | None = None
    limit: int | None = None
    limits: Limits = DEFAULT_LIMITS

    @property
    def wants_labels(self) -> bool:
        """Whether the labels that a source brings are to be used."""
        return self.labels is None and not self.no_labels


@dataclass(kw_only=True)
class Source(ABC):
    """Pictures with labels, in an order that never changes.

    Attributes:
        name: for messages.
        length: number of pictures, if it is known.
        classes: their names; None without labels.
        fingerprint: changes when the source does.
        notes: what the user should know, such as files that were left out.
        options: that it was opened with.
        conditioned: names of the conditions that its items have.
    """

    name: str
    length: int | None = None
    classes: tuple[str, ...] | None = None
    fingerprint: str = ""
    notes: tuple[str, ...] = ()
    options: SourceOptions = SourceOptions()
    conditioned: tuple[str, ...] = ()

    @abstractmethod
    def read(self, start: int = 0) -> Iterator[Item]:
        """Pictures from number `start` on."""

    @property
    def array_name(self) -> str | None:
        """The array that is meant in each file, where there may be several; None if the only or usual one is."""
        return None


@dataclass(kw_only=True)
class Indexed(Source):
    """A source on this machine, any picture at once.

    Attributes:
        kind: of the source.
        keys: name of each picture.
        fetch: the bytes of the file of a picture, by its number; raises whatever its format does.
        labels: int64, one per picture; None without.
        conditions: what else a picture has, by its number; nothing by default.
        beside: names of the files that hold it, where each is one of the source.
        stamps: names, sizes and times of files that rows name by paths, where the fingerprint has none of these.
    """

    kind: Kind
    keys: Sequence[str]
    fetch: Callable[[int], bytes]
    labels: NDArray[np.int64] | None = None
    conditions: Callable[[int], tuple[Cell, ...]] = lambda _: ()
    beside: tuple[str, ...] = ()
    stamps: Callable[[], Iterable[Any]] = tuple

    def __post_init__(self) -> None:
        self.length = len(self.keys)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def chosen(self) -> str:
        """A fingerprint of the pictures that were chosen, in their order, of their classes, and of files they name."""
        return digest([*self.keys, self.labels, self.classes, *self.stamps()])

    @property
    def array_name(self) -> str | None:
        """As in `Source`; in a table the column of images is that of the files, not that of an array in each."""
        return self.options.image_column if self.kind in ("folder", "zip", "tar") else None

    def item(self, number: int) -> Item:
        """A picture."""
        label = None if self.labels is None else int(self.labels[number])
        fetch = functools.partial(self.fetch, number)
        return Item(self.keys[number], fetch, label, self.conditions(number))

    def read(self, start: int = 0) -> Iterator[Item]:
        """As in `Source`."""
        return map(self.item, range(start, len(self)))

    def limited(self, limit: int | None) -> "Indexed":
        """This source, with the first `limit` pictures only."""
        if limit is not None:
            self.keys = self.keys[:limit]
            self.labels = None if self.labels is None else self.labels[:limit]
            self.length = len(self.keys)
        return self


@dataclass
class Notes:
    """Collects what a scan leaves out, to say it in a few lines."""

    rows: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, name: str) -> None:
        """One more file of this sort."""
        self.rows.setdefault(what, []).append(name)

    def lines(self) -> tuple[str, ...]:
        """One line per sort: how many, and the first few."""
        return tuple(f"{len(names)} {what}: {few(names)}" for what, names in self.rows.items())


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


def size_and_time(path: Path) -> tuple[int, int]:
    """Size and time of a file; -1 of one that cannot be had, which is an error of this picture when it is read."""
    try:
        return stamp(path)[1:]
    except (OSError, ValueError):  # of a name that is none
        return -1, -1


def is_picture(name: str) -> bool:
    """Whether a name is that of a picture, or of an array, audio or a volume."""
    return posixpath.splitext(name)[1].lower() in SUFFIXES or is_array(name)


def is_hidden(name: str) -> bool:
    """Whether a path is what an operating system leaves lying about."""
    return "/." in f"/{name}" or "/__MACOSX/" in f"/{name}/"


def few(names: Sequence[str], most: int = 3) -> str:
    """The first of some names, as they are shown."""
    shown = [one_line(name if len(name) <= SHOWN else f"{name[:SHOWN]}...") for name in names[:most]]
    return ", ".join(shown) + (", ..." if len(names) > most else "")
