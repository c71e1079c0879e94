"""The averages of the paper as trackers: power-function and exponential (EDM2, Appendices C.2-C.4)."""

import math

import torch
from torch import nn

from unitgain.ema.buffers import Buffers
from unitgain.ema.profiles import ExponentialProfile, PowerProfile, sigma_rel_to_gamma
from unitgain.ema.tracker import EMA


class PowerEMA(EMA):
    """Power-function average (Eqs. 2 and 127): its length grows with the training time, the start counts nothing.

    Args:
        module: any module.
        sigma_rel: relative length, in (0, 0.2886); 0.05 and 0.10 are the pair that post-hoc EMA stores.
        buffers: as in `EMA`.
        device: as in `EMA`.
    """

    def __init__(
        self,
        module: nn.Module,
        sigma_rel: float,
        *,
        buffers: Buffers = "statistics",
        device: torch.device | str | None = None,
    ) -> None:
        self.gamma = sigma_rel_to_gamma(sigma_rel)
        self.sigma_rel = sigma_rel
        super().__init__(module, buffers=buffers, device=device)

    def profile_at(self, t: float) -> PowerProfile:
        """The profile of the average at time `t`, positive."""
        return PowerProfile(t, self.gamma)


class ExponentialEMA(EMA):
    """Exponential average (Eq. 120); what would fall before the start stays on the initial weights.

    Args:
        module: any module.
        half_life: in the unit of t, positive.
        buffers: as in `EMA`.
        device: as in `EMA`.
    """

    def __init__(
        self,
        module: nn.Module,
        half_life: float,
        *,
        buffers: Buffers = "statistics",
        device: torch.device | str | None = None,
    ) -> None:
        if not 0 < half_life < math.inf:
            raise ValueError(f"half_life must be positive and finite, not {half_life}")
        self.half_life = half_life if type(half_life) in (int, float) else float(half_life)  # as JSON takes it
        super().__init__(module, buffers=buffers, device=device)

    def profile_at(self, t: float) -> ExponentialProfile:
        """The profile of the average at time `t`, positive."""
        return ExponentialProfile(t, self.half_life)
