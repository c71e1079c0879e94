"""What the results say of each claim, by the criteria of the protocol (README.md)."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping

from cells import FIRST_METRIC, METRICS, Compare, Results, Train, best, sweep, values_of
from claims import heun_cells, main_runs, star_sweeps, tensor_cells, tries
from criteria import (
    LABELS,
    SCORE_HEADER,
    Curves,
    Finding,
    all_of,
    by_setting,
    compared,
    curves_of,
    growth,
    growth_of_largest,
    judge,
    lengths_of,
    lower,
    not_above,
    points_of,
    score_rows,
    scores,
    short,
    told_length,
    told_lengths,
    tried,
    width,
)
from guided import guidance, small_guides
from scaled import (
    EDM2,
    GROWING,
    PLUS,
    RATES,
    SEEDS,
    STAR,
    TRACKED,
    A,
    B,
    G,
    Scale,
    config_run,
    rate_runs,
    tracked_run,
)

from unitgain.analysis.cost import network_cost
from unitgain.recipes import recipe


def configs(results: Results, scale: Scale) -> Finding:
    """Table 1 of EDM2."""
    runs = {name: main_runs(name, scale, results) for name in EDM2}
    found = {name: scores(runs[name], scale.images, results, scale) for name in EDM2}
    rows = score_rows(runs, scale.images, results, scale)
    steps, notes = list(itertools.pairwise(EDM2)), []
    parts = {name: [lower(found[G], found[A], name)] for name in METRICS}
    for first, second in steps:
        for metric in METRICS:
            parts[metric].append(not_above(found[second], found[first], metric))
        tests = [test for metric in METRICS for test in lower(found[second], found[first], metric)]
        verdict, told = judge(tests, len(tests), found[second]), compared(found[second], found[first])
        notes.append(f"{short(first)} to {short(second)}: {verdict}" + (f" ({told})." if told else "."))
    tests = [all_of(of_seed) for metric in METRICS for of_seed in zip(*parts[metric], strict=True)]
    if told := compared(found[G], found[A]):
        notes.append(f"{short(A)} to {short(G)}: {told}.")
    for cell in heun_cells([*runs[A], *runs[G]], scale, results):
        if values := values_of(results, cell):
            usual = values_of(results, dataclasses.replace(cell, heun=False))
            told = ", ".join(f"{LABELS[one]} {usual[one]:.4g} becomes {values[one]:.4g}" for one in METRICS)
            name = f"{short(cell.run.name.partition('-lr')[0])}, seed {cell.run.seed}, {scale.sweep:,} images"
            notes.append(f"{name}, by Heun's method at {scale.heun.steps} steps: {told}.")
    notes += tried("configs", scale, results)
    curves = by_setting({short(name): values for name, values in found.items()})
    return Finding(judge(tests, len(tests), rows), SCORE_HEADER, rows, notes, curves, axis="")


def rates(results: Results, scale: Scale) -> Finding:
    """The grid of learning rates: what each config gets, not a claim."""
    eighth, coarse, rows = scale.images // 8, scale.coarse, []
    curves: Curves = {FIRST_METRIC: {}}
    for name in EDM2:
        values = {}
        for lr in sorted(RATES[name]):
            cell = best(results, sweep(config_run(name, lr, 0, coarse), eighth, coarse))
            values[lr] = results[cell.key]["values"][FIRST_METRIC] if cell else None
        if any(values.values()):
            told = [f"{lr:g}: {'-' if value is None else f'{value:.4g}'}" for lr, value in values.items()]
            known = [lr for lr in values if values[lr] is not None]
            chosen = min(known, key=lambda lr: values[lr])
            edge = " (an end of the grid)" if chosen in (min(values), max(values)) else ""
            rows.append((short(name), "; ".join(told), f"{chosen:g}{edge}" if len(known) == len(values) else "not yet"))
            curves[FIRST_METRIC][short(name)] = [(lr, value) for lr, value in values.items() if value is not None]
    return Finding("", ("config", "FD-EffNet by rate", "chosen"), rows, curves=curves, axis="learning rate")


def half(results: Results, scale: Scale) -> Finding:
    """The cost and quality of EDM2+."""
    nimg, coarse = scale.images // 2, scale.coarse
    runs = {name: main_runs(name, scale, results) for name in PLUS}
    found = {name: scores(runs[name], nimg, results, coarse) for name in PLUS}
    rows = score_rows(runs, nimg, results, coarse)
    a, star = PLUS[0], STAR
    ratio = network_cost(recipe(star).network).flops / network_cost(recipe(a).network).flops
    quality = [test for metric in METRICS for test in not_above(found[star], found[a], metric)]
    tests = [all_of([test, 0.45 <= ratio <= 0.55]) for test in quality]
    notes = [f"At the papers' size G* has {ratio:.1%} of A's multiply-adds."]
    if told := compared(found[star], found[a]):
        notes.append(f"{short(star)} is above {short(a)} by {told}.")
    for run, cells in [*((run, sweep(run, nimg, coarse)) for run in runs[a][:1]), *star_sweeps(scale)]:
        if cell := best(results, cells):
            told = ", ".join(f"{LABELS[one]} {results[cell.key]['values'][one]:.4g}" for one in METRICS)
            name = short(run.name.partition("-lr")[0])
            notes.append(f"{name} at rate {run.recipe.lr:g}, seed 0, {scale.sweep:,} images: {told}.")
    notes += tried("half", coarse, results)
    cost = {name: network_cost(runs[name][0].recipe.network).flops / 1e6 for name in PLUS if found[name]}
    curves: Curves = {
        metric: {short(name): [(cost[name], one[metric]) for one in found[name]] for name in cost} for metric in METRICS
    }
    verdict = judge(tests, len(tests), rows)
    return Finding(verdict, SCORE_HEADER, rows, notes, curves, axis="M multiply-adds")


def order(results: Results, scale: Scale) -> Finding:
    """Which configs of EDM2+ are worse and better."""
    nimg, coarse = scale.images // 2, scale.coarse
    found = {name: scores(main_runs(name, scale, results), nimg, results, coarse) for name in PLUS}
    name = {key.split("-config-")[1]: key for key in PLUS}
    pairs = [(name[other], name["b"]) for other in name if other != "b"]
    pairs += [(name["f-bottleneck"], name["f"]), (name["g-bottleneck"], name["g"])]
    by_metric = {metric: [lower(found[better], found[worse], metric) for better, worse in pairs] for metric in METRICS}
    tests = [all_of(of_seed) for metric in METRICS for of_seed in zip(*by_metric[metric], strict=True)]
    rows = [
        (short(better), short(worse), *(part.partition(" ")[2] for part in told.split("; ")))
        for better, worse in pairs
        if (told := compared(found[better], found[worse]))
    ]
    notes = []
    for star in ("f-bottleneck", "g-bottleneck"):
        if told := compared(found[name[star]], found[name[f"{star}-ms"]]):
            notes.append(f"{short(name[star])}, modulation after the SiLU against before: {told}.")
    notes += tried("order", coarse, results)
    curves = by_setting({short(each).removeprefix("EDM2+ "): values for each, values in found.items() if values})
    header = ("config", "should be below", "difference in FD-EffNet", "in FD-classes")
    return Finding(judge(tests, len(tests), any(found.values())), header, rows, notes, curves, axis="config of EDM2+")


def magnitudes(results: Results, scale: Scale) -> Finding:
    """Growth of activations and weights in C, D, E and G."""
    header = ("config", "seed", "activations", "weights", "activations, largest of all", "weights, largest of all")
    rows, by_seed = [], {seed: {} for seed in SEEDS}
    for name in GROWING:
        for run in main_runs(name, scale, results):
            measured = results.get(Train(run, scale.images).key, {}).get("magnitudes")
            if measured:
                pair = growth(measured, "activation_max"), growth(measured, "weight_max")
                by_seed[run.seed][name] = pair
                rows.append((short(name), run.seed, f"x {pair[0]:.2f}", f"x {pair[1]:.3f}"))
                of_all = [growth_of_largest(measured, quantity) for quantity in ("activation_max", "weight_max")]
                rows[-1] += (f"x {of_all[0]:.2f}", f"x {of_all[1]:.3f}")
    tests = [magnitudes_hold(pairs) for pairs in by_seed.values() if len(pairs) == 4]
    return Finding(judge(tests, len(SEEDS), rows), header, rows)


def magnitudes_hold(pairs: Mapping[str, tuple[float, float]]) -> bool:
    """The criterion, of one seed."""
    c, d, e = (pairs[name] for name in EDM2[2:5])
    bounded = [pairs[name] for name in (EDM2[3], EDM2[4], G)]
    forced = all(abs(weights - 1) <= 0.01 for _, weights in (e, pairs[G]))
    return c[0] >= 1.5 and c[1] >= 1.1 and d[1] > c[1] and all(one[0] < 1.25 for one in bounded) and forced


def optimum(results: Results, scale: Scale) -> Finding:
    """Best lengths of the configs, and how sharp."""
    runs = {name: main_runs(name, scale, results) for name in EDM2}
    rows, tests = [], []
    at, sharp = {}, {}
    for name, of_seeds in runs.items():
        for run in of_seeds:
            for metric in METRICS:
                points = points_of(sweep(run, scale.images, scale), results, metric)
                if len(points) == len(scale.lengths):
                    chosen = min(points, key=lambda point: point[1])[0]
                    at[name, run.seed, metric] = scale.lengths.index(chosen)
                    sharp[name, run.seed, metric] = width(points)
                    rows.append((short(name), run.seed, metric, told_length(chosen, scale), f"{width(points):.2f}"))
    for seed in SEEDS:
        for metric in METRICS:
            places = [at[name, seed, metric] for name in EDM2[1:] if (name, seed, metric) in at]
            if len(places) == len(EDM2) - 1:
                apart = max(places) - min(places) >= 2
                tests.append(apart and sharp[G, seed, metric] < sharp[B, seed, metric])
    header = ("config", "seed", "metric", "best length", "range within 10 %, ratio")
    verdict = judge(tests, len(SEEDS) * len(METRICS), rows)
    return Finding(verdict, header, rows, curves=curves_of(runs, scale.images, results, scale))


def time(results: Results, scale: Scale) -> Finding:
    """The best length of G over training."""
    rows, tests, times = [], [], [scale.images // part for part in (8, 4, 2, 1)]
    curves: Curves = {metric: {} for metric in METRICS}
    for run in main_runs(G, scale, results):
        for metric in METRICS:
            lengths = lengths_of([(run, nimg) for nimg in times], results, scale, metric)
            if len(lengths) == len(times):
                tests.append(lengths[-1] > lengths[0])
            if lengths:
                rows.append((run.seed, metric, told_lengths(lengths, scale)))
            for nimg in times:
                if run.seed == SEEDS[0] and (points := points_of(sweep(run, nimg, scale), results, metric)):
                    curves[metric][f"{nimg:,} images"] = points
    header = ("seed", "metric", f"best length after {', '.join(f'{nimg:,}' for nimg in times)} images")
    verdict = judge(tests, len(SEEDS) * len(METRICS), rows)
    return Finding(verdict, header, rows, curves=curves if rows else {})


def rate(results: Results, scale: Scale) -> Finding:
    """The best length of G over learning rate and decay."""
    rows, tests = [], []
    curves: Curves = {metric: {} for metric in METRICS}
    for what, settings in rate_runs(scale).items():
        for seed in SEEDS:
            for metric in METRICS:
                runs = [(of_seeds[seed], scale.images // 8) for of_seeds in settings]
                lengths = lengths_of(runs, results, scale, metric)
                if len(lengths) == len(settings):
                    falls = all(a >= b for a, b in itertools.pairwise(lengths))
                    tests.append(falls and lengths[-1] < lengths[0])
                    rows.append((what, seed, metric, told_lengths(lengths, scale)))
                    curves[metric][f"{what}, seed {seed}"] = [*zip((0.5, 1.0, 2.0), lengths, strict=True)]
    notes = []
    for metric in METRICS:
        whole = [(one.run, one.nimg) for one in tries("rate", scale, results)]
        lengths = lengths_of(whole, results, scale, metric)
        if len(lengths) == len(whole):
            told = told_lengths(lengths, scale)
            notes.append(f"Tried, whole runs of seed 0, lr from low to high, by {LABELS[metric]}: {told}.")
    header = ("from low to high", "seed", "metric", "best length")
    verdict = judge(tests, 2 * len(SEEDS) * len(METRICS), rows)
    return Finding(
        verdict, header, rows, notes, curves, axis="lr or t_ref, over the middle one", quantity="best EMA length"
    )


def tensors(results: Results, scale: Scale) -> Finding:
    """What a length of its own for one tensor brings in B and in G."""
    gains, rows = {}, []
    curves: Curves = {metric: {} for metric in METRICS}
    for name in (B, G):
        for run in main_runs(name, scale, results):
            base, cells = best(results, sweep(run, scale.images, scale)), tensor_cells(run, scale, results)
            there = {cell: values for cell in cells if (values := values_of(results, cell))}
            if base and there:
                for metric in METRICS:
                    low = min(there, key=lambda cell: there[cell][metric])
                    gain = 1 - there[low][metric] / values_of(results, base)[metric]
                    told = f"{low.pattern} at {low.pattern_length:g}"
                    rows.append((short(name), run.seed, metric, f"{gain:.1%}", told, f"{len(there)} of {len(cells)}"))
                    if len(there) == len(cells):
                        gains[name, run.seed, metric] = gain
                        lowest = [
                            min(values[metric] for cell, values in there.items() if cell.pattern == pattern)
                            for pattern in dict.fromkeys(cell.pattern for cell in cells)
                        ]
                        ratios = [value / values_of(results, base)[metric] for value in lowest]
                        curves[metric][f"{short(name)}, seed {run.seed}"] = [*enumerate(ratios, 1)]
    pairs = [
        (seed, metric) for seed in SEEDS for metric in METRICS if {(B, seed, metric), (G, seed, metric)} <= gains.keys()
    ]
    tests = [gains[B, seed, metric] > gains[G, seed, metric] for seed, metric in pairs]
    header = ("config", "seed", "metric", "best improvement", "tensor", "measured")
    verdict = judge(tests, len(SEEDS) * len(METRICS), rows)
    axis, quantity = "tensor, from input to output", "distance over that without"
    return Finding(verdict, header, rows, [], curves, axis, quantity)


def posthoc(results: Results, scale: Scale) -> Finding:
    """Reconstruction against tracking."""
    run, tracked = tracked_run(scale)
    jobs = [Compare(run, tracked, scale.images // 8, length, scale.sweep) for length in TRACKED]
    rows, tests = [], []
    curves: Curves = {metric: {"tracked": [], "reconstructed": []} for metric in METRICS}
    for job in jobs:
        row = results.get(job.key, {})
        if "difference" in row:
            off = [row["reconstructed"][metric] / row["tracked"][metric] - 1 for metric in METRICS]
            rows.append((f"{job.length:g}", f"{row['difference']:.2e}", *(f"{value:+.2%}" for value in off)))
            tests.append(row["difference"] < 0.01 and all(abs(value) < 0.01 for value in off))
            for metric in METRICS:
                for what, points in curves[metric].items():
                    points.append((job.length, row[what][metric]))
    header = ("length", "difference of weights", "of FD-EffNet", "of FD-classes")
    return Finding(judge(tests, len(TRACKED), rows), header, rows, curves=curves if rows else {})


FINDINGS: Mapping[str, Callable[[Results, Scale], Finding]] = {
    "configs": configs,
    "half": half,
    "order": order,
    "magnitudes": magnitudes,
    "optimum": optimum,
    "time": time,
    "rate": rate,
    "tensors": tensors,
    "guidance": guidance,
    "guides": small_guides,
    "posthoc": posthoc,
}
