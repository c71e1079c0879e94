"""Tensors of all processes in one folder: each writes its own, in the background; any number of processes reads them.

Process r writes `<r, 5 digits>.safetensors`. A sharded tensor is in the files of all who have rows of it, any other one
in the file of one process. The metadata of a file names the rows that it has of sharded tensors. There is no pickle in
it and no table of contents beside it.
"""

import json
import stat
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from unitgain.checkpoint.tensors import METADATA, Entry, map_file, read_header, tensor_at, write_tensors
from unitgain.parallel import World, beside, is_sharded
from unitgain.text import printable
from unitgain.trust import parse_json

SUFFIX = ".safetensors"
ROWS = "rows"  # of sharded tensors, in a file's metadata: {name: [first row, rows of the whole tensor]}


class ShardError(ValueError):
    """The tensors in a folder are not the ones that are wanted, or what it says of them does not fit together."""


def save_tensors(
    folder: Path, tensors: Mapping[str, Tensor], world: World, then: Callable[[], None] = lambda: None
) -> Future[None]:
    """Write tensors to a folder, in the background; all processes must call this together.

    The tensors are copied before this returns, so training may go on at once.

    Args:
        folder: made if it is not there.
        tensors: the same names on all processes. Sharded ones are written by the processes that have them, others by
            one of them, so that all write alike much.
        world: the processes.
        then: called in the background on each process when all have written; part of the work.

    Returns:
        A future that is done after that; an error in writing on any process is one of all.
    """
    own, rows = _own_parts(tensors, world)

    def write_part() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / f"{world.rank:05d}{SUFFIX}", own, {ROWS: json.dumps(rows)} if rows else {})

    def write() -> None:
        world.together(f"writing {folder}", write_part, background=True)
        then()

    return beside("unitgain-checkpoint", write)


@torch.no_grad()
def load_tensors(folder: Path, files: Collection[str], tensors: Mapping[str, Tensor]) -> None:
    """Fill tensors, in place, with what is stored under their names, however they were cut up when they were written.

    Every process reads what it needs, without communication.

    Args:
        folder: a checkpoint.
        files: names of the files that it is known to have; no other one is opened.
        tensors: by name, sharded or not.

    Raises:
        ShardError: if something is missing, of another shape or dtype, or there twice; and if a file is damaged.
    """
    parts: dict[str, list[_Part]] = {name: [] for name in tensors}
    for name in sorted(files):
        if name.endswith(SUFFIX):
            _list_parts(folder / name, tensors, parts)
    mapped = cache(lambda path: map_file(path, path.stat().st_size))
    for name, tensor in tensors.items():
        _fill(name, tensor, sorted(parts[name], key=lambda part: (part.start, part.stop)), folder, mapped)


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows of a tensor in a file; a scalar counts as one row."""

    entry: Entry
    start: int
    stop: int


def _own_parts(tensors: Mapping[str, Tensor], world: World) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """Copies of what this process writes, and which rows they are."""
    own: dict[str, Tensor] = {}
    rows: dict[str, list[int]] = {}
    load = [0] * world.size
    for name, tensor in tensors.items():
        if is_sharded(tensor):
            part, start = _local_rows(tensor)
            if part.numel() or not tensor.numel():
                own[name] = part.detach().to("cpu", copy=True)
                rows[name] = [start, tensor.shape[0]]
            continue
        rank = load.index(min(load))
        load[rank] += tensor.nbytes + 1
        if rank == world.rank:
            own[name] = tensor.detach().to("cpu", copy=True)
    return own, rows


def _local_rows(tensor: Tensor) -> tuple[Tensor, int]:
    """What this process has of a tensor, and its first row; a tensor that is not sharded is here whole."""
    if not is_sharded(tensor):
        return tensor, 0
    sharded = cast(Any, tensor)
    (chunk,) = sharded.__create_chunk_list__()  # where it lies in the whole, for whoever stores it
    part = sharded.to_local()
    assert tuple(chunk.sizes[1:]) == tuple(tensor.shape[1:]), "tensors are sharded along their rows"
    return part, chunk.offsets[0]


def _list_parts(path: Path, tensors: Mapping[str, Tensor], parts: dict[str, list[_Part]]) -> None:
    """Find out what a file has of the tensors that are wanted; nothing of it is read but its header."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ShardError("it is no ordinary file")
        header, entries = read_header(path)
        rows = _stored_rows(header.get(METADATA, {}))
        for name in entries.keys() & tensors.keys():
            parts[name].append(_part(entries[name], name, tensors[name], rows.get(name)))
    except (OSError, ValueError) as error:
        raise ShardError(f"{path} cannot be read: {printable(error)}") from error


def _stored_rows(metadata: object) -> Mapping[str, Any]:
    text = metadata.get(ROWS, "{}") if isinstance(metadata, Mapping) else None
    rows = parse_json(text, "what it says of its rows") if isinstance(text, str) else None
    if not isinstance(rows, dict):
        raise ShardError("what it says of its rows is no object of JSON")
    return rows


def _part(entry: Entry, name: str, tensor: Tensor, rows: object) -> _Part:
    count = entry.shape[0] if entry.shape else 1
    start, total = (0, count) if rows is None or not entry.shape else _span(name, rows)
    whole = (total, *entry.shape[1:]) if entry.shape else ()
    if whole != tuple(tensor.shape):
        raise ShardError(f"tensor {name} has shape {whole}, and {tuple(tensor.shape)} is wanted")
    if entry.dtype != tensor.dtype:
        raise ShardError(f"tensor {name} is of dtype {entry.dtype}, and {tensor.dtype} is wanted")
    if not 0 <= start <= start + count <= total:
        raise ShardError(f"tensor {name} has rows {start} to {start + count} of {total}")
    return _Part(entry, start, start + count)


def _span(name: str, rows: object) -> tuple[int, int]:
    if not isinstance(rows, list) or len(rows) != 2 or not all(type(row) is int for row in rows):
        raise ShardError(f"what it says of the rows of tensor {name} is {printable(rows)[:100]}, not two numbers")
    return rows[0], rows[1]


def _fill(name: str, tensor: Tensor, parts: list[_Part], folder: Path, mapped: Callable[[Path], Tensor]) -> None:
    rows = tensor.shape[0] if tensor.ndim else 1
    ends = [0, *(part.stop for part in parts)]
    if [part.start for part in parts] != ends[:-1] or ends[-1] != rows or not parts:
        found = ", ".join(f"{part.start} to {part.stop}" for part in parts[:10]) or "none"
        raise ShardError(f"{folder}: of the {rows} rows of tensor {name} it has, file by file, {found}")
    target, first = _local_rows(tensor)
    count = target.shape[0] if target.ndim else 1
    for part in parts:
        begin, end = max(part.start, first), min(part.stop, first + count)
        if begin >= end:
            continue
        try:
            stored = tensor_at(mapped(part.entry.path), part.entry)
        except (ValueError, RuntimeError, OSError) as error:
            raise ShardError(f"{folder}: tensor {name} cannot be read: {printable(error)}") from error
        if target.ndim:
            target[begin - first : end - first].copy_(stored[begin - part.start : end - part.start])
        else:
            target.copy_(stored)
