"""`unitgain sweep`."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.table import Table

from unitgain.cli.arguments import Device, Unset, pick_device
from unitgain.cli.drawing import Sampling
from unitgain.console import Console, bar, byte_bar, say
from unitgain.metrics.names import DINOV2

if TYPE_CHECKING:
    import torch

    from unitgain.parallel import World
    from unitgain.sweep.cells import CellResult, SweepConfig
    from unitgain.sweep.judge import Judge
    from unitgain.sweep.run import Sweep


@dataclass(frozen=True, kw_only=True)
class Bench(Sampling):
    """How cells are drawn and judged; shared by `sweep` and `tune`."""

    metric: str
    """Metrics, by commas: fid, fd_dinov2, fd_pixels, kid, precision, ..., or a kind with a detector (kid@dinov2). A
    detector that is a TorchScript file or a Python module:function is a program, and run: name only what you trust."""

    reference: str
    """What the images are compared with: .npz of `unitgain metrics reference`, an official .pkl or .npz, or digits."""

    guide: Unset[str] = None
    """What guides: the folder of another run, whose averages are reconstructed too; a network by path; or self, the
    network without its label."""

    images: int = 50_000
    """Images per cell."""

    first_seed: int = 0
    """Seed of the first; the others follow. The same in every cell."""

    repeat: int = 1
    """Evaluations per cell, each with seeds of its own; the best counts, as in the papers."""

    nimg: Unset[int] = None
    """Where the averages end, in images seen. Default: at the last snapshot."""

    guide_nimg: Unset[int] = None
    """The same for the guide."""

    inception: Unset[Path] = None
    """File of Inception's weights. Default: fetched once."""

    dinov2: str = DINOV2
    """Folder or Hub id of DINOv2's weights."""

    device: Device = "auto"
    """Where to draw and measure."""

    def judge(self, world: "World") -> "Judge":
        """Metrics with their detectors and references."""
        from unitgain.sweep.judge import Judge

        names = [name.strip() for name in self.metric.split(",")]
        return Judge.open(names, self.reference, world.device, inception=self.inception, dinov2=self.dinov2)

    def open(self, run: Path, out: Path, judge: "Judge", world: "World", base: float | None = None) -> "Sweep":
        """A run ready to be swept."""
        from unitgain.sweep.run import Sweep

        return Sweep(
            run,
            judge,
            out,
            guide=self.guide,
            settings=self.settings(world.device),
            t=self.nimg,
            guide_t=self.guide_nimg,
            base=base,
            batch=self.batch,
            world=world,
        )


@dataclass(frozen=True, kw_only=True)
class SweepCommand(Bench):
    """Sweep EMA lengths and guidance: draw, measure, keep what was measured, plot.

    Averages are reconstructed once per length, all cells share their seeds, and every finished cell is kept: call the
    command again to go on after an interruption, to add cells or metrics. Under torchrun the processes share the cells.
    Writes a table and pictures, sweep*.csv and sweep*.svg, into RUN/sweep.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs, one or several; of several the curves are also compared, in the first one's folder."""

    lengths: str = "0.02:0.20:0.02"
    """EMA lengths sigma_rel: 0.05, a list 0.05,0.1 or a range with both ends 0.02:0.20:0.02."""

    guidance: str = "1"
    """Weights of guidance, in the same form; 1 is none."""

    guide_lengths: Unset[str] = None
    """Lengths of the guide's averages, swept on their own. Default: those of the network."""

    pattern: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Names of tensors, as 'network.dec.*': sweep these alone, the others at --base; may be given again."""

    base: Unset[float] = None
    """Length of the tensors that --pattern does not name."""

    out: Unset[Path] = None
    """Folder for the table, the averages and the pictures, of a single run. Default: RUN/sweep."""

    def config(self, device: "torch.device") -> "SweepConfig":
        """The cells that were asked for."""
        from unitgain.posthoc.targets import parse_lengths
        from unitgain.sweep.cells import SweepConfig

        return SweepConfig(
            lengths=tuple(parse_lengths(self.lengths)),
            guidance=tuple(parse_lengths(self.guidance)),
            guide_lengths=None if self.guide_lengths is None else tuple(parse_lengths(self.guide_lengths)),
            patterns=self.pattern,
            base=self.base,
            images=self.images,
            first_seed=self.first_seed,
            repeat=self.repeat,
            settings=self.settings(device),
        )

    def run(self) -> None:
        """Sweep, then write table and pictures."""
        from unitgain.parallel import processes
        from unitgain.sweep.plots import plot_runs
        from unitgain.sweep.run import prepare, sweep

        if not self.runs:
            raise ValueError("name the folder of a run")
        if self.out is not None and len(self.runs) > 1:
            raise ValueError("--out is for a single run; each of several has its sweep in its own folder")
        with processes(pick_device(self.device)) as world:
            config = self.config(world.device)
            judge = self.judge(world)
            found: dict[str, list[CellResult]] = {}
            for run in self.runs:
                out = self.out or run / "sweep"
                bench = self.open(run, out, judge, world, self.base)
                with byte_bar("reconstructing") if world.main else nullcontext() as reading:
                    prepare(bench, config, on_progress=reading)
                with bar("sweeping", "images") if world.main else nullcontext() as drawing:
                    found[str(run)] = sweep(bench, config, on_images=drawing)
                if world.main:
                    report(found[str(run)], out, self.guide)
            if world.main and len(found) > 1:
                path = next(iter(self.runs)) / "sweep" / "runs.svg"
                plot_runs({Path(run).name: results for run, results in found.items()}, path)
                say(path)


def report(results: "Sequence[CellResult]", out: Path, guide: str | None = None) -> None:
    """Write the table and the pictures of a sweep, named by its guide, and print the best cells."""
    from unitgain.sweep.plots import best_by, plot_curves, plot_map
    from unitgain.sweep.table import write_csv

    stem = "sweep" if guide is None else f"sweep-{Path(guide).stem}"
    table_file, curves, heat = out / f"{stem}.csv", out / f"{stem}-curves.svg", out / f"{stem}-map.svg"
    write_csv(table_file, results)
    written = [table_file]
    if len({result.cell.length for result in results}) > 1:
        plot_curves(results, curves)
        written.append(curves)
        axes = {(result.cell.guidance, result.cell.guide_length) for result in results}
        if len({weight for weight, _ in axes}) > 1 and not any(result.cell.pattern for result in results):
            plot_map(results, heat)
            written.append(heat)
    table = Table("metric", "guidance", "best length", "guide's length", "pattern", "value", box=None)
    for result in best_by(results, lambda one: (one.metric, one.cell.guidance, one.cell.pattern)).values():
        cell = result.cell
        guide_length = "" if cell.guide_length is None else f"{cell.guide_length:g}"
        table.add_row(
            result.metric, f"{cell.guidance:g}", f"{cell.length:g}", guide_length, cell.pattern, f"{result.value:.4g}"
        )
    Console().print(table)
    say("\n".join(map(str, written)))
