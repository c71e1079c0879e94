"""How results are compared: scores, their spread, optima, and what makes a verdict (README.md)."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cells import METRICS, Cell, Results, best, score, sweep, values_of
from claims import tries
from scaled import SEEDS, Run, Scale, config_run

from unitgain.analysis.cost import network_cost

AGREES, DOES_NOT, UNDECIDED, NOT_RUN = "agrees", "does not", "undecided", "not run yet"
NEAR = 1.1  # times the lowest distance, for the width of an optimum
LABELS = {
    "fd@effnet": "FD-EffNet",
    "fd@classes": "FD-classes",
    "kid@effnet": "KID-EffNet",
    "kid@classes": "KID-classes",
}
Values = Sequence[Mapping[str, float]]  # scores of a setting by metric, one per seed
Curves = dict[str, dict[str, list[tuple[float | str, float]]]]


@dataclass
class Finding:
    """What is known of a claim.

    Attributes:
        verdict: by the criterion of the protocol.
        header: of the table.
        rows: of the table.
        notes: sentences below it.
        curves: by panel, a metric, and label, points to draw.
        axis: name of their x axis.
        quantity: what is drawn of a metric, where it is not its values.
    """

    verdict: str
    header: Sequence[str] = ()
    rows: list[Sequence[object]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    curves: Curves = field(default_factory=dict)
    axis: str = "EMA length"
    quantity: str = ""


def judge(tests: Sequence[bool | None], expected: int, there: object = True) -> str:
    """A verdict from tests, one per metric and seed: None is a test within the spread, or one that is missing.

    Args:
        tests: whether the criterion holds.
        expected: tests that there should be.
        there: whether anything has been measured.
    """
    if not there:
        return NOT_RUN
    known = [test for test in tests if test is not None]
    if not known:
        return UNDECIDED if tests else NOT_RUN
    if len(known) < expected or len(set(known)) > 1:
        return UNDECIDED
    return AGREES if known[0] else DOES_NOT


def scores(runs: Sequence[Run], nimg: int, results: Results, scale: Scale) -> list[Mapping[str, float]]:
    """Scores of the runs that have one, at the best length of each."""
    cells = [cell for run in runs for cell in score(best(results, sweep(run, nimg, scale)), scale)]
    return [values for cell in cells if (values := values_of(results, cell))]


def spread(groups: Sequence[Values], metric: str) -> float | None:
    """The largest difference between seeds of one setting; None unless all have two."""
    if not groups or any(len(group) < len(SEEDS) for group in groups):
        return None
    return max(max(one[metric] for one in group) - min(one[metric] for one in group) for group in groups)


def lower(a: Values, b: Values, metric: str) -> list[bool | None]:
    """Of each seed, whether `a` is lower than `b` by more than their spread, or higher; None within it, or as long as
    one is missing.
    """
    within = spread([a, b], metric)
    if within is None:
        return [None] * len(SEEDS)
    return [None if abs(gap) <= within else gap > 0 for gap in gaps(b, a, metric)]


def not_above(a: Values, b: Values, metric: str) -> list[bool | None]:
    """Of each seed, whether `a` is above `b` by no more than their spread; None if one is missing."""
    known = spread([a, b], metric) is not None
    return [test is not False if known else None for test in lower(a, b, metric)]


def gaps(a: Values, b: Values, metric: str) -> list[float]:
    """By how much `a` is above `b`, of each seed."""
    return [one[metric] - other[metric] for one, other in zip(a, b, strict=True)]


def all_of(tests: Iterable[bool | None]) -> bool | None:
    """Whether all parts of a criterion hold: one that does not refutes it, one that is open leaves it open."""
    known = set(tests)
    return False if False in known else None if None in known else True


def compared(a: Values, b: Values) -> str:
    """By how much `a` is above `b` in each metric and seed, and the spread; empty if one is missing."""
    if spread([a, b], METRICS[0]) is None:
        return ""
    told = {name: ", ".join(f"{gap:+.3g}" for gap in gaps(a, b, name)) for name in METRICS}
    return "; ".join(f"{LABELS[name]} {told[name]}, spread {spread([a, b], name):.3g}" for name in METRICS)


def short(name: str) -> str:
    """A config as the papers call it; "ms" is the modulation before the SiLU."""
    paper, config = name.split("-config-")
    config = config.upper().replace("-BOTTLENECK", "*").replace("-MS", " (ms)")
    return f"{'EDM2+' if paper.startswith('edm2plus') else 'EDM2'} {config}"


def in_words(values: Sequence[float]) -> str:
    """Values of seeds."""
    return ", ".join(f"{value:.4g}" for value in values) or "-"


def told_length(length: float, scale: Scale) -> str:
    """A best length, which says so where it is at an end of a grid of more than ends."""
    ends = (scale.lengths[0], scale.lengths[-1]) if len(scale.lengths) > 2 else ()
    return f"{length:g}{' (an end)' if length in ends else ''}"


def told_lengths(lengths: Sequence[float], scale: Scale) -> str:
    """Best lengths of seeds, times or settings."""
    return ", ".join(told_length(length, scale) for length in lengths) or "-"


def tried(claim: str, scale: Scale, results: Results) -> list[str]:
    """A sentence for each change of a run that was tried to find out why a claim does not hold, and has a score."""
    told = []
    for one in tries(claim, scale, results):
        for values in scores([one.run], one.nimg, results, scale):
            by_metric = ", ".join(f"{LABELS[metric]} {values[metric]:.4g}" for metric in METRICS)
            told.append(f"Tried, seed 0: {one.what}: {by_metric}.")
    return told


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
    row += [f"{runs[0].recipe.lr:g}" if runs else "-", told_lengths(lengths, scale)]
    shown = (*METRICS, "kid@effnet", "accuracy")
    return [*row, *(in_words([one[metric] for one in found]) for metric in shown)]


SCORE_HEADER = (
    *("config", "Mparams", "M multiply-adds", "rate", "best length"),
    *("FD-EffNet", "FD-classes", "KID-EffNet", "accuracy"),
)


def by_setting(found: Mapping[str, Values]) -> Curves:
    """Scores over settings, a panel per metric and a line per seed."""
    return {
        metric: {
            f"seed {seed}": [(name, values[place][metric]) for name, values in found.items() if place < len(values)]
            for place, seed in enumerate(SEEDS)
        }
        for metric in METRICS
        if any(found.values())
    }


def curves_of(runs: Mapping[str, Sequence[Run]], nimg: int, results: Results, scale: Scale) -> Curves:
    """Distance over EMA length, a panel per metric, of the first seed that is there."""
    return lines_of(
        {short(name): sweep(one, nimg, scale) for name, runs_of in runs.items() for one in runs_of[:1]}, results
    )


def lines_of(cells: Mapping[str, Sequence[Cell]], results: Results) -> Curves:
    """Distance over the length of cells, by their label."""
    curves: Curves = {metric: {} for metric in METRICS}
    for (label, of_label), metric in itertools.product(cells.items(), METRICS):
        if points := points_of(of_label, results, metric):
            curves[metric][label] = [*points]
    return curves if any(curves.values()) else {}


def points_of(cells: Sequence[Cell], results: Results, metric: str) -> list[tuple[float, float]]:
    """Length and value of the cells that are there."""
    return [(cell.length, values[metric]) for cell in cells if (values := values_of(results, cell))]


def growth(rows: Sequence[Mapping], quantity: str) -> float:
    """The last measurement over that at 10 % of the run, the largest over resolutions."""
    first, last = _ends(rows)
    return max(last[bucket][quantity] / first[bucket][quantity] for bucket in last)


def growth_of_largest(rows: Sequence[Mapping], quantity: str) -> float:
    """Likewise, of the largest of all resolutions, whichever it is at either time."""
    first, last = (max(bucket[quantity] for bucket in buckets.values()) for buckets in _ends(rows))
    return last / first


def _ends(rows: Sequence[Mapping]) -> tuple[Mapping, Mapping]:
    first = next(row for row in rows if row["nimg"] >= 0.1 * rows[-1]["nimg"])
    return first["magnitudes"], rows[-1]["magnitudes"]


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
