"""Snapshots: averaged weights in safetensors files that describe themselves and notice damage.

One format holds the averages of denoisers and of any other network, in one file or in shards,
`<stem>.<i, 5 digits>-of-<n, 5 digits>.safetensors`; `unitgain.checkpoint.facts` says what is in its header.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unitgain.arch import NetworkSpec
from unitgain.checkpoint.facts import (
    DTYPES,
    FORMAT,
    KEY,
    SnapshotError,
    SnapshotHeader,
    check_facts,
    digest,
)
from unitgain.checkpoint.tensors import METADATA, Entry, checksum, map_file, raw_bytes, read_header, tensor_at
from unitgain.checkpoint.writer import write_snapshot
from unitgain.denoiser import Denoiser
from unitgain.ema import Profile, power_profile, profile_of
from unitgain.files import near
from unitgain.kinds import instead_of_snapshot, instead_of_snapshots
from unitgain.text import printable
from unitgain.trust import parse_json

__all__ = [
    "DTYPES",
    "FORMAT",
    "Snapshot",
    "SnapshotError",
    "SnapshotHeader",
    "list_snapshots",
    "power_profile",
    "unfinished",
    "write_snapshot",
]

SHARD = re.compile(r"(.*)\.(\d{5})-of-(\d{5})")
MAX_MODULES = 2**16  # of a network that is built because a file says so; the largest of the papers has 1,000
_WRONG = (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError)


class Snapshot:
    """A snapshot open for reading, its header checked; a context manager.

    Args:
        path: the file, or one of its shards; the others are those beside it.

    Attributes:
        path: the file, or the first of its shards.
        paths: the file, or all of its shards.
        entries: its tensors by name.
        names: of its tensors, sorted.
        buffers: names of tensors that are not averages.
        t: when it was taken.
        described: how it was averaged, as `unitgain.ema.describe` has it.
        facts: all that it says of itself, but checksums.
        sha256: over all that its header says, checksums of its tensors too.

    Raises:
        FileNotFoundError: if there is no file.
        SnapshotError: if it is not a snapshot, is cut short, its header is damaged, or a shard is missing.
    """

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no snapshot at {printable(path)}{near(path)}")
        match = SHARD.fullmatch(path.stem)
        self.paths = (path,) if match is None else _shards(_groups(path.parent).get(match[1], [path]))
        self.path = self.paths[0]
        self.entries: dict[str, Entry] = {}
        self._mapped: dict[Path, Tensor] = {}
        self.facts: dict[str, Any] = {}
        digests: list[str] = []
        for number, own in enumerate(self.paths, start=1):
            facts, entries, header = read_facts(own)
            if facts.pop("shard", None) != (None if match is None else [number, len(self.paths)]):
                raise SnapshotError(f"{own} is another shard than its name says, or none")
            digests.append(facts.pop("sha256"))
            if number == 1:
                self.facts, self._header = facts, header
            elif facts != self.facts:
                raise SnapshotError(f"{own} and {self.path} are shards of different snapshots")
            if twice := self.entries.keys() & entries.keys():
                raise SnapshotError(f"{own}: tensor {printable(min(twice))} is in another shard too")
            self.entries |= entries
        self.sha256 = digests[0] if match is None else hashlib.sha256("".join(digests).encode()).hexdigest()
        self.names = sorted(self.entries)
        self.t = float(self.facts["t"])
        self.described: dict[str, Any] = self.facts["profile"]
        self.buffers = frozenset[str](self.facts["buffers"])

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(self, *_: object) -> None:
        self._mapped.clear()

    @property
    def header(self) -> SnapshotHeader:
        """What the snapshot of a denoiser says of itself.

        Raises:
            SnapshotError: if it is of something else.
        """
        if self._header is None:
            raise SnapshotError(f"{self.path} holds averages of something else than a denoiser")
        return self._header

    @property
    def kind(self) -> str:
        """Of its averaging profile: "power", "exponential", "uniform", "raw" or "unknown"."""
        return self.described["kind"]

    def profile(self) -> Profile | None:
        """How it was averaged; None for raw weights, and for an average that does not say."""
        return profile_of(self.described, self.t)

    @property
    def nbytes(self) -> int:
        """Size of its tensors."""
        return sum(entry.nbytes for entry in self.entries.values())

    def averaged(self, name: str) -> bool:
        """Whether a tensor is an average, and not a buffer or of integers."""
        dtype = self.entries[name].dtype
        return name not in self.buffers and (dtype.is_floating_point or dtype.is_complex)

    def tensor(self, name: str) -> Tensor:
        """One tensor as it is stored, on the CPU, mapped from the file; not checked against its checksum."""
        if name not in self.entries:
            raise SnapshotError(f"{self.path} has no tensor {printable(name)}")
        entry = self.entries[name]
        try:
            if entry.path not in self._mapped:
                self._mapped[entry.path] = map_file(entry.path, entry.path.stat().st_size)
            return tensor_at(self._mapped[entry.path], entry)
        except (ValueError, RuntimeError) as error:
            raise SnapshotError(f"{entry.path}: tensor {printable(name)} cannot be read: {error}") from error

    def verified(self) -> Iterator[tuple[str, Tensor]]:
        """All tensors in the order of names, each checked against its checksum.

        Raises:
            SnapshotError: if one is not what the header says.
        """
        for name in self.names:
            tensor = self.tensor(name)
            if checksum(raw_bytes(tensor)) != self.entries[name].sum:
                raise damaged(self.entries[name], name)
            yield name, tensor

    def denoiser(self, mapped: bool = False, tensors: Mapping[str, Tensor] | None = None) -> Denoiser:
        """The denoiser in evaluation mode, checked against the checksums.

        Args:
            mapped: leave the parameters in the file, in its precision, and map them into memory: only to be prepared,
                or looked at. By default they are float32, in memory.
            tensors: another average of the same network in the place of its own, by name; they are taken as they are
                where it is `mapped`.

        Raises:
            SnapshotError: if the file is damaged, or its tensors are not those of its network.
        """
        header = self.header
        try:
            check_number(header.network, len(self.entries))
            with torch.device("meta"):
                denoiser = Denoiser(header.network, header.sigma_data)
            check_tensors(self.entries, denoiser.state_dict())
            found = self.verified() if tensors is None else tensors.items()
            denoiser.load_state_dict(
                {name: one if mapped else one.to(torch.float32, copy=True) for name, one in found}, assign=True
            )
        except (*_WRONG, RuntimeError) as error:
            raise SnapshotError(f"{self.path}: its tensors do not fit its network: {_reason(error)}") from error
        denoiser.encoder, denoiser.label_dropout = header.encoder, header.label_dropout
        denoiser.classes = header.classes
        return denoiser.requires_grad_(False).eval()


def list_snapshots(folder: Path) -> list[Snapshot]:
    """The snapshots of a run (its `snapshots` folder, or the folder itself), by time and name; of a file, that one.

    Raises:
        FileNotFoundError: if there are none.
        SnapshotError: if one cannot be opened, or a shard is missing.
    """
    if folder.is_file():
        return [Snapshot(folder)]
    if not folder.is_dir():
        raise FileNotFoundError(f"no run or folder of snapshots at {printable(folder)}{near(folder)}")
    inner = folder / "snapshots"
    inner = inner if inner.is_dir() else folder
    groups = _groups(inner)
    if not groups:
        raise FileNotFoundError(f"no snapshots (*.safetensors) in {printable(inner)}{instead_of_snapshots(inner)}")
    return sorted((Snapshot(_shards(paths)[0]) for paths in groups.values()), key=lambda snapshot: snapshot.t)


def unfinished(folder: Path) -> list[Path]:
    """Shards of snapshots that have no first shard, which is written last: their writing was cut short."""
    firsts = [(paths, SHARD.fullmatch(paths[0].stem)) for paths in _groups(folder).values()]
    return [path for paths, match in firsts if match and int(match[2]) > 1 for path in paths]


def damaged(entry: Entry, name: str) -> SnapshotError:
    """The error for a tensor that is not what the header says."""
    return SnapshotError(
        f"{entry.path} is damaged: tensor {printable(name)} does not match its checksum; fetch or write it again"
    )


def check_number(spec: NetworkSpec, tensors: int) -> None:
    """Raise `ValueError` if a network has more modules than so many tensors could fill, before it is built."""
    blocks = len(spec.channel_mult) * (2 * spec.num_blocks + 2)
    modules = blocks * (max(len(spec.tokens), len(spec.decoder_tokens)) + 1)
    if modules > min(8 * tensors + 64, MAX_MODULES):
        raise ValueError(f"it describes a network of {modules:,} modules, and has {tensors:,} tensors")


def check_tensors(entries: Mapping[str, Entry], expected: Mapping[str, Tensor]) -> None:
    """Raise `ValueError` unless tensors have the names and shapes that are expected, and floating dtypes."""
    for name in sorted(expected.keys() ^ entries.keys()):
        raise ValueError(f"tensor {name} is {'missing' if name in expected else 'of no use to it'}")
    for name, tensor in expected.items():
        if entries[name].shape != tuple(tensor.shape) or not entries[name].dtype.is_floating_point:
            entry = entries[name]
            raise ValueError(f"tensor {name} is {entry.dtype} {entry.shape}, and should have shape {(*tensor.shape,)}")


def read_facts(path: Path) -> tuple[dict[str, Any], dict[str, Entry], SnapshotHeader | None]:
    """What one file says of itself, its tensors, to which `sums` have moved, and what it says of a denoiser."""
    try:
        header, entries = read_header(path)
    except _WRONG as error:
        what = instead_of_snapshot(path) or f"is damaged or no safetensors file: {_reason(error)}"
        raise SnapshotError(f"{path} {what}") from error
    try:
        metadata = header.pop(METADATA, {})
        if KEY not in metadata:
            raise SnapshotError(
                f"{path} is not a snapshot of format {FORMAT}; `unitgain ema convert` makes snapshots of plain "
                "safetensors and torch.save files"
            )
        facts = parse_json(metadata[KEY], "what it says of itself", unique=True)
        if facts.get("format") != FORMAT:
            raise SnapshotError(
                f"{path} is not a snapshot of format {FORMAT}: it says {printable(facts.get('format'))[:50]}; a newer "
                "version of unitgain may read it"
            )
        if facts.get("sha256") != digest(facts, header):
            raise SnapshotError(f"{path} is damaged: its header does not match its checksum")
        about = check_facts(facts, entries)
        sums = facts.pop("sums")
    except _WRONG as error:
        raise SnapshotError(f"{path} has a damaged header: {_reason(error)}") from error
    return facts, {name: replace(entry, sum=int(sums[name], 16)) for name, entry in entries.items()}, about


def _reason(error: Exception) -> str:
    """Why, as short as can be: torch adds where in its own code it happened, and a value may be of any length."""
    return printable(error).partition("\n")[0][:1000]


def _groups(folder: Path) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("[!.]*.safetensors")):
        match = SHARD.fullmatch(path.stem)
        groups.setdefault(match[1] if match else path.stem, []).append(path)
    return groups


def _shards(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The shards of one snapshot, if they are all there.

    Raises:
        SnapshotError: if one is missing, or there are those of two.
    """
    counts = {int(match[3]) if (match := SHARD.fullmatch(path.stem)) else 0 for path in paths}
    if counts == {0}:
        return tuple(paths)
    if len(counts) > 1:
        raise SnapshotError(f"{paths[0]} and {paths[-1]} are shards of different sets: keep one of them")
    (count,) = counts
    wanted = [paths[0].with_name(SHARD.sub(rf"\1.{i:05d}-of-\3", paths[0].name)) for i in range(1, count + 1)]
    for path in wanted:
        if path not in paths:
            cut = "; the first is written last, so its writing may have been cut short: then delete the others"
            raise SnapshotError(
                f"shard {path.name} is missing from {path.parent}: {len(paths)} of {count} are there"
                f"{cut if path == wanted[0] else ''}"
            )
    if len(paths) > count:
        raise SnapshotError(f"{paths[0]}: {len(paths)} shards are there, and {count} in all")
    return tuple(paths)
