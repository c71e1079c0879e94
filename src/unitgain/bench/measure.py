"""Things to measure, and what comes of measuring them."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from unitgain.analysis.peak import matrix_peak
from unitgain.bench.machine import load, machine
from unitgain.bench.memory import PeakMemory
from unitgain.bench.roofline import Counts, Roofline, memory_bandwidth, roofline
from unitgain.bench.trace import Slow, trace_to
from unitgain.bench.turns import Pace, Progress, calls_for, once, quartiles, ratios, take_turns, waiter


@dataclass(frozen=True, kw_only=True)
class Work:
    """Something to measure.

    Args:
        name: in tables, unlike any other.
        run: does it once.
        items: how many images, rows or bytes one call does.
        dtype: in which most of it is computed: the peak it is measured against.
        counts: what a call computes and moves; None if that is not known.
        held: bytes that stay in memory between calls, weights above all; None if that is not known.
        facts: anything else to be reported, as JSON values.
    """

    name: str
    run: Callable[[], object]
    items: int
    dtype: torch.dtype = torch.float32
    counts: Counts | None = None
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
        ratio_low, ratio_high: quartiles.
        held: bytes that stay in memory; None if that was not measured.
        gained: bytes above these at the peak of a call; None if that was not measured.
        roofline: what it computes and how near that is to what the machine can do; None if it is not counted.
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
    ratio_low: float
    ratio_high: float
    held: int | None
    gained: int | None
    roofline: Roofline | None
    facts: dict[str, Any]

    @property
    def memory(self) -> int | None:
        """Bytes at the peak of a call, with what stays; None if that was not measured."""
        return None if self.gained is None else (self.held or 0) + self.gained


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of measuring several things in turns.

    Attributes:
        what: was measured: "forward", ...
        unit: of items: "images", "rows" or "bytes".
        device: kind of device.
        settings: of the measurement, as JSON values.
        peaks: multiply-adds per second of square matrix products, by dtype.
        bandwidth: bytes per second of copies within memory, read and written; None if it was not needed.
        rows: one for each.
        slow: the slowest operations of each, if a trace was taken.
        machine: where.
        load: average load of the machine over the last five minutes, this process included.
    """

    what: str
    unit: str
    device: str
    settings: dict[str, Any]
    peaks: dict[str, float]
    bandwidth: float | None
    rows: tuple[Row, ...]
    slow: tuple[Slow, ...]
    machine: dict[str, Any]
    load: float

    def row(self, name: str) -> Row:
        """The row of this name."""
        return next(row for row in self.rows if row.name == name)


def measure(
    works: Sequence[Work],
    *,
    what: str,
    unit: str = "images",
    device: torch.device | str = "cpu",
    pace: Pace | None = None,
    settings: Mapping[str, Any] | None = None,
    trace: Path | None = None,
    on_progress: Progress | None = None,
) -> Report:
    """Warm each up, take its memory, time all in turns, and trace them if wanted.

    Args:
        works: what to measure; ratios are to the first.
        what: is measured, for the report.
        unit: of their items.
        device: where they run.
        pace: how long to measure; by default 10 seconds, at least three turns.
        settings: for the report.
        trace: a file for a trace of one call of each, in the format of Chrome (`chrome://tracing`, Perfetto).
        on_progress: is told what is going on.
    """
    tell = on_progress or (lambda *_: None)
    pace, device = pace or Pace(), torch.device(device)
    peaks, bandwidth = _rates(works, device, tell)
    gained, calls = {}, {}
    for index, work in enumerate(works):
        tell(f"warming up {work.name}", index, len(works))
        work.run()
        with PeakMemory(device) as memory:
            seconds = once(work.run, waiter(device))
        gained[work.name], calls[work.name] = memory.gained, calls_for(seconds)
    timings = take_turns({work.name: work.run for work in works}, pace, device, calls, on_progress)
    rows = []
    for work in works:
        peak = peaks[_short(work.dtype)] if work.counts is not None else None
        rows.append(
            _row(work, timings[work.name], works[0], timings[works[0].name], gained[work.name], peak, bandwidth)
        )
    slow: list[Slow] = []
    if trace is not None:
        tell("tracing", 0, None)
        slow = trace_to(trace, {work.name: work.run for work in works}, device)
    return Report(
        what=what,
        unit=unit,
        device=device.type,
        settings={"repeats": pace.repeats, "seconds": pace.seconds, **(settings or {})},
        peaks=peaks,
        bandwidth=bandwidth,
        rows=tuple(rows),
        slow=tuple(slow),
        machine=machine(device),
        load=load(),
    )


def _rates(works: Sequence[Work], device: torch.device, tell: Progress) -> tuple[dict[str, float], float | None]:
    """What the machine can do: products in each precision, and copies."""
    dtypes = dict.fromkeys(work.dtype for work in works if work.counts is not None)
    if not dtypes:
        return {}, None
    tell("measuring matrix products and copies", 0, None)
    return {_short(dtype): matrix_peak(device, dtype) for dtype in dtypes}, memory_bandwidth(device)


def _row(
    work: Work,
    seconds: list[float],
    first: Work,
    first_seconds: list[float],
    gained: int,
    peak: float | None,
    bandwidth: float | None,
) -> Row:
    median = statistics.median(seconds)
    low, high = quartiles(seconds)
    faster = [ratio * work.items / first.items for ratio in ratios(first_seconds, seconds)]
    ratio_low, ratio_high = quartiles(faster)
    roof = None
    if work.counts is not None and peak is not None and bandwidth is not None:
        roof = roofline(work.counts, peak, bandwidth, median)
    return Row(
        name=work.name,
        items=work.items,
        turns=len(seconds),
        seconds=median,
        seconds_low=low,
        seconds_high=high,
        rate=work.items / median,
        ratio=statistics.median(faster),
        ratio_low=ratio_low,
        ratio_high=ratio_high,
        held=work.held,
        gained=gained,
        roofline=roof,
        facts=dict(work.facts),
    )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
