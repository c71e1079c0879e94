"""One list of jobs for all claims, the most important first; what follows from results is there when they are."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from cells import Cell, Compare, Job, Picture, Results, Train, best, score, sweep
from scaled import (
    DROPOUT,
    EDM2,
    F_STAR,
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
    picture_images,
    picture_run,
    rate_runs,
    tracked_run,
)

from unitgain.denoiser import Denoiser
from unitgain.recipes import recipe

TENSOR_LENGTHS = (0.02, 0.07, 0.24)

TENSORS = 8

SHARES = (8, 2, 1)  # of the images of pictures, after which one is drawn


def heun_cells(runs: Sequence[Run], scale: Scale, results: Results) -> list[Cell]:
    """The best cell of each run by Heun's method, of those that have one."""
    found = [best(results, sweep(run, scale.images, scale)) for run in runs]
    return [dataclasses.replace(cell, heun=True) for cell in found if cell]


def star_sweeps(scale: Scale) -> list[tuple[Run, list[Cell]]]:
    """G* at each rate of the grid, whose best EDM2+ is trained at, with its sweep."""
    runs = [config_run(STAR, lr, 0, scale) for lr in sorted(RATES[G])]
    return [(run, sweep(run, scale.images // 2, scale.coarse)) for run in runs]


@dataclass(frozen=True)
class Try:
    """A run with something changed, to find out why a claim does not hold.

    Attributes:
        what: was changed.
        run: with the change, seed 0.
        nimg: images of the run.
    """

    what: str
    run: Run
    nimg: int


def tries(claim: str, scale: Scale, results: Results) -> list[Try]:
    """What was tried on a claim; nothing as long as the rates of its configs are not known."""
    found = []
    if claim == "configs" and (of_a := main_runs(A, scale, results)) and (of_b := main_runs(B, scale, results)):
        (lr_a, lr_b), low = (runs[0].recipe.lr for runs in (of_a, of_b)), min(RATES[B]) / 2
        runs = {
            "A, attention at 8x8 alone, as in B": config_run(A, lr_a, 0, scale, label="-attn8", attn_resolutions=(8,)),
            f"B, half the lowest rate of the grid, {low:g}": config_run(B, low, 0, scale),
            "B, the noise levels of the paper's B": config_run(B, lr_b, 0, scale, label="-levels", loss=recipe(B).loss),
            "B, the noise levels of A": config_run(B, lr_b, 0, scale, label="-levels-a", loss=recipe(A).loss),
        }
        found = [Try(what, run, scale.images) for what, run in runs.items()]
    if claim in ("half", "order") and (of_g := main_runs(G, scale, results)):
        deeper = functools.partial(
            config_run, lr=of_g[0].recipe.lr, seed=0, scale=scale, label="-blocks2", num_blocks=2
        )
        names = {"A": PLUS[0], "G*": STAR, "F*": F_STAR, "B": PLUS[3]}
        found = [Try(f"{short}, two blocks", deeper(name), scale.images // 2) for short, name in names.items()]
    if claim == "rate":
        found = [Try(f"lr {lr:g}", config_run(G, lr, 0, scale), scale.images) for lr in sorted(RATES[G])]
    return found


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
        run, (whole, drawn) = picture_run(data, scale), picture_images(data, scale)
        nimg, first = whole // share, whole // SHARES[0]
        cells = [Cell(run, nimg, length, drawn) for length in (0.05, 0.10, 0.15)]
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
    for one in tries("rate", scale, results):
        yield ("rate",), iter([Train(one.run, one.nimg), *sweep(one.run, one.nimg, scale)])
    for one in tries("configs", scale, results):
        yield ("configs",), iter(measured(one.run, one.nimg, scale, results))
    for one in tries("half", scale, results):
        yield ("half", "order"), iter(measured(one.run, one.nimg, coarse, results))


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
