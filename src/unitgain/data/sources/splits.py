"""Splits of a set that lie in folders or files of their names: `train`, `val`, `test`."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

ALL = "all"
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


def choose_files(names: Sequence[str], split: str | None, where: str) -> list[int]:
    """Numbers of the files, paths within a folder, that are of a split by their folders, or by a word of their names.

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
    if split is None and _count_kinds(counts) > 1:
        raise ValueError(_question(where, counts, "files"))
    if split in (None, ALL):
        return list(range(len(names)))
    word, several = re.compile(_INSIDE.format(re.escape(split)), re.IGNORECASE), _count_kinds(counts) > 1

    def is_chosen(name: str, folders: Sequence[str]) -> bool:
        if level is not None and len(folders) > level:
            return folders[level] == split
        named = bool(word.search(name.rpartition("/")[2]))
        return named or (split in folders and not several)  # a folder that holds several splits tells none

    found = [index for index, pair in enumerate(zip(names, parts, strict=True)) if is_chosen(*pair)]
    if not found:
        known = _known(counts) or f"; the first is {names[0]}"
        raise ValueError(f"{where}: none of {len(names)} files is of the split {split!r}{known}")
    return found


def choose_rows(splits: Sequence[Any], split: str | None, where: str) -> list[int]:
    """Numbers of the rows of a table that are of a split, by what each has in the column of splits.

    Raises:
        ValueError: if there are several and none is chosen, or none of that name.
    """
    counts = Counter(names := ["" if value is None else str(value).strip() for value in splits])
    if split is None and _count_kinds(counts) > 1:
        raise ValueError(_question(where, counts, "rows"))
    if split in (None, ALL):
        return list(range(len(names)))
    if split not in counts:
        raise ValueError(f"{where} has no rows of the split {split!r}; it has {', '.join(sorted(counts))}")
    return [index for index, name in enumerate(names) if name == split]


def choose_folders(keys: Sequence[str], split: str | None, where: str) -> tuple[list[int], int | None]:
    """Numbers of the pictures of a split, and the depth at which folders are named by splits, None if they are not.

    Args:
        keys: paths of the pictures.
        split: the one that is wanted; "all" for all of them; None if there are to be none.
        where: of the pictures, for messages.

    Raises:
        ValueError: if there are several splits and none is chosen, or none of that name.
    """
    parts = [key.split("/")[:-1] for key in keys]
    everything = list(range(len(keys)))
    level = _level(parts)
    counts = Counter[str]() if level is None else _counts(parts, level)
    if split == ALL or (split is None and level is None):
        return everything, level
    if split is None:
        raise ValueError(_question(where, counts, "pictures"))
    for depth in range(_depth(parts)) if level is None else [level]:
        found = [index for index in everything if len(parts[index]) > depth and parts[index][depth] == split]
        if found:
            return found, depth
    raise ValueError(f"{where} has no folder of the split {split!r}{_known(counts)}")


def _depth(parts: Sequence[Sequence[str]]) -> int:
    return max(map(len, parts), default=0)


def _level(parts: Sequence[Sequence[str]]) -> int | None:
    """The first depth at which folders are of several kinds of splits."""
    return next((depth for depth in range(_depth(parts)) if _count_kinds(_counts(parts, depth)) > 1), None)


def _counts(parts: Sequence[Sequence[str]], depth: int) -> Counter[str]:
    return Counter(part[depth] for part in parts if len(part) > depth)


def _count_kinds(names: Iterable[str]) -> int:
    """How many kinds of splits there are among names; those with further words count if all names are such."""
    names = list(names)
    inside = [match for match in map(_NAMED.search, names) if match]
    matches = inside if len(inside) == len(names) else filter(None, map(_FOLDER.fullmatch, names))
    return len({WORDS[match[1].lower()] for match in matches})


def _known(counts: Counter[str]) -> str:
    return f"; it has {', '.join(sorted(counts))}" if counts else ""


def _question(where: str, counts: Counter[str], what: str) -> str:
    listed = ", ".join(f"{name} ({count:,} {what})" for name, count in sorted(counts.items()))
    return f"{where} has the splits {listed}: choose one with --split, or take all together with --split {ALL}"
