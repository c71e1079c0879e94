"""Checkpoints of any project into a folder of snapshots: all it takes is tensors and times."""

import csv
import math
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from unitgain.checkpoint.facts import average_dtype, facts_of
from unitgain.checkpoint.writer import stored, write_average
from unitgain.ema import RAW, check_names, describe, file_name
from unitgain.files import staged
from unitgain.posthoc.foreign import SHARD, SUFFIXES, files_of, read_state
from unitgain.posthoc.targets import Length
from unitgain.text import one_line

# The time in a path, the first of these that is there: what is counted in steps, in epochs, any whole number.
TIMES = (
    re.compile(r"(?:step|iter|iteration|nimg|checkpoint|ckpt)s?[-_=]?(\d+)(?![\d.]*\d)", re.ASCII | re.IGNORECASE),
    re.compile(r"epochs?[-_=]?(\d+)(?![\d.]*\d)", re.ASCII | re.IGNORECASE),
    re.compile(r"(?<![\d.])(\d+)(?!\.?\d)", re.ASCII),
)
STEPS, EPOCHS = 0, 1  # what the first two find
DEPTH = 3  # folders below the one that is named


@dataclass(frozen=True)
class Source:
    """One checkpoint to convert.

    Attributes:
        path: a file, the first of its shards, or a folder with one of these in it.
        t: when it was taken.
    """

    path: Path
    t: float


def find_sources(
    folder: Path,
    pattern: str | None = None,
    table: Path | None = None,
    on_skip: Callable[[str], None] | None = None,
) -> list[Source]:
    """The checkpoints in a folder, and in folders of it, with their times, by time.

    Args:
        folder: holds files, or folders of files as Diffusers, Accelerate and Lightning make them.
        pattern: regular expression of the time in a path below `folder`: its first group, where it matches last; what
            does not match is left out. By default a number after step, checkpoint and the like, after epoch, or the
            last whole number, decimals aside.
        table: CSV with a header and the columns `file` and `t`, instead of times in names.
        on_skip: called with the path of each file that is left out: it has no time, or does not match `pattern`.

    Raises:
        FileNotFoundError: if there are none, or one that the table names is not there.
        ValueError: if a time is no number, is negative, or comes twice; if some names tell steps and others epochs; if
            the times of the table are not increasing, or there is a pattern beside it.
    """
    if pattern is not None and table is not None:
        raise ValueError("a pattern and a table both say the times: give one of them")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder of checkpoints")
    sources = _from_table(folder, table) if table else _from_names(folder, pattern, on_skip or (lambda _: None))
    if not sources:
        raise FileNotFoundError(f"no checkpoints with a time in their name ({', '.join(SUFFIXES)}) in {folder}")
    for before, after in pairwise(sources):
        if before.t == after.t:
            one, other = (source.path.relative_to(folder).as_posix() for source in (before, after))
            remedy = "keep one of them in the table" if table else _remedy(folder, one, other)
            raise ValueError(
                f"{one_line(one)} and {one_line(other)} have the same time, t = {after.t:g}: {one_line(remedy)}"
            )
        if before.t > after.t:
            raise ValueError(
                f"times are out of order: {after.path.name}, t = {after.t:g}, comes after t = {before.t:g}"
            )
    if sources[0].t < 0:
        raise ValueError(f"{sources[0].path.name}: the time {sources[0].t:g} is negative")
    return sources


