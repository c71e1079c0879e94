"""One list of jobs for all claims, the most important first; what follows from results is there when they are."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scaled import (
    DROPOUT,
    EDM2,
    HALF,
    PLUS,
    RATES,
    SEEDS,
    STAR,
    TRACKED,
    A,
    B,
    G,
    Pair,
    Run,
    Scale,
    config_run,
    pairs,
    picture_run,
    rate_runs,
    tracked_run,
)

from unitgain.denoiser import Denoiser

METRICS = ("fd@effnet", "fd@classes")  # of every claim, the one that lengths and rates are chosen by first
FIRST_METRIC = METRICS[0]
TENSOR_LENGTHS = (0.02, 0.07, 0.24)

TENSORS = 8

SHARES = (8, 2, 1)  # of the images of pictures, after which one is drawn


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


def heun_cells(runs: Sequence[Run], scale: Scale, results: Results) -> list[Cell]:
    """The best cell of each run by Heun's method, of those that have one."""
    found = [best(results, sweep(run, scale.images, scale)) for run in runs]
    return [dataclasses.replace(cell, heun=True) for cell in found if cell]


def star_sweeps(scale: Scale) -> list[tuple[Run, list[Cell]]]:
    """G* at each rate of the grid, whose best EDM2+ is trained at, with its sweep."""
    runs = [config_run(STAR, lr, 0, scale) for lr in sorted(RATES[G])]
    return [(run, sweep(run, scale.images // 2, scale.coarse)) for run in runs]


def score(cell: Cell | None, scale: Scale) -> list[Cell]:
    """More images of a cell, of other seeds; none as long as there is no cell."""
    return [] if cell is None else [dataclasses.replace(cell, images=scale.score, first_seed=1_000_000)]


def measured(run: Run, nimg: int, scale: Scale, results: Results) -> list[Job]:
    """Train a run, sweep its lengths, and score the best."""
    cells = sweep(run, nimg, scale)
    return [Train(run, nimg), *cells, *score(best(results, cells), scale)]


def rate_of(name: str, scale: Scale, results: Results) -> float | None:
    """The rate whose best cell is lowest at an eighth of the images, seed 0; None as long as it is not known."""
    coarse = scale.coarse
    cells = [cell for lr in RATES[name] for cell in sweep(config_run(name, lr, 0, coarse), scale.images // 8, coarse)]
    chosen = best(results, cells)
    return None if chosen is None else chosen.run.recipe.lr


def main_runs(name: str, scale: Scale, results: Results) -> list[Run]:
    """The runs of a config at its rate, one per seed; none as long as it is not known. Those of EDM2+ have G's rate."""
    lr = rate_of(name if name in RATES else G, scale, results)
    return [] if lr is None else [config_run(name, lr, seed, scale) for seed in SEEDS]


@functools.cache
def some_tensors(run: Run) -> tuple[str, ...]:
    """Names of weights of all depths, evenly chosen."""
    with torch.device("meta"):
        names = [name for name, weight in Denoiser(run.recipe.network).named_parameters() if weight.ndim >= 2]
    return tuple(names[round(i * (len(names) - 1) / (TENSORS - 1))] for i in range(TENSORS))


def tensor_cells(run: Run, scale: Scale, results: Results) -> list[Cell]:
    """One tensor at a time at each of some lengths, the others at the best; none as long as that is not known."""
    base = best(results, sweep(run, scale.images, scale))
    if base is None:
        return []
    return [
        dataclasses.replace(base, pattern=name, pattern_length=length)
        for name in some_tensors(run)
        for length in TENSOR_LENGTHS
    ]


def picture_jobs(scale: Scale, results: Results, share: int) -> Iterator[Job]:
    """Train the picture networks for a share of their images, choose a length, then a weight of guidance, and draw.

    The guide is the network itself after the first share of its images.
    """
    for data in scale.pictures:
        run, nimg, first = picture_run(data, scale), scale.picture_images // share, scale.picture_images // SHARES[0]
        cells = [Cell(run, nimg, length, scale.measured) for length in (0.05, 0.10, 0.15)]
        yield Train(run, nimg)
        yield from cells
        chosen = best(results, cells)
        if chosen is not None and nimg > first:
            guide: dict[str, Any] = {"guide": run, "guide_nimg": first, "guide_length": chosen.length}
            cells = [chosen, *(dataclasses.replace(chosen, guidance=weight, **guide) for weight in (1.5, 2.0))]
            yield from cells
            chosen = best(results, cells)
        if chosen is not None:
            yield Picture(run, nimg, chosen.length, chosen.guidance, chosen.guide_nimg)


def guided_jobs(scale: Scale, results: Results, names: Sequence[str], free: bool = False) -> Iterator[Job]:
    """Sweep lengths and weights of G with each guide, and score the best; with `free`, the guide's own length too."""
    for run in main_runs(G, scale, results):
        for name in names:
            pair = pairs(run, scale)[name]
            if pair.main != run:
                yield from measured(pair.main, scale.images, scale, results)
            if pair.guide:
                yield Train(pair.guide, pair.nimg)
            cells = guided_cells(pair, scale)
            yield from cells
            chosen = best(results, cells)
            if chosen is not None and free:
                yield from free_cells(chosen, scale)
            yield from score(chosen, scale)


def guided_cells(pair: Pair, scale: Scale) -> list[Cell]:
    """All lengths and weights, the guide at the length of the main network."""
    return [
        cell
        for weight in scale.weights
        for cell in sweep(pair.main, scale.images, scale, guidance=weight, guide=pair.guide, guide_nimg=pair.nimg)
    ]


def free_cells(chosen: Cell, scale: Scale) -> list[Cell]:
    """The guide at other lengths than that of the main network."""
    return [dataclasses.replace(chosen, guide_length=length) for length in scale.lengths if length != chosen.length]


def stages(scale: Scale, results: Results) -> Iterator[tuple[tuple[str, ...], Iterator[Job]]]:
    """Jobs in the order of their importance, with the claims that need them."""
    eighth, every, coarse = scale.images // 8, itertools.chain.from_iterable, scale.coarse
    of_configs = ("configs", "magnitudes", "optimum")
    rated = (*of_configs, "time", "rate", "tensors", "half", "order", "guidance", "guides")
    grid = [config_run(name, lr, 0, scale) for name in EDM2 for lr in RATES[name]]
    yield rated, every([Train(run, eighth), *sweep(run, eighth, coarse)] for run in grid)
    for seed in SEEDS:
        long = [run for name in (G, *EDM2) for run in main_runs(name, scale, results) if run.seed == seed]
        yield of_configs, every(measured(run, scale.images, scale, results) for run in long)
    ends = [run for name in (A, G) for run in main_runs(name, scale, results)]
    yield ("configs",), iter(heun_cells(ends, scale, results))
    times = [(run, scale.images // part) for run in main_runs(G, scale, results) for part in (8, 4, 2, 1)]
    yield ("time",), every([Train(run, nimg), *sweep(run, nimg, scale)] for run, nimg in times)
    rates = [run for settings in rate_runs(scale).values() for runs in settings for run in runs]
    yield ("rate",), every([Train(run, eighth), *sweep(run, eighth, scale)] for run in rates)
    yield ("guidance",), guided_jobs(scale, results, [HALF], free=True)
    both = [run for name in (B, G) for run in main_runs(name, scale, results)]
    yield ("tensors",), every(tensor_cells(run, scale, results) for run in both)
    yield ("posthoc",), iter(posthoc_jobs(scale))
    yield ("guidance",), guided_jobs(coarse, results, ["autoguidance", DROPOUT])
    yield ("guides",), guided_jobs(coarse, results, [HALF, "unconditional", "unconditional, twice"])
    half = [run for name in PLUS for run in main_runs(name, scale, results)]
    yield ("half", "order"), every(measured(run, scale.images // 2, coarse, results) for run in half)
    yield ("half",), every([Train(run, scale.images // 2), *cells] for run, cells in star_sweeps(scale))
    for share in SHARES:
        yield ("pictures",), picture_jobs(scale, results, share)


def posthoc_jobs(scale: Scale) -> list[Job]:
    """A run, the same with other averages tracked, and their comparison."""
    run, tracked = tracked_run(scale)
    nimg = scale.images // 8
    both: list[Job] = [Train(run, nimg), Train(tracked, nimg)]
    return [*both, *(Compare(run, tracked, nimg, length, scale.sweep) for length in TRACKED)]


CLAIMS = (
    "configs",
    "half",
    "order",
    "magnitudes",
    "optimum",
    "time",
    "rate",
    "tensors",
    "guidance",
    "guides",
    "posthoc",
    "pictures",
)


def jobs(scale: Scale, results: Results, only: str | None = None) -> Iterator[Job]:
    """All jobs that are known so far, each once; what follows from results is there when they are.

    Args:
        scale: of everything.
        results: what is there, by key.
        only: a claim, for the jobs that it needs.
    """
    seen = set()
    for needed_by, stage in stages(scale, results):
        for job in stage if only is None or only in needed_by else ():
            if job.key not in seen:
                seen.add(job.key)
                yield job
