"""What the results say of the claims on guidance, by the criteria of the protocol (README.md)."""

from collections.abc import Mapping

from cells import METRICS, Results, best, score, sweep, values_of
from claims import free_cells, guided_cells, main_runs
from criteria import (
    LABELS,
    Curves,
    Finding,
    all_of,
    by_setting,
    compared,
    in_words,
    judge,
    lines_of,
    lower,
    not_above,
    told_length,
)
from scaled import DROPOUT, HALF, SEEDS, G, Scale, pairs


def guidance(results: Results, scale: Scale) -> Finding:
    """Best lengths with and without guidance."""
    rows, notes = [], []
    curves: Curves = {}
    shorter = {metric: [] for metric in METRICS}
    ends: tuple[list, list] = [], []  # scores alone and guided, per seed
    for run in main_runs(G, scale, results):
        for name, pair in pairs(run, scale).items():
            lone = sweep(pair.main, scale.images, scale.coarse if name == DROPOUT else scale)
            cells = guided_cells(pair, scale if name == HALF else scale.coarse)
            alone, chosen = best(results, lone), best(results, cells)
            if alone is None or chosen is None:
                continue
            values = [values_of(results, cell) for one in (alone, chosen) for cell in score(one, scale)]
            shown = [
                " to ".join(f"{one[metric]:.3g}" if one else "-" for one in values) for metric in (*METRICS, "accuracy")
            ]
            rows.append((run.seed, name, f"{alone.length:g}", f"{chosen.guidance:g}", f"{chosen.length:g}", *shown))
            if name != HALF:
                continue
            if free := best(results, [chosen, *free_cells(chosen, scale)]):
                told = [f"{values_of(results, one)[metric]:.4g}" for metric in METRICS for one in (free, chosen)]
                notes.append(
                    f"Seed {run.seed}, the guide free in its own length, {scale.sweep:,} images: {free.guide_length:g} "
                    f"for {chosen.length:g}, FD-EffNet {told[0]} for {told[1]}, FD-classes {told[2]} for {told[3]}."
                )
            by_weight = {f"weight {weight:g}": [c for c in cells if c.guidance == weight] for weight in scale.weights}
            curves = curves or lines_of({"alone": lone, **by_weight}, results)
            if all(values):
                for found, one in zip(ends, values, strict=True):
                    found.append(one)
                for metric in METRICS:
                    lengths = [best(results, of_weight, metric).length for of_weight in (cells, lone)]
                    shorter[metric].append(lengths[0] < lengths[1])
                    told = f"{told_length(lengths[1], scale)} alone, {told_length(lengths[0], scale)} guided"
                    notes.append(f"Seed {run.seed}, {name}: best length by {LABELS[metric]} {told}.")
    if told := compared(ends[1], ends[0]):
        notes.append(f"Guided by {HALF}, above alone by {told}.")
    tests = [
        all_of(parts)
        for metric in METRICS
        for parts in zip(shorter[metric], lower(ends[1], ends[0], metric), strict=False)
    ]
    header = ("seed", "guide", "best length alone", "best weight", "best length guided")
    header = (*header, "FD-EffNet", "FD-classes", "accuracy")
    return Finding(judge(tests, len(SEEDS) * len(METRICS), rows), header, rows, notes, curves)


def small_guides(results: Results, scale: Scale) -> Finding:
    """The best score by width of the unconditional guide."""
    found: dict[str, list[Mapping[str, float]]] = {}
    for run in main_runs(G, scale, results):
        for name, pair in pairs(run, scale).items():
            for cell in score(best(results, guided_cells(pair, scale.coarse)), scale):
                if name.startswith("unconditional") and (values := values_of(results, cell)):
                    found.setdefault(name, []).append(values)
    rows = [
        (name, *(in_words([one[metric] for one in values]) for metric in METRICS)) for name, values in found.items()
    ]
    small, large = (found.get(name, []) for name in (HALF, "unconditional, twice"))
    tests = [test for metric in METRICS for test in not_above(small, large, metric)]
    told = compared(small, large)
    notes = [f"Half the width is above twice the width by {told}."] if told else []
    verdict, curves = judge(tests, len(tests), rows), by_setting(found)
    return Finding(verdict, ("guide", "FD-EffNet", "FD-classes"), rows, notes, curves, axis="guide")
