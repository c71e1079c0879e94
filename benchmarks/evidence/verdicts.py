"""What the results say of each claim, by the criteria of the protocol (README.md)."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping

from claims import (
    FIRST_METRIC,
    METRICS,
    Compare,
    Results,
    Train,
    best,
    free_cells,
    guided_cells,
    heun_cells,
    main_runs,
    score,
    star_sweeps,
    sweep,
    tensor_cells,
    values_of,
)
from criteria import (
    NOT_RUN,
    SCORE_HEADER,
    UNDECIDED,
    Curves,
    Finding,
    curves_of,
    growth,
    in_words,
    judge,
    lengths_of,
    lower,
    points_of,
    score_rows,
    scores,
    short,
    spread,
    width,
)
from scaled import (
    DROPOUT,
    EDM2,
    GROWING,
    HALF,
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
    pairs,
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
    pairs = list(itertools.pairwise(EDM2))
    steps = {metric: [lower(found[second], found[first], metric) for first, second in pairs] for metric in METRICS}
    tests = []
    for metric in METRICS:
        whole = lower(found[G], found[EDM2[0]], metric)
        complete = spread(list(found.values()), metric) is not None
        tests.append(whole and False not in steps[metric] if complete and whole is not None else None)
    notes = [
        f"{short(first)} to {short(second)}: "
        f"{judge([of_metric[place] for of_metric in steps.values()], len(METRICS), found[second])}."
        for place, (first, second) in enumerate(pairs)
    ]
    for cell in heun_cells([*runs[A], *runs[G]], scale, results):
        if values := values_of(results, cell):
            usual = values_of(results, dataclasses.replace(cell, heun=False))
            told = ", ".join(f"{usual[metric]:.4g} becomes {values[metric]:.4g}" for metric in METRICS)
            name = short(cell.run.name.partition("-lr")[0])
            notes.append(f"{name}, seed {cell.run.seed}, by Heun's method at {scale.heun.steps} steps: {told}.")
    return Finding(judge(tests, len(METRICS), rows), SCORE_HEADER, rows, notes)


def rates(results: Results, scale: Scale) -> Finding:
    """The grid of learning rates: what each config gets, not a claim."""
    eighth, coarse, rows = scale.images // 8, scale.coarse, []
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
    return Finding("", ("config", "FD-EffNet by rate", "chosen"), rows)


def half(results: Results, scale: Scale) -> Finding:
    """The cost and quality of EDM2+."""
    nimg, coarse = scale.images // 2, scale.coarse
    runs = {name: main_runs(name, scale, results) for name in PLUS}
    found = {name: scores(runs[name], nimg, results, coarse) for name in PLUS}
    rows = score_rows(runs, nimg, results, coarse)
    a, star = PLUS[0], STAR
    ratio = network_cost(recipe(star).network).flops / network_cost(recipe(a).network).flops
    tests = []
    for metric in METRICS:
        within = spread([found[a], found[star]], metric)
        gap = None if within is None else lower(found[a], found[star], metric)
        tests.append(None if within is None else gap is not True and 0.45 <= ratio <= 0.55)
    notes = [f"At the papers' size G* has {ratio:.1%} of A's multiply-adds."]
    for run, cells in star_sweeps(scale):
        if cell := best(results, cells):
            told = ", ".join(f"{results[cell.key]['values'][metric]:.4g}" for metric in METRICS)
            notes.append(f"{short(star)} at rate {run.recipe.lr:g}, seed 0, {scale.sweep:,} images: {told}.")
    return Finding(judge(tests, len(METRICS), rows), SCORE_HEADER, rows, notes)


def order(results: Results, scale: Scale) -> Finding:
    """Which configs of EDM2+ are worse and better."""
    nimg, coarse = scale.images // 2, scale.coarse
    found = {name: scores(main_runs(name, scale, results), nimg, results, coarse) for name in PLUS}
    name = {key.split("-config-")[1]: key for key in PLUS}
    pairs = [(name[other], name["b"]) for other in name if other != "b"]
    pairs += [(name["f-bottleneck"], name["f"]), (name["g-bottleneck"], name["g"])]
    tests = [lower(found[better], found[worse], metric) for better, worse in pairs for metric in METRICS]
    notes = []
    for star in ("f-bottleneck", "g-bottleneck"):
        if found[name[star]] and found[name[f"{star}-ms"]]:
            told = [lower(found[name[star]], found[name[f"{star}-ms"]], metric) for metric in METRICS]
            words = {True: "lower", False: "higher", None: "within the spread"}
            notes.append(
                f"{short(name[star])}: modulation after the SiLU is {' and '.join(words[one] for one in told)}."
            )
    return Finding(judge(tests, len(tests), any(found.values())), notes=notes)


def magnitudes(results: Results, scale: Scale) -> Finding:
    """Growth of activations and weights in C, D, E and G."""
    header = ("config", "seed", "activations", "weights")
    rows, by_seed = [], {seed: {} for seed in SEEDS}
    for name in GROWING:
        for run in main_runs(name, scale, results):
            measured = results.get(Train(run, scale.images).key, {}).get("magnitudes")
            if measured:
                pair = growth(measured, "activation_max"), growth(measured, "weight_max")
                by_seed[run.seed][name] = pair
                rows.append((short(name), run.seed, f"x {pair[0]:.2f}", f"x {pair[1]:.3f}"))
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
                    edge = " (an end)" if chosen in (scale.lengths[0], scale.lengths[-1]) else ""
                    rows.append((short(name), run.seed, metric, f"{chosen:g}{edge}", f"{width(points):.2f}"))
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
                rows.append((run.seed, metric, in_words(lengths)))
            for nimg in times:
                if run.seed == SEEDS[0] and (points := points_of(sweep(run, nimg, scale), results, metric)):
                    curves[metric][f"{nimg:,} images"] = points
    header = ("seed", "metric", f"best length after {', '.join(f'{nimg:,}' for nimg in times)} images")
    verdict = judge(tests, len(SEEDS) * len(METRICS), rows)
    return Finding(verdict, header, rows, curves=curves if rows else {})


def rate(results: Results, scale: Scale) -> Finding:
    """The best length of G over learning rate and decay."""
    rows, tests = [], []
    for what, settings in rate_runs(scale).items():
        for seed in SEEDS:
            for metric in METRICS:
                runs = [(of_seeds[seed], scale.images // 8) for of_seeds in settings]
                lengths = lengths_of(runs, results, scale, metric)
                if len(lengths) == len(settings):
                    falls = all(a >= b for a, b in itertools.pairwise(lengths))
                    tests.append(falls and lengths[-1] < lengths[0])
                    rows.append((what, seed, metric, in_words(lengths)))
    header = ("from low to high", "seed", "metric", "best length")
    return Finding(judge(tests, 2 * len(SEEDS) * len(METRICS), rows), header, rows)


def tensors(results: Results, scale: Scale) -> Finding:
    """What a length of its own for one tensor brings in B and in G."""
    gains, rows = {}, []
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
    pairs = [
        (seed, metric) for seed in SEEDS for metric in METRICS if {(B, seed, metric), (G, seed, metric)} <= gains.keys()
    ]
    tests = [gains[B, seed, metric] > gains[G, seed, metric] for seed, metric in pairs]
    header = ("config", "seed", "metric", "best improvement", "tensor", "measured")
    return Finding(judge(tests, len(SEEDS) * len(METRICS), rows), header, rows)


def guidance(results: Results, scale: Scale) -> Finding:
    """Best lengths with and without guidance."""
    rows, tests = [], []
    for run in main_runs(G, scale, results):
        for name, pair in pairs(run, scale).items():
            lone = sweep(pair.main, scale.images, scale.coarse if name == DROPOUT else scale)
            cells = guided_cells(pair, scale if name == HALF else scale.coarse)
            alone, chosen = best(results, lone), best(results, cells)
            if alone is None or chosen is None:
                continue
            free = best(results, [chosen, *free_cells(chosen, scale)]) if name == HALF else None
            told = f"{free.guide_length:g}" if free else "-"
            values = [values_of(results, cell) for one in (alone, chosen) for cell in score(one, scale)]
            shown = [
                " to ".join(f"{one[metric]:.3g}" if one else "-" for one in values) for metric in (*METRICS, "accuracy")
            ]
            rows.append(
                (run.seed, name, f"{alone.length:g}", f"{chosen.guidance:g}", f"{chosen.length:g}", told, *shown)
            )
            if name == HALF and all(values):
                tests += [
                    best(results, cells, metric).length < best(results, lone, metric).length
                    and values[1][metric] < values[0][metric]
                    for metric in METRICS
                ]
    header = ("seed", "guide", "best length alone", "best weight", "best length guided", "the guide's own")
    header = (*header, "FD-EffNet", "FD-classes", "accuracy")
    return Finding(judge(tests, len(SEEDS) * len(METRICS), rows), header, rows)


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
    known = spread([small, large], FIRST_METRIC) is not None
    tests = [lower(large, small, metric) is not True for metric in METRICS] if known else []
    verdict = judge(tests, len(METRICS)) if tests else UNDECIDED if rows else NOT_RUN
    return Finding(verdict, ("guide", "FD-EffNet", "FD-classes"), rows)


def posthoc(results: Results, scale: Scale) -> Finding:
    """Reconstruction against tracking."""
    run, tracked = tracked_run(scale)
    jobs = [Compare(run, tracked, scale.images // 8, length, scale.sweep) for length in TRACKED]
    rows, tests = [], []
    for job in jobs:
        row = results.get(job.key, {})
        if "difference" in row:
            off = [row["reconstructed"][metric] / row["tracked"][metric] - 1 for metric in METRICS]
            rows.append((f"{job.length:g}", f"{row['difference']:.2e}", *(f"{value:+.2%}" for value in off)))
            tests.append(row["difference"] < 0.01 and all(abs(value) < 0.01 for value in off))
    header = ("length", "difference of weights", "of FD-EffNet", "of FD-classes")
    return Finding(judge(tests, len(TRACKED), rows), header, rows)


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
