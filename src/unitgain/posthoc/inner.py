"""Inner products of averaging profiles: by the paper's formula for the averages it stores, else by quadrature."""

import numpy as np

from unitgain.ema import PowerProfile, Profile
from unitgain.posthoc.legendre import edges_of, expand, tolerances


def inner_product(a: Profile, b: Profile) -> float:
    """`<p_a, p_b>`, the integral of the product of two densities (Eq. 144).

    In closed form for two power functions (Eq. 151), by adaptive quadrature for any others. The point mass that an
    exponential profile has at 0 is not part of its density; `solve` accounts for it apart.
    """
    if a.t > b.t:
        a, b = b, a
    if isinstance(a, PowerProfile) and isinstance(b, PowerProfile):
        return (a.gamma + 1) * (b.gamma + 1) * (a.t / b.t) ** b.gamma / ((a.gamma + b.gamma + 1) * b.t)
    return quadrature(a, b)


def quadrature(a: Profile, b: Profile) -> float:
    """`<p_a, p_b>` by adaptive quadrature, for any two profiles: to about 1e-13 of the product of their norms."""
    start, end = max(a.start, b.start), min(a.t, b.t)
    if start >= end:
        return 0.0
    coefficients = expand(
        lambda tau: np.stack([a.density(tau), b.density(tau)]), edges_of((a, b), start, end), tolerances((a, b))
    )
    return float(coefficients[0] @ coefficients[1])
