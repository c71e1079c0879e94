"""Writing snapshots: files that cannot be opened before they are whole."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unitgain.checkpoint.facts import (
    DTYPES,
    SnapshotError,
    SnapshotHeader,
    facts_of,
    is_buffer,
    sealed_header,
)
from unitgain.checkpoint.tensors import CODES, Layout, aligned, checksum, raw_bytes
from unitgain.ema.names import canonical
from unitgain.files import atomic, sync_folder
from unitgain.text import printable
from unitgain.trust import open_own


class Writer:
    """One file in the making: tensors go to their places in any order, the header is written last.

    Args:
        partial: where it is written; taken up again if it is there and has the right size.
        facts: what it says of itself, as `facts_of` makes it.
        tensors: dtype and shape by name.
    """

    def __init__(self, partial: Path, facts: Mapping[str, Any], tensors: Layout) -> None:
        self.partial = partial
        self._facts, self._tensors = facts, aligned(tensors)
        self._length = end = len(sealed_header(facts, self._tensors, {}))
        self._offsets: dict[str, int] = {}
        for name, (dtype, shape) in self._tensors.items():
            self._offsets[name] = end
            end += torch.Size(shape).numel() * dtype.itemsize
        partial.parent.mkdir(parents=True, exist_ok=True)
        self._handle = open_own(partial)
        if os.fstat(self._handle).st_size != end:
            os.ftruncate(self._handle, 0)
            os.ftruncate(self._handle, end)

    def write(self, name: str, start: int, values: Tensor) -> None:
        """Put values, contiguous and of the right dtype, at element `start` of a tensor; from any thread."""
        data = raw_bytes(values).numpy().data
        offset, done = self._offsets[name] + start * values.dtype.itemsize, 0
        while done < len(data):
            done += os.pwrite(self._handle, data[done:], offset + done)

    def begin_sync(self, name: str) -> None:
        """Have the system begin to flush a tensor that is written; this waits for nothing, and a later `sync` less."""
        dtype, shape = self._tensors[name]
        if hasattr(os, "posix_fadvise"):
            length = torch.Size(shape).numel() * dtype.itemsize
            os.posix_fadvise(self._handle, self._offsets[name], length, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Flush what was written to the disk."""
        os.fsync(self._handle)

    def complete(self, sums: Mapping[str, int], sync: bool = True) -> None:
        """Flush the tensors (if `sync`), then write the header, which makes the file readable."""
        header = sealed_header(self._facts, self._tensors, sums)
        assert len(header) == self._length
        if sync:
            os.fsync(self._handle)  # the tensors first: no header without them, even if the power fails
        os.pwrite(self._handle, header, 0)
        if sync:
            os.fsync(self._handle)

    def finish(self, path: Path, sums: Mapping[str, int]) -> None:
        """Complete the file and give it its name."""
        self.complete(sums)
        self.close()
        os.replace(self.partial, path)
        sync_folder(path.parent)

    def close(self) -> None:
        """Let go of the file; it stays as it is."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def discard(self) -> None:
        """Let go of the file and remove it."""
        self.close()
        self.partial.unlink(missing_ok=True)


def write_snapshot(
    path: Path,
    header: SnapshotHeader,
    tensors: Mapping[str, Tensor],
    dtype: str = "float16",
    *,
    shard_bytes: int | None = None,
) -> None:
    """Write the snapshot of a denoiser, atomically.

    Args:
        path: the file; replaced if it is there.
        header: what it says of itself.
        tensors: parameters and buffers of the denoiser by name.
        dtype: of the parameters in the file: "float16" (default, as in the paper), "bfloat16" or "float32". The Fourier
            buffers stay in float32: they are few, and small errors in a frequency become large ones in a phase.
        shard_bytes: largest size of a file; None for one.

    Raises:
        ValueError: if `dtype` is none of these.
        SnapshotError: if a tensor has values that are not finite in it; nothing is written.
        OSError: if it cannot be written; nothing is left behind.
    """
    check_dtype(dtype)
    named = {canonical(name): tensor for name, tensor in tensors.items()}
    kept = {
        name: stored(name, tensor, torch.float32 if is_buffer(name) else DTYPES[dtype])
        for name, tensor in named.items()
    }
    facts = facts_of(header.nimg, header.profile, filter(is_buffer, kept), header)
    write_average(path, facts, kept, shard_bytes=shard_bytes)


def write_average(
    path: Path, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], *, shard_bytes: int | None = None
) -> list[Path]:
    """Write a snapshot of anything, atomically; of several shards the first comes last.

    Args:
        path: the file, or what names its shards.
        facts: as `facts_of` makes them.
        tensors: in the dtypes to store; see `stored`.
        shard_bytes: largest size of a shard; None for one file.

    Returns:
        The files.
    """
    layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    shards = shard(layout, shard_bytes)
    paths = shard_paths(path, len(shards))
    for number, names in reversed(list(enumerate(shards))):
        with atomic(paths[number]) as temporary:
            writer = Writer(temporary, shard_facts(facts, number, len(shards)), names)
            try:
                for name in names:
                    writer.write(name, 0, tensors[name])
                # `atomic` flushes before the rename.
                writer.complete({name: checksum(raw_bytes(tensors[name])) for name in names}, sync=False)
            finally:
                writer.close()
    return paths


def shard(tensors: Layout, limit: int | None) -> list[dict[str, tuple[torch.dtype, tuple[int, ...]]]]:
    """Split tensors in the order of names into shards of at most `limit` bytes (a larger tensor has its own)."""
    if limit is not None and not limit > 0:
        raise ValueError(f"shard_bytes = {limit}: the largest size of a file must be positive")
    shards: list[dict[str, tuple[torch.dtype, tuple[int, ...]]]] = [{}]
    size = 0
    for name in sorted(tensors):
        dtype, shape = tensors[name]
        nbytes = torch.Size(shape).numel() * dtype.itemsize
        if limit is not None and shards[-1] and size + nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][name] = tensors[name]
        size += nbytes
    return shards


def shard_paths(path: Path, count: int) -> list[Path]:
    """Names of the files of a snapshot in `count` shards; one has the plain name."""
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}.{i:05d}-of-{count:05d}.safetensors") for i in range(1, count + 1)]


def shard_facts(facts: Mapping[str, Any], number: int, count: int) -> Mapping[str, Any]:
    """What shard `number` (from 0) of `count` says of itself."""
    return facts if count == 1 else {**facts, "shard": [number + 1, count]}


def stored(name: str, tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor as it is stored: on the CPU, contiguous, real floating values in `dtype`, others as they are.

    Raises:
        SnapshotError: if it has values that are not finite in that dtype.
        ValueError: if files hold no values of its dtype.
    """
    kept = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
    if kept.dtype not in CODES:
        raise ValueError(f"tensor {printable(name)} has dtype {kept.dtype}, which safetensors files do not hold here")
    check_finite(name, kept)
    return kept


def check_finite(name: str, values: Tensor) -> None:
    """Raise `SnapshotError` if some of a tensor's values are not finite."""
    if (values.is_floating_point() or values.is_complex()) and not torch.isfinite(values).all():
        dtype = str(values.dtype).removeprefix("torch.")
        remedy = "" if dtype == "float32" else "; store snapshots in float32"
        raise SnapshotError(f"not written: tensor {name} holds values that are not finite in {dtype}{remedy}")


def check_dtype(dtype: str) -> None:
    """Raise `ValueError` unless snapshots can be stored in a dtype of this name."""
    if dtype not in DTYPES:
        raise ValueError(f"snapshot dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
