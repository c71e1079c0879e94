"""`unitgain tune`."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from unitgain.cli.arguments import Unset, pick_device
from unitgain.cli.sweep import Bench
from unitgain.console import bar, say

if TYPE_CHECKING:
    from unitgain.sweep.cells import CellResult


@dataclass(frozen=True, kw_only=True)
class Tune(Bench):
    """Search for the best EMA length and guidance with few evaluations.

    A Gaussian process proposes what to try next. What was measured is shared with `unitgain sweep` in RUN/sweep, and so
    is the study: call the command again to go on, with more --evaluations if wanted. Writes tune.csv there.
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run."""

    lengths: str = "0.02:0.25:0.01"
    """Range of EMA lengths sigma_rel, start:stop:step with both ends."""

    guidance: str = "1"
    """Range of weights of guidance, in the same form; 1 is none."""

    guide_lengths: Unset[str] = None
    """Range of lengths of the guide's averages. Default: those of the network."""

    evaluations: int = 20
    """Cells to evaluate, those of earlier calls counted in."""

    seed: int = 0
    """Of the search."""

    out: Unset[Path] = None
    """Folder for the table, the averages and the study. Default: RUN/sweep."""

    def run(self) -> None:
        """Search, then print the best."""
        from unitgain.parallel import processes
        from unitgain.posthoc.targets import parse_lengths
        from unitgain.sweep.plots import best
        from unitgain.sweep.table import write_csv
        from unitgain.sweep.tune import Axis, Space, tune

        guide_lengths = None if self.guide_lengths is None else Axis(tuple(parse_lengths(self.guide_lengths)))
        space = Space(
            lengths=Axis(tuple(parse_lengths(self.lengths))),
            guidance=Axis(tuple(parse_lengths(self.guidance))),
            guide_lengths=guide_lengths,
        )
        out = self.out or self.run_folder / "sweep"
        with processes(pick_device(self.device)) as world:
            bench = self.open(self.run_folder, out, self.judge(world), world)
            with bar("tuning", "images") if world.main else nullcontext() as progress:
                results = tune(
                    bench,
                    space,
                    evaluations=self.evaluations,
                    images=self.images,
                    first_seed=self.first_seed,
                    repeat=self.repeat,
                    seed=self.seed,
                    on_cell=say_cell,
                    on_images=progress,
                )
            if world.main:
                write_csv(out / "tune.csv", results)
                say(f"best of {len(results)}: {tell(best(results))}")
                say(out / "tune.csv")


def say_cell(count: int, result: "CellResult") -> None:
    """Print one cell as it is known."""
    say(f"{count:3d}  {tell(result)}")


def tell(result: "CellResult") -> str:
    """A cell and its value."""
    cell = result.cell
    guide = "" if cell.guide_length is None else f", the guide's {cell.guide_length:g}"
    return f"{result.metric} {result.value:.4g}  length {cell.length:g}{guide}, guidance {cell.guidance:g}"
