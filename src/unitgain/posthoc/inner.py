"""Inner products of averaging profiles: in closed form where there is one, by adaptive quadrature elsewhere."""

import math

import numpy as np

from unitgain.ema import DensityProfile, ExponentialProfile, PowerProfile, Profile, UniformProfile
from unitgain.posthoc.legendre import edges_of, expand, tolerances


def inner_product(a: Profile, b: Profile) -> float:
    """`<p_a, p_b>`, the integral of the product of two densities (Eq. 144).

    Closed forms for power, exponential and uniform profiles in any combination (power and power: Eq. 151); adaptive
    quadrature if one is any other density. The point mass that an exponential profile has at 0 is not part of its
    density; `solve` accounts for it apart.
    """
    if a.t > b.t:
        a, b = b, a
    match a, b:
        case PowerProfile(), PowerProfile():
            return (a.gamma + 1) * (b.gamma + 1) * (a.t / b.t) ** b.gamma / ((a.gamma + b.gamma + 1) * b.t)
        case ExponentialProfile(), ExponentialProfile():
            ka, kb = _rate(a), _rate(b)
            return ka * kb / (ka + kb) * math.exp(kb * (a.t - b.t)) * -math.expm1(-(ka + kb) * a.t)
        case (PowerProfile(), ExponentialProfile()) | (ExponentialProfile(), PowerProfile()):
            return _power_exponential(a, b) if isinstance(a, PowerProfile) else _power_exponential(b, a)  # pyright: ignore
        case _ if isinstance(a, DensityProfile) or isinstance(b, DensityProfile):
            return quadrature(a, b)
        case _:
            box, other = (a, b) if isinstance(a, UniformProfile) else (b, a)
            assert isinstance(box, UniformProfile)
            return _mass(other, box.start, box.t) / (box.t - box.start)


def quadrature(a: Profile, b: Profile) -> float:
    """`<p_a, p_b>` by adaptive quadrature, for any two profiles; relative error about 1e-13 for smooth ones."""
    start, end = max(a.start, b.start), min(a.t, b.t)
    if start >= end:
        return 0.0
    coefficients = expand(
        lambda tau: np.stack([a.density(tau), b.density(tau)]), edges_of((a, b), start, end), tolerances((a, b))
    )
    return float(coefficients[0] @ coefficients[1])


def _rate(profile: ExponentialProfile) -> float:
    return math.log(2) / profile.half_life


def _power_exponential(power: PowerProfile, exponential: ExponentialProfile) -> float:
    """The integral of s^gamma e^(ks) over [0, T] is T^(gamma+1) e^(kT) M(1, gamma + 2, -kT) / (gamma + 1)."""
    k, end = _rate(exponential), min(power.t, exponential.t)
    fraction = (end / power.t) ** (power.gamma + 1)
    return k * fraction * math.exp(k * (end - exponential.t)) * kummer(power.gamma + 2, k * end)


def kummer(b: float, z: float) -> float:
    """Kummer's function M(1, b, -z) for b > 1 and z >= 0: the mean of (b-1) / (b-1+N), N Poisson with mean z.

    All terms are positive, so nothing cancels. Relative error about 1e-13.
    """
    if z > 1e8:  # the mean of a function that is nearly linear where N is likely
        return (b - 1) / (b - 1 + z) * (1 + z / (b - 1 + z) ** 2)
    reach = 12 * math.sqrt(z) + 40
    counts = np.arange(max(0, math.floor(z - reach)), math.ceil(z + reach) + 1, dtype=np.float64)
    mode = int(math.floor(z) - counts[0])
    up = np.cumprod(z / counts[mode + 1 :])
    down = np.cumprod(counts[mode:0:-1] / z) if z else np.empty(0)
    weight = np.concatenate([down[::-1], [1.0], up])
    return float((weight * (b - 1) / (b - 1 + counts)).sum() / weight.sum())


def _mass(profile: Profile, start: float, end: float) -> float:
    """Integral of the density over [start, end]."""
    start, end = min(max(start, profile.start), profile.t), min(max(end, profile.start), profile.t)
    match profile:
        case PowerProfile():
            return (end / profile.t) ** (profile.gamma + 1) - (start / profile.t) ** (profile.gamma + 1)
        case ExponentialProfile():
            k = _rate(profile)
            return math.exp(k * (end - profile.t)) * -math.expm1(k * (start - end))
        case UniformProfile():
            return (end - start) / (profile.t - profile.start)
        case _:
            raise AssertionError("densities are integrated by quadrature")
