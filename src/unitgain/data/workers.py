"""A function over many tasks in several processes, results in order."""

import itertools
import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

Shared = TypeVar("Shared")
Task = TypeVar("Task")
Result = TypeVar("Result")
STARTING = 0.3  # seconds until processes work: they import what they need first
BUSY = 20  # times that, per process, which work has to take where others work too
TASKS_AHEAD = 4  # per process: enough to keep it busy while results are written, few enough to bound memory


class WorkerError(Exception):
    """A worker process was killed."""


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def paying(seconds: float) -> int:
    """Processes that end work of so many seconds sooner than one of them would."""
    busy = (
        hasattr(os, "getloadavg") and os.getloadavg()[0] >= cores()
    )  # more may do no more there, and all have to start
    return max(1, min(cores(), int(seconds / ((BUSY if busy else 2) * STARTING))))


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
            task takes here, and this one works while they start.
        count: of the tasks, if it is known.

    Raises:
        WorkerError: if a process was killed, by lack of memory for instance.
    """
    tasks, measured = iter(tasks), workers is None
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
    starter = ThreadPoolExecutor(1)
    pool = starter.submit(Pool, context, function, shared, workers)
    try:
        for task in tasks if measured else ():
            yield function(shared, task)
            if pool.done():
                break
        yield from pool.result().map(tasks)
    finally:
        starter.shutdown()
        if pool.exception() is None:
            pool.result().close()


class Pool:
    """Processes that are talked to through pipes: the library's pools need semaphores, which outlive a killed job.

    Args:
        context: starts processes.
        function: as in `in_order`.
        shared: likewise.
        workers: number of processes.
    """

    def __init__(self, context: BaseContext, function: Callable[..., Any], shared: Any, workers: int) -> None:
        self._processes: list[Any] = []
        self._owed: dict[Any, deque[int]] = {}  # numbers of tasks that each has yet to do
        self._done: dict[int, tuple[bool, Any]] = {}
        try:
            for _ in range(workers):
                ours, theirs = context.Pipe()
                self._owed[ours] = deque()
                with theirs:
                    given = theirs, function, shared
                    process = context.Process(target=_work, args=given, daemon=True)  # type: ignore[attr-defined]
                    process.start()
                self._processes.append(process)
        except BaseException:
            self.close()
            raise

    def map(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """The result of each task, in their order; raises what a task raised.

        Raises:
            WorkerError: if a process was killed.
        """
        tasks, given = iter(tasks), 0
        for first in itertools.count():
            while given - first < TASKS_AHEAD * len(self._owed):
                task = next(tasks, _END)
                if task is _END:
                    break
                pipe = min(self._owed, key=lambda pipe: len(self._owed[pipe]))
                with _watched():
                    pipe.send(task)
                self._owed[pipe].append(given)
                given += 1
            if first == given:
                return
            while first not in self._done:
                for pipe in connection.wait(self._owed):
                    with _watched():
                        self._done[self._owed[pipe].popleft()] = pipe.recv()  # type: ignore[index, union-attr]
            good, result = self._done.pop(first)
            if not good:
                raise result
            yield result

    def close(self) -> None:
        """End the processes, whatever they are at."""
        for pipe in self._owed:
            pipe.close()  # they end when they notice
        for process in self._processes:
            process.join()


_END = object()


@contextmanager
def _watched() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise WorkerError("a worker process was killed; if memory ran out, use fewer with --workers") from error


def _work(pipe: connection.Connection, function: Callable[[Any, Any], Any], shared: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this one
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_take, args=(pipe, tasks), daemon=True).start()
    while True:
        pipe.send(_result(function, shared, tasks.get()))


def _take(pipe: connection.Connection, tasks: queue.SimpleQueue) -> None:
    """Take tasks as they come, so that the parent never waits for a process that waits for the parent."""
    while True:
        try:
            tasks.put(pipe.recv())
        except (EOFError, OSError):  # the parent has closed the pipe, or was killed
            os._exit(1)


def _result(function: Callable[[Any, Any], Any], shared: Any, task: Any) -> tuple[bool, Any]:
    try:
        return True, function(shared, task)
    except Exception as error:
        error.add_note(traceback.format_exc())  # which does not travel by itself
        return False, error
