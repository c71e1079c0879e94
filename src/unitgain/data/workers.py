"""A function over many tasks in several processes, results in order."""

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any, TypeVar

Shared = TypeVar("Shared")
Task = TypeVar("Task")
Result = TypeVar("Result")
STARTING = 0.3  # seconds until processes work: they import what they need first
TASKS_AHEAD = 4  # per process: enough to keep it busy while results are written, few enough to bound memory

_work: Callable[[Any], Any]


class WorkerError(Exception):
    """A worker process was killed."""


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def paying(seconds: float) -> int:
    """Processes that end work of so many seconds sooner than one of them would."""
    return max(1, min(cores(), int(seconds / (2 * STARTING))))


def in_order(
    function: Callable[[Shared, Task], Result],
    shared: Shared,
    tasks: Iterable[Task],
    workers: int | None = None,
    count: int | None = None,
) -> Iterator[Result]:
    """`function(shared, task)` for each task, in the order of `tasks`.

    Args:
        function: at the top of a module.
        shared: sent to each process once.
        tasks: taken as they are needed, a few ahead.
        workers: processes; with 1 everything happens in this one; by default as many as pay, by the time that the first
            task takes here.
        count: of the tasks, if it is known.

    Raises:
        WorkerError: if a process was killed, by lack of memory for instance.
    """
    tasks = iter(tasks)
    if workers is None:
        workers = cores() if count is None else 1
        for task in itertools.islice(tasks, 0 if count is None else 1):
            start = time.perf_counter()
            result = function(shared, task)
            workers = paying((time.perf_counter() - start) * ((count or 1) - 1))
            yield result
    if workers <= 1:
        yield from (function(shared, task) for task in tasks)
        return
    # Processes that start from a fresh server inherit no threads or locks; it imports what they need once.
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    if hasattr(context, "set_forkserver_preload"):
        context.set_forkserver_preload([function.__module__])
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(function, shared))
    pending: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            pending.append(pool.submit(_run, task))
            if len(pending) >= TASKS_AHEAD * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise WorkerError("a worker process was killed; if memory ran out, use fewer with --workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(function: Callable[[Any, Any], Any], shared: Any) -> None:
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def work(task: Any) -> Any:
        return function(shared, task)

    _work = work


def _run(task: Any) -> Any:
    return _work(task)


def _end_with_parent() -> None:
    """A parent that was killed cannot tell; without this its processes would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
