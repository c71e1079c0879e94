"""The files of a reconstruction in the making, and the journal that lets an interrupted one go on."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from torch import Tensor

from unitgain.checkpoint.facts import SnapshotError, facts_of
from unitgain.checkpoint.snapshot import Snapshot, read_facts
from unitgain.checkpoint.tensors import Layout
from unitgain.checkpoint.writer import Writer, shard, shard_facts, shard_paths
from unitgain.ema import describe, file_name
from unitgain.files import require_empty, sweep, write_text
from unitgain.posthoc.jobs import result_dtype
from unitgain.posthoc.planning import Plan
from unitgain.posthoc.targets import Target
from unitgain.serial import digest
from unitgain.trust import DEFAULT_LIMITS, parse_json, read_regular

JOURNAL = ".reconstruct.json"
MADE = "reconstruction"  # in the `extra` of a result: what it is, of which snapshots, as `identity` has it
SYNC_SECONDS = 10.0  # work that a crash may cost


def filename(target: Target) -> str:
    """As snapshots are named; `-mixed-` and a hash of them where tensors have lengths of their own."""
    assert target.t is not None
    mixed = ""
    if target.overrides:
        mixed = f"-mixed-{digest([[pattern, repr(length)] for pattern, length in target.overrides.items()])[:8]}"
    return file_name(target.t, described(target), mixed)


def described(target: Target) -> dict[str, Any]:
    """The averaging profile of a result, as a file has it."""
    assert target.t is not None
    found = describe(target.profile(target.t))
    if target.sigma_rel is not None:
        found["sigma_rel"] = target.sigma_rel  # as it was asked for, to the last digit
    if target.overrides:
        found["overrides"] = {name: describe(one.profile(target.t)) for name, one in target.overrides.items()}
    return found


def identity(planned: Plan, target: Target, dtype: str | None, shard_bytes: int | None) -> str:
    """What a result is, whatever else is made with it: the same for the same snapshots, target and options."""
    return digest([planned.digest, target.t, described(target), dtype, shard_bytes])


def is_there(path: Path, known: str) -> bool:
    """Whether a result of this identity is there, whole, in one file or in shards."""
    first = first_file(path)
    try:
        return first is not None and Snapshot(first).facts.get("extra", {}).get(MADE) == known
    except (OSError, SnapshotError):
        return False


def first_file(path: Path) -> Path | None:
    """The file of a result, or the first of its shards; None if neither is there."""
    files = (path, *sorted(path.parent.glob(f"{path.stem}.00001-of-?????.safetensors")))
    return next((file for file in files if file.is_file()), None)


def check_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Check that results may be added to a folder: its snapshots are results, and none is another one of this name.

    Args:
        folder: of the results.
        files: identities by name of the file.

    Raises:
        FileExistsError: if there are others, or `folder` is a file.
    """
    if not folder.is_dir():
        require_empty(folder, "choose another folder")
    for path in sorted(folder.glob("[!.]*.safetensors")):
        if not path.is_file() or MADE not in _extra(path):
            raise FileExistsError(f"{path} was not reconstructed: choose another folder")
    for name, known in files.items():
        if (path := first_file(folder / name)) is not None and not is_there(folder / name, known):
            raise FileExistsError(
                f"{path} is there, of other snapshots or made with other options: delete it, or choose another folder"
            )


def check_originals(folder: Path, names: Iterable[str]) -> None:
    """Raise `FileExistsError` if a result would replace a snapshot that is none itself, such as one of the run."""
    for path in filter(None, (first_file(folder / name) for name in names)):
        with suppress(SnapshotError):
            if MADE not in Snapshot(path).facts.get("extra", {}):
                raise FileExistsError(f"{path} is a snapshot that was not reconstructed: choose another folder")


