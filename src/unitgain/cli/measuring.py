"""How `unitgain bench` measures and prints, as options that its commands share."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from unitgain.bench import turns
from unitgain.bench.cases import Case, parse_case
from unitgain.bench.measure import Report
from unitgain.bench.tables import cells, notes, rich_table, roofline_cells, slow_cells
from unitgain.bench.trace import check_path
from unitgain.bench.turns import Pace
from unitgain.cli.arguments import Device, Unset
from unitgain.console import Console, plain, show_json
from unitgain.serial import to_dict


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How things are measured, and what is printed."""

    repeats: Unset[int] = None
    """How often each is timed, in turns. Default: as often as fits into --seconds, at least three times."""

    seconds: float = 10.0
    """How long to measure, after warming up."""

    threads: Unset[int] = None
    """Threads of torch. Default: as many as torch takes by itself."""

    profile: Unset[Path] = None
    """Write a trace of one call of each to this .json file, for chrome://tracing or Perfetto, and print the slowest
    operations."""

    json: bool = False
    """Print JSON, which has everything that was measured."""

    @contextmanager
    def watched(self) -> Iterator[turns.Progress]:
        """Threads as asked for, and a progress bar on standard error, where that is a terminal."""
        self.pace()
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"--threads {self.threads}: must be at least 1")
        if self.profile is not None:
            check_path(self.profile)
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        console = Console(stderr=True)
        columns = (plain("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        try:
            with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
                task = progress.add_task("starting", total=None)
                yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)
        finally:
            torch.set_num_threads(before)

    def pace(self) -> Pace:
        """As asked for."""
        return Pace(self.repeats, self.seconds)

    def show(self, report: Report, roofline: bool = False) -> None:
        """Print what was measured."""
        if self.json:
            show_json(to_dict(report))
            return
        console = Console(least=None if sys.stdout.isatty() else 150)
        console.print(rich_table(cells(report)))
        if roofline:
            console.print(rich_table(roofline_cells(report), "\nRoofline"))
        if self.profile is not None:
            console.print(rich_table(slow_cells(report.slow), f"\nSlowest operations; the trace is in {self.profile}"))
        console.print("\n" + "\n".join(notes(report)))


@dataclass(frozen=True, kw_only=True)
class Comparing(Measuring):
    """The same, for networks."""

    compare: tuple[str, ...] = ()
    """Several of NETWORK:MODE, measured in turns with NETWORK, if that is given; ratios are to the first."""

    device: Device = "auto"
    """Where to measure."""

    roofline: bool = False
    """Also print what each computes and moves, how long this machine needs for that at the least, and what it took.
    JSON always has it."""

    def cases(self, network: str | None, known: tuple[str, ...], default: str) -> list[Case]:
        """What to compare; a network alone is compared in the default modes, one among others in the last of them.

        Raises:
            ValueError: if there is nothing to measure, or twice the same.
        """
        if network is None and not self.compare:
            raise ValueError("name what to measure: NETWORK, NETWORK:MODE or --compare NETWORK:MODE NETWORK:MODE ...")
        one = default.split(",")[-1]
        cases = parse_case(network, known, one if self.compare else default) if network is not None else []
        cases += [case for text in self.compare for case in parse_case(text, known, one)]
        names = [case.name for case in cases]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{twice} is named twice: each case once")
        return cases