def convert(
    sources: Sequence[Source],
    out: Path,
    *,
    averaged: Length | None = None,
    dtype: str | None = None,
    key: str = "",
    prefix: str = "",
    strip: str = "",
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write one snapshot per checkpoint; all of them, or nothing.

    Args:
        sources: what to convert.
        out: folder for the snapshots; must be empty.
        averaged: how the weights were averaged while training; None for raw weights.
        dtype: of floating tensors in the snapshots; None for what they have.
        key: as for `read_state`.
        prefix: as for `read_state`.
        strip: as for `read_state`.
        on_progress: called with (checkpoints done, in all).

    Raises:
        FileExistsError: if `out` is not empty.
        ValueError: if a checkpoint cannot be read, they are of different networks, or two times are one in thousandths.
        SnapshotError: if one has values that are not finite.
    """
    profiles = [
        describe(averaged.profile(source.t)) if averaged is not None and source.t > 0 else RAW for source in sources
    ]
    names = [file_name(source.t, profile) for source, profile in zip(sources, profiles, strict=True)]
    check_names(names)
    written: list[Path] = []
    shapes: dict[str, tuple[int, ...]] | None = None
    with staged(out) as partial:
        for done, (source, profile, name) in enumerate(zip(sources, profiles, names, strict=True), start=1):
            state = read_state(source.path, key, prefix=prefix, strip=strip)
            own = {name: tuple(tensor.shape) for name, tensor in state.items()}
            if shapes is not None and own != shapes:
                wrong = next(iter(sorted(set(own.items()) ^ set(shapes.items()))))[0]
                raise ValueError(f"{source.path} and {sources[0].path} hold different networks: they differ in {wrong}")
            shapes = own
            tensors = {
                name: stored(name, tensor, average_dtype(name, tensor.dtype, dtype) if dtype else None)
                for name, tensor in state.items()
            }
            buffers = [name for name, one in state.items() if not (one.is_floating_point() or one.is_complex())]
            facts = facts_of(source.t, profile, buffers, extra={"source": source.path.name})
            written += write_average(partial / name, facts, tensors)
            if on_progress is not None:
                on_progress(done, len(sources))
    return [out / path.name for path in written]


def _from_names(folder: Path, pattern: str | None, on_skip: Callable[[str], None]) -> list[Source]:
    try:
        expressions = TIMES if pattern is None else (re.compile(pattern),)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    if not all(expression.groups for expression in expressions):
        raise ValueError(f"the pattern {pattern!r} has no group for the time: put it in parentheses, as in (\\d+)")
    sources: list[Source] = []
    units: dict[int, str] = {}  # by the number of the expression: a file whose time it found
    for path in _units(folder, DEPTH):
        where = path.relative_to(folder).as_posix()
        found = _time(SHARD.sub("", where), expressions, anywhere=pattern is not None)
        if found is None:
            on_skip(where)
        else:
            sources.append(Source(path, _number(found[1], where)))
            units.setdefault(found[0], where)
    if units.keys() >= {STEPS, EPOCHS}:
        raise ValueError(
            f"{one_line(units[STEPS])} tells a step and {one_line(units[EPOCHS])} an epoch, which do not go together: "
            "say by a pattern of paths which to take: --pattern 'step_(\\d+)'"
        )
    return sorted(sources, key=lambda source: source.t)


def _remedy(folder: Path, one: str, other: str) -> str:
    """How to choose between two files of one time: by a pattern that does, or else a table of files and times."""
    same = set(re.findall(r"\d+", one, re.ASCII)) & set(re.findall(r"\d+", other, re.ASCII))
    for path in sorted((one, other), key=lambda path: "ema" not in path):
        path = SHARD.sub("", path)
        parts, (_, time) = re.split(r"(\d+)", path, flags=re.ASCII), _time(path, TIMES, anywhere=False) or (0, None)
        texts = [r"\d+" if part in same else re.escape(part).replace(r"\-", "-") for part in parts]
        for place in (place for place, part in enumerate(parts) if part == time):
            pattern = "".join([*texts[:place], r"(\d+)", *texts[place + 1 :]])
            times = [source.t for source in _from_names(folder, pattern, lambda _: None)]
            if times and len(set(times)) == len(times):
                return f"choose with a pattern of paths: --pattern {shlex.quote(pattern)}"
    return "list the files to take, and their times, in a CSV file with the columns file and t: --table FILE"


def _units(folder: Path, depth: int) -> list[Path]:
    """Files that may be checkpoints, of several shards the first, in a folder and those in it."""
    units = files_of(folder)
    for below in sorted(folder.iterdir()) if depth else ():
        if below.is_dir() and not below.is_symlink() and not below.name.startswith("."):
            units += _units(below, depth - 1)
    return units


def _time(where: str, expressions: Sequence[re.Pattern[str]], anywhere: bool) -> tuple[int, str] | None:
    """The time in a path, anywhere in it or in its last part that has one, and the number of what finds it."""
    parts = [where] if anywhere else [re.sub(r"\.[a-z]+$", "", part) for part in reversed(where.split("/"))]
    for number, expression in enumerate(expressions):
        for part in parts:
            if matches := list(expression.finditer(part)):
                return number, matches[-1][1]
    return None


def _from_table(folder: Path, table: Path) -> list[Source]:
    if not table.is_file():
        raise FileNotFoundError(f"no table at {table}")
    with open(table, newline="", encoding="utf-8-sig") as file:  # as Excel writes it, too
        reader = csv.DictReader(file)
        rows, columns = list(reader), reader.fieldnames or ()
    if "file" not in columns or "t" not in columns:
        raise ValueError(
            f"{table} needs a header with the columns file and t; it has {', '.join(columns) or 'nothing'}"
        )
    sources: list[Source] = []
    for row in rows:
        if not row["file"] or not row["t"]:
            given = ",".join(map(str, filter(None, row.values())))
            raise ValueError(f"{table}: the row {given!r} needs a file and its time t")
        path = folder / row["file"]
        if not path.exists():
            raise FileNotFoundError(f"{table} names {row['file']}, which is not in {folder}")
        sources.append(Source(path, _number(row["t"], row["file"])))
    return sources


def _number(text: str, name: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name}: {text!r} is no time: give a finite number, 0 or more")
    return number