class Output:
    """The results in the making: one `Writer` per file, and a journal of the tensors that are done.

    A context: left by `SnapshotError` or `ValueError`, it removes what it holds; otherwise the next call goes on.

    Args:
        planned: what is made.
        out: folder of the results.
        dtype: of averaged tensors; None for that of the snapshots.
        shard_bytes: largest size of a file.
    """

    def __init__(self, planned: Plan, out: Path, dtype: str | None, shard_bytes: int | None) -> None:
        self._folder, like = out, planned.like
        self._layout: Layout = {
            name: (result_dtype(like, name, dtype), entry.shape) for name, entry in like.entries.items()
        }
        self._shards = shard(self._layout, shard_bytes)
        self._shard_of = {name: index for index, names in enumerate(self._shards) for name in names}
        identities = [identity(planned, target, dtype, shard_bytes) for target in planned.targets]
        matrix = hashlib.sha256(planned.weights.matrix.tobytes()).hexdigest()
        self._key = digest([identities, matrix])
        self._facts = [_facts(*one) for one in zip(planned.targets, identities, planned.copied, strict=True)]
        self._files = [shard_paths(out / filename(target), len(self._shards)) for target in planned.targets]
        self._sums: list[dict[str, int]] = [{} for _ in self._files]
        self._done: list[str] = []
        self._synced = monotonic()
        self._writers: list[list[Writer]] = []

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let go of the files: what cannot become whole is removed, what is unfinished stays for the next call."""
        try:
            if kind is not None and issubclass(kind, SnapshotError | ValueError):
                for writer in self._open_writers():
                    writer.discard()
                (self._folder / JOURNAL).unlink(missing_ok=True)
            elif kind is not None and issubclass(kind, KeyboardInterrupt):
                self.save()
        finally:
            for writer in self._open_writers():
                writer.close()

    def resume(self) -> list[str]:
        """Open the files, taking up what an interrupted call left; returns the tensors still to do."""
        sweep(self._folder)
        state = self._read_journal()
        partials = [[file.with_name(f".{file.name}.partial") for file in files] for files in self._files]
        if state and all(partial.exists() for row in partials for partial in row):
            self._done = list(state["done"])
            self._sums = [{name: int(total, 16) for name, total in sums.items()} for sums in state["sums"]]
        else:
            for partial in (partial for row in partials for partial in row):
                partial.unlink(missing_ok=True)
        for row, facts in zip(partials, self._facts, strict=True):
            parts = enumerate(zip(row, self._shards, strict=True))
            self._writers.append(
                [Writer(partial, shard_facts(facts, number, len(row)), names) for number, (partial, names) in parts]
            )
        done = set(self._done)
        return [name for name in sorted(self._layout) if name not in done] if self._writers else []

    def _read_journal(self) -> dict[str, Any]:
        """What an interrupted call of the same left; nothing where that is damaged or of another."""
        try:
            state = parse_json(read_regular(self._folder / JOURNAL, DEFAULT_LIMITS, below=self._folder), JOURNAL)
            done, sums = set(state["done"]), state["sums"]
            whole = len(sums) == len(self._files) and all(one.keys() == done for one in sums)
            if state["key"] != self._key or not self._layout.keys() >= done or not whole:
                return {}
            return state if all(0 <= int(total, 16) < 2**64 for one in sums for total in one.values()) else {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def sink(self, name: str, start: int, values: Tensor) -> None:
        """Write values `[targets, elements]`; complex averages as pairs."""
        for row, own in zip(self._writers, values, strict=True):
            row[self._shard_of[name]].write(name, start, own)

    def tensor_done(self, name: str, sums: Sequence[int]) -> None:
        """Note that a tensor is complete, and its checksums; the journal follows the data to the disk now and then."""
        self._done.append(name)
        for known, row, total in zip(self._sums, self._writers, sums, strict=True):
            known[name] = total
            row[self._shard_of[name]].begin_sync(name)
        if monotonic() - self._synced > SYNC_SECONDS:
            self.save()

    def save(self) -> None:
        """Flush the data, then the journal."""
        for writer in self._open_writers():
            writer.sync()
        sums = [{name: f"{total:016x}" for name, total in sums.items()} for sums in self._sums]
        write_text(self._folder / JOURNAL, json.dumps({"key": self._key, "done": self._done, "sums": sums}))
        self._synced = monotonic()

    def finish(self) -> None:
        """Give the files their names; of several shards the first comes last."""
        if self._writers:
            self.save()
        for files, row, sums in zip(self._files, self._writers, self._sums, strict=True):
            for file, writer, names in reversed(list(zip(files, row, self._shards, strict=True))):
                writer.finish(file, {name: sums[name] for name in names})
        (self._folder / JOURNAL).unlink(missing_ok=True)

    def _open_writers(self) -> list[Writer]:
        return [writer for row in self._writers for writer in row]


def _facts(target: Target, known: str, copied: Snapshot) -> dict[str, Any]:
    """What a result says of itself: what the snapshot says whose buffers it has, with its own time and profile."""
    assert target.t is not None
    source = copied.facts
    facts = facts_of(target.t, described(target), source["buffers"], extra=source.get("extra", {}) | {MADE: known})
    return facts | ({"denoiser": source["denoiser"]} if "denoiser" in source else {})


def _extra(path: Path) -> Mapping[str, str]:
    """What a file says beside, if it is a snapshot."""
    try:
        return read_facts(path)[0].get("extra", {})
    except (OSError, SnapshotError):
        return {}
