"""The Frechet distance at 2048 dimensions: `python benchmarks/frechet.py`. Figures go to `results/frechet.*`.

Two claims. It agrees to a relative 1e-6 with the formula by `scipy.linalg.sqrtm`, and with the closed form of
covariances that commute, with full and with deficient rank. It takes at most a tenth of the time of `sqrtm` alone.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from arguments import parse
from machine import write_results
from unitgain.metrics.frechet import frechet_distance, root

Gaussian = tuple[NDArray[np.float64], NDArray[np.float64]]
WANTED_ERROR, WANTED_RATIO = 1e-6, 10


def random_statistics(rng: np.random.Generator, size: int, rank: int) -> Gaussian:
    """Mean and covariance with a spectrum that falls as that of image features does."""
    scales = 1 / np.sqrt(np.arange(1, rank + 1))
    factor = rng.standard_normal((size, rank)) * scales
    return rng.standard_normal(size) / np.sqrt(size), factor @ factor.T


def by_root(one: Gaussian, two: Gaussian, product_root: NDArray) -> float:
    """The formula as it is written."""
    traces = np.trace(one[1]) + np.trace(two[1]) - 2 * np.trace(product_root).real
    return float(np.square(one[0] - two[0]).sum() + traces)


def commuting(rng: np.random.Generator, size: int, rank: int) -> tuple[Gaussian, Gaussian, float]:
    """Two Gaussians on the same axes, and their distance: per axis the squared difference of deviations."""
    axes = np.linalg.qr(rng.standard_normal((size, size)))[0]
    deviations = rng.uniform(0.1, 2, (2, size)) * (np.arange(size) < rank)
    one, two = (((axes * d**2) @ axes.T) for d in deviations)
    means = rng.standard_normal((2, size)) / np.sqrt(size)
    expected = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
    return (means[0], one), (means[1], two), float(expected)


def seconds(function: Callable[[], object], repeats: int) -> tuple[float, object]:
    """Median seconds by the clock, and the last result."""
    taken, result = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken), result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3, help="of our distance; sqrtm is timed once per case")
    args = parse(parser, arguments)
    if args.small:
        args.size, args.repeats = 64, 1
    rng = np.random.default_rng(0)
    cases = []
    for name, ranks in {
        "full rank": (args.size, args.size),
        "one deficient": (args.size // 4, args.size),
        "both deficient": (args.size // 2, args.size // 4),
    }.items():
        one, two = (random_statistics(rng, args.size, 2 * rank if rank == args.size else rank) for rank in ranks)
        ours, value = seconds(lambda one=one, two=two: frechet_distance(*one, *two), args.repeats)
        root2 = root(two[1])
        kept, _ = seconds(lambda one=one, two=two, r=root2: frechet_distance(*one, *two, root2=r), args.repeats)
        product = one[1] @ two[1]
        theirs, product_root = seconds(lambda product=product: sqrtm(product), 1)
        reference = by_root(one, two, product_root)
        first, second, exact = commuting(rng, args.size, min(ranks))
        case = {
            "case": name,
            "ranks": list(ranks),
            "distance": value,
            "relative_difference_to_sqrtm": abs(value - reference) / reference,
            "relative_error_to_closed_form": abs(frechet_distance(*first, *second) - exact) / exact,
            "seconds": ours,
            "seconds_with_root_kept": kept,
            "seconds_sqrtm": theirs,
            "ratio": theirs / ours,
        }
        print(case, flush=True)
        cases.append(case)
    rows = "".join(
        f"| {case['case']} | {case['relative_difference_to_sqrtm']:.1e} "
        f"| {case['relative_error_to_closed_form']:.1e} | "
        f"{case['seconds']:.2f} | {case['seconds_with_root_kept']:.2f} | {case['seconds_sqrtm']:.1f} | "
        f"{case['ratio']:.1f} |\n"
        for case in cases
    )
    text = (
        f"# Frechet distance, {args.size} dimensions\n\n"
        "| covariances | relative difference by `sqrtm` | relative error to the closed form | seconds | "
        "seconds, root of the reference kept | seconds, `sqrtm` alone | times faster |\n|---|---|---|---|---|---|---|\n"
        f"{rows}\nSciPy {scipy.__version__}. Seconds by the clock, medians of turns. "
        "The closed form is that of covariances that commute.\n"
    )
    write_results("frechet", {"scipy": scipy.__version__, "size": args.size, "cases": cases}, text, folder=args.folder)
    print(text)
    for case in cases:
        assert case["relative_difference_to_sqrtm"] < WANTED_ERROR, case
        assert case["relative_error_to_closed_form"] < WANTED_ERROR, case
        assert args.small or case["ratio"] > WANTED_RATIO, case


if __name__ == "__main__":
    main()
