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
_FILE = re.compile(rf"({_WORD})(?![a-z])", re.IGNORECASE)  # train-00000-of-00004.parquet, val.tar


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
    """Numbers of the files, paths within a folder, that are of a split by their names or their folders'.

    Raises:
        ValueError: if there are several and none is chosen, or none of that name.
    """
    if split is not None and split != ALL:
        found = [
            index
            for index, name in enumerate(names)
            if name.rpartition("/")[2].startswith(split) or split in name.split("/")[:-1]
        ]
        if not found:
            raise ValueError(f"{where}: none of {len(names)} files is of the split {split!r}; the first is {names[0]}")
        return found
    kinds = Counter(match[1] for name in names if (match := _FILE.match(name.rpartition("/")[2])))
    if split is None and len({WORDS[kind.lower()] for kind in kinds}) > 1:
        raise ValueError(_question(where, kinds, "files"))
    return list(range(len(names)))


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
    depths = range(max(map(len, parts), default=0))
    level = next((depth for depth in depths if _kinds(parts, depth) > 1), None)
    if split == ALL or (split is None and level is None):
        return everything, level
    if split is None and level is not None:
        raise ValueError(_question(where, Counter(part[level] for part in parts if len(part) > level), "pictures"))
    for depth in depths if level is None else [level]:
        found = [index for index in everything if len(parts[index]) > depth and parts[index][depth] == split]
        if found:
            return found, depth
    known = (
        "" if level is None else f"; it has {', '.join(sorted({part[level] for part in parts if len(part) > level}))}"
    )
    raise ValueError(f"{where} has no folder of the split {split!r}{known}")


def _kinds(parts: Sequence[Sequence[str]], depth: int) -> int:
    return _count_kinds({part[depth] for part in parts if len(part) > depth})


def _count_kinds(names: Iterable[str]) -> int:
    """How many kinds of splits there are among names."""
    return len({WORDS[match[1].lower()] for match in map(_FOLDER.fullmatch, names) if match})


def _question(where: str, counts: Counter[str], what: str) -> str:
    listed = ", ".join(f"{name} ({count:,} {what})" for name, count in sorted(counts.items()))
    return f"{where} has the splits {listed}: choose one with --split, or take all together with --split {ALL}"
