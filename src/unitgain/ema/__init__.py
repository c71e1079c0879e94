"""Averages of weights: their profiles (`profiles`), and trackers for any `nn.Module` while it trains (`tracker`)."""

from unitgain.ema.profiles import (
    SIGMA_REL_MAX,
    DensityProfile,
    ExponentialProfile,
    PowerProfile,
    Profile,
    UniformProfile,
    check_sigma_rel,
    gamma_to_sigma_rel,
    half_life_to_sigma_rel,
    sigma_rel_to_gamma,
)
from unitgain.ema.tracker import EMA, ExponentialEMA, PowerEMA

__all__ = [
    "EMA",
    "SIGMA_REL_MAX",
    "DensityProfile",
    "ExponentialEMA",
    "ExponentialProfile",
    "PowerEMA",
    "PowerProfile",
    "Profile",
    "UniformProfile",
    "check_sigma_rel",
    "gamma_to_sigma_rel",
    "half_life_to_sigma_rel",
    "sigma_rel_to_gamma",
]
