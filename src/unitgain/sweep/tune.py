"""The best EMA length and guidance by search: a Gaussian process proposes cells, the table of the sweep keeps them."""

import itertools
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from unitgain.extras import require
from unitgain.sample.seeds import check_seeds
from unitgain.serial import to_dict
from unitgain.sweep.cells import Cell, CellResult, SweepConfig
from unitgain.sweep.run import Sweep
from unitgain.sweep.table import key_of

JOURNAL = "tune.journal"
# The first cells, as fractions of the axes (length, guidance, the guide's length): no guidance, then a coarse grid.
DESIGN = ((0.5, 0.0, 0.5), (0.25, 0.3, 0.5), (0.75, 0.3, 0.5), (0.25, 0.8, 0.5), (0.75, 0.8, 0.5))


@dataclass(frozen=True)
class Axis:
    """Values of one setting, equally spaced.

    Args:
        values: rising.

    Raises:
        ValueError: if there are none, or they are not so.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        gaps = [b - a for a, b in itertools.pairwise(self.values)]
        if not self.values or any(gap <= 0 or abs(gap - gaps[0]) > 1e-6 for gap in gaps):
            raise ValueError(f"values to search must be a range start:stop:step, not {list(self.values)}")

    def at(self, fraction: float) -> int:
        """Index of the value nearest to this fraction of the way."""
        return round(fraction * (len(self.values) - 1))


@dataclass(frozen=True, kw_only=True)
class Space:
    """What is searched.

    Args:
        lengths: of the averages, sigma_rel.
        guidance: weights.
        guide_lengths: of the guide's averages; None ties them to those of the main network.
    """

    lengths: Axis
    guidance: Axis
    guide_lengths: Axis | None = None

    def axes(self) -> dict[str, Axis]:
        """By name."""
        axes = {"length": self.lengths, "guidance": self.guidance}
        return axes if self.guide_lengths is None else {**axes, "guide_length": self.guide_lengths}

    def config(self, images: int, first_seed: int, repeat: int, bench: Sweep) -> SweepConfig:
        """The sweep over all of it, which a search spares."""
        return SweepConfig(
            lengths=self.lengths.values,
            guidance=self.guidance.values,
            guide_lengths=None if self.guide_lengths is None else self.guide_lengths.values,
            images=images,
            first_seed=first_seed,
            repeat=repeat,
            settings=bench.settings,
        )

    def cell(self, indices: dict[str, int], tied: bool) -> Cell:
        """The cell with these indices on the axes."""
        chosen = {name: axis.values[indices[name]] for name, axis in self.axes().items()}
        length, weight = chosen["length"], chosen["guidance"]
        guide_length = chosen.get("guide_length", length if tied else None)
        return Cell(length=length, guidance=weight, guide_length=None if weight == 1 else guide_length)


def tune(
    bench: Sweep,
    space: Space,
    *,
    evaluations: int,
    images: int = 50_000,
    first_seed: int = 0,
    repeat: int = 1,
    seed: int = 0,
    on_cell: Callable[[int, CellResult], None] | None = None,
    on_images: Callable[[float, int], None] | None = None,
) -> list[CellResult]:
    """Search for the best cell of a space with a given number of evaluations.

    The study is kept in the folder of the sweep, and what is measured in its table: a search goes on where it stopped,
    and cells that a sweep has measured cost nothing, though they count. With several processes as many cells as there
    are processes are proposed at a time, and each evaluates one.

    Args:
        bench: what is searched; its first metric is the aim.
        space: the cells.
        evaluations: different cells to evaluate at most.
        images: per cell.
        first_seed: as in a sweep.
        repeat: evaluations per cell with seeds of their own, of which the best counts; as in a sweep.
        seed: of the search.
        on_cell: called with the number of cells evaluated and the latest, in the first process.
        on_images: called with (images drawn, images to draw at most) in the first process.

    Returns:
        All that was evaluated, in order, in every process.

    Raises:
        ImportError: if optuna is missing.
        ValueError: as a sweep of the space.
    """
    check_seeds([seed])
    world = bench.world
    config = space.config(images, first_seed, repeat, bench)
    _check(bench, config, evaluations)
    budget = min(evaluations, len(config.cells(tied=bench.tied)))
    searches: list[Search] = []  # one, in the first process
    world.on_main(lambda: searches.append(Search(bench, space, config, seed)))
    while cells := world.on_main(lambda: _round(searches[0], budget, world.size)):
        for cell in world.share(cells):
            for k in range(repeat):
                progress = None
                if world.main:
                    before = (len(searches[0].results) * repeat + k * world.size) * images
                    progress = world.progress(on_images, budget * repeat * images, before)
                bench.evaluate(cell, config.seeds(k), progress)
        world.barrier()
        for search in searches:
            for cell in cells:
                search.tell(cell)
                if on_cell is not None:
                    on_cell(len(search.results), search.results[cell])
    return world.on_main(lambda: list(searches[0].results.values()))


def _check(bench: Sweep, config: SweepConfig, evaluations: int) -> None:
    if config.guided and bench.guide is None:
        raise ValueError("weights of guidance other than 1 need a guide: a run, a network, or self")
    if config.guide_lengths is not None and not bench.tied:
        raise ValueError("lengths of the guide need a guide that is the folder of a run")
    if evaluations < 1:
        raise ValueError(f"evaluations = {evaluations}: must be at least 1")


class Search:
    """A study of Optuna over the indices of the axes.

    Args:
        bench: as in `tune`.
        space: as in `tune`.
        config: of the sweep over the space.
        seed: of the search.
    """

    def __init__(self, bench: Sweep, space: Space, config: SweepConfig, seed: int) -> None:
        self.bench, self.space, self.config = bench, space, config
        optuna = require("optuna", extra="tune")
        require("scipy", extra="tune")  # of the Gaussian process
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        metric = bench.judge.metrics()[0]
        self.name, self.higher = bench.judge.names[0], metric.needs.higher
        self.results: dict[Cell, CellResult] = {}
        self._trials: dict[Cell, Any] = {}
        bench.out.mkdir(parents=True, exist_ok=True)
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(bench.out / JOURNAL)))
        self.study = optuna.create_study(
            storage=storage,
            study_name=self._study_name(seed),
            direction="maximize" if self.higher else "minimize",
            load_if_exists=True,
        )
        self._states = optuna.trial.TrialState
        self._distributions = {
            name: optuna.distributions.IntDistribution(0, len(axis.values) - 1) for name, axis in space.axes().items()
        }
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state == self._states.RUNNING:  # of a call that was interrupted
                self.study.tell(trial.number, state=self._states.FAIL)
            elif trial.state == self._states.COMPLETE:
                cell = self.space.cell(trial.params, bench.tied)
                self.results[cell] = self._result(cell, trial.user_attrs.get("values", [trial.value]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.sampler = optuna.samplers.GPSampler(
                seed=seed + len(self.study.trials), n_startup_trials=1, deterministic_objective=True
            )

    def propose(self) -> Cell:
        """A cell that is neither known nor under way: of the design first, then by the model."""
        taken = {*self.results, *self._trials}
        for fractions in DESIGN:
            indices = {
                name: axis.at(fraction)
                for (name, axis), fraction in zip(self.space.axes().items(), fractions, strict=False)
            }
            if self.space.cell(indices, self.bench.tied) not in taken:
                return self._ask(indices)
        trial = self.study.ask(self._distributions)
        cell = self.space.cell(trial.params, self.bench.tied)
        if cell not in taken:
            self._trials[cell] = trial
            return cell
        self.study.tell(trial, state=self._states.FAIL)  # the model is sure: look around the best one it knows
        return self._ask(self._nearest(taken))

    def tell(self, cell: Cell) -> None:
        """Take in what the table says of a cell that was proposed."""
        seeds = [self.config.seeds(k) for k in range(self.config.repeat)]
        values = [self.bench.evaluate(cell, these)[self.name]["value"] for these in seeds]
        self.results[cell] = self._result(cell, values)
        trial = self._trials.pop(cell)
        trial.set_user_attr("values", values)
        self.study.tell(trial, self.results[cell].value)

    def _ask(self, indices: dict[str, int]) -> Cell:
        self.study.enqueue_trial(indices)
        trial = self.study.ask(self._distributions)
        cell = self.space.cell(trial.params, self.bench.tied)
        self._trials[cell] = trial
        return cell

    def _nearest(self, taken: set[Cell]) -> dict[str, int]:
        axes = self.space.axes()
        peak = (max if self.higher else min)(self.results.values(), key=lambda one: one.value).cell
        centre = [
            min(range(len(axis.values)), key=lambda i: abs(axis.values[i] - (getattr(peak, name) or 0)))
            for name, axis in axes.items()
        ]
        free = [
            indices
            for indices in itertools.product(*(range(len(axis.values)) for axis in axes.values()))
            if self.space.cell(dict(zip(axes, indices, strict=True)), self.bench.tied) not in taken
        ]
        nearest = min(free, key=lambda indices: sum((a - b) ** 2 for a, b in zip(indices, centre, strict=True)))
        return dict(zip(axes, nearest, strict=True))

    def _result(self, cell: Cell, values: Sequence[float]) -> CellResult:
        return CellResult(
            cell=cell, metric=self.name, values=tuple(values), images=self.config.images, higher=self.higher
        )

    def _study_name(self, seed: int) -> str:
        # Studies from before there was a choice are found by the names that they have.
        repeated = [self.config.repeat] if self.config.repeat > 1 else []
        about = {
            "space": to_dict(self.space),
            "run": str(self.bench.main.folder),
            "guide": self.bench.guide,
            "guide_run": self.bench.guide_averages and str(self.bench.guide_averages.folder),
            "settings": self.bench.settings.record(),
            "seeds": [self.config.first_seed, self.config.images, *repeated],
            "metric": self.bench.judge.identity(self.bench.judge.metrics()[0]),
            "seed": seed,
        }
        return f"{self.name}-{key_of(json.loads(json.dumps(about)))}"


def _round(search: Search, budget: int, size: int) -> list[Cell]:
    """The next cells, one per process; none when the budget is spent."""
    cells = [search.propose() for _ in range(min(size, budget - len(search.results)))]
    if cells:
        search.bench.reconstruct(cells)
    return cells
