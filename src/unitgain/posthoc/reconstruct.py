"""Averages of any length from stored ones, written to disk in one pass over them (EDM2, Sections 3.2 and 3.3)."""

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unitgain.checkpoint.snapshot import DTYPES, Digest, SnapshotError, header_digest
from unitgain.ema import PowerProfile, Profile, UniformProfile, gamma_to_sigma_rel
from unitgain.files import write_text
from unitgain.posthoc import stream
from unitgain.posthoc.files import FORMAT, Average, check_same_network, checksum, list_averages
from unitgain.posthoc.solve import Weights, solve
from unitgain.posthoc.targets import Length, Target, as_target, describe, moment
from unitgain.posthoc.writer import Layout, Writer, shard, shard_paths

UNREACHABLE = 0.5  # relative error of a profile that has no more than its name in common with what was asked for
JOURNAL = ".reconstruct.json"
SYNC_SECONDS = 10.0  # work that a crash may cost
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Reconstruction:
    """A snapshot that `reconstruct` wrote.

    Attributes:
        path: the file, or the first of its shards.
        sigma_rel: its relative length; None for one given by its half-life.
        error: relative L2 error of its averaging profile, the largest where tensors have lengths of their own.
    """

    path: Path
    sigma_rel: float | None
    error: float


@dataclass(frozen=True)
class Plan:
    """Everything there is to know before a byte is read.

    Attributes:
        sources: the snapshots that have weight.
        targets: what to write.
        profiles: different averaging profiles over all targets and tensors.
        weights: of sources in profiles.
        copy_from: the snapshot whose buffers are passed on, the last that is not after the targets.
    """

    sources: tuple[Average, ...]
    targets: tuple[Target, ...]
    profiles: tuple[Profile, ...]
    weights: Weights
    copy_from: Average

    def columns(self, name: str) -> NDArray[np.float64]:
        """Weights `[sources, targets]` for one tensor."""
        return self.weights.matrix[:, [self._index(target, target.length_of(name)) for target in self.targets]]

    def error(self, target: Target) -> float:
        """Largest relative error over the lengths of one target."""
        return max(
            float(self.weights.error[self._index(target, length)]) for length in (target, *target.overrides.values())
        )

    def _index(self, target: Target, length: Length) -> int:
        assert target.t is not None
        return self.profiles.index(length.profile(target.t))


def plan(
    run: Path | str,
    targets: Sequence[float | Length],
    *,
    t: float | None = None,
    normalize: bool = True,
    max_error: float = UNREACHABLE,
) -> Plan:
    """Open the snapshots of a run and solve for the weights; nothing is read but headers.

    Args:
        run: folder of a run, or of snapshots.
        targets: lengths (a number is a sigma_rel), or `Target`s that say more.
        t: where averages end whose target does not say; at the last snapshot by default.
        normalize: as in `solve`.
        max_error: relative error of the profile past which a length counts as unreachable.

    Raises:
        FileNotFoundError: if there are no snapshots.
        SnapshotError: if one is damaged or a shard is missing.
        ValueError: if the snapshots are of different networks or two are the same, or a target is out of range, past
            the last snapshot, or unreachable.
    """
    run = Path(run)
    averages, profiles = usable(list_averages(run), run)
    check_same_network(averages)
    last = max(average.t for average in averages)
    end = last if t is None else t
    resolved = tuple(as_target(target, end) for target in targets)
    if not resolved:
        raise ValueError("give at least one length to reconstruct")
    for target in resolved:
        if target.t is None or not 0 < target.t <= last * (1 + 1e-9):
            raise ValueError(f"an average cannot end at {target.t:g}: the snapshots reach from 0 to {last:g}")
    _check_overrides(resolved, averages[-1])
    wanted = dict.fromkeys(
        length.profile(target.t) for target in resolved for length in (target, *target.overrides.values()) if target.t
    )
    weights = solve(profiles, list(wanted), normalize)
    for profile, error in zip(wanted, weights.error, strict=True):
        if error > max_error:
            raise ValueError(
                f"{profile} is out of reach of the snapshots in {run}: the nearest profile is off by {error:.2g} of "
                "its norm; ask for a length nearer to those that were stored, or an end nearer to a snapshot"
            )
    latest = max(target.t for target in resolved if target.t is not None)
    copied = max((i for i, a in enumerate(averages) if a.t <= latest * (1 + 1e-9)), default=0)
    used = [i for i, row in enumerate(weights.matrix) if row.any() or i == copied]
    weights = Weights(
        weights.matrix[used], weights.error, weights.total, tuple(weights.snapshots[index] for index in used)
    )
    return Plan(tuple(averages[index] for index in used), resolved, tuple(wanted), weights, averages[copied])


