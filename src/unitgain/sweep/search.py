"""The best EMA length and guidance by search: a Gaussian process proposes cells, the table of the sweep keeps them."""

import dataclasses
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from unitgain.console import warn
from unitgain.extras import require
from unitgain.sample.seeds import check_seeds
from unitgain.sweep.cells import Cell, CellResult, SweepConfig, best
from unitgain.sweep.run import Sweep, check, result_of

# The first cells, as fractions of the axes (length, guidance, the guide's length): no guidance, then a coarse grid.
DESIGN = ((0.5, 0.0, 0.5), (0.25, 0.3, 0.5), (0.75, 0.3, 0.5), (0.25, 0.8, 0.5), (0.75, 0.8, 0.5))


def tune(
    bench: Sweep,
    config: SweepConfig,
    *,
    evaluations: int,
    seed: int = 0,
    on_cell: Callable[[int, CellResult], None] | None = None,
    on_images: Callable[[float, int], None] | None = None,
) -> list[CellResult]:
    """Search for the best cell of a sweep with a given number of evaluations.

    What is measured is kept in the table of the sweep: a search knows what is there, of a sweep too, and goes on where
    it stopped. With several processes as many cells as there are processes are proposed at a time, and each evaluates
    one.

    Args:
        bench: what is searched; its first metric is the aim.
        config: the sweep over all cells, which a search spares; its values are equally spaced.
        evaluations: different cells to evaluate at most, those in the table counted in.
        seed: of the search.
        on_cell: called with the number of cells evaluated and the latest, in the first process.
        on_images: called with (images drawn, images to draw at most) in the first process.

    Returns:
        All that is known, in the order in which it was measured, in every process.

    Raises:
        ImportError: if optuna is missing.
        ValueError: as `sweep`, if values are not equally spaced, or if all lengths are out of reach of the snapshots.
    """
    check_seeds([seed])
    check(bench, config)
    if evaluations < 1:
        raise ValueError(f"evaluations = {evaluations}: must be at least 1")
    world = bench.world
    axes_of(config)
    config = within_reach(bench, config)
    budget = min(evaluations, len(config.cells(tied=bench.tied)))
    searches: list[Search] = []  # one, in the first process
    world.on_main(lambda: searches.append(Search(bench, config, seed)))
    while cells := world.on_main(lambda: searches[0].cells(min(world.size, budget - len(searches[0].results)))):
        for cell in world.share(cells):
            for k in range(config.repeat):
                progress = None
                if world.main:
                    before = (len(searches[0].results) * config.repeat + k * world.size) * config.images
                    progress = world.progress(on_images, budget * config.repeat * config.images, before)
                bench.evaluate(cell, config.seeds(k), progress)
        world.barrier()
        for search in searches:
            for cell in cells:
                search.tell(cell)
                if on_cell is not None:
                    on_cell(len(search.results), search.results[cell])
    return world.on_main(lambda: list(searches[0].results.values()))


def axes_of(config: SweepConfig) -> dict[str, tuple[float, ...]]:
    """The values that are searched, by name.

    Raises:
        ValueError: unless they rise by equal steps, or if there are patterns of tensors, which are no axis.
    """
    if config.patterns:
        raise ValueError("a search has no patterns of tensors: sweep them")
    axes = _axes(config)
    for values in axes.values():
        gaps = [b - a for a, b in itertools.pairwise(values)]
        if any(gap <= 0 or abs(gap - gaps[0]) > 1e-6 for gap in gaps):
            raise ValueError(f"values to search must be a range start:stop:step, not {list(values)}")
    return axes


def within_reach(bench: Sweep, config: SweepConfig) -> SweepConfig:
    """The sweep without lengths that the snapshots cannot give, which are named in a warning.

    Raises:
        ValueError: if none is left.
    """
    lengths, guides = bench.out_of_reach(config)
    for out, whose in ((lengths, bench.run), (guides, bench.guide)):
        if out and bench.world.main:
            listed = ", ".join(f"{length:g}" for length in sorted(out))
            warn(f"out of reach of the snapshots in {whose}, and left out: length {listed}")
    kept = tuple(length for length in config.lengths if length not in lengths)
    own = config.guide_lengths and tuple(length for length in config.guide_lengths if length not in guides)
    if not kept or own == ():
        raise ValueError(
            f"none of the lengths to search is within reach of the snapshots in {bench.guide if kept else bench.run}: "
            "search longer ones (--lengths), or from a run with more snapshots"
        )
    return dataclasses.replace(config, lengths=kept, guide_lengths=own)


