"""Linear combinations of many files in one pass, a small piece of one tensor at a time.

Each thread takes a run of elements of a tensor in every file, which are memory-mapped, and multiplies with the matrix
of weights in blocks that fit the processor's cache: every byte is read once, whatever the number of results. This is
done in C where it can be compiled (`unitgain.native`). Elsewhere all files are copied from in one call: a call per file
would have the threads wait for each other's turn in Python.
"""

import mmap
import os
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from unitgain.checkpoint.snapshot import Digest, SnapshotError
from unitgain.native import Combination, can_combine
from unitgain.posthoc.files import Average, Entry

CHUNK = 32768  # values per file and turn: fewer, and calls cost more than reading
BLOCK = 8192  # values per file and matrix product: 64 files make 2 MB of float32
Sink = Callable[[str, int, Tensor], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """What to do with one tensor.

    Attributes:
        name: of the tensor.
        entries: where it lies, one per source.
        weights: `[results, sources]` in the precision to work in; None to pass one source on as it is.
        copied: index of that source.
    """

    name: str
    entries: tuple[Entry, ...]
    weights: Tensor | None
    copied: int = 0


class Hashes:
    """SHA-256 of files while they stream by, for files that have no checksums per tensor.

    Args:
        sources: the snapshots, in the order of the entries of jobs.
    """

    def __init__(self, sources: Sequence[Average]) -> None:
        self._sources = sources
        self._digests = [Digest(source.metadata) for source in sources]
        self._next = 0
        self._turn = threading.Condition()

    def take(self, number: int, job: Job, start: int, rows: Sequence[memoryview]) -> None:
        """Take in turn `number`: threads wait for the turns before it, which are on their way in other threads."""
        with self._turn:
            self._turn.wait_for(lambda: self._next in (number, -1))
            if self._next == -1:
                return
        for digest, entry, row in zip(self._digests, job.entries, rows, strict=True):
            if start == 0:
                digest.begin(job.name, entry.dtype, entry.shape)
            digest.feed(row)
        with self._turn:
            self._next += 1
            self._turn.notify_all()

    def abandon(self) -> None:
        """Let nobody wait any longer."""
        with self._turn:
            self._next = -1
            self._turn.notify_all()

    def check(self) -> None:
        """Compare with what the headers say.

        Raises:
            SnapshotError: if a file is damaged.
        """
        for source, digest in zip(self._sources, self._digests, strict=True):
            if source.sha256 is not None and source.sha256 != digest.hex():
                raise SnapshotError(
                    f"{source.path} is damaged: its contents do not match its checksum; fetch or write it again"
                )


def jobs(
    sources: Sequence[Average], names: Sequence[str], columns: Callable[[str], NDArray[Any]], copy_from: Average
) -> Iterator[Job]:
    """The work on each of the tensors `names`.

    Args:
        sources: the snapshots.
        names: tensors to do.
        columns: weights `[sources, results]` for a tensor.
        copy_from: the snapshot whose buffers are passed on, one of `sources`.
    """
    for name in names:
        entries = tuple(source.entries[name] for source in sources)
        if copy_from.averaged(name):
            precision = torch.float64 if any(entry.dtype == torch.float64 for entry in entries) else torch.float32
            yield Job(name, entries, torch.tensor(columns(name).T.tolist(), dtype=precision))
        elif copy_from.sha256 is None:
            yield Job(name, (copy_from.entries[name],), None)
        else:  # the checksum wants all of each file
            yield Job(name, entries, None, sources.index(copy_from))


def run(
    work: Sequence[Job],
    sink: Sink,
    *,
    threads: int = 0,
    verify: bool = True,
    hashes: Hashes | None = None,
    on_progress: Progress | None = None,
    on_tensor: Callable[[str], None] | None = None,
) -> None:
    """Read, combine and hand on.

    Args:
        work: jobs in the order to do them.
        sink: called with (tensor, first element, values `[results, elements]`), from several threads; the values are
            overwritten afterwards. Tensors without weights come as one row in their own dtype.
        threads: number of threads; 0 for one per processor.
        verify: check the checksums of tensors that have them.
        hashes: take everything in that is read; `work` must be all tensors in the order of names.
        on_progress: called with (bytes read, bytes in all).
        on_tensor: called when all of a tensor is done and checked, in the order of `work`, from the calling thread.

    Raises:
        SnapshotError: if a file ends too early or does not match its checksum.
    """
    total = sum(entry.nbytes for job in work for entry in job.entries)
    done = number = 0
    with _files(work) as files, _pool(threads) as (pool, count):
        pending: dict[Future[list[int]], tuple[int, int]] = {}
        left = [len(_starts(job)) for job in work]
        sums = [[0] * len(job.entries) for job in work]
        finished = 0

        def collect(block: bool) -> None:
            nonlocal done, finished
            ready, _ = wait(pending, return_when=FIRST_COMPLETED if block else "ALL_COMPLETED")
            for future in ready:
                index, nbytes = pending.pop(future)
                for source, part in enumerate(future.result()):
                    sums[index][source] = (sums[index][source] + part) % 2**64
                left[index] -= 1
                done += nbytes
            while finished < len(work) and not left[finished]:
                if verify:
                    _compare(work[finished], sums[finished])
                if on_tensor is not None:
                    on_tensor(work[finished].name)
                finished += 1
            if on_progress is not None:
                on_progress(done, total)

        try:
            for index, job in enumerate(work):
                for start, size in _starts(job):
                    future = pool.submit(_turn, job, start, size, files, sink, verify, hashes, number)
                    number += 1
                    pending[future] = index, size * sum(entry.dtype.itemsize for entry in job.entries)
                    if len(pending) >= 8 * count:
                        collect(block=True)
            collect(block=False)
        except BaseException:
            for future in pending:
                future.cancel()
            if hashes is not None:
                hashes.abandon()
            raise


def hash_all(sources: Sequence[Average]) -> Hashes:
    """Read and hash files, without doing anything else with them."""
    hashes, number = Hashes(sources), 0
    work = [Job(name, tuple(s.entries[name] for s in sources), None) for name in sorted(sources[0].entries)]
    with _files(work) as files:
        for job in work:
            for start, size in _starts(job):
                rows = _rows(_read(job, start, size, files), job, size)
                hashes.take(number, job, start, rows)
                number += 1
    return hashes


def _starts(job: Job) -> list[tuple[int, int]]:
    count = job.entries[0].count
    return [(start, min(CHUNK, count - start)) for start in range(0, max(count, 1), CHUNK)]


_local = threading.local()


def _buffer(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory of this thread, used over and over."""
    store: dict[tuple[str, torch.dtype], Tensor] = _local.__dict__.setdefault("buffers", {})
    size = int(torch.Size(shape).numel())
    kept = store.get((name, dtype))
    if kept is None or kept.numel() < size:
        kept = store[name, dtype] = torch.empty(size, dtype=dtype)
    return kept[:size].view(shape)


def _read(job: Job, start: int, size: int, files: Mapping[Path, Tensor]) -> Tensor:
    """One run of elements of every source, as rows of bytes `[sources, width]` padded with zeros to whole words."""
    widths = [size * entry.dtype.itemsize for entry in job.entries]
    raw = _buffer("raw", (len(widths), -(-max(widths) // 8) * 8), torch.uint8)
    offsets = [entry.offset + start * entry.dtype.itemsize for entry in job.entries]
    parts = [files[e.path][lo : lo + width] for e, lo, width in zip(job.entries, offsets, widths, strict=True)]
    if all(width == raw.shape[1] for width in widths):
        torch.stack(parts, out=raw)
    else:
        raw.zero_()
        for row, part in zip(raw, parts, strict=True):
            row[: len(part)] = part
    return raw


def _rows(raw: Tensor, job: Job, size: int) -> list[memoryview]:
    """The bytes of each source without padding."""
    widths = [size * entry.dtype.itemsize for entry in job.entries]
    return [row[:width].numpy().data for row, width in zip(raw, widths, strict=True)]


def _turn(
    job: Job,
    start: int,
    size: int,
    files: Mapping[Path, Tensor],
    sink: Sink,
    verify: bool,
    hashes: Hashes | None,
    number: int,
) -> list[int]:
    """One run of elements; returns the checksums of what was read, per source."""
    if hashes is None and job.weights is not None and _in_c(job):
        return _combine(job, start, size, files, sink, verify)
    raw = _read(job, start, size, files)
    if hashes is not None:
        hashes.take(number, job, start, _rows(raw, job, size))
    sums = [int(total) for total in raw.view(torch.int64).sum(1)] if verify else []
    if job.weights is None:
        entry = job.entries[job.copied]
        row = raw[job.copied, : size * entry.dtype.itemsize]
        sink(job.name, start, row.view(entry.dtype)[None])
        return sums
    result = _buffer("result", (len(job.weights), size), job.weights.dtype)
    values = _buffer("values", (len(job.entries), min(size, BLOCK)), job.weights.dtype)
    dtypes = {entry.dtype for entry in job.entries}
    typed = raw.view(dtypes.pop()) if len(dtypes) == 1 else None
    for lo in range(0, size, BLOCK):
        hi = min(lo + BLOCK, size)
        part = values[:, : hi - lo]
        if typed is not None:
            part.copy_(typed[:, lo:hi])
        else:
            for index, entry in enumerate(job.entries):
                part[index].copy_(raw[index, : size * entry.dtype.itemsize].view(entry.dtype)[lo:hi])
        torch.mm(job.weights, part, out=result[:, lo:hi])
    sink(job.name, start, result)
    return sums


def _in_c(job: Job) -> bool:
    assert job.weights is not None
    return job.weights.dtype == torch.float32 and can_combine([entry.dtype for entry in job.entries])


def _combine(job: Job, start: int, size: int, files: Mapping[Path, Tensor], sink: Sink, verify: bool) -> list[int]:
    """The same as `_turn` without a copy: files are converted and multiplied where they are mapped."""
    assert job.weights is not None
    kept: tuple[Job, Combination] | None = _local.__dict__.get("combination")
    if kept is None or kept[0] is not job:
        kept = _local.combination = job, Combination(job.weights, [entry.dtype for entry in job.entries])
    result = _buffer("result", (len(job.weights), size), job.weights.dtype)
    parts = [files[e.path].data_ptr() + e.offset + start * e.dtype.itemsize for e in job.entries]
    sums = kept[1](parts, result, sums=verify)
    sink(job.name, start, result)
    return sums


def _compare(job: Job, sums: Sequence[int]) -> None:
    for entry, found in zip(job.entries, sums, strict=True):
        if entry.sum is not None and entry.sum != found:
            raise SnapshotError(
                f"{entry.path} is damaged: tensor {job.name} does not match its checksum; fetch or write it again"
            )


@contextmanager
def _files(work: Sequence[Job]) -> Generator[Mapping[Path, Tensor], None, None]:
    """All files as tensors of bytes; mapped, so that nothing is in memory but what the system keeps of the disk."""
    ends: dict[Path, int] = {}
    for entry in (entry for job in work for entry in job.entries):
        ends[entry.path] = max(ends.get(entry.path, 0), entry.offset + entry.nbytes)
    files: dict[Path, Tensor] = {}
    for path, end in ends.items():
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size < end:
                raise SnapshotError(f"{path} was cut short after it was opened: fetch or write it again")
            if end:
                mapped = mmap.mmap(file.fileno(), end, access=mmap.ACCESS_COPY)
                files[path] = torch.frombuffer(mapped, dtype=torch.uint8)
            else:
                files[path] = torch.empty(0, dtype=torch.uint8)
    yield files


@contextmanager
def _pool(threads: int) -> Generator[tuple[ThreadPoolExecutor, int], None, None]:
    """Threads that each compute alone, while torch's own threads rest."""
    count = threads or len(os.sched_getaffinity(0))
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "reconstruct", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool, count
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
