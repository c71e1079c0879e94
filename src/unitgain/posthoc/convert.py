"""Checkpoints of any project into a folder of snapshots: all it takes is tensors and times."""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor

from unitgain.checkpoint.facts import DTYPES, facts_of
from unitgain.checkpoint.writer import stored, write_average
from unitgain.ema import RAW, describe, file_name
from unitgain.files import require_empty
from unitgain.posthoc.targets import Length

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.|_fsdp_wrapped_module\.)+")


@dataclass(frozen=True)
class Source:
    """One checkpoint to convert.

    Attributes:
        path: a file, or a folder whose files make up one state dict together.
        t: when it was taken.
    """

    path: Path
    t: float


def find_sources(folder: Path, pattern: str = r"(\d+)", table: Path | None = None) -> list[Source]:
    """The checkpoints in a folder with their times, by time.

    Args:
        folder: holds files, or folders of files, one per time.
        pattern: regular expression of the time in a name: its first group, where it matches last.
        table: CSV with a header and the columns `file` and `t`, instead of times in names.

    Raises:
        FileNotFoundError: if there are none, or one that the table names is not there.
        ValueError: if a name has no time, a time is no number, is negative, or comes twice, or the times of the table
            are not increasing.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder of checkpoints")
    sources = _from_table(folder, table) if table else _from_names(folder, pattern)
    if not sources:
        raise FileNotFoundError(f"no checkpoints ({', '.join(SUFFIXES)}, or folders of them) in {folder}")
    for before, after in pairwise(sources):
        if before.t == after.t:
            raise ValueError(f"{before.path.name} and {after.path.name} have the same time, t = {after.t:g}")
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
    shard_bytes: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write one snapshot per checkpoint.

    Args:
        sources: what to convert.
        out: folder for the snapshots; must be empty.
        averaged: how the weights were averaged while training; None for raw weights.
        dtype: of floating tensors in the snapshots; None for what they have.
        key: where in a nested checkpoint the state dict is, with dots: "ema", "model.ema"; "" finds it if it can.
        shard_bytes: largest size of a file.
        on_progress: called with (checkpoints done, in all).

    Raises:
        FileExistsError: if `out` is not empty.
        ValueError: if a checkpoint cannot be read, or they are of different networks.
    """
    require_empty(out)
    written: list[Path] = []
    shapes: dict[str, tuple[int, ...]] | None = None
    for done, source in enumerate(sources, start=1):
        state = read_state(source.path, key)
        own = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if shapes is not None and own != shapes:
            name = next(iter(sorted(set(own.items()) ^ set(shapes.items()))))[0]
            raise ValueError(f"{source.path} and {sources[0].path} hold different networks: they differ in {name}")
        shapes = own
        profile = describe(averaged.profile(source.t)) if averaged is not None and source.t > 0 else RAW
        tensors = {name: stored(name, tensor, DTYPES[dtype] if dtype else None) for name, tensor in state.items()}
        buffers = [name for name, tensor in state.items() if not tensor.is_floating_point()]
        facts = facts_of(source.t, profile, buffers, extra={"source": source.path.name})
        written += write_average(out / file_name(source.t, profile), facts, tensors, shard_bytes=shard_bytes)
        if on_progress is not None:
            on_progress(done, len(sources))
    return written


def read_state(path: Path, key: str = "") -> dict[str, Tensor]:
    """The state dict in a file, or in the files of a folder together; tied tensors once, wrappers' prefixes removed.

    Pickles are read by torch's restricted loader: no code of a file is run.

    Raises:
        ValueError: if it cannot be read, or holds no tensors where `key` says.
    """
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if path.is_dir() and any(file.suffix == ".safetensors" for file in files):
        files = [file for file in files if file.suffix == ".safetensors"]  # what lies beside are optimizer states
    state: dict[str, Tensor] = {}
    for file in files:
        for name, tensor in _tensors(_load(file), key, file).items():
            state[WRAPPERS.sub("", name)] = tensor
    if not any(tensor.is_floating_point() for tensor in state.values()):
        raise ValueError(f"{path} holds no floating tensors")
    seen: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    for name in sorted(state):
        tensor = state[name]
        where = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()))
        if tensor.numel() and where in seen:
            del state[name]
        seen.setdefault(where, name)
    return state


def _load(file: Path) -> object:
    try:
        if file.suffix == ".safetensors":
            return cast(Any, safetensors.torch).load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise nearly anything for a damaged file
        raise ValueError(f"{file} cannot be read: it is damaged, or holds more than tensors ({error})") from error


def _tensors(loaded: object, key: str, file: Path) -> Mapping[str, Tensor]:
    for part in key.split(".") if key else ():
        if not isinstance(loaded, Mapping) or part not in loaded:
            known = ", ".join(map(str, cast(Mapping[Any, Any], loaded))) if isinstance(loaded, Mapping) else "no names"
            raise ValueError(f"{file} has nothing under {part!r}; there is {known}")
        loaded = cast(Mapping[str, object], loaded)[part]
    if isinstance(loaded, Mapping):
        given = cast(Mapping[str, object], loaded)
        tensors = {str(name): value for name, value in given.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
        nested = [name for name, value in given.items() if isinstance(value, Mapping)]
        if not key and len(nested) == 1:
            return _tensors(given[nested[0]], "", file)
        raise ValueError(f"{file} holds no tensors there; say where they are with a key: {', '.join(map(str, nested))}")
    raise ValueError(f"{file} holds a {type(loaded).__name__}, no state dict")


def _from_names(folder: Path, pattern: str) -> list[Source]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    sources: list[Source] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not (path.is_dir() or path.suffix in SUFFIXES):
            continue
        stem = path.name if path.is_dir() else path.stem
        matches = list(expression.finditer(stem))
        if not matches or not matches[-1].groups():
            raise ValueError(f"{path.name}: no time in the name by the pattern {pattern!r}; give another, or a table")
        sources.append(Source(path, _number(matches[-1][1], path.name)))
    return sorted(sources, key=lambda source: source.t)


def _from_table(folder: Path, table: Path) -> list[Source]:
    if not table.is_file():
        raise FileNotFoundError(f"no table at {table}")
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    sources: list[Source] = []
    for row in rows:
        if "file" not in row or "t" not in row:
            raise ValueError(f"{table} needs the columns file and t; it has {', '.join(map(str, row))}")
        path = folder / row["file"]
        if not path.exists():
            raise FileNotFoundError(f"{table} names {row['file']}, which is not in {folder}")
        sources.append(Source(path, _number(row["t"], row["file"])))
    return sources


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{name}: {text!r} is no time") from error
