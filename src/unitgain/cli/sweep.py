"""`unitgain sweep` and `unitgain tune`."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.table import Table

from unitgain.cli.arguments import Unset, draw_next, pick_device, refuse_idle
from unitgain.cli.drawing import Batched, Sampling
from unitgain.cli.metrics import Measuring
from unitgain.console import Console, bar, byte_bar, say
from unitgain.sweep.cells import NUMBERS, CellResult, SweepConfig, best, best_by

if TYPE_CHECKING:
    from unitgain.evaluate.judge import Judge
    from unitgain.parallel import World
    from unitgain.sweep.run import Sweep


@dataclass(frozen=True, kw_only=True)
class Bench(Sampling, Batched, Measuring):
    """How cells are drawn and judged; shared by `sweep` and `tune`."""

    config: SweepConfig
    """What is swept."""

    metric: str
    """Metrics, by commas: fid, fd_dinov2, fd_pixels, kid, precision, ..., or one of your own, a Python module:name;
    kid@dinov2 names a detector. What is in TorchScript files and modules are programs, and run: name only what you
    trust."""

    guide: Unset[str] = None
    """What guides: the folder of another run, whose averages are reconstructed too; a network by path; or self, the
    network without its label."""

    guide_nimg: Unset[float] = None
    """Where the averages of the guide end, in images seen. Default: at its last snapshot."""

    def stem(self, name: str, times: Sequence[float]) -> str:
        """Of the files: with the guide and the times that were asked for, so that those of others stay.

        Where the guide's name and the first and last time leave something open, eight digits of a hash are added.
        """
        from unitgain.draw.networks import SELF
        from unitgain.sweep.table import key_of

        ends = [f"{nimg:.0f}" for nimg in dict.fromkeys((times[0], times[-1]))] if times else []
        guide = None if self.guide is None else Path(self.guide)
        words = [name, *([] if guide is None else [guide.name.removesuffix(".safetensors")]), *ends]
        if self.guide not in (None, SELF) or list(map(float, ends)) != list(times):
            where = str(guide.resolve()) if guide is not None and guide.exists() else self.guide
            ends_at = self.guide_nimg if self.guide_nimg is None or self.guide_nimg % 1 else int(self.guide_nimg)
            words.append(key_of({"guide": where, "guide_nimg": ends_at, "times": list(times)})[:8])
        return "-".join(words)

    def judge(self, world: "World") -> "Judge":
        """Metrics with their detectors and references; each process measures cells of its own."""
        from unitgain.parallel import World

        if not self.reads_data:
            refuse_idle(self, ["image_column"], "for a --reference that is data, of which one is made; leave it out")
        return replace(self.open_judge(self.metric, world), world=World(device=world.device), errors=True)

    def say_best(self, bench: "Sweep", results: Sequence[CellResult]) -> None:
        """Say how to draw with the best of the first metric."""
        cell = bench.drawn_as(best([one for one in results if one.metric == results[0].metric]).cell)
        network, guide = bench.main.path(cell.target()), bench.guide_of(cell)
        folder = bench.out / f"{network.stem}-w{cell.guidance:g}"
        weight = None if guide is None else cell.guidance
        draw_next(network, folder, *self.drawn_by(guide, weight), aim="draw with the best")

    def open(self, run: Path, out: Path, judge: "Judge", world: "World", nimg: float | None) -> "Sweep":
        """A run ready to be swept, its averages up to so many images."""
        from unitgain.sweep.run import Sweep

        return Sweep(
            run,
            judge,
            out,
            guide=self.guide,
            settings=self.settings,
            t=nimg,
            guide_t=self.guide_nimg,
            batch=self.batch,
            world=world,
        )


@dataclass(frozen=True, kw_only=True)
class SweepCommand(Bench):
    """Sweep EMA lengths and guidance: draw, measure, keep what was measured, plot.

    Averages are reconstructed once per length, all cells share their seeds, and every finished cell is kept: call the
    command again to go on after an interruption, or with more cells or metrics. Under torchrun the processes share the
    cells. Writes a table, plots and a picture of what the cells of this call draw, sweep*.csv, .svg and .png, into
    RUN/sweep.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs, one or several; of several the curves are also compared, in the first one's folder."""

    config: SweepConfig = field(
        default_factory=lambda: SweepConfig(lengths=tuple(round(0.02 * k, 2) for k in range(1, 11)))
    )

    nimg: Annotated[tuple[float, ...] | None, NUMBERS] = None
    """Where the averages end, in images seen: one time, a list or a range, as for lengths; of several, the best score
    and length over time are drawn too (EDM2, Figs. 5c and 12). Default: at the last snapshot."""

    out: Unset[Path] = None
    """Folder for the table, the averages and the pictures, of a single run. Default: RUN/sweep."""

    def run(self) -> None:
        """Sweep, then write table and pictures."""
        from unitgain.parallel import processes
        from unitgain.sweep.pictures import draw_pictures
        from unitgain.sweep.plots import plot_runs, write_results
        from unitgain.sweep.run import sweep, with_paper_tensors
        from unitgain.sweep.table import key_of

        if not self.runs:
            raise ValueError("name the folder of a run")
        if self.out is not None and len(self.runs) > 1:
            raise ValueError("--out is for a single run; each of several has its sweep in its own folder")
        times = self.nimg or ()
        with processes(pick_device(self.device)) as world:
            judge, quiet = self.judge(world), not world.main
            by_run: dict[str, list[CellResult]] = {}
            shown: list[tuple[Sweep, list[CellResult]]] = []
            for run in self.runs:
                out = self.out or run / "sweep"
                benches = [self.open(run, out, judge, world, nimg) for nimg in times or (None,)]
                results: list[CellResult] = []
                for bench in benches:
                    title = "sweeping" if len(benches) == 1 else f"sweeping at {bench.main.t:,.0f} images"
                    with (
                        byte_bar("reconstructing", quiet=quiet) as read,
                        bar(title, "images", quiet=quiet, late=True) as drawn,
                    ):
                        config = with_paper_tensors(bench, self.config)
                        results += sweep(bench, config, on_bytes=read, on_images=drawn)
                peak = best([one for one in results if one.metric == results[0].metric])
                bench = next(bench for bench in benches if bench.main.t == peak.nimg)
                own = by_run[str(run)] = [result for result in results if result.nimg == peak.nimg]
                if world.main:
                    shown.append((bench, own))
                    Console().print(_table(results))
                    say("\n".join(map(str, write_results(results, out, self.stem("sweep", times)))))
            if world.main and len(by_run) > 1:
                whose = key_of({"runs": sorted(str(run.resolve()) for run in self.runs)})[:8]
                path = next(iter(self.runs)) / "sweep" / f"{self.stem('runs', times)}-{whose}.svg"
                plot_runs(by_run, path)
                say(path)
            for bench, results in shown:  # when the other processes have no more to wait for
                sheet = bench.out / f"{self.stem('sweep', times)}-pictures.png"
                with bar("drawing the picture", "images", late=True) as progress:
                    if draw_pictures(bench, results, sheet, on_images=progress):
                        say(sheet)
                self.say_best(bench, results)


