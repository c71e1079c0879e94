"""What is kept and what is dropped, apart in memory: else activations would spread over the holes between weights."""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # as malloc.h has them
APART = 2**17
LARGEST = 2**25  # what the threshold grows to by itself, once a block that large has been freed


@contextmanager
def apart() -> Iterator[None]:
    """Give every large block of memory that is allocated inside a mapping of its own, which freeing returns.

    In one heap, blocks that are dropped leave holes between those that are kept. A network that is evaluated then takes
    now one hole and now another, and twice the memory of its activations. Afterwards large blocks come from the heap
    again, where they are reused without the system's zeroing. With glibc; elsewhere, or where the environment sets its
    thresholds, nothing is changed.
    """
    mallopt = None if any(name.startswith("MALLOC_") for name in os.environ) else _mallopt()
    if mallopt is None:
        yield
        return
    mallopt(MMAP_THRESHOLD, APART)
    try:
        yield
    finally:
        mallopt(MMAP_THRESHOLD, LARGEST)
        mallopt(TRIM_THRESHOLD, 2 * LARGEST)


def _mallopt() -> Callable[[int, int], int] | None:
    try:
        return ctypes.CDLL(None).mallopt if hasattr(ctypes.CDLL(None), "gnu_get_libc_version") else None
    except OSError:
        return None