class Search:
    """A study of Optuna over the indices of the axes; arguments as in `tune`."""

    def __init__(self, bench: Sweep, config: SweepConfig, seed: int) -> None:
        self.bench, self.config, self.axes = bench, config, _axes(config)
        self.seeds = [config.seeds(k) for k in range(config.repeat)]
        optuna = require("optuna", extra="tune")
        require("scipy", extra="tune")  # of the Gaussian process
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.metric = bench.judge.metrics[0]
        self.results: dict[Cell, CellResult] = {}
        self._trials: dict[Cell, Any] = {}
        self._states = optuna.trial.TrialState
        self._distributions = {
            name: optuna.distributions.IntDistribution(0, len(values) - 1) for name, values in self.axes.items()
        }
        self.study = optuna.create_study(direction="maximize" if self.metric.higher else "minimize")
        for cell, indices, rows in self._known():
            value = self._take(cell, rows).value
            self.study.add_trial(
                optuna.trial.create_trial(params=indices, distributions=self._distributions, value=value)
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.sampler = optuna.samplers.GPSampler(
                seed=seed + len(self.study.trials), n_startup_trials=1, deterministic_objective=True
            )

    def cells(self, count: int) -> list[Cell]:
        """The next so many cells, with their averages reconstructed."""
        cells = [self.propose() for _ in range(count)]
        if cells:
            self.bench.reconstruct(cells)
        return cells

    def propose(self) -> Cell:
        """A cell that is neither known nor under way: of the design first, then by the model."""
        taken = {*self.results, *self._trials}
        for fractions in DESIGN:
            indices = {
                name: round(fraction * (len(values) - 1))
                for (name, values), fraction in zip(self.axes.items(), fractions, strict=False)
            }
            if self._cell(indices) not in taken:
                return self._ask(indices)
        trial = self.study.ask(self._distributions)
        cell = self._cell(trial.params)
        if cell not in taken:
            self._trials[cell] = trial
            return cell
        self.study.tell(trial, state=self._states.FAIL)  # the model is sure: look around the best one it knows
        return self._ask(self._nearest(taken))

    def tell(self, cell: Cell) -> None:
        """Take in what the table says of a cell that was proposed."""
        rows = [self.bench.evaluate(cell, seeds)[self.metric.label] for seeds in self.seeds]
        self.study.tell(self._trials.pop(cell), self._take(cell, rows).value)

    def _known(self) -> Iterator[tuple[Cell, dict[str, int], list[Mapping[str, Any]]]]:
        """Cells that the table has, with their indices and rows, in the order in which they were measured."""
        rows, found = self.bench.table.rows(), {}
        order = {key: number for number, key in enumerate(rows)}
        for place in itertools.product(*(range(len(values)) for values in self.axes.values())):
            indices = dict(zip(self.axes, place, strict=True))
            cell = self._cell(indices)
            with suppress(FileNotFoundError, KeyError):  # an average that was never made, or never measured
                keys = [self.bench.keys(cell, seeds)[self.metric.label] for seeds in self.seeds]
                found.setdefault(cell, (max(order[key] for key in keys), indices, keys))
        for cell, (_, indices, keys) in sorted(found.items(), key=lambda one: one[1][0]):
            yield cell, indices, [rows[key] for key in keys]

    def _ask(self, indices: dict[str, int]) -> Cell:
        self.study.enqueue_trial(indices)
        trial = self.study.ask(self._distributions)
        cell = self._cell(trial.params)
        self._trials[cell] = trial
        return cell

    def _cell(self, indices: Mapping[str, int]) -> Cell:
        values = {name: self.axes[name][index] for name, index in indices.items()}
        return self.config.cell(
            None, values["length"], values["guidance"], values.get("guide_length"), tied=self.bench.tied
        )

    def _nearest(self, taken: set[Cell]) -> dict[str, int]:
        peak = best(list(self.results.values())).cell
        centre = [
            min(range(len(values)), key=lambda i: abs(values[i] - (getattr(peak, name) or 0)))
            for name, values in self.axes.items()
        ]
        places = itertools.product(*(range(len(values)) for values in self.axes.values()))
        free = [place for place in places if self._cell(dict(zip(self.axes, place, strict=True))) not in taken]
        nearest = min(free, key=lambda place: sum((a - b) ** 2 for a, b in zip(place, centre, strict=True)))
        return dict(zip(self.axes, nearest, strict=True))

    def _take(self, cell: Cell, rows: Sequence[Mapping[str, Any]]) -> CellResult:
        self.results[cell] = result_of(cell, self.metric, rows, self.config.images, self.bench.main.t)
        return self.results[cell]


def _axes(config: SweepConfig) -> dict[str, tuple[float, ...]]:
    axes = {"length": config.lengths, "guidance": config.guidance}
    if config.guide_lengths is not None:
        axes["guide_length"] = config.guide_lengths
    return axes
