"""`unitgain compare`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table

from unitgain.cli.arguments import Shown


@dataclass(frozen=True, kw_only=True)
class Compare(Shown):
    """Compare the metrics of several runs over images seen and over hours of training (EDM2, Fig. 11a).

    Metrics are those that the runs measured on the way (`unitgain train --metrics ... --metrics-every N`).
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs."""

    def run(self) -> None:
        """Print or draw it."""
        from unitgain.report.compare import convergence_figure, evaluations
        from unitgain.report.history import read_history

        if not self.runs:
            raise ValueError("name folders of runs, such as: unitgain compare runs/a runs/b --plot compare.svg")
        self.check_plot()
        found = {str(run): evaluations(read_history(run)) for run in self.runs}
        known = any(row["metrics"] for rows in found.values() for row in rows)
        words = ("compare", *self.runs, "--plot", self.runs[0] / "compare.svg") if known else ()
        self.show(found, convergence_figure, lambda runs: [_table(runs)], *words, run=self.runs[0])


def _table(runs: dict[str, list[dict[str, Any]]]) -> Table:
    """The last evaluation of each run."""
    table = Table("run", "images", "hours", "metric", "last", "lowest", "highest", box=None)
    for name, rows in runs.items():
        metrics = dict.fromkeys(metric for row in rows for metric in row["metrics"])
        if not metrics:
            table.add_row(name, "", "", "none measured")
        for metric in metrics:
            own = [row for row in rows if metric in row["metrics"]]
            values, last = [row["metrics"][metric] for row in own], own[-1]
            hours = "" if last["hours"] is None else f"{last['hours']:.2f}"
            numbers = (f"{value:.4g}" for value in (values[-1], min(values), max(values)))
            table.add_row(name, f"{last['nimg']:,}", hours, metric, *numbers)
    return table