@dataclass(frozen=True, kw_only=True)
class Tune(Bench):
    """Search for the best EMA length and guidance with few evaluations.

    A Gaussian process proposes what to try next, among lengths and weights in equal steps. What was measured is shared
    with `unitgain sweep` in RUN/sweep: call the command again to go on, with more --evaluations if wanted. Writes
    tune*.csv there.
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run."""

    config: SweepConfig = field(
        default_factory=lambda: SweepConfig(lengths=tuple(round(0.01 * k, 2) for k in range(2, 26)))
    )

    nimg: Unset[float] = None
    """Where the averages end, in images seen. Default: at the last snapshot."""

    evaluations: int = 20
    """Cells to evaluate, those that were measured before counted in."""

    seed: int = 0
    """Of the search."""

    out: Unset[Path] = None
    """Folder for the table and the averages. Default: RUN/sweep."""

    def run(self) -> None:
        """Search, then print the best."""
        from unitgain.parallel import processes
        from unitgain.sweep.search import tune
        from unitgain.sweep.table import write_csv

        out = self.out or self.run_folder / "sweep"
        with processes(pick_device(self.device)) as world:
            bench = self.open(self.run_folder, out, self.judge(world), world, self.nimg)
            with bar("tuning", "images", quiet=not world.main) as progress:
                results = tune(
                    bench,
                    self.config,
                    evaluations=self.evaluations,
                    seed=self.seed,
                    on_cell=lambda count, result: say(f"{count:3d}  {_line(result)}"),
                    on_images=progress,
                )
            if world.main:
                table = out / f"{self.stem('tune', [] if self.nimg is None else [self.nimg])}.csv"
                write_csv(table, results)
                say(f"best of {len(results)}: {_line(best(results))}")
                say(table)
                self.say_best(bench, results)


def _table(results: Sequence[CellResult]) -> Table:
    """The best cell of each time, weight of guidance and pattern; columns that would tell nothing are left out."""
    found = best_by(results, lambda one: (one.metric, one.nimg, one.cell.guidance, one.cell.pattern)).values()
    several, guided = len({one.nimg for one in found}) > 1, any(one.cell.guidance != 1 for one in found)
    columns = {
        "metric": [one.metric for one in found],
        "images": [f"{one.nimg:,.0f}" if several else "" for one in found],
        "guidance": [f"{one.cell.guidance:g}" if guided else "" for one in found],
        "best\nlength": [f"{one.cell.length:g}" for one in found],
        "guide's\nlength": ["" if one.cell.guide_length is None else f"{one.cell.guide_length:g}" for one in found],
        "value": [f"{one.value:.4g}" for one in found],
        "±": ["" if one.error is None else f"{one.error:.2g}" for one in found],
        "pattern": [one.cell.pattern or "" for one in found],
    }
    told = {name: texts for name, texts in columns.items() if any(texts)}
    table = Table(box=None)
    for name in told:  # patterns differ in the middle and at their ends: none is cut
        table.add_column(name, no_wrap=name != "pattern", overflow="fold")
    for row in zip(*told.values(), strict=True):
        table.add_row(*row)
    return table


def _line(result: CellResult) -> str:
    """A cell and its value."""
    cell = result.cell
    guide = "" if cell.guide_length is None else f", the guide's {cell.guide_length:g}"
    return f"{result.metric} {result.value:.4g}  length {cell.length:g}{guide}, guidance {cell.guidance:g}"
