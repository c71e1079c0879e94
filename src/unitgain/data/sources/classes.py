"""The classes of the pictures in a folder or in archives: of files of labels, else of the folders they lie in."""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unitgain.data.media import ARRAYS, AUDIO, VOLUMES
from unitgain.data.sources.beside import Beside
from unitgain.data.sources.labels import same_name
from unitgain.data.sources.lines import Line
from unitgain.data.sources.listing import TAR_SUFFIXES, Listing, Place
from unitgain.data.sources.numbering import GIVEN, class_names, is_number, number
from unitgain.data.sources.source import SUFFIXES, Indexed, Kind, Notes, SourceOptions, digest, few
from unitgain.data.sources.splits import choose_pictures
from unitgain.data.sources.tables import Tables


def classify(
    listing: Listing[Place],
    kind: Kind,
    name: str,
    options: SourceOptions,
    read: Callable[[Place], bytes],
    beside: Mapping[str, Any] | None = None,
    samples: Mapping[str, Line] | None = None,
    further: Mapping[str, Place] | None = None,
    known: Sequence[str] | None = (),
) -> Indexed:
    """Choose pictures, and find their classes and what else they have: the source, without a fingerprint.

    Args:
        listing: what there is.
        kind: of the source.
        name: of the source.
        options: may choose a split, name another file of labels, or want none.
        read: the bytes of a file, by its place; threads may call it.
        beside: labels that the source itself gives, by path, anything at all; these come first.
        samples: values of conditions that it gives likewise, by path and column.
        further: files that are no pictures, and may be such values.
        known: splits that names of archives tell of, as for `choose_rows`.

    Raises:
        ValueError: if there are no pictures, several splits and none is chosen, or labels do not fit.
    """
    tables = Tables(listing, name, options, read)
    told = Beside(name, options, tables.lines, samples or {})
    for table, why in tables.unused.items():
        if f"{name}/{table}" not in told.sheets:
            listing.notes.add(why, table)
    values = told.values() if told.wanted else set[str]()
    every = [key for key in listing.pictures if key not in tables.sheets and same_name(key) not in values]
    if not every:
        raise ValueError(_nothing(listing, name))
    every = _of_one_kind(every, listing.notes)
    _check_column(options.image_column, every[0], name)
    splits = tables.splits(every, samples or {})
    chosen, level = choose_pictures(every, splits, options.split, name, known)
    keys, others = [every[index] for index in chosen], np.delete(np.array(every, dtype=object), chosen).tolist()
    for key in others:
        listing.notes.add("pictures are of other splits and were left out", key)
    places = [listing.pictures[key] for key in keys]
    labels, classes, more = _labels(keys, others, level, listing, name, options, tables, beside or {})
    source = Indexed(
        kind=kind,
        name=name,
        keys=keys,
        fetch=lambda index: read(places[index]),
        labels=labels,
        classes=classes,
        notes=(*listing.notes.lines(), *more),
    )
    return _told(source, others, told, {**(further or {}), **listing.pictures}, read) if told.wanted else source


def _labels(
    keys: Sequence[str],
    others: Sequence[str],
    level: int | None,
    listing: Listing,
    name: str,
    options: SourceOptions,
    tables: Tables,
    beside: Mapping[str, Any],
) -> tuple[NDArray[np.int64] | None, tuple[str, ...] | None, tuple[str, ...]]:
    """Labels, classes and notes: from where the user says, from beside the pictures, from tables, from folders."""
    if options.no_labels:
        return None, None, ()
    if options.labels is None and any(key in beside for key in keys):
        return number([beside.get(key) for key in keys], keys, name, options.classes)
    found = tables.labels(keys, others)
    if found is None and options.label_column is not None:
        raise ValueError(
            f"label column {options.label_column!r}: {name} has no table of labels, nor JSON beside pictures that has "
            "it: leave it out, or name a table with --labels"
        )
    return found or _by_folders(listing, keys, level, name, options)


def _told(
    source: Indexed, others: Sequence[str], told: Beside, files: Mapping[str, Place], read: Callable[[Place], bytes]
) -> Indexed:
    """The source with its conditions, whose values may be some of these files."""
    by_name = {same_name(name): place for name, place in files.items()}

    def file(path: str) -> bytes:
        if same_name(path) not in by_name:
            raise FileNotFoundError(f"no picture or array {path!r} is there")
        return read(by_name[same_name(path)])

    cells, values = told.cells(source.keys, file, others), told.values()
    source.conditioned = tuple(one.name for one in told.wanted)
    source.conditions = cells.of
    source.beside = tuple(sorted(name for name in files if same_name(name) in values))
    source.notes += cells.notes
    rows = [place and (place[0], [place[1].get(one.column) for one in told.wanted]) for place in cells.places]
    source.fingerprint = digest([source.conditioned, rows])
    return source


def _check_column(column: str | None, key: str, name: str) -> None:
    """Refuse the name of an array in each file where files hold one thing."""
    if column is not None and not key.lower().endswith(ARRAYS):
        raise ValueError(
            f"image column {column!r}: the files of {name} hold one picture or array each, such as {key}; files of "
            f"several are {', '.join(ARRAYS)}: leave it out"
        )


def _of_one_kind(keys: list[str], notes: Notes) -> list[str]:
    """The pictures, audio, volumes or other arrays, whichever are most; the first of these if they are as many."""
    kinds: dict[str, list[str]] = {"pictures": []}
    for key in keys:
        kinds.setdefault(_kind_of(key), []).append(key)
    most = max(kinds, key=lambda kind: len(kinds[kind]))
    for kind in kinds.keys() - {most}:
        for key in kinds[kind]:
            notes.add(f"files of {kind} lie beside the {most} and were left out", key)
    return kinds[most]


