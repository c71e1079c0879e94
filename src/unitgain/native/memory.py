"""Memory that is kept and lent again: what is given back to the system comes back page by page, full of zeros."""

import ctypes
import mmap
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from numpy import ndarray
from torch import Tensor

LARGE = 1 << 20  # bytes, below which memory is quickly had
PAGE = 1 << 21  # bytes of a large page
LARGE_PAGES: int | None = getattr(mmap, "MADV_HUGEPAGE", None)  # advice to the system, where it takes any
FORGOTTEN = 1000  # requests after which a block that nobody wanted is given back
TRIM_THRESHOLD, MMAP_THRESHOLD = (
    -1,
    -3,
)  # of glibc: freed bytes that go back to the system, and the size of blocks apart
KEPT, USUAL = (-1, 2**30), (2**26, 2**25)  # both, while memory is kept (-1: all); and the most that glibc makes of them
AHEAD = 2**29  # bytes of a block that the C library takes for later


def in_large_pages(size: int) -> Tensor:
    """New memory of `size` bytes, in large pages where the system has them.

    Each small page would have to be looked up anew, on a virtual machine in two tables.
    """
    memory = _new(size)
    _ask_for_large_pages(memory.data_ptr(), size)
    return memory


def scratch(size: int) -> Tensor:
    """At least `size` bytes to compute in, one place for each thread, whose contents the next call may overwrite.

    It is kept.
    """
    if len(_own.scratch) < size:
        _own.scratch = in_large_pages(size)
    return _own.scratch


def images(size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Images `[N, C, H, W]` on the CPU, channels-last, with any contents.

    Large ones are in recycled memory, which cannot be resized.
    """
    n, c, h, w = size
    count = n * c * h * w
    if count * dtype.itemsize < LARGE or torch.compiler.is_compiling():  # tracing knows memory of its own kind alone
        return torch.empty(size, dtype=dtype, memory_format=torch.channels_last, device="cpu")
    return recycled(count * dtype.itemsize).view(dtype).view(n, h, w, c).permute(0, 3, 1, 2)


def recycled(size: int) -> Tensor:
    """Bytes, uint8 `[size]`, with any contents, which nothing that is still referred to shares.

    When nothing refers to them any more, they are kept for who asks next, in any thread, for at least half as much,
    until so many requests have passed them by that they are given back.
    """
    return torch.frombuffer(_pool.lend(size), dtype=torch.uint8)


def forget() -> None:
    """Give back what is kept and nobody uses, and the place that this thread computes in."""
    _pool.free.clear()
    _own.scratch = _new(0)


@contextmanager
def kept_memory() -> Iterator[None]:
    """While a block runs, let what this process frees be kept for who asks next, where the C library can (glibc).

    For work that takes and frees the same memory again and again, like steps of training, whose time it would be a
    tenth to have it back from the system (`benchmarks/kept_memory.py`). What is kept goes back when the block ends.
    It is in large pages where the system has them: on a virtual machine the address of each small one is looked up in
    two tables, which takes long where memory is busy.
    """
    _set_thresholds(*KEPT)
    _grow_in_large_pages()
    try:
        yield
    finally:
        _set_thresholds(*USUAL)
        give_back()


def give_back() -> None:
    """Return freed memory to the system, where the C library can (glibc)."""
    with suppress(AttributeError):
        _process().malloc_trim(0)


def _set_thresholds(trim: int, apart: int) -> None:
    with suppress(AttributeError):
        mallopt = _process().mallopt
        _ = mallopt(MMAP_THRESHOLD, apart) or mallopt(MMAP_THRESHOLD, USUAL[1])  # older versions take no more than that
        mallopt(TRIM_THRESHOLD, trim)


def _ask_for_large_pages(address: int, size: int) -> None:
    """For those that lie within."""
    first, last = -(-address // PAGE) * PAGE, (address + size) // PAGE * PAGE
    if first < last and (advise := _advise()) is not None:
        advise(first, last - first)


def _grow_in_large_pages() -> None:
    """Let the C library have addresses for half of the memory ahead of their use, which are large pages when used.

    Not where addresses are limited, for others need them too.
    """
    if _advise() is None or _addresses_are_limited():
        return
    allocate, free = _process().malloc, _process().free
    allocate.argtypes, allocate.restype, free.argtypes = [ctypes.c_size_t], ctypes.c_void_p, [ctypes.c_void_p]
    blocks: list[int] = []
    for _ in range(os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE // 2 // AHEAD):
        if not (block := allocate(AHEAD)):
            break
        blocks.append(block)
        _ask_for_large_pages(block, AHEAD)
    for block in reversed(blocks):  # so that they become one
        free(block)


def _addresses_are_limited() -> bool:
    """By `ulimit -v` or `-d`, or since all of them count as memory in use (`vm.overcommit_memory=2`)."""
    import resource  # which Windows has not

    with suppress(OSError):
        if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2":
            return True
    kinds = resource.RLIMIT_AS, resource.RLIMIT_DATA
    return any(resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind in kinds)


@dataclass(eq=False)
class _Block:
    memory: ndarray
    since: int = 0  # the last request that it was lent for


class _Pool:
    """Blocks of memory.

    Attributes:
        free: blocks that nobody uses. Whoever drops the last reference appends, without the lock: that may happen
            while it is held, in the same thread.
        requests: how many there were.
    """

    def __init__(self) -> None:
        self.free: list[_Block] = []
        self.requests = 0
        self._lock = threading.Lock()

    def lend(self, size: int) -> ndarray:
        """An array of `size` bytes; when nothing refers to it any more, its block is free again."""
        with self._lock:
            self.requests += 1
            for block in self.free[:]:
                if self.requests - block.since > FORGOTTEN:
                    self.free.remove(block)
            # Of equal blocks the one that was free last, so that what is not needed is forgotten.
            fitting = [block for block in reversed(self.free) if size <= len(block.memory) <= 2 * size]
            block = min(fitting, key=lambda block: len(block.memory), default=None)
            if block is not None:
                self.free.remove(block)
            requests = self.requests
        block = block or _Block(in_large_pages(size).numpy())
        lent = block.memory[:size]  # an object of its own, that the tensor made of it refers to
        block.since = requests
        weakref.finalize(lent, self.free.append, block).atexit = False
        return lent


class _Own(threading.local):
    """What a thread keeps: a place to compute in."""

    def __init__(self) -> None:
        self.scratch = _new(0)


@cache
def _process() -> Any:
    """What this process has loaded, the C library among it; nothing where there is no asking for that."""
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows
        return None


@cache
def _advise() -> Callable[[int, int], int] | None:
    """Asks for large pages from an address on, of so many bytes; None where the system has none to ask for."""
    if LARGE_PAGES is None:
        return None
    madvise = _process().madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    madvise.restype = ctypes.c_int
    return lambda address, size: madvise(address, size, LARGE_PAGES)


def _new(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, device="cpu")


_own = _Own()
_pool = _Pool()
