"""The files of a reconstruction in the making, and the journal that lets an interrupted one go on."""

import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from unitgain.checkpoint.snapshot import DTYPES, Digest, SnapshotError, header_digest
from unitgain.ema import PowerProfile
from unitgain.files import sweep, write_text
from unitgain.posthoc.files import FORMAT, Average, checksum
from unitgain.posthoc.planning import Plan
from unitgain.posthoc.targets import Target, describe, moment
from unitgain.posthoc.writer import Layout, Writer, shard, shard_paths

JOURNAL = ".reconstruct.json"
SYNC_SECONDS = 10.0  # work that a crash may cost
_LOCK = threading.Lock()


def filename(target: Target) -> str:
    """`<t, 10 digits>-<length>.safetensors`; `-mixed-` and a hash of them where tensors have lengths of their own."""
    assert target.t is not None
    mixed = ""
    if target.overrides:
        about = json.dumps([[pattern, repr(length)] for pattern, length in target.overrides.items()])
        mixed = f"-mixed-{hashlib.sha256(about.encode()).hexdigest()[:8]}"
    return f"{moment(target.t)}-{target}{mixed}.safetensors"


class Output:
    """The results in the making: one `Writer` per file, and a journal of the tensors that are done.

    A context: left by `SnapshotError` or `ValueError`, it removes what it holds; otherwise the next call goes on.

    Args:
        planned: what is made.
        paths: of the results.
        dtype: of averaged tensors; None for that of the snapshots.
        shard_bytes: largest size of a file.
    """

    def __init__(self, planned: Plan, paths: Sequence[Path], dtype: str | None, shard_bytes: int | None) -> None:
        self._plan = planned
        self._paths = list(paths)
        self._folder = self._paths[0].parent
        entries = planned.copy_from.entries
        chosen = None if dtype is None else DTYPES[dtype]
        self._layout: Layout = {
            name: ((chosen or entry.dtype) if planned.copy_from.averaged(name) else entry.dtype, entry.shape)
            for name, entry in entries.items()
        }
        self._shards = shard(self._layout, shard_bytes)
        self._shard_of = {name: index for index, names in enumerate(self._shards) for name in names}
        self._metadata = [_metadata(planned.copy_from, target) for target in planned.targets]
        self._key = self._fingerprint(dtype, shard_bytes)
        self._sums: list[dict[str, int]] = [{} for _ in self._paths]
        self._parts: list[dict[str, int]] = [{} for _ in self._paths]
        self._done: list[str] = []
        self._synced = monotonic()
        self._writers: list[list[Writer]] = []
        self._finished: set[str] = set()

    @property
    def _digests(self) -> bool:
        return self._plan.copy_from.metadata["format"] != FORMAT

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let go of the files: what cannot become whole is removed, what is unfinished stays for the next call."""
        try:
            if kind is not None and issubclass(kind, SnapshotError | ValueError):
                self._discard()
            elif kind is not None and issubclass(kind, KeyboardInterrupt):
                self.save()
        finally:
            self._close()

    def resume(self) -> list[str]:
        """Open the files, taking up what an interrupted call left; returns the tensors still to do."""
        sweep(self._folder)
        journal = self._folder / JOURNAL
        try:
            state: dict[str, Any] = json.loads(journal.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            state = {}
        if state.get("key") == self._key:
            self._done = list(state["done"])
            self._sums = [{name: int(total, 16) for name, total in sums.items()} for sums in state["sums"]]
        for path in self._paths:
            files = shard_paths(path, len(self._shards))
            partials = [file.with_name(f".{file.name}.partial") for file in files]
            if self._done and not all(p.exists() or f.exists() for p, f in zip(partials, files, strict=True)):
                self._done, self._sums = [], [{} for _ in self._paths]
            if not self._done:
                for partial in partials:
                    partial.unlink(missing_ok=True)
        for path, metadata in zip(self._paths, self._metadata, strict=True):
            row: list[Writer] = []
            for file, names in zip(shard_paths(path, len(self._shards)), self._shards, strict=True):
                partial = file.with_name(f".{file.name}.partial")
                if self._done and not partial.exists():
                    self._finished.add(file.name)  # complete, and named so
                row.append(Writer(partial, metadata, names, sums=not self._digests))
            self._writers.append(row)
        done = set(self._done)
        return [name for name in sorted(self._layout) if name not in done]

    def sink(self, name: str, start: int, values: Tensor) -> None:
        """Take in values `[targets, elements]`, or one row for all."""
        dtype = self._layout[name][0]
        kept = values if values.dtype == dtype else values.to(dtype)
        if self._plan.copy_from.averaged(name) and not torch.isfinite(kept).all():
            raise ValueError(f"tensor {name} holds values that are not finite in {dtype}: nothing is written")
        shard_index = self._shard_of[name]
        totals: list[int] = []
        for index, row in enumerate(self._writers):
            one = kept[index if len(kept) > 1 else 0].contiguous()
            row[shard_index].write(name, start, one)
            totals.append(checksum(one.view(torch.uint8)))
        with _LOCK:
            for parts, total in zip(self._parts, totals, strict=True):
                parts[name] = (parts.get(name, 0) + total) % 2**64

    def tensor_done(self, name: str) -> None:
        """Note that a tensor is complete; the journal follows the data to the disk every few seconds."""
        self._done.append(name)
        for sums, parts in zip(self._sums, self._parts, strict=True):
            sums[name] = parts.pop(name, 0)
        if monotonic() - self._synced > SYNC_SECONDS:
            self.save()

    def save(self) -> None:
        """Flush the data, then the journal."""
        for row in self._writers:
            for writer in row:
                writer.sync()
        sums = [{name: f"{total:016x}" for name, total in sums.items()} for sums in self._sums]
        write_text(self._folder / JOURNAL, json.dumps({"key": self._key, "done": self._done, "sums": sums}))
        self._synced = monotonic()

    def finish(self) -> list[Path]:
        """Give the files their names; of several shards the first comes last."""
        self.save()
        results: list[Path] = []
        for path, row, sums, metadata in zip(self._paths, self._writers, self._sums, self._metadata, strict=True):
            files = shard_paths(path, len(self._shards))
            sha256 = self._sha256(row, metadata) if self._digests and files[0].name not in self._finished else None
            for file, writer, names in reversed(list(zip(files, row, self._shards, strict=True))):
                if file.name in self._finished:
                    writer.discard()
                else:
                    writer.finish(file, {name: sums[name] for name in names}, sha256)
            results.append(files[0])
        (self._folder / JOURNAL).unlink(missing_ok=True)
        return results

    def _close(self) -> None:
        for row in self._writers:
            for writer in row:
                writer.close()

    def _discard(self) -> None:
        for row in self._writers:
            for writer in row:
                writer.discard()
        (self._folder / JOURNAL).unlink(missing_ok=True)

    def _sha256(self, row: Sequence[Writer], metadata: dict[str, str]) -> str:
        digest = Digest(metadata)
        for name in sorted(self._layout):
            digest.update(name, row[self._shard_of[name]].read(name))
        return digest.hex()

    def _fingerprint(self, dtype: str | None, shard_bytes: int | None) -> str:
        files = [
            (str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns)
            for source in self._plan.sources
            for path in source.paths
        ]
        asked = [(str(path), metadata) for path, metadata in zip(self._paths, self._metadata, strict=True)]
        matrix = hashlib.sha256(self._plan.weights.matrix.tobytes()).hexdigest()
        text = json.dumps([files, asked, matrix, dtype, shard_bytes], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _metadata(source: Average, target: Target) -> dict[str, str]:
    """The header of a result: that of the snapshots, with its own time and profile."""
    assert target.t is not None
    profile = target.profile(target.t)
    described = describe(profile)
    if isinstance(profile, PowerProfile) and target.sigma_rel is not None:
        described["sigma_rel"] = target.sigma_rel
    if target.overrides:
        described["overrides"] = {
            pattern: describe(length.profile(target.t)) for pattern, length in target.overrides.items()
        }
    time = int(target.t) if float(target.t).is_integer() else target.t
    key = "t" if source.metadata["format"] == FORMAT else "nimg"
    metadata = {**source.metadata, key: json.dumps(time), "profile": json.dumps(described, sort_keys=True)}
    if "header_sha256" in metadata:
        metadata["header_sha256"] = header_digest(metadata)
    return metadata
