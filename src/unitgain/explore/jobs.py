"""Work that several may follow: done once, given up when nobody follows it any more; and its results, while there is
room for them.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
HEARTBEAT = 0.25  # seconds without news, after which whoever follows is asked whether he still does
Report = Callable[[Any], None]


class Abandoned(Exception):
    """Nobody waits for this work any more."""


@dataclass(eq=False)
class _Job:
    followers: int = 0
    number: int = 0  # of the latest news
    news: Any = None
    done: bool = False
    abandoned: bool = False
    value: Any = None
    error: BaseException | None = None


class Jobs:
    """Work by key, in threads of its own.

    Args:
        name: of the threads.
        threads: jobs at a time; others wait for their turn.
    """

    def __init__(self, name: str, threads: int = 1) -> None:
        self._pool = ThreadPoolExecutor(threads, name)
        self._changed = threading.Condition()
        self._running: dict[Hashable, _Job] = {}
        self._at_work: set[_Job] = set()
        self._closed = False

    @property
    def active(self) -> int:
        """Jobs that are done or wait to be; one that was given up counts until its thread has noticed."""
        with self._changed:
            return len(self._at_work)

    def follow(self, key: Hashable, work: Callable[[Report], T]) -> Generator[Any, None, T]:
        """Do the work, or join those who wait for the same; closing the generator leaves them.

        Args:
            key: the same key is the same work.
            work: called with a function that it reports to now and then, and that ends it, by `Abandoned`, once nobody
                follows it.

        Yields:
            The latest that was reported; None where there is nothing new.

        Returns:
            What `work` returns.

        Raises:
            Exception: what `work` raises.
            RuntimeError: after `close`.
        """
        job = self._join(key, work)
        seen, done = 0, False
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: job.done or job.number > seen, HEARTBEAT)  # noqa: B023
                    done, news, new = job.done, job.news, job.number > seen
                    seen = job.number
                if done:
                    if job.error is not None:
                        raise job.error
                    return job.value
                yield news if new else None
        finally:
            with self._changed:
                job.followers -= 1
                job.abandoned = job.abandoned or (not job.followers and not job.done)

    def close(self) -> None:
        """Give up all work, and wait for the threads to end."""
        with self._changed:
            self._closed = True
            for job in self._at_work:
                job.abandoned = True
        self._pool.shutdown(cancel_futures=False)

    def _join(self, key: Hashable, work: Callable[[Report], Any]) -> _Job:
        with self._changed:
            if self._closed:
                raise RuntimeError("this session is closed: open another one")
            job = self._running.get(key)
            if job is None or job.abandoned:
                job = self._running[key] = _Job()
                self._at_work.add(job)
                self._pool.submit(self._run, key, job, work)
            job.followers += 1
            return job

    def _run(self, key: Hashable, job: _Job, work: Callable[[Report], Any]) -> None:
        def report(news: Any) -> None:
            with self._changed:
                if job.abandoned:
                    raise Abandoned("nobody waits for this any more")
                job.news, job.number = news, job.number + 1
                self._changed.notify_all()

        try:
            report(None)
            job.value = work(report)
        except BaseException as error:
            job.error = error
        finally:
            with self._changed:
                job.done, job.news = True, None
                self._at_work.discard(job)
                if self._running.get(key) is job:
                    del self._running[key]
                self._changed.notify_all()


class Kept(Generic[T]):
    """The latest results, as many as there is room for; the newest stays, whatever its size. Thread-safe.

    Args:
        budget: bytes.
        size: bytes of a result.
    """

    def __init__(self, budget: int, size: Callable[[T], int]) -> None:
        self.budget, self._size = budget, size
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    @property
    def nbytes(self) -> int:
        """Of all that is there."""
        with self._lock:
            return sum(size for _, size in self._values.values())

    def get(self, key: Hashable) -> T | None:
        """A result, which counts as used now; None where it is not there."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Hashable, value: T) -> T:
        """Keep a result, and let go of those that were not used for longest."""
        with self._lock:
            self._values[key] = value, self._size(value)
            self._values.move_to_end(key)
            total = sum(size for _, size in self._values.values())
            while total > self.budget and len(self._values) > 1:
                total -= self._values.popitem(last=False)[1][1]
        return value
