"""Splits of a set: in folders or files of their names, `train`, `val`, `test`, or told by rows, in a column `split`."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unitgain.data.sources.source import Notes, few

ALL = "all"
SPLIT = "split"  # column of the splits that rows are of
UNREAD = f"files have a column {SPLIT!r} that cannot be read or holds no names, and tell of no splits"
SHOWN = 10  # splits that a message lists
WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val"}
WORDS |= {"test": "test", "testing": "test"}
_WORD = "|".join(sorted(WORDS, key=len, reverse=True))
_FOLDER = re.compile(rf"({_WORD})(?:[-_ ]?(?:set|data|images|imgs|[a-d]|\d+))?", re.IGNORECASE)  # trainA, val2017
_INSIDE = r"(?<![^\W_])({})(?![a-z])"  # a word of a name: train-00000-of-00004, imagenet1k-validation-00, partial-train
_NAMED = re.compile(_INSIDE.format(_WORD), re.IGNORECASE)


def choose_split(splits: Sequence[str], wanted: str | None, where: str) -> str:
    """The split that is wanted, the only one, or "train".

    Raises:
        ValueError: if it is not there, or there are several and none is "train".
    """
    if wanted is not None and wanted in splits:
        return wanted
    if wanted is None and (len(splits) == 1 or "train" in splits):
        return "train" if "train" in splits else splits[0]
    raise ValueError(f"{where} has the splits {', '.join(splits)}: choose one with --split")


def choose_files(names: Sequence[str], split: str | None, where: str) -> "tuple[list[int], RowSplits]":
    """Numbers of the files that are of a split by their folders, or by a word of their names; and how to choose rows.

    Where they are of no two splits, and none is of the one that is wanted, what is in them may tell.

    Args:
        names: paths within a folder.
        split: the one that is wanted; "all" for all of them; None if there are to be none.
        where: they are, for messages.

    Raises:
        ValueError: if there are several and none is chosen, or none of that name.
    """
    parts = [name.split("/")[:-1] for name in names]
    level = _level(parts)
    if level is None:
        words = (_NAMED.search(name.rpartition("/")[2]) for name in names)
        counts = Counter(match[1] for match in words if match)
    else:
        counts = _counts(parts, level)
    several = count_kinds(counts) > 1
    if split is None and several:
        raise ValueError(_question(where, counts, "files"))
    everything = list(range(len(names)))
    if split in (None, ALL):
        return everything, RowSplits(split)
    word = re.compile(_INSIDE.format(re.escape(split)), re.IGNORECASE)

    def is_chosen(name: str, folders: Sequence[str]) -> bool:
        if level is not None and len(folders) > level:
            return folders[level] == split
        named = bool(word.search(name.rpartition("/")[2]))
        return named or (split in folders and not several)  # a folder that holds several splits tells none

    found = [index for index, pair in enumerate(zip(names, parts, strict=True)) if is_chosen(*pair)]
    if not found and several:
        raise ValueError(f"{where}: none of {len(names)} files is of the split {split!r}{_known(counts)}")
    if found:
        return found, RowSplits(split, None)
    return everything, RowSplits(split, sorted({*counts, *_words(parts)}))


class RowSplits:
    """The split that is wanted of some files, and what their rows say of it.

    Attributes:
        split: the one that is wanted, as for `choose_rows`.
        known: splits that names of the files tell of, likewise.
    """

    def __init__(self, split: str | None, known: Sequence[str] | None = ()) -> None:
        self.split, self.known = split, known
        self._values, self._told = list[Any](), False
        self._unread = Notes()

    def add(self, file: str, count: int, read: Callable[[], Sequence[Any] | None]) -> None:
        """The rows of one more file.

        Args:
            file: its name, for a note if its column cannot be read.
            count: of its rows.
            read: gives what each says; None if there is no such column.

        Raises:
            ValueError: that of `read`, where nothing else tells of the split that is wanted.
        """
        values = None
        try:
            values = read()
        except ValueError:
            if self.split is not None and self.known is not None:
                raise
            self._unread.add(UNREAD, file)
        self._values += [None] * count if values is None else values
        self._told = self._told or values is not None

    def choose(self, where: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """As `choose_rows`, of all files, with notes on those whose column cannot be read."""
        values = self._values if self._told else None
        rows, left = choose_rows(values, len(self._values), self.split, where, self.known)
        return rows, (*self._unread.lines(), *left)


def choose_rows(
    values: Sequence[Any] | None, count: int, split: str | None, where: str, known: Sequence[str] | None = ()
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Numbers of the rows that are of a split, by what each has in the column of splits, and a note on the others.

    Args:
        values: one per row, None in those that have none; None if there is no such column.
        count: of the rows.
        split: the one that is wanted; "all" for all of them; None if there are to be none.
        where: they are, for messages.
        known: splits that names of files or folders tell of, where none of them is the one that is wanted; None if they
            have chosen it already: rows that say no other split are of it, too.

    Raises:
        ValueError: if there are several splits and none is chosen, none of that name, or nothing tells of splits.
    """
    everything = np.arange(count), ()
    if split == ALL or (values is None and (split is None or known is None)):
        return everything
    if values is None:
        if known:
            raise ValueError(f"{where} has no split {split!r}{_known(known)}: choose one of these with --split")
        raise ValueError(f"{where} has no column {SPLIT!r}, which would say of which split a row is: leave --split out")
    counts = Counter(names := [_text(value) for value in values])
    if split is None or (known is None and not is_word(split) and split not in counts):
        if count_kinds(counts) > 1:
            raise ValueError(_question(where, counts, "rows"))
        return everything
    own = {name for name in counts if is_of(name, split, known is None)}
    found = np.array([index for index, name in enumerate(names) if name in own], dtype=np.int64)
    if not len(found):
        raise ValueError(f"{where} has no rows of the split {split!r}{_known(counts)}")
    left = count - len(found)
    return found, (f"{left:,} rows say that they are of other splits and were left out",) if left else ()