def _kind_of(name: str) -> str:
    lower = name.lower()
    known = {"audio": AUDIO, "volumes": VOLUMES, "arrays": ARRAYS}
    return next((kind for kind, suffixes in known.items() if lower.endswith(suffixes)), "pictures")


def _by_folders(
    listing: Listing,
    keys: Sequence[str],
    level: int | None,
    name: str,
    options: SourceOptions,
) -> tuple[NDArray[np.int64] | None, tuple[str, ...] | None, tuple[str, ...]]:
    """Classes from folders, with archives as folders where these are no shards of one set."""
    splits = {key.split("/")[level] for key in keys if key.count("/") > level} if level is not None else set()

    def parts(path: str, archives: bool) -> tuple[str, ...]:
        kept = path.split("/")
        if level is not None and len(kept) > level and kept[level] in splits:
            del kept[level]
        named = (_stem(part) if archives else "" if part.lower().endswith(TAR_SUFFIXES) else part for part in kept)
        return tuple(unicodedata.normalize("NFC", part) for part in named if part)

    def found(archives: bool) -> tuple[NDArray[np.int64] | None, tuple[str, ...] | None, tuple[str, ...]]:
        folders = [parts(folder, archives) for folder in sorted(listing.folders)]
        return by_folder([parts(key, archives) for key in keys], name, folders, options.classes)

    result = found(archives=options.archives == "classes")
    if result[1] is not None or options.archives is not None:
        return result
    stems = sorted({_stem(part) for key in keys for part in key.split("/")[:-1] if part.lower().endswith(TAR_SUFFIXES)})
    if len(stems) < 2:
        return result
    several = f"{len(stems)} archives, {stems[0]} to {stems[-1]}, are taken for"
    if is_series(stems):
        return None, None, (f"{several} shards, not for classes (--archives classes)",)
    labels, classes, notes = found(archives=True)
    return labels, classes, (*notes, f"{several} classes (--archives shards)")


def by_folder(
    parts: Sequence[Sequence[str]],
    where: str,
    folders: Sequence[Sequence[str]] = (),
    classes: Sequence[str] | None = None,
) -> tuple[NDArray[np.int64] | None, tuple[str, ...] | None, tuple[str, ...]]:
    """Classes from the first-level folder of each path, in order: by number if all are numbers, else by name.

    Where `classes` are given, in the order of these.

    Folders that hold everything are passed over (`train/cat/1.png`: the class is `cat`).

    Args:
        parts: of the path of each picture.
        where: they are, for messages.
        folders: that there are, also without pictures.
        classes: their names, which are those of the folders; by default those of folders with pictures.

    Returns:
        Labels, classes (None if there are no folders), and notes on what other tools may number otherwise.

    Raises:
        ValueError: if some pictures lie in folders and others beside them, or a folder is none of the classes.
    """
    depth = 0
    while all(len(part) > depth + 2 and part[depth] == parts[0][depth] for part in parts):
        depth += 1
    inside = [len(part) > depth + 1 for part in parts]
    if not any(inside):
        return None, None, ()
    if not all(inside):
        first = "/".join(parts[inside.index(False)])
        raise ValueError(
            f"{where}: {sum(inside)} pictures lie in folders, which name their classes, and "
            f"{len(inside) - sum(inside)} lie beside them ({first}): move those into folders, or give --no-labels"
        )
    names = sorted({part[depth] for part in parts})
    if classes is not None:
        known = list(class_names(classes, GIVEN) or ())
        if other := [name for name in names if name not in known]:
            raise ValueError(
                f"{where}: the folders {few(other)} are none of the {len(known)} classes named, {few(known)}: name "
                "these too, or choose the folders that are meant"
            )
        names = known
    notes = Notes()
    for folder in folders:
        last = len(folder) - 1
        used = names if last == depth else parts[0][last : last + 1]
        if last <= depth and list(folder[:last]) == list(parts[0][:last]) and folder[last] not in used:
            notes.add("folders hold no pictures and are no classes, which other tools may count", "/".join(folder))
    lines = notes.lines()
    if classes is None and all(map(is_number, names)):
        by_number = sorted(names, key=lambda name: (int(name), name))
        if by_number != names:
            lines += (f"classes are in the order of their numbers, {few(by_number)}; as text it is {few(names)}",)
        names = by_number
    numbers = {name: index for index, name in enumerate(names)}
    return np.array([numbers[part[depth]] for part in parts], dtype=np.int64), tuple(names), lines


def is_series(stems: Sequence[str]) -> bool:
    """Whether names are those of shards: the same but for a number that counts, at most every other one missing."""
    groups: dict[tuple[str, ...], list[tuple[int, ...]]] = {}
    for stem in stems:
        pieces = re.split(r"(\d+)", stem)
        groups.setdefault(tuple(pieces[::2]), []).append(tuple(map(int, pieces[1::2])))
    for numbers in groups.values():
        varying = [set(column) for column in zip(*numbers, strict=True) if len(set(column)) > 1]
        if len(varying) == 1 and max(varying[0]) - min(varying[0]) < 2 * len(varying[0]):
            return True
    return False


def _stem(archive: str) -> str:
    suffix = next((suffix for suffix in TAR_SUFFIXES[1:] + TAR_SUFFIXES[:1] if archive.lower().endswith(suffix)), "")
    return archive[: len(archive) - len(suffix)]


def _nothing(listing: Listing, name: str) -> str:
    other = "; ".join(listing.notes.lines())
    return f"{name} holds no pictures ({', '.join(sorted(SUFFIXES))})" + (f": {other}" if other else "")
