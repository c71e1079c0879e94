"""Several things timed in turns in one process, so that what else the machine does falls on all of them alike."""

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from unitgain.analysis.peak import matrix_peak, seconds_of
from unitgain.bench.memory import PeakMemory

SHORTEST = 0.01  # seconds of a timing; what takes less is called several times, which makes the clock's error small
FEWEST = 3  # turns, however long they take


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


@dataclass(frozen=True, kw_only=True)
class Work:
    """Something to measure.

    Args:
        name: in tables, unlike any other.
        run: does it once.
        items: how many images one call does.
        dtype: in which most of it is computed: the peak it is measured against.
        macs: multiply-accumulates of a call, in convolutions and matrix products; None if that is not known.
        held: bytes that stay in memory between calls, weights above all; None if that is not known.
        facts: anything else to be reported, as JSON values.
    """

    name: str
    run: Callable[[], object]
    items: int
    dtype: torch.dtype = torch.float32
    macs: int | None = None
    held: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of measuring one thing.

    Attributes:
        name: of it.
        items: that a call does.
        turns: how often it was timed.
        seconds: of a call, the median.
        seconds_low, seconds_high: quartiles.
        rate: items per second, at the median.
        ratio: how many times faster per item than the first one, the median over turns.
        held: bytes that stay in memory; None if that was not measured.
        gained: bytes above these at the peak of a call.
        macs: multiply-accumulates of a call; None if they are not counted.
        share: of the rate of square matrix products in this precision; likewise.
        facts: those of the work.
    """

    name: str
    items: int
    turns: int
    seconds: float
    seconds_low: float
    seconds_high: float
    rate: float
    ratio: float
    held: int | None
    gained: int
    macs: int | None
    share: float | None
    facts: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What came of measuring several things in turns.

    Attributes:
        rows: one for each.
        peaks: multiply-accumulates per second of square matrix products, by dtype.
        machine: where.
        load: average load of the machine over the last five minutes, this process included.
    """

    rows: tuple[Row, ...]
    peaks: dict[str, float]
    machine: dict[str, Any]
    load: float

    def row(self, name: str) -> Row:
        """The row of this name."""
        return next(row for row in self.rows if row.name == name)


def measure(works: Sequence[Work], device: torch.device | str = "cpu", pace: Pace | None = None) -> Comparison:
    """Warm each up, take its memory, and time all in turns.

    Args:
        works: what to measure; ratios are to the first.
        device: where they run.
        pace: how long to measure; by default 10 seconds, at least three turns.
    """
    pace, device = pace or Pace(), torch.device(device)
    counted = dict.fromkeys(work.dtype for work in works if work.macs is not None)
    peaks = {dtype: matrix_peak(device, dtype) for dtype in counted}
    gained, calls = {}, {}
    for work in works:
        work.run()
        with PeakMemory(device) as memory:
            seconds = seconds_of(work.run, device)
        gained[work.name] = memory.gained
        calls[work.name] = max(1, math.ceil(SHORTEST / max(seconds, 1e-7)))
    timings = take_turns({work.name: work.run for work in works}, pace, device, calls)
    first = [seconds / works[0].items for seconds in timings[works[0].name]]
    return Comparison(
        rows=tuple(_row(work, timings[work.name], first, gained[work.name], peaks.get(work.dtype)) for work in works),
        peaks={str(dtype).removeprefix("torch."): peak for dtype, peak in peaks.items()},
        machine=machine(device),
        load=os.getloadavg()[1] if hasattr(os, "getloadavg") else 0.0,
    )


def take_turns(
    runs: Mapping[str, Callable[[], object]],
    pace: Pace,
    device: torch.device | str = "cpu",
    calls: Mapping[str, int] | None = None,
) -> dict[str, list[float]]:
    """Seconds per call of each, one value a turn; every other turn goes backwards.

    Args:
        runs: what to time, warmed up.
        pace: how long.
        device: what they run on, which is waited for.
        calls: of each in a timing; 1 by default.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    start, turns = time.perf_counter(), 0
    while not pace.over(turns, time.perf_counter() - start):
        for name in list(runs) if turns % 2 == 0 else reversed(list(runs)):
            seconds[name].append(seconds_of(runs[name], device, (calls or {}).get(name, 1)))
        turns += 1
    return seconds


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Processor, cores, threads, torch, and the GPU if `device` is one; nothing that names the machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    facts = {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if torch.device(device).type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def _row(work: Work, seconds: list[float], first: list[float], gained: int, peak: float | None) -> Row:
    """`first` are the seconds per item of the first work: turn by turn, so that drift of the machine falls out."""
    low, median, high = statistics.quantiles(seconds * 2 if len(seconds) == 1 else seconds, n=4, method="inclusive")
    return Row(
        name=work.name,
        items=work.items,
        turns=len(seconds),
        seconds=median,
        seconds_low=low,
        seconds_high=high,
        rate=work.items / median,
        ratio=statistics.median(one * work.items / two for one, two in zip(first, seconds, strict=True)),
        held=work.held,
        gained=gained,
        macs=work.macs,
        share=None if work.macs is None or peak is None else work.macs / median / peak,
        facts=dict(work.facts),
    )
