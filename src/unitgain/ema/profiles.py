"""Averaging profiles: how much the weights at each moment of training count in an average.

Times `t` are in any unit, as long as it is one unit: images seen, in this project. A profile p(t) says how much the
weights at each moment of training count in the average (EDM2, Section 3 and Appendices C.1-C.4). Its density begins at
`start`; `initial` is the weight of the initial state, which exponential averages alone have.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

SIGMA_REL_MAX = 12**-0.5  # sigma_rel of gamma = 0, the uniform average (C.4)


def sigma_rel_to_gamma(sigma_rel: float) -> float:
    """Exponent of the power function whose standard deviation is `sigma_rel` of the training time (Algorithm 2).

    Raises:
        ValueError: unless 0 < sigma_rel < 12^-0.5 = 0.2886...
    """
    check_sigma_rel(sigma_rel)
    t = sigma_rel**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


def gamma_to_sigma_rel(gamma: float) -> float:
    """Relative standard deviation of the power function with exponent `gamma` >= 0 (Eq. 123)."""
    return math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))


def check_sigma_rel(sigma_rel: float) -> None:
    """Raise `ValueError` unless `sigma_rel` is a length that a power function can have."""
    if not 0 < sigma_rel < SIGMA_REL_MAX:
        raise ValueError(
            f"EMA length sigma_rel = {sigma_rel} is not in (0, {SIGMA_REL_MAX - 5e-5:.4f}): it is the standard "
            "deviation of the averaging profile relative to the training time, 0.05 to 0.20 in most uses"
        )


@dataclass(frozen=True)
class PowerProfile:
    """Power-function profile `p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1)` on [0, t] (Eq. 121).

    Args:
        t: end of the average, positive.
        gamma: exponent, at least 0.

    `PowerProfile.of(t, sigma_rel=0.05)` takes the relative length instead.
    """

    t: float
    gamma: float
    start: ClassVar[float] = 0.0
    initial: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.t < math.inf or not 0 <= self.gamma < math.inf:
            raise ValueError(f"a power profile needs t > 0 and gamma >= 0, not t={self.t}, gamma={self.gamma}")

    @classmethod
    def of(cls, t: float, sigma_rel: float) -> "PowerProfile":
        """The profile that ends at `t` and has relative length `sigma_rel`."""
        return cls(t, sigma_rel_to_gamma(sigma_rel))

    @property
    def sigma_rel(self) -> float:
        """Standard deviation relative to `t` (Eq. 123)."""
        return gamma_to_sigma_rel(self.gamma)

    def decay(self, dt: float) -> float:
        """Beta of the step of length `dt` that ends at `t`: `(1 - dt / t)^(gamma + 1)` (Eq. 127)."""
        return (1 - dt / self.t) ** (self.gamma + 1)

    def density(self, tau: NDArray[np.float64]) -> NDArray[np.float64]:
        """P at the times `tau`, float64 of any shape; zero outside [0, t]."""
        ratio = np.asarray(tau, dtype=np.float64) / self.t
        inside = (ratio >= 0) & (ratio <= 1)
        return np.where(inside, (self.gamma + 1) / self.t * np.where(inside, ratio, 0.0) ** self.gamma, 0.0)


@dataclass(frozen=True)
class ExponentialProfile:
    """Exponential profile with a given half-life; what would fall before 0 sits at 0 (Eqs. 110-111).

    Args:
        t: end of the average, positive.
        half_life: time in which the weight of a moment halves, positive.
    """

    t: float
    half_life: float
    start: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if not self.t > 0 or not self.half_life > 0:
            raise ValueError(f"an exponential profile needs t > 0 and half_life > 0, not {self.t}, {self.half_life}")

    @property
    def initial(self) -> float:
        """Weight of the initial state, the point mass at 0."""
        return 2 ** (-self.t / self.half_life)

    def decay(self, dt: float) -> float:
        """Beta of the step of length `dt` that ends at `t`: `2^(-dt / half_life)` (Eq. 120)."""
        return 2 ** (-dt / self.half_life)

    def density(self, tau: NDArray[np.float64]) -> NDArray[np.float64]:
        """P at the times `tau` > 0, float64 of any shape, without the point mass `initial` at 0."""
        tau = np.asarray(tau, dtype=np.float64)
        inside = (tau > 0) & (tau <= self.t)
        decay = np.exp2((np.minimum(tau, self.t) - self.t) / self.half_life)
        return np.where(inside, math.log(2) / self.half_life * decay, 0.0)


@dataclass(frozen=True)
class UniformProfile:
    """The same weight for every moment of (start, t]: what raw weights stand for that held, or nearly so, in that time.

    Args:
        start: where it begins, at least 0.
        t: where it ends, later than `start`.
    """

    start: float
    t: float
    initial: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.t:
            raise ValueError(f"a uniform profile needs 0 <= start < t, not start={self.start}, t={self.t}")

    def density(self, tau: NDArray[np.float64]) -> NDArray[np.float64]:
        """P at the times `tau`, float64 of any shape."""
        tau = np.asarray(tau, dtype=np.float64)
        return np.where((tau > self.start) & (tau <= self.t), 1 / (self.t - self.start), 0.0)


@dataclass(frozen=True)
class DensityProfile:
    """Any averaging profile, given as a function.

    Args:
        t: end of the average, positive; the function is not asked beyond it.
        function: density at an array of times in (start, t], float64 to float64, piecewise smooth; its integral should
            be 1, for it is an average.
        start: where it begins, at least 0.
    """

    t: float
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    start: float = 0.0
    initial: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.t:
            raise ValueError(f"a density needs 0 <= start < t, not start={self.start}, t={self.t}")

    def density(self, tau: NDArray[np.float64]) -> NDArray[np.float64]:
        """P at the times `tau`, float64 of any shape.

        Raises:
            ValueError: if the function returns another shape, or values that are not finite.
        """
        tau = np.asarray(tau, dtype=np.float64)
        inside = (tau > self.start) & (tau <= self.t)
        values = np.asarray(self.function(np.where(inside, tau, self.t)), dtype=np.float64)
        if values.shape != tau.shape or not np.isfinite(values).all():
            raise ValueError(
                f"the density {self.function!r} must return one finite number per time: got shape {values.shape} for "
                f"{tau.shape}"
            )
        return np.where(inside, values, 0.0)


Profile: TypeAlias = PowerProfile | ExponentialProfile | UniformProfile | DensityProfile
