"""Averages on disk: safetensors files that say when they were taken and how they were averaged.

Two formats are read. `unitgain-ema/1` holds tensors of any network: the header's `t` and `profile` say what they are,
`sums` holds a checksum per tensor. `unitgain/1` is the snapshot of a denoiser (`unitgain.checkpoint.snapshot`). A
snapshot may be in shards, `<stem>.<i, 5 digits>-of-<n, 5 digits>.safetensors`, each a file of the same kind.
"""

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unitgain.checkpoint.snapshot import FORMAT as SNAPSHOT
from unitgain.checkpoint.snapshot import SnapshotError, is_buffer
from unitgain.ema import ExponentialProfile, PowerProfile, Profile, UniformProfile

FORMAT = "unitgain-ema/1"
SHARD = re.compile(r"(.*)\.(\d{5})-of-(\d{5})")
DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
MAX_HEADER = 100_000_000


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies.

    Attributes:
        path: file.
        offset: of its first byte in the file.
        dtype: of its values.
        shape: of the tensor.
        sum: checksum of its bytes, as `checksum` computes it; None where the file has none per tensor.
    """

    path: Path
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    sum: int | None

    @property
    def count(self) -> int:
        """Number of values."""
        return int(torch.Size(self.shape).numel())

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class Average:
    """A snapshot: averaged tensors at one time.

    Attributes:
        path: the file, or the first of its shards.
        paths: the file, or all of its shards.
        metadata: of the (first) file's header, without checksums.
        entries: its tensors by name.
        t: when it was taken.
        kind: "power", "exponential", "uniform" or "raw".
        buffers: names of tensors that are not averages.
    """

    path: Path
    paths: tuple[Path, ...]
    metadata: dict[str, str]
    entries: dict[str, Entry]
    t: float
    kind: str
    buffers: frozenset[str]

    def profile(self) -> Profile | None:
        """How it was averaged; None for raw weights."""
        given = json.loads(self.metadata["profile"])
        match given["kind"]:
            case "power":
                return PowerProfile(self.t, given["gamma"])
            case "exponential":
                return ExponentialProfile(self.t, given["half_life"])
            case "uniform":
                return UniformProfile(given["start"], self.t)
            case _:
                return None

    @property
    def sha256(self) -> str | None:
        """Checksum over all tensors, in files that have no checksums per tensor."""
        return self.metadata.get("sha256")

    @property
    def nbytes(self) -> int:
        """Size of its tensors."""
        return sum(entry.nbytes for entry in self.entries.values())

    def averaged(self, name: str) -> bool:
        """Whether a tensor is an average, and not a buffer or of integers."""
        return name not in self.buffers and self.entries[name].dtype.is_floating_point


def checksum(data: Tensor) -> int:
    """Sum of the bytes as 64-bit words, modulo 2^64; data uint8 `[n]`, padded with zeros to whole words.

    It notices any single damaged word, and costs little beside reading.
    """
    if data.numel() % 8:
        data = torch.cat([data, data.new_zeros(-data.numel() % 8)])
    return int(data.view(torch.int64).sum()) % 2**64


def read_header(path: Path) -> tuple[dict[str, str], dict[str, Entry]]:
    """Metadata and tensors of a safetensors file, without reading the tensors.

    Raises:
        FileNotFoundError: if there is no file.
        SnapshotError: if it is no safetensors file, cut short, or its header is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no snapshot at {path}")
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise SnapshotError(f"{path} is damaged or no safetensors file: it begins with no header")
        text = file.read(length)
    try:
        header: dict[str, Any] = json.loads(text)
        metadata: dict[str, str] = header.pop("__metadata__", {})
        sums: dict[str, str] = json.loads(metadata.get("sums", "{}"))
        entries = {
            name: _entry(path, 8 + length, value, int(sums[name], 16) if name in sums else None)
            for name, value in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SnapshotError(f"{path} has a damaged header: {error!r}") from error
    end = 8 + length + sum(entry.nbytes for entry in entries.values())
    if end != size:
        raise SnapshotError(f"{path} should have {end} bytes, but has {size}: it was cut short or damaged")
    return metadata, entries


def open_average(paths: Sequence[Path]) -> Average:
    """Open one snapshot, in one file or in shards.

    Raises:
        FileNotFoundError: if there is no file.
        SnapshotError: if it is no snapshot or damaged.
    """
    headers = [read_header(path) for path in paths]
    metadata = headers[0][0]
    for path, (given, _) in zip(paths, headers, strict=True):
        if given.get("format") not in (FORMAT, SNAPSHOT):
            raise SnapshotError(
                f"{path} is not a snapshot: its header says {given.get('format')!r}; `unitgain ema convert` makes "
                "snapshots of plain safetensors and torch.save files"
            )
        if (given.get("t"), given.get("profile")) != (metadata.get("t"), metadata.get("profile")):
            raise SnapshotError(f"{path} and {paths[0]} are shards of different snapshots")
    entries: dict[str, Entry] = {}
    for path, (_, own) in zip(paths, headers, strict=True):
        if twice := entries.keys() & own.keys():
            raise SnapshotError(f"{path}: tensor {sorted(twice)[0]} is in another shard too")
        entries |= own
    try:
        buffers = json.loads(metadata["buffers"]) if metadata["format"] == FORMAT else filter(is_buffer, entries)
        average = Average(
            path=paths[0],
            paths=tuple(paths),
            metadata={key: value for key, value in metadata.items() if key != "sums"},
            entries=entries,
            t=float(json.loads(metadata["t" if metadata["format"] == FORMAT else "nimg"])),
            kind=json.loads(metadata["profile"])["kind"],
            buffers=frozenset(buffers),
        )
        average.profile()
    except (ValueError, KeyError, TypeError) as error:
        raise SnapshotError(f"{paths[0]} has a damaged header: {error!r}") from error
    return average


def list_averages(folder: Path) -> list[Average]:
    """The snapshots of a run (its `snapshots` folder, or the folder itself), by time and name.

    Raises:
        FileNotFoundError: if there are none.
        SnapshotError: if one cannot be opened, or a shard is missing.
    """
    inner = folder / "snapshots"
    inner = inner if inner.is_dir() else folder
    groups = _groups(inner)
    if not groups:
        raise FileNotFoundError(f"no snapshots (*.safetensors) in {inner}")
    for paths in groups.values():
        _check_shards(paths)
    return sorted((open_average(paths) for paths in groups.values()), key=lambda average: average.t)


def unfinished(folder: Path) -> list[Path]:
    """Shards of snapshots that have no first shard, which is written last: their writing was cut short."""
    sets = _groups(folder).values()
    return [path for paths in sets if (match := SHARD.fullmatch(paths[0].stem)) and int(match[2]) > 1 for path in paths]


def check_same_network(averages: Sequence[Average]) -> None:
    """Raise `ValueError` unless all snapshots have the same tensors, and are of the same network if they name it."""
    last = averages[-1]
    for average in averages[:-1]:
        if average.metadata.get("network") != last.metadata.get("network"):
            raise ValueError(f"{average.path} and {last.path} hold different networks")
        if average.entries.keys() != last.entries.keys():
            name = sorted(average.entries.keys() ^ last.entries.keys())[0]
            raise ValueError(f"{average.path} and {last.path} hold different networks: only one has tensor {name}")
        for name, entry in average.entries.items():
            if entry.shape != last.entries[name].shape:
                raise ValueError(
                    f"{average.path} and {last.path} hold different networks: tensor {name} is {entry.shape} in one "
                    f"and {last.entries[name].shape} in the other"
                )


def header_bytes(metadata: Mapping[str, str], tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> bytes:
    """The header of a safetensors file whose tensors lie in the given order, without gaps."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        size = int(torch.Size(shape).numel()) * dtype.itemsize
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _entry(path: Path, base: int, value: Mapping[str, Any], total: int | None) -> Entry:
    dtype = DTYPES.get(value["dtype"])
    if dtype is None:
        raise ValueError(f"tensors of dtype {value['dtype']} are not supported")
    lo, hi = value["data_offsets"]
    entry = Entry(path, base + lo, dtype, tuple(value["shape"]), total)
    if hi - lo != entry.nbytes or lo < 0:
        raise ValueError(f"a tensor of {entry.nbytes} bytes has offsets {lo} to {hi}")
    return entry


def _groups(folder: Path) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("[!.]*.safetensors")):
        match = SHARD.fullmatch(path.stem)
        groups.setdefault(match[1] if match else path.stem, []).append(path)
    return groups


def _check_shards(paths: Sequence[Path]) -> None:
    matches = [SHARD.fullmatch(path.stem) for path in paths]
    if len(paths) == 1 and matches[0] is None:
        return
    counts = {int(match[3]) if match else 0 for match in matches}
    if len(counts) > 1:
        raise SnapshotError(f"{paths[0]} and {paths[-1]} are shards of different sets: keep one of them")
    (count,) = counts
    present = {int(match[2]) for match in matches if match}
    if missing := sorted(set(range(1, count + 1)) - present):
        stem = matches[0][1] if matches[0] else ""
        cut = "; the first is written last, so its writing may have been cut short: then delete the others"
        raise SnapshotError(
            f"shard {stem}.{missing[0]:05d}-of-{count:05d}.safetensors is missing from {paths[0].parent}: "
            f"{len(present)} of {count} are there{cut if missing[0] == 1 else ''}"
        )