def is_word(split: str) -> bool:
    """Whether a name is that of a kind of split, not `full` or `fold1`, in which rows may be of several."""
    return _kind(split) is not None


def is_of(value: Any, split: str, named: bool) -> bool:
    """Whether a row is of a split by what it has in the column of splits.

    Args:
        value: that it has.
        split: the one that is wanted.
        named: whether names of files or folders have chosen it already: rows that say no other split are of it, too.
    """
    name, kind = _text(value), _kind(split)
    return name == split or (named and (not name if kind is None else _kind(name) in (None, kind)))


class OneKind:
    """Takes rows that come one by one as long as they are of one kind of split: they cannot be counted beforehand.

    Args:
        where: they come from, for messages.
        remedy: what to do about rows of several.
    """

    def __init__(self, where: str, remedy: str) -> None:
        self._where, self._remedy = where, remedy
        self._names: dict[str, str] = {}  # the first of each kind

    def __call__(self, value: Any) -> bool:
        """Take what a row has in the column of splits.

        Raises:
            SeveralSplitsError: if it is of another kind than one before.
        """
        name = _text(value)
        if (kind := _kind(name)) is not None:
            self._names.setdefault(kind, name)
        if len(self._names) > 1:
            listed = few(list(self._names.values()))
            raise SeveralSplitsError(f"{self._where} has rows of the splits {listed}: {self._remedy}")
        return True


class SeveralSplitsError(ValueError):
    """Rows turn out to be of several splits, and none was chosen."""


def choose_pictures(
    keys: Sequence[str],
    values: Sequence[Any] | None,
    split: str | None,
    where: str,
    known: Sequence[str] | None = (),
) -> tuple[list[int], int | None]:
    """Numbers of the pictures of a split, and the depth at which folders are named by splits, None if they are not.

    Folders choose where they are of several splits, else the column if it has the split, else any folder of its name;
    of those, rows of other splits are left out.

    Args:
        keys: paths of the pictures.
        values: what the column of splits has for each, as for `choose_rows`.
        split: the one that is wanted; "all" for all of them; None if there are to be none.
        where: of the pictures, for messages.
        known: splits that names of archives tell of, as for `choose_rows`.

    Raises:
        ValueError: if there are several splits and none is chosen, or none of that name.
    """
    parts = [key.split("/")[:-1] for key in keys]
    found = list(range(len(keys)))
    level = _level(parts)
    counts = Counter[str]() if level is None else _counts(parts, level)
    if split is None and level is not None:
        raise ValueError(_question(where, counts, "pictures"))
    told = known is None or any(_text(value) == split for value in values or ())
    if split not in (None, ALL) and not (level is None and told):
        for depth in range(_depth(parts)) if level is None else [level]:
            own = [index for index in found if len(parts[index]) > depth and parts[index][depth] == split]
            if own:
                found, level, known = own, depth, None
                break
        else:
            if level is not None or values is None:
                raise ValueError(
                    f"{where} has no folder of the split {split!r}{_known({*counts, *(known or ()), *_words(parts)})}"
                )
    if values is None:
        return found, level
    rows, _ = choose_rows([values[index] for index in found], len(found), split, where, known)
    return [found[row] for row in rows.tolist()], level


def _words(parts: Sequence[Sequence[str]]) -> set[str]:
    """Names of folders that are those of splits."""
    return {folder for path in parts for folder in path if _FOLDER.fullmatch(folder)}


def _depth(parts: Sequence[Sequence[str]]) -> int:
    return max(map(len, parts), default=0)


def _level(parts: Sequence[Sequence[str]]) -> int | None:
    """The first depth at which folders are of several kinds of splits."""
    return next((depth for depth in range(_depth(parts)) if count_kinds(_counts(parts, depth)) > 1), None)


def _counts(parts: Sequence[Sequence[str]], depth: int) -> Counter[str]:
    return Counter(part[depth] for part in parts if len(part) > depth)


def count_kinds(values: Iterable[Any]) -> int:
    """How many kinds of splits there are among names; those with further words count if all names are such."""
    names = set(map(_text, values)) - {""}
    inside = [match for match in map(_NAMED.search, names) if match]
    matches = inside if len(inside) == len(names) else filter(None, map(_FOLDER.fullmatch, names))
    return len({WORDS[match[1].lower()] for match in matches})


def _kind(name: str) -> str | None:
    match = _FOLDER.fullmatch(name) or _NAMED.search(name)
    return WORDS[match[1].lower()] if match else None


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _known(names: Iterable[str]) -> str:
    listed = few([name or "none" for name in _sorted(names)], SHOWN)
    return f"; it has {listed}" if listed else ""


def _question(where: str, counts: Counter[str], what: str) -> str:
    listed = few([f"{name or 'none'} ({counts[name]:,} {what})" for name in _sorted(counts)], SHOWN)
    return f"{where} has the splits {listed}: choose one with --split, or take all together with --split {ALL}"


def _sorted(names: Iterable[str]) -> list[str]:
    """In order, those that are words for splits first: a column of identifiers has millions."""
    return sorted(names, key=lambda name: (bool(name) and not is_word(name), name))
