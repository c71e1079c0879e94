"""How results are compared: scores, their spread, optima, and what makes a verdict (README.md)."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from claims import METRICS, Cell, Results, best, score, sweep, values_of
from scaled import SEEDS, Run, Scale, config_run

from unitgain.analysis.cost import network_cost

AGREES, DOES_NOT, UNDECIDED, NOT_RUN = "agrees", "does not", "undecided", "not run yet"
NEAR = 1.1  # times the lowest distance, for the width of an optimum
Curves = dict[str, dict[str, list[tuple[float, float]]]]


@dataclass
class Finding:
    """What is known of a claim.

    Attributes:
        verdict: by the criterion of the protocol.
        header: of the table.
        rows: of the table.
        notes: sentences below it.
        curves: by panel and label, points to draw.
        axis: name of their x axis.
    """

    verdict: str
    header: Sequence[str] = ()
    rows: list[Sequence[object]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    curves: Curves = field(default_factory=dict)
    axis: str = "EMA length"


def judge(tests: Sequence[bool | None], expected: int, there: object = True) -> str:
    """A verdict from tests, one per metric (and seed): None is a test within the spread, or one that is missing.

    Args:
        tests: whether the criterion holds.
        expected: tests that there should be.
        there: whether anything has been measured.
    """
    if not there:
        return NOT_RUN
    known = [test for test in tests if test is not None]
    if not known:
        return UNDECIDED if tests and len(tests) >= expected else NOT_RUN
    if len(known) < expected or len(set(known)) > 1:
        return UNDECIDED
    return AGREES if known[0] else DOES_NOT


def scores(runs: Sequence[Run], nimg: int, results: Results, scale: Scale) -> list[Mapping[str, float]]:
    """Scores of the runs that have one, at the best length of each."""
    cells = [cell for run in runs for cell in score(best(results, sweep(run, nimg, scale)), scale)]
    return [values for cell in cells if (values := values_of(results, cell))]


def spread(groups: Sequence[Sequence[Mapping[str, float]]], metric: str) -> float | None:
    """The largest difference between seeds of one setting; None unless all have two."""
    if not groups or any(len(group) < len(SEEDS) for group in groups):
        return None
    return max(max(one[metric] for one in group) - min(one[metric] for one in group) for group in groups)


def lower(a: Sequence[Mapping[str, float]], b: Sequence[Mapping[str, float]], metric: str) -> bool | None:
    """Whether `a` is lower than `b` by more than their spread, or higher; None within it, or if one is missing."""
    within = spread([a, b], metric)
    if within is None:
        return None
    gap = statistics.mean(one[metric] for one in b) - statistics.mean(one[metric] for one in a)
    return None if abs(gap) <= within else gap > 0


def short(name: str) -> str:
    """A config as the papers call it; "ms" is the modulation before the SiLU."""
    paper, config = name.split("-config-")
    config = config.upper().replace("-BOTTLENECK", "*").replace("-MS", " (ms)")
    return f"{'EDM2+' if paper.startswith('edm2plus') else 'EDM2'} {config}"


def in_words(values: Sequence[float]) -> str:
    """Values of seeds."""
    return ", ".join(f"{value:.4g}" for value in values) or "-"


def score_rows(runs: Mapping[str, Sequence[Run]], nimg: int, results: Results, scale: Scale) -> list[Sequence[object]]:
    """A row for each config that has a score."""
    found = {name: scores(of_seeds, nimg, results, scale) for name, of_seeds in runs.items()}
    return [_score_row(name, runs[name], found[name], nimg, results, scale) for name in runs if found[name]]


def _score_row(
    name: str, runs: Sequence[Run], found: Sequence[Mapping[str, float]], nimg: int, results: Results, scale: Scale
) -> list[object]:
    """Config, parameters, multiply-adds, rate, best lengths, and the scores of the seeds."""
    cost = network_cost(config_run(name, 1.0, 0, scale).recipe.network)
    lengths = [cell.length for run in runs if (cell := best(results, sweep(run, nimg, scale)))]
    row: list[object] = [short(name), f"{cost.parameters / 1e6:.3f}", f"{cost.flops / 1e6:.1f}"]
    row += [f"{runs[0].recipe.lr:g}" if runs else "-", in_words(lengths)]
    shown = (*METRICS, "kid@effnet", "accuracy")
    return [*row, *(in_words([one[metric] for one in found]) for metric in shown)]


SCORE_HEADER = (
    *("config", "Mparams", "M multiply-adds", "rate", "best length"),
    *("FD-EffNet", "FD-classes", "KID-EffNet", "accuracy"),
)


def curves_of(runs: Mapping[str, Sequence[Run]], nimg: int, results: Results, scale: Scale) -> Curves:
    """Distance over EMA length, a panel per metric, of the first seed that is there."""
    curves: Curves = {metric: {} for metric in METRICS}
    for name, of_seeds in runs.items():
        for run in of_seeds[:1]:
            for metric in METRICS:
                points = points_of(sweep(run, nimg, scale), results, metric)
                if points:
                    curves[metric][short(name)] = points
    return curves if any(curves.values()) else {}


def points_of(cells: Sequence[Cell], results: Results, metric: str) -> list[tuple[float, float]]:
    """Length and value of the cells that are there."""
    return [(cell.length, values[metric]) for cell in cells if (values := values_of(results, cell))]


def growth(rows: Sequence[Mapping], quantity: str) -> float:
    """The last measurement over that at 10 % of the run, the largest over resolutions."""
    first = next(row for row in rows if row["nimg"] >= 0.1 * rows[-1]["nimg"])["magnitudes"]
    last = rows[-1]["magnitudes"]
    return max(last[bucket][quantity] / first[bucket][quantity] for bucket in last)


def width(points: Sequence[tuple[float, float]]) -> float:
    """The range of lengths whose distance is within 10 % of the lowest, as a ratio, interpolated between points."""
    most = NEAR * min(value for _, value in points)
    inside = [length for length, value in points if value <= most]
    ends = [min(inside), max(inside)]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if (y0 > most) != (y1 > most):
            crossing = x0 + (x1 - x0) * (most - y0) / (y1 - y0)
            ends = [min(ends[0], crossing), max(ends[1], crossing)]
    return ends[1] / ends[0]


def lengths_of(runs: Sequence[tuple[Run, int]], results: Results, scale: Scale, metric: str) -> list[float]:
    """Best lengths of the runs at these times, as far as they are known."""
    found = [best(results, sweep(run, nimg, scale), metric) for run, nimg in runs]
    return [cell.length for cell in found if cell]
