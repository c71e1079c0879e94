"""Averaging profiles, and trackers that average the weights of any `nn.Module` while it trains.

Times `t` are in any unit, as long as it is one unit: images seen, in this project. A profile p(t) says how much the
weights at each moment of training count in the average (EDM2, Section 3 and Appendices C.1-C.4).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

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
            f"EMA length sigma_rel = {sigma_rel} is not in (0, {SIGMA_REL_MAX:.4f}): it is the standard deviation of "
            "the averaging profile relative to the training time, 0.05 to 0.20 in most uses"
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

    def __post_init__(self) -> None:
        if not self.t > 0 or not self.gamma >= 0:
            raise ValueError(f"a power profile needs t > 0 and gamma >= 0, not t={self.t}, gamma={self.gamma}")

    @classmethod
    def of(cls, t: float, sigma_rel: float) -> "PowerProfile":
        """The profile that ends at `t` and has relative length `sigma_rel`."""
        return cls(t, sigma_rel_to_gamma(sigma_rel))

    @property
    def sigma_rel(self) -> float:
        """Standard deviation relative to `t` (Eq. 123)."""
        return gamma_to_sigma_rel(self.gamma)

    def density(self, tau: np.ndarray) -> np.ndarray:
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

    def __post_init__(self) -> None:
        if not self.t > 0 or not self.half_life > 0:
            raise ValueError(f"an exponential profile needs t > 0 and half_life > 0, not {self.t}, {self.half_life}")

    @property
    def initial(self) -> float:
        """Weight of the initial state, the point mass at 0."""
        return 2 ** (-self.t / self.half_life)

    def density(self, tau: np.ndarray) -> np.ndarray:
        """P at the times `tau` > 0, float64 of any shape, without the point mass `initial` at 0."""
        tau = np.asarray(tau, dtype=np.float64)
        inside = (tau > 0) & (tau <= self.t)
        decay = np.exp2((np.minimum(tau, self.t) - self.t) / self.half_life)
        return np.where(inside, math.log(2) / self.half_life * decay, 0.0)


class EMA:
    """Average of a module's weights, kept in float32 beside it (Eq. 119); base of `PowerEMA` and `ExponentialEMA`.

    Args:
        module: any module; its parameters are averaged, its floating and other buffers copied as they are at the last
            update. Parameters that are tied are kept once. The module is never written to and does not see the tracker.

    Attributes:
        t: time of the last update, 0 before the first.
        average: averaged parameters by name, float32, on the module's device.
        buffers: copies of the buffers by name.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.t = 0.0
        self.average = {
            name: parameter.detach().to(torch.float32, copy=True) for name, parameter in module.named_parameters()
        }
        self.buffers = {name: buffer.detach().clone() for name, buffer in module.named_buffers()}

    def beta(self, t: float, dt: float) -> float:
        """Weight of the old average in the update that ends at `t` and lasts `dt`."""
        raise NotImplementedError

    @torch.no_grad()
    def update(self, t: float, dt: float) -> None:
        """Take in the module's weights, which held from `t - dt` to `t`.

        Args:
            t: time after the step.
            dt: length of the step, positive.

        Raises:
            ValueError: if the step does not begin where the last one ended: an update was skipped or made twice.
        """
        if not dt > 0 or not math.isclose(t - dt, self.t, rel_tol=1e-9, abs_tol=1e-9 * dt):
            raise ValueError(
                f"EMA update for the step from {t - dt} to {t}, but the last one ended at {self.t}: "
                "call update(t, dt) once after every step, t in the same unit"
            )
        parameters = [parameter.float() for _, parameter in self.module.named_parameters()]
        torch._foreach_lerp_(list(self.average.values()), parameters, 1 - self.beta(t, dt))  # pyright: ignore
        for name, buffer in self.module.named_buffers():
            self.buffers[name].copy_(buffer)
        self.t = float(t)

    def tensors(self) -> dict[str, Tensor]:
        """Averaged parameters and copied buffers under the module's names; not copies."""
        return {**self.average, **self.buffers}

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs; tensors are not copied."""
        return {"t": self.t, "average": dict(self.average), "buffers": dict(self.buffers)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state of the same module.

        Raises:
            ValueError: if its names or shapes are not those of the module.
        """
        for own, given in ((self.average, state["average"]), (self.buffers, state["buffers"])):
            if own.keys() != given.keys() or any(own[name].shape != given[name].shape for name in own):
                raise ValueError("this EMA state belongs to another module: names or shapes of its tensors differ")
            for name, tensor in given.items():
                own[name].copy_(tensor)
        self.t = float(state["t"])


class PowerEMA(EMA):
    """Power-function average (Eqs. 2 and 127): its length grows with the training time, the start counts nothing.

    Args:
        module: any module.
        sigma_rel: relative length, in (0, 0.2886); 0.05 and 0.10 are the pair that post-hoc EMA stores.
    """

    def __init__(self, module: nn.Module, sigma_rel: float) -> None:
        super().__init__(module)
        self.sigma_rel = sigma_rel
        self.gamma = sigma_rel_to_gamma(sigma_rel)

    def beta(self, t: float, dt: float) -> float:
        """`(1 - dt / t)^(gamma + 1)` (Eq. 127)."""
        return (1 - dt / t) ** (self.gamma + 1)

    def profile(self) -> PowerProfile:
        """The profile of the current average; there is one after the first update."""
        return PowerProfile(self.t, self.gamma)


class ExponentialEMA(EMA):
    """Exponential average (Eq. 120).

    Args:
        module: any module.
        half_life: in the unit of t, positive.
    """

    def __init__(self, module: nn.Module, half_life: float) -> None:
        super().__init__(module)
        if not half_life > 0:
            raise ValueError(f"half_life must be positive, not {half_life}")
        self.half_life = half_life

    def beta(self, t: float, dt: float) -> float:
        """`2^(-dt / half_life)` (Eq. 120)."""
        return 2 ** (-dt / self.half_life)

    def profile(self) -> ExponentialProfile:
        """The profile of the current average; there is one after the first update."""
        return ExponentialProfile(self.t, self.half_life)
