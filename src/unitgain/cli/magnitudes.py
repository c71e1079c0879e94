"""`unitgain magnitudes`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.table import Table

from unitgain.cli.arguments import Device, Shown, Unset, pick_device, refuse_idle
from unitgain.console import bar
from unitgain.draw.options import options_of
from unitgain.loss import EDMLoss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unitgain.report.history import Row


@dataclass(frozen=True, kw_only=True)
class Magnitudes(Shown):
    """Show how large activations and weights are, by resolution (EDM2, Figs. 3 and 15).

    Of runs: while they trained, in training mode; they must have been started with --magnitudes-every. Of snapshots,
    averages too: in evaluation mode, over images of --data at the noise levels of training. Any number side by side;
    snapshots of one run and one EMA length are one row over training.
    """

    what: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN|SNAPSHOT")]
    """Folders of runs, and snapshots."""

    data: Unset[str] = None
    """What snapshots were trained on: the name of a data set, as for `unitgain train`."""

    samples: int = 4096
    """Images of it that snapshots are measured over."""

    batch: int = 64
    """Of them at a time."""

    P_mean: Unset[float] = None
    """Mean of ln(sigma) to measure snapshots at. Default: that of their recipe."""

    P_std: Unset[float] = None
    """The same for its standard deviation; both or none."""

    device: Device = "auto"
    """Where to measure snapshots."""

    def run(self) -> None:
        """Print or draw it."""
        from unitgain.analysis.plots import magnitude_figure

        if not self.what:
            raise ValueError("name the folder of a run, such as: unitgain magnitudes runs/digits --plot magnitudes.svg")
        self.check_plot()
        snapshots = [path for path in self.what if path.is_file()]
        if not snapshots:
            told = ("data", "samples", "batch", "P_mean", "P_std", "device")
            refuse_idle(self, told, "for snapshots, which are measured; what runs have was measured in training")
        measured = {str(run): _magnitudes(run) for run in self.what if run not in snapshots}
        if snapshots:
            measured |= self._measure(snapshots)
        given = options_of(self, Magnitudes(what=self.what))
        beside = self.what[0].parent if self.what[0] in snapshots else self.what[0]
        words = ("magnitudes", *self.what, *given, "--plot", beside / "magnitudes.svg")
        run = next((path for path in self.what if path not in snapshots), None)
        self.show(measured, magnitude_figure, lambda runs: [_table(*each) for each in runs.items()], *words, run=run)

    def _measure(self, snapshots: list[Path]) -> "dict[str, list[Row]]":
        """Of snapshots, by run and length, in order of time."""
        from unitgain.data.named import open_data
        from unitgain.report.magnitudes import measure_snapshot

        if self.data is None:
            raise ValueError(f"{snapshots[0]} is a snapshot: name with --data what it was trained on")
        if (self.P_mean is None) != (self.P_std is None):
            raise ValueError("--P-mean and --P-std go together")
        loss = None if self.P_mean is None or self.P_std is None else EDMLoss(self.P_mean, self.P_std)
        dataset, device = open_data(self.data), pick_device(self.device)
        rows: dict[str, list[Row]] = {}
        for path in snapshots:
            with bar(path.name, "images") as progress:
                name, row = measure_snapshot(
                    path, dataset, self.samples, loss=loss, batch=self.batch, device=device, on_images=progress
                )
            rows.setdefault(name, []).append(row)
        return {name: sorted(own, key=lambda row: row["nimg"]) for name, own in rows.items()}


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

    ends = [rows[0], rows[-1]] if len(rows) > 1 else rows
    times = " -> ".join(f"{row['nimg']:,}" for row in ends)
    table = Table("bucket", *map(_words, QUANTITIES), title=f"{name}: {times} images", box=None)
    for bucket in ends[-1]["magnitudes"]:
        values = [row["magnitudes"].get(bucket, {}) for row in ends]
        table.add_row(bucket, *(" -> ".join(_text(one.get(key)) for one in values) for key in QUANTITIES))
    return table


def _words(quantity: str) -> str:
    return quantity.replace("_", " ")


def _text(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"
