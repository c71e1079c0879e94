"""Several things timed in turns, so that what else the machine does falls on all of them alike."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

SHORTEST = 0.01  # seconds of a timing; what takes less is called several times, which makes the clock's error small
FEWEST = 3  # turns, however long they take

Progress = Callable[[str, float, float | None], None]
"""Called with what is going on, how much of it is done, and of how much (None if that is not known)."""


@dataclass(frozen=True)
class Pace:
    """How long to measure.

    Args:
        repeats: turns; None for as many as fit into `seconds`.
        seconds: for all turns together, at least three of them; not used if `repeats` is given.

    Raises:
        ValueError: if either is not positive.
    """

    repeats: int | None = None
    seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.repeats is not None and self.repeats < 1:
            raise ValueError(f"repeats = {self.repeats}: must be at least 1")
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"seconds = {self.seconds}: must be a positive number of seconds")

    def over(self, turns: int, elapsed: float) -> bool:
        """Whether so many turns, which took `elapsed` seconds, are enough."""
        if self.repeats is not None:
            return turns >= self.repeats
        return turns >= FEWEST and elapsed >= self.seconds


def waiter(device: torch.device | str) -> Callable[[], None]:
    """A function that waits until the device has done what it was given."""
    device = torch.device(device)
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)


def once(run: Callable[[], object], wait: Callable[[], None], calls: int = 1) -> float:
    """Seconds that a call takes, the mean of `calls`."""
    wait()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    wait()
    return (time.perf_counter() - start) / calls


def calls_for(seconds: float) -> int:
    """How many calls of something that takes `seconds` make a timing."""
    return max(1, math.ceil(SHORTEST / max(seconds, 1e-7)))


def take_turns(
    runs: Mapping[str, Callable[[], object]],
    pace: Pace,
    device: torch.device | str = "cpu",
    calls: Mapping[str, int] | None = None,
    on_progress: Progress | None = None,
) -> dict[str, list[float]]:
    """Seconds per call of each, one value a turn; every other turn goes backwards.

    Args:
        runs: what to time, warmed up.
        pace: how long.
        device: what they run on, which is waited for.
        calls: of each in a timing; 1 by default.
        on_progress: is told of the turns, or of the seconds if those are what ends it.
    """
    wait, calls = waiter(device), calls or {}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    began, turns = time.perf_counter(), 0
    while not pace.over(turns, time.perf_counter() - began):
        for name in list(runs) if turns % 2 == 0 else reversed(list(runs)):
            seconds[name].append(once(runs[name], wait, calls.get(name, 1)))
        turns += 1
        if on_progress is not None:
            elapsed = time.perf_counter() - began
            total = pace.repeats or max(pace.seconds, elapsed / turns * FEWEST)
            on_progress("measuring", turns if pace.repeats else min(elapsed, total), total)
    return seconds


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Lower and upper quartile; of one value that value."""
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def ratios(first: Sequence[float], other: Sequence[float]) -> list[float]:
    """How many times faster `other` is, turn by turn: drift of the machine falls out."""
    return [one / two for one, two in zip(first, other, strict=True)]
