"""Jobs: what is trained, drawn and measured, each with the name of its result; and the best of what is there."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scaled import Run, Scale

METRICS = ("fd@effnet", "fd@classes")  # of every claim, the one that lengths and rates are chosen by first
FIRST_METRIC = METRICS[0]


@dataclass(frozen=True)
class Train:
    """Train a run up to so many images."""

    run: Run
    nimg: int

    @property
    def key(self) -> str:
        """Name of the result."""
        return f"train {self.run.name} {self.nimg}"


@dataclass(frozen=True)
class Cell:
    """Draw and measure images of one average.

    Guided by itself where the weight is not 1 and no guide is named; with `heun` by far more evaluations.
    """

    run: Run
    nimg: int
    length: float
    images: int
    first_seed: int = 0
    guidance: float = 1.0
    guide: Run | None = None
    guide_nimg: int = 0
    guide_length: float = 0.0
    pattern: str = ""
    pattern_length: float = 0.0
    heun: bool = False

    @property
    def key(self) -> str:
        """Name of the result."""
        guide = f"{self.guide.name} {self.guide_nimg} {self.guide_length:g}" if self.guide else "self"
        more = [f" guide {guide} {self.guidance:g}"] if self.guidance != 1 else []
        more += [f" {self.pattern} {self.pattern_length:g}"] if self.pattern else []
        more += [" heun"] if self.heun else []
        kind = "score" if self.first_seed else "cell"
        return f"{kind} {self.run.name} {self.nimg} {self.length:g}{''.join(more)} x{self.images}"


@dataclass(frozen=True)
class Compare:
    """Compare a reconstructed average with the one that another run with the same weights tracked."""

    run: Run
    tracked: Run
    nimg: int
    length: float
    images: int

    @property
    def key(self) -> str:
        """Name of the result."""
        return f"compare {self.run.name} {self.nimg} {self.length:g}"


@dataclass(frozen=True)
class Picture:
    """Draw a picture of samples, a row for each class; guided, where the weight is not 1, by an earlier average."""

    run: Run
    nimg: int
    length: float
    guidance: float = 1.0
    guide_nimg: int = 0

    @property
    def key(self) -> str:
        """Name of the result."""
        return f"picture {self.run.name} {self.nimg}"


Job = Train | Cell | Compare | Picture
Results = Mapping[str, Mapping[str, Any]]  # by key


def best(results: Results, cells: Sequence[Cell], metric: str = FIRST_METRIC) -> Cell | None:
    """The cell with the lowest value; None as long as one is missing, and where all failed."""
    if not cells or any(cell.key not in results for cell in cells):
        return None
    there = {cell: values for cell in cells if (values := values_of(results, cell))}
    return min(there, key=lambda cell: there[cell][metric], default=None)


def values_of(results: Results, cell: Cell) -> Mapping[str, float] | None:
    """What a cell measured; None if it is not there, or failed."""
    return results.get(cell.key, {}).get("values")


def sweep(run: Run, nimg: int, scale: Scale, **guided: Any) -> list[Cell]:
    """A cell per length; a guide has the length of the main network where it is given none."""
    tied = guided.get("guide") is not None and "guide_length" not in guided
    return [
        Cell(run, nimg, length, scale.sweep, **guided, **({"guide_length": length} if tied else {}))
        for length in scale.lengths
    ]


def score(cell: Cell | None, scale: Scale) -> list[Cell]:
    """More images of a cell, of other seeds; none as long as there is no cell."""
    return [] if cell is None else [dataclasses.replace(cell, images=scale.score, first_seed=1_000_000)]
