"""A trace of one call of each of several things, and the operations that took longest."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from unitgain.files import atomic

SHOWN = 10  # operations of each


@dataclass(frozen=True)
class Slow:
    """An operation, and what it took.

    Attributes:
        work: in which it ran.
        operation: its name, as torch has it.
        calls: how often.
        seconds: without what it called in turn; on a GPU, of the kernels that it started.
        share: of all operations of that work.
    """

    work: str
    operation: str
    calls: int
    seconds: float
    share: float


def trace_to(path: Path, runs: Mapping[str, Callable[[], object]], device: torch.device | str = "cpu") -> list[Slow]:
    """Run each once under torch's profiler, write the trace, and name the slowest operations of each.

    Args:
        path: a JSON file for `chrome://tracing` or Perfetto.
        runs: by name, warmed up.
        device: where they run.

    Raises:
        ValueError: if `path` does not end in .json.
    """
    check_path(path)
    device = torch.device(device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as profiler:
        for name, run in runs.items():
            with record_function(name):
                run()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
    with atomic(path) as temporary:
        profiler.export_chrome_trace(str(temporary))
    return slowest(list(profiler.events() or ()), list(runs), device.type)


def check_path(path: Path) -> None:
    """Raise `ValueError` unless a trace may be written there."""
    if path.suffix != ".json":
        raise ValueError(f"a trace is a JSON file: {path} must end in .json")


def slowest(events: list[Any], names: list[str], device: str) -> list[Slow]:
    """The slowest operations of each range of these names, most first."""
    ranges = {event.name: event.time_range for event in events if event.name in names}
    attribute = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    found: list[Slow] = []
    for name in names:
        if name not in ranges:
            continue
        span, times, calls = ranges[name], defaultdict[str, float](float), defaultdict[str, int](int)
        for event in events:
            inside = span.start <= event.time_range.start and event.time_range.end <= span.end
            if inside and event.name != name and event.device_type == torch.autograd.DeviceType.CPU:
                times[event.name] += getattr(event, attribute) / 1e6
                calls[event.name] += 1
        total = sum(times.values()) or 1.0
        most = sorted(times, key=lambda operation: -times[operation])[:SHOWN]
        found += [
            Slow(name, operation, calls[operation], times[operation], times[operation] / total) for operation in most
        ]
    return found
