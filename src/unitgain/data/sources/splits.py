"""Splits of a set: in folders or files of their names, `train`, `val`, `test`, or told by rows, in a column `split`."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

ALL = "all"
SPLIT = "split"  # column of the splits that rows are of
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


def choose_files(names: Sequence[str], split: str | None, where: str) -> tuple[list[int], bool]:
    """Numbers of the files that are of a split by their folders, or by a word of their names, and whether these told.

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
        return everything, False
    word = re.compile(_INSIDE.format(re.escape(split)), re.IGNORECASE)

    def is_chosen(name: str, folders: Sequence[str]) -> bool:
        if level is not None and len(folders) > level:
            return folders[level] == split
        named = bool(word.search(name.rpartition("/")[2]))
        return named or (split in folders and not several)  # a folder that holds several splits tells none

    found = [index for index, pair in enumerate(zip(names, parts, strict=True)) if is_chosen(*pair)]
    if not found and several:
        raise ValueError(f"{where}: none of {len(names)} files is of the split {split!r}{_known(counts)}")
    return found or everything, bool(found)


def choose_rows(values: Sequence[Any] | None, split: str | None, where: str, named: bool = False) -> list[int] | None:
    """Numbers of the rows that are of a split, by what each has in the column of splits; None for all rows.

    Args:
        values: one per row, None in those that have none; None if there is no such column.
        split: the one that is wanted; "all" for all of them; None if there are to be none.
        where: they are, for messages.
        named: whether names of files or folders have chosen it already: rows that say no other split are of it, too.

    Raises:
        ValueError: if there are several splits and none is chosen, none of that name, or nothing tells of splits.
    """
    if split == ALL or (values is None and (split is None or named)):
        return None
    if values is None:
        raise ValueError(f"{where} has no column {SPLIT!r}, which would say of which split a row is: leave --split out")
    counts = Counter(names := [_text(value) for value in values])
    if split is None:
        if count_kinds(counts) > 1:
            raise ValueError(_question(where, counts, "rows"))
        return None
    own = {name for name in counts if is_of(name, split, named)}
    found = [index for index, name in enumerate(names) if name in own]
    if not found:
        raise ValueError(f"{where} has no rows of the split {split!r}{_known(counts)}")
    return found if len(found) < len(names) else None


def is_of(value: Any, split: str, named: bool) -> bool:
    """Whether a row is of a split by what it has in the column of splits; `named` is as for `choose_rows`."""
    kind = _kind(split)
    return (kind is None or _kind(_text(value)) in (None, kind)) if named else _text(value) == split


def choose_pictures(
    keys: Sequence[str], values: Sequence[Any] | None, split: str | None, where: str, named: bool = False
) -> tuple[list[int], int | None]:
    """Numbers of the pictures of a split, and the depth at which folders are named by splits, None if they are not.

    Folders choose where they are of several splits, else the column if it has the split, else any folder of its name;
    of those, rows of other splits are left out.

    Args:
        keys: paths of the pictures.
        values: what the column of splits has for each, as for `choose_rows`.
        split: the one that is wanted; "all" for all of them; None if there are to be none.
        where: of the pictures, for messages.
        named: whether names of archives have chosen it already.

    Raises:
        ValueError: if there are several splits and none is chosen, or none of that name.
    """
    parts = [key.split("/")[:-1] for key in keys]
    found = list(range(len(keys)))
    level = _level(parts)
    counts = Counter[str]() if level is None else _counts(parts, level)
    if split is None and level is not None:
        raise ValueError(_question(where, counts, "pictures"))
    told = named or any(_text(value) == split for value in values or ())
    if split not in (None, ALL) and not (level is None and told):
        for depth in range(_depth(parts)) if level is None else [level]:
            own = [index for index in found if len(parts[index]) > depth and parts[index][depth] == split]
            if own:
                found, level, named = own, depth, True
                break
        else:
            if level is not None or values is None:
                raise ValueError(f"{where} has no folder of the split {split!r}{_known(counts)}")
    if values is None:
        return found, level
    rows = choose_rows([values[index] for index in found], split, where, named)
    return found if rows is None else [found[row] for row in rows], level


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


def _known(counts: Counter[str]) -> str:
    return f"; it has {', '.join(name or 'none' for name in sorted(counts))}" if counts else ""


def _question(where: str, counts: Counter[str], what: str) -> str:
    listed = ", ".join(f"{name or 'none'} ({count:,} {what})" for name, count in sorted(counts.items()))
    return f"{where} has the splits {listed}: choose one with --split, or take all together with --split {ALL}"
