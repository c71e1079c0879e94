"""A safetensors file written part by part, that cannot be opened before it is whole."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from unitgain.files import atomic, sync_folder
from unitgain.posthoc.files import FORMAT, checksum, header_bytes

Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


class Writer:
    """One file in the making: tensors go to their places in any order, the header is written last.

    Args:
        partial: where it is written; taken up again if it is there and has the right size.
        metadata: of the header. The values of `sums` and `sha256` are filled in at the end.
        tensors: dtype and shape by name.
        sums: whether the header has a checksum per tensor; else a SHA-256 in `metadata` may be filled in.
    """

    def __init__(self, partial: Path, metadata: Mapping[str, str], tensors: Layout, sums: bool = True) -> None:
        self.partial = partial
        # Widest first, so that every tensor is aligned to its own values.
        self._tensors = dict(sorted(tensors.items(), key=lambda item: (-item[1][0].itemsize, item[0])))
        self._metadata = dict(metadata)
        self._sums = sums
        self._length = len(self._header({}))
        self.offsets: dict[str, int] = {}
        end = self._length
        for name, (dtype, shape) in self._tensors.items():
            self.offsets[name] = end
            end += int(torch.Size(shape).numel()) * dtype.itemsize
        partial.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
        if os.fstat(self._handle).st_size != end:
            os.ftruncate(self._handle, 0)
            os.ftruncate(self._handle, end)

    def write(self, name: str, start: int, values: Tensor) -> None:
        """Put values, contiguous and of the right dtype, at element `start` of a tensor; from any thread."""
        data = values.reshape(-1).view(torch.uint8).numpy().data
        offset, done = self.offsets[name] + start * values.dtype.itemsize, 0
        while done < len(data):
            done += os.pwrite(self._handle, data[done:], offset + done)

    def read(self, name: str) -> Tensor:
        """A tensor as it was written."""
        dtype, shape = self._tensors[name]
        buffer = bytearray(int(torch.Size(shape).numel()) * dtype.itemsize)
        os.preadv(self._handle, [buffer], self.offsets[name])
        return torch.frombuffer(buffer, dtype=dtype).reshape(shape) if buffer else torch.empty(shape, dtype=dtype)

    def sync(self) -> None:
        """Flush what was written to the disk."""
        os.fsync(self._handle)

    def complete(self, sums: Mapping[str, int], sha256: str | None = None, sync: bool = True) -> None:
        """Flush the tensors (if `sync`), then write the header, which makes the file readable."""
        if sha256 is not None:
            self._metadata["sha256"] = sha256
        header = self._header(sums)
        assert len(header) == self._length
        if sync:
            os.fsync(self._handle)  # the tensors first: no header without them, even if the power fails
        os.pwrite(self._handle, header, 0)
        if sync:
            os.fsync(self._handle)

    def finish(self, path: Path, sums: Mapping[str, int], sha256: str | None = None) -> None:
        """Complete the file and give it its name."""
        self.complete(sums, sha256)
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

    def _header(self, sums: Mapping[str, int]) -> bytes:
        metadata = dict(self._metadata)
        if self._sums:
            metadata["sums"] = json.dumps({name: f"{sums.get(name, 0):016x}" for name in self._tensors})
        return header_bytes(metadata, self._tensors)


def shard(tensors: Layout, limit: int | None) -> list[dict[str, tuple[torch.dtype, tuple[int, ...]]]]:
    """Split tensors in the order of names into shards of at most `limit` bytes (a larger tensor has its own)."""
    shards: list[dict[str, tuple[torch.dtype, tuple[int, ...]]]] = [{}]
    size = 0
    for name in sorted(tensors):
        dtype, shape = tensors[name]
        nbytes = int(torch.Size(shape).numel()) * dtype.itemsize
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


def write_average(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    shard_bytes: int | None = None,
) -> list[Path]:
    """Write a snapshot of format `unitgain-ema/1` atomically; with shards, the first comes last.

    Args:
        path: the file, or what names its shards.
        tensors: contiguous, on the CPU, in the dtypes to store.
        metadata: `t`, `profile`, `buffers` and whatever else, each JSON.
        shard_bytes: largest size of a shard; None for one file.

    Returns:
        The files.
    """
    layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    shards = shard(layout, shard_bytes)
    paths = shard_paths(path, len(shards))
    for target, names in reversed(list(zip(paths, shards, strict=True))):
        with atomic(target) as temporary:
            writer = Writer(temporary, {"format": FORMAT, **metadata}, names)
            try:
                for name in names:
                    writer.write(name, 0, tensors[name])
                sums = {name: checksum(tensors[name].reshape(-1).view(torch.uint8)) for name in names}
                writer.complete(sums, sync=False)  # `atomic` flushes before the rename
            finally:
                writer.close()
    return paths


def stored(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """A floating tensor as it is stored: on the CPU, contiguous, in `dtype`.

    Raises:
        ValueError: if it has values that are not finite in that dtype.
    """
    kept = tensor.detach().to("cpu", dtype).contiguous()
    if not torch.isfinite(kept).all():
        raise ValueError(f"tensor {name} holds values that are not finite in {dtype}: the snapshot is not written")
    return kept