def usable(averages: Sequence[Average], run: Path) -> tuple[list[Average], list[Profile]]:
    """The averages of a run with their profiles; of a run that has only raw weights, those.

    Raw weights stand for the time until half way to their neighbours, as if they had not moved in it.

    Raises:
        ValueError: if two are of the same time and length.
    """
    chosen = [average for average in averages if average.kind != "raw"] or list(averages)
    if chosen[0].kind == "raw":
        times = [average.t for average in chosen]
        if len(set(times)) < len(times):
            raise ValueError(f"two raw snapshots in {run} have the same time: keep one of them")
        chosen = [average for average in chosen if average.t > 0]
        times = [average.t for average in chosen]
        starts = [0.0, *((a + b) / 2 for a, b in pairwise(times))]
        ends = [*starts[1:], times[-1]] if times else []
        profiles: list[Profile] = [UniformProfile(lo, hi) for lo, hi in zip(starts, ends, strict=True)]
        return chosen, profiles
    seen: dict[Profile, Path] = {}
    profiles = []
    for average in chosen:
        profile = average.profile()
        assert profile is not None
        if profile in seen:
            raise ValueError(f"{seen[profile]} and {average.path} have the same time and length: keep one of them")
        seen[profile] = average.path
        profiles.append(profile)
    return chosen, profiles


def reconstruct(
    run: Path | str,
    targets: Sequence[float | Length],
    out: Path | str,
    *,
    nimg: int | None = None,
    t: float | None = None,
    dtype: str | None = "float16",
    shard_bytes: int | None = None,
    normalize: bool = True,
    verify: bool = True,
    threads: int = 0,
    max_error: float = UNREACHABLE,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Reconstruction]:
    """Write snapshots averaged at lengths that training did not track, reading each stored one once.

    Memory: a few MB per thread, whatever the network; the results grow on the disk, in hidden files until they are
    whole. Interrupted, it goes on where it was when it is called again with the same arguments.

    Args:
        run: folder of a run, or of snapshots.
        targets: relative lengths, each in (0, 0.2886), or `Target`s that say more.
        out: folder for the results, named as snapshots are.
        nimg: `t` by another name, for times that are images seen.
        t: end of the averages; that of the last snapshot by default.
        dtype: of the results: "float16", "bfloat16" or "float32"; None for what each tensor has in the snapshots.
        shard_bytes: largest size of a file; None for one file per result.
        normalize: as in `solve`.
        verify: check the checksums of what is read.
        threads: 0 for one per processor.
        max_error: as in `plan`.
        on_progress: called with (bytes read, bytes in all).

    Returns:
        What was written, in the order of `targets`.

    Raises:
        FileNotFoundError: if there are no snapshots.
        SnapshotError: if one is damaged; nothing is written.
        ValueError: as `plan`, and if two lengths are equal in the three decimals of their file's name, or a result has
            values that are not finite in `dtype`.
        OSError: if something cannot be written.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    if nimg is not None and t is not None:
        raise ValueError("nimg and t are the same thing: give one of them")
    planned = plan(run, targets, t=nimg if t is None else t, normalize=normalize, max_error=max_error)
    out = Path(out)
    names = [filename(target) for target in planned.targets]
    if len(set(names)) < len(names):
        raise ValueError(f"two of the lengths {list(targets)} are equal in three decimals, the name of their file")
    output = Output(planned, [out / name for name in names], dtype, shard_bytes)
    try:
        left = output.resume()
        work = list(stream.jobs(planned.sources, left, planned.columns, planned.copy_from))
        hashed = verify and any(source.sha256 for source in planned.sources)
        whole = len(left) == len(planned.copy_from.entries)  # else a part was read by the call that was interrupted
        hashes = stream.Hashes(planned.sources) if hashed and whole else None
        stream.run(
            work,
            output.sink,
            threads=threads,
            verify=verify,
            hashes=hashes,
            on_progress=on_progress,
            on_tensor=output.tensor_done,
        )
        if hashed:
            (hashes or stream.hash_all(planned.sources)).check()
        paths = output.finish()
    except (SnapshotError, ValueError):
        output.discard()
        raise
    except KeyboardInterrupt:
        output.save()
        raise
    finally:
        output.close()
    return [
        Reconstruction(path, _sigma_rel(target), planned.error(target))
        for path, target in zip(paths, planned.targets, strict=True)
    ]


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

    def resume(self) -> list[str]:
        """Open the files, taking up what an interrupted call left; returns the tensors still to do."""
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

    def close(self) -> None:
        """Let go of the files; what is unfinished stays for the next call."""
        for row in self._writers:
            for writer in row:
                writer.close()

    def discard(self) -> None:
        """Remove what is unfinished."""
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


def _sigma_rel(target: Target) -> float | None:
    if target.sigma_rel is None and target.gamma is not None:
        return gamma_to_sigma_rel(target.gamma)
    return target.sigma_rel


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


def _check_overrides(targets: Sequence[Target], average: Average) -> None:
    for target in targets:
        for pattern in target.overrides:
            if not any(fnmatchcase(name, pattern) for name in average.entries):
                raise ValueError(
                    f"no tensor is named like {pattern!r}; there are {', '.join(sorted(average.entries)[:5])}, ..."
                )
