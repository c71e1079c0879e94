"""A function over many tasks by threads, results in order.

Whatever takes time here lets go of the interpreter meanwhile: reading files, Pillow, zlib, hashes, PyTorch.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")
AHEAD = 4  # tasks per thread: enough to keep it busy while results are used, few enough to bound memory


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_threads(workers: int | None) -> int:
    """As many as are asked for, one per core for None.

    Raises:
        ValueError: if there are none.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers {workers}: must be at least 1")
    return workers or cores()


def in_order(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int | None = None
) -> Generator[Result]:
    """`map(function, tasks)` by threads.

    Args:
        function: what to do.
        tasks: taken as they are needed, a few ahead, by the thread that asks for results.
        workers: threads; by default one per core.

    Raises:
        ValueError: if there are no workers.
    """
    workers = count_threads(workers)
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for task in tasks:
            waiting.append(pool.submit(function, task))
            while waiting and (waiting[0].done() or len(waiting) > AHEAD * workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
