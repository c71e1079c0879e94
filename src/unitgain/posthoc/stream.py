"""Linear combinations of many files in one pass, a small piece of one tensor at a time.

Each thread takes a run of elements of a tensor in every file, which are memory-mapped, and multiplies with the matrix
of weights in blocks that fit the processor's cache: every byte is read once, whatever the number of results. This is
done in C where it can be compiled (`unitgain.native`). Elsewhere all files are copied from in one call: a call per file
would have the threads wait for each other's turn in Python.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from unitgain.checkpoint.snapshot import SnapshotError, damaged
from unitgain.checkpoint.tensors import PAGE, checksum, map_file, raw_bytes
from unitgain.checkpoint.writer import check_finite
from unitgain.data.workers import cores
from unitgain.native import Combination, can_combine
from unitgain.posthoc.jobs import Job

BLOCK = 8192  # values per file and matrix product: 64 files make 2 MB of float32
Sink = Callable[[str, int, Tensor], None]
Progress = Callable[[int, int], None]
OnTensor = Callable[[str, Sequence[int]], None]
Sums = tuple[Sequence[int], Sequence[int]]  # checksums of what was read, per source, and of the results


def run(
    work: Sequence[Job],
    sink: Sink,
    *,
    threads: int = 0,
    verify: bool = True,
    on_progress: Progress | None = None,
    on_tensor: OnTensor | None = None,
) -> None:
    """Read, combine and hand on.

    Args:
        work: jobs in the order to do them.
        sink: called with (tensor, first element, values `[results, elements]`) in the dtype of the job, from several
            threads; the values are overwritten afterwards.
        threads: number of threads; 0 for one per processor.
        verify: check the checksums of tensors that have them.
        on_progress: called with (bytes read, bytes in all).
        on_tensor: called with (tensor, checksums of the results) when all of it is done and checked, in the order of
            `work`, from the calling thread.

    Raises:
        SnapshotError: if a file ends too early or does not match its checksum, or results are not finite.
    """
    files = _files(work)
    done, total = 0, sum(entry.nbytes for job in work for entry in job.entries)
    with _pool(threads) as (pool, count):
        begun = (pool.submit(_turn, job, *turn, files, sink, verify) for job in work for turn in job.turns)
        finished = _in_order(begun, 8 * count)
        for job in work:
            read: Sequence[int] = ()
            results: Sequence[int] = ()
            for _, size in job.turns:
                of_turn = next(finished)
                read, results = _added(read, of_turn[0]), _added(results, of_turn[1])
                done += size * sum(entry.dtype.itemsize for entry in job.entries)
                if on_progress is not None:
                    on_progress(done, total)
            if verify:
                _compare(job, read)
            if on_tensor is not None:
                on_tensor(job.name, results)


def _in_order(begun: Iterator[Future[Sums]], ahead: int) -> Iterator[Sums]:
    """What turns come to, in their order; so many of them are given to threads before the first is waited for."""
    waiting = deque(itertools.islice(begun, ahead))
    while waiting:
        sums = waiting.popleft().result()
        waiting.extend(itertools.islice(begun, 1))
        yield sums


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


def _turn(job: Job, start: int, size: int, files: Mapping[Path, Tensor], sink: Sink, verify: bool) -> Sums:
    """One run of elements."""
    if job.weights is None:
        if not size:  # of a tensor without values
            sink(job.name, start, torch.empty(len(job.entries), 0, dtype=job.dtype))
            return [0] * len(job.entries), [0] * len(job.entries)
        begin, width = start * job.dtype.itemsize, size * job.dtype.itemsize
        data = torch.stack([files[e.path][e.offset + begin : e.offset + begin + width] for e in job.entries])
        sums = [checksum(row, begin // PAGE) for row in data]
        sink(job.name, start, data.view(job.dtype))
        return sums, sums
    values, sums = (_combine if _in_c(job) else _multiply)(job, start, size, files, verify)
    sink(job.name, start, values)
    return sums


def _in_c(job: Job) -> bool:
    assert job.weights is not None
    types = [*(entry.dtype for entry in job.entries), job.dtype]
    return job.weights.dtype == torch.float32 and can_combine(types)


def _combine(job: Job, start: int, size: int, files: Mapping[Path, Tensor], verify: bool) -> tuple[Tensor, Sums]:
    """In C, without a copy: files are converted and multiplied where they are mapped."""
    assert job.weights is not None
    known: tuple[Job, Combination] | None = _local.__dict__.get("combination")
    if known is None or known[0] is not job:
        known = _local.combination = job, Combination(job.weights, [entry.dtype for entry in job.entries], job.dtype)
    result = _buffer("result", (len(job.weights), size), job.dtype)
    parts = [files[e.path].data_ptr() + e.offset + start * e.dtype.itemsize for e in job.entries]
    *sums, finite = known[1](parts, result, start, sums=verify)
    if not finite:
        check_finite(job.name, result)
    return result, (sums[0], sums[1])


def _multiply(job: Job, start: int, size: int, files: Mapping[Path, Tensor], verify: bool) -> tuple[Tensor, Sums]:
    """The same in PyTorch."""
    assert job.weights is not None
    raw = _read(job, start, size, files)
    sums = [checksum(row, start * e.dtype.itemsize // PAGE) for row, e in zip(raw, job.entries, strict=True) if verify]
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
    rounded = result.to(job.dtype)
    check_finite(job.name, rounded)
    return rounded, (sums, [checksum(raw_bytes(row), start * job.dtype.itemsize // PAGE) for row in rounded])


def _added(one: Sequence[int], other: Sequence[int]) -> list[int]:
    return [(a + b) % 2**64 for a, b in zip(one or [0] * len(other), other, strict=True)]


def _compare(job: Job, sums: Sequence[int]) -> None:
    for entry, found in zip(job.entries, sums, strict=True):
        if entry.sum != found:
            raise damaged(entry, job.name)


def _files(work: Sequence[Job]) -> Mapping[Path, Tensor]:
    """All files as tensors of bytes."""
    ends: dict[Path, int] = {}
    for entry in (entry for job in work for entry in job.entries):
        ends[entry.path] = max(ends.get(entry.path, 0), entry.offset + entry.nbytes)
    try:
        return {path: map_file(path, end) for path, end in ends.items()}
    except ValueError as error:
        raise SnapshotError(str(error)) from error


@contextmanager
def _pool(threads: int) -> Generator[tuple[ThreadPoolExecutor, int], None, None]:
    """Threads that each compute alone, while torch's own threads rest."""
    if threads < 0:
        raise ValueError(f"threads = {threads}: must be a number of threads, or 0 for one per processor")
    count = threads or cores()
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "reconstruct", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool, count
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
