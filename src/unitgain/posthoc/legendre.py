"""Functions as piecewise Legendre series: L2 inner products become dot products of coefficients.

Panels are halved until every function is resolved on every panel, so that a product of two functions, smooth or with
kinks, is integrated to nearly the precision of float64 (adaptive Gauss-Legendre quadrature).
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from unitgain.ema import ExponentialProfile, PowerProfile, Profile

Array = NDArray[np.float64]

ORDER = 16
MAX_PANELS = 1 << 14  # of functions that no float64 can resolve
MAX_DEPTH = 60  # t^gamma with gamma near 0 has a singularity at 0 that takes about 50 halvings
NODES, _WEIGHTS = np.polynomial.legendre.leggauss(ORDER)
# Values at the nodes to coefficients in the orthonormal Legendre polynomials of [-1, 1].
_ANALYSIS = (np.polynomial.legendre.legvander(NODES, ORDER - 1) * np.sqrt(np.arange(ORDER) + 0.5)).T * _WEIGHTS


def expand(functions: Callable[[Array], Array], edges: Array, tolerance: Array, norms: Array | None = None) -> Array:
    """Coefficients of several functions in one orthonormal basis of piecewise polynomials.

    Args:
        functions: times `[panels, nodes]` to values `[functions, panels, nodes]`; called with times strictly between
            the edges.
        edges: increasing times at which functions may jump or change their pace, at least two.
        tolerance: relative L2 error allowed, per function.
        norms: L2 norm, per function, that its error is measured by, where that is more than its norm between the edges.

    Returns:
        `[functions, coefficients]`, such that the dot product of two rows is the integral of their product.
    """
    lo, hi = edges[:-1], edges[1:]
    done: list[Array] = []
    scale = np.zeros(1) if norms is None else norms
    for depth in range(MAX_DEPTH + 1):
        half = (hi - lo) / 2
        values = functions((lo + half)[:, None] + half[:, None] * NODES)
        coefficients = np.sqrt(half)[:, None] * (values @ _ANALYSIS.T)
        scale = np.maximum(scale, np.sqrt((coefficients**2).sum((1, 2))))
        coarse = (np.abs(coefficients[..., -3:]).max(-1) > (tolerance * scale)[:, None]).any(0)
        if depth == MAX_DEPTH or len(lo) > MAX_PANELS:
            coarse[:] = False
        done.append(coefficients[:, ~coarse].reshape(len(values), -1))
        if not coarse.any():
            break
        lo, hi = lo[coarse], hi[coarse]
        lo, hi = np.concatenate([lo, (lo + hi) / 2]), np.concatenate([(lo + hi) / 2, hi])
    return np.concatenate(done, axis=1)


def edges_of(profiles: Iterable[Profile], lo: float, hi: float) -> Array:
    """Times in [lo, hi] at which profiles begin, end or change their pace: panels between them miss nothing narrow."""
    times = {lo, hi}
    for profile in profiles:
        times |= {profile.start, profile.t}
        width = _width(profile)
        while width < profile.t - profile.start:
            times.add(profile.t - width)
            width *= 4
    return np.array(sorted(time for time in times if lo <= time <= hi), dtype=np.float64)


def tolerances(profiles: Iterable[Profile]) -> Array:
    """Relative L2 error to which each profile can be resolved: a time near t is only known to t x 2^-52."""
    return np.array([max(1e-13, 64 * np.finfo(np.float64).eps * profile.t / _width(profile)) for profile in profiles])


def _width(profile: Profile) -> float:
    match profile:
        case PowerProfile():
            return profile.t / (profile.gamma + 1)
        case ExponentialProfile():
            return profile.half_life
        case _:
            return (profile.t - profile.start) / 64
