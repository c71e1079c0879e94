"""Memory that is kept and lent again: what is given back to the system comes back page by page, full of zeros."""

import ctypes
import mmap
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from numpy import ndarray
from torch import Tensor

LARGE = 1 << 20  # bytes, below which memory is quickly had
PAGE = 1 << 21  # bytes of a large page
LARGE_PAGES: int | None = getattr(mmap, "MADV_HUGEPAGE", None)  # advice to the system, where it takes any
FORGOTTEN = 1000  # requests after which a block that nobody wanted is given back


def in_large_pages(size: int) -> Tensor:
    """New memory of `size` bytes, in large pages where the system has them.

    For what is read once and in order, like weights: each small page would have to be looked up anew.
    """
    made = _new(size)
    first = -(-made.data_ptr() // PAGE) * PAGE
    last = (made.data_ptr() + size) // PAGE * PAGE
    if first < last and (advise := _advise()) is not None:
        advise(first, last - first)
    return made


def scratch(size: int) -> Tensor:
    """At least `size` bytes to compute in, one place for each thread, whose contents the next call may overwrite.

    It is kept.
    """
    if len(_own.scratch) < size:
        _own.scratch = in_large_pages(size)
    return _own.scratch


def images(size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Images `[N, C, H, W]` on the CPU, channels-last, with any contents.

    They are there as long as something refers to them. Then their memory, if it is large, is kept for images that this
    thread asks for next, at least half as large, until so many requests have passed it by that it is given back. It
    cannot be resized.
    """
    n, c, h, w = size
    count = n * c * h * w
    if count * dtype.itemsize < LARGE or torch.compiler.is_compiling():  # tracing knows memory of its own kind alone
        return torch.empty(size, dtype=dtype, memory_format=torch.channels_last, device="cpu")
    lent = _own.lend(count * dtype.itemsize)
    return torch.frombuffer(lent, dtype=dtype).view(n, h, w, c).permute(0, 3, 1, 2)


def forget() -> None:
    """Give back what this thread keeps and nobody uses, and the place that it computes in."""
    _own.free.clear()
    _own.scratch = _new(0)


@dataclass(eq=False)
class _Block:
    memory: ndarray
    since: int = 0  # the last request that it was lent for


class _Own(threading.local):
    """What a thread keeps.

    Attributes:
        scratch: to compute in.
        free: blocks that nobody uses. They may be given back by another thread, which only appends.
        requests: how many there were.
    """

    def __init__(self) -> None:
        self.scratch = _new(0)
        self.free: list[_Block] = []
        self.requests = 0

    def lend(self, size: int) -> ndarray:
        """An array of `size` bytes; when nothing refers to it any more, its block is free again."""
        self.requests += 1
        for block in self.free[:]:
            if self.requests - block.since > FORGOTTEN:
                self.free.remove(block)
        fitting = [block for block in self.free if size <= len(block.memory) <= 2 * size]
        block = min(fitting, key=lambda block: len(block.memory), default=None)
        if block is None:
            block = _Block(_new(size).numpy())
        else:
            self.free.remove(block)
        lent = block.memory[:size]  # an object of its own, that the tensor made of it refers to
        block.since = self.requests
        weakref.finalize(lent, self.free.append, block).atexit = False
        return lent


@cache
def _advise() -> Callable[[int, int], int] | None:
    """Asks for large pages from an address on, of so many bytes; None where the system has none to ask for."""
    if LARGE_PAGES is None:
        return None
    found = ctypes.CDLL(None).madvise
    found.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    found.restype = ctypes.c_int
    return lambda address, size: found(address, size, LARGE_PAGES)


def _new(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, device="cpu")


_own = _Own()
