"""How `unitgain bench` measures and prints, as options that its commands share."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from unitgain.cli.arguments import Device, Unset
from unitgain.console import Console, next_step, show_json
from unitgain.serial import to_dict

if TYPE_CHECKING:
    from unitgain.bench.cases import Case
    from unitgain.bench.measure import Comparison, Pace


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """What is compared, how it is measured, and what is printed."""

    compare: tuple[str, ...] = ()
    """Several of NETWORK:MODE, measured in turns with NETWORK, if that is given; ratios are to the first."""

    device: Device = "auto"
    """Where to measure."""

    repeats: Unset[int] = None
    """How often each is timed, in turns. Default: as often as fits into --seconds, at least three times."""

    seconds: float = 10.0
    """How long to measure, after warming up."""

    threads: Unset[int] = None
    """Threads of torch. Default: as many as torch takes by itself."""

    json: bool = False
    """Print JSON, which has everything that was measured."""

    def cases(self, network: str | None, words: tuple[str, ...], default: tuple[str, ...]) -> "list[Case]":
        """What to compare; a network alone is compared in the default modes, one among others in the last of them.

        Raises:
            ValueError: if there is nothing to measure, or twice the same.
        """
        from unitgain.bench.cases import parse_case

        if network is None and not self.compare:
            raise ValueError("name what to measure: NETWORK, NETWORK:MODE or --compare NETWORK:MODE NETWORK:MODE ...")
        one = default[-1:]
        cases = parse_case(network, words, one if self.compare else default) if network is not None else []
        cases += [case for text in self.compare for case in parse_case(text, words, one)]
        names = [case.name for case in cases]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{twice} is named twice: each case once")
        return cases

    @contextmanager
    def measuring(self) -> "Iterator[Pace]":
        """Threads as asked for, and a sign of life on standard error, where that is a terminal."""
        import torch

        from unitgain.bench.measure import Pace

        if self.threads is not None and self.threads < 1:
            raise ValueError(f"--threads {self.threads}: must be at least 1")
        pace, before = Pace(self.repeats, self.seconds), torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            with Console(stderr=True).status("measuring"):
                yield pace
        finally:
            torch.set_num_threads(before)

    def show(self, comparison: "Comparison", aim: str, *words: object) -> None:
        """Print what was measured, and the command that goes on from there."""
        from unitgain.bench.tables import cells, notes

        if self.json:
            show_json(to_dict(comparison))
            return
        head, rows = cells(comparison)
        table = Table(box=None)
        for index, name in enumerate(head):
            table.add_column(name, justify="right" if index else "left", no_wrap=index > 0, overflow="fold")
        for row in rows:
            table.add_row(*row)
        console = Console(least=None if sys.stdout.isatty() else 150)
        console.print(table)
        console.print("\n" + "\n".join(notes(comparison)))
        next_step(aim, *words)
