"""`unitgain magnitudes`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.table import Table

from unitgain.cli.arguments import Unset
from unitgain.console import Console, say, show_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unitgain.report.history import Row


@dataclass(frozen=True)
class Magnitudes:
    """Show how large activations and weights were while a run trained, by resolution.

    The run must have been started with --magnitudes-every. Any number of runs side by side.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs."""

    plot: Unset[Path] = None
    """Draw them over training to this file, .svg, .png or .pdf."""

    json: bool = False
    """Print all of it as JSON instead of a table."""

    def run(self) -> None:
        """Print or draw it."""
        from unitgain.analysis.plots import magnitude_figure
        from unitgain.figures import save

        if not self.runs:
            raise ValueError("name the folder of a run, such as: unitgain magnitudes runs/digits --plot magnitudes.svg")
        measured = {str(run): _magnitudes(run) for run in self.runs}
        if self.plot is not None:
            save(magnitude_figure(measured), self.plot)
            say(f"wrote {self.plot}")
        elif self.json:
            show_json(measured)
        else:
            for name, rows in measured.items():
                Console().print(_table(name, rows))


def _magnitudes(run: Path) -> "Sequence[Row]":
    """The measurements of a run, in order."""
    from unitgain.report.history import read_history

    rows = read_history(run).magnitudes
    if not rows:
        raise ValueError(f"{run} has no magnitudes: train with --magnitudes-every IMAGES")
    return rows


def _table(name: str, rows: "Sequence[Row]") -> Table:
    """First and last measurement of a run, by bucket."""
    from unitgain.analysis.buckets import QUANTITIES

    first, last = rows[0], rows[-1]
    title = f"{name}: {first['nimg']:,} -> {last['nimg']:,} images"
    table = Table("bucket", *(quantity.replace("_", " ") for quantity in QUANTITIES), title=title, box=None)
    for bucket, values in last["magnitudes"].items():
        before = first["magnitudes"].get(bucket, {})
        table.add_row(bucket, *(f"{_text(before.get(key))} -> {_text(values.get(key))}" for key in QUANTITIES))
    return table


def _text(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"
