"""Averages of weights: profiles (`profiles`; in files: `described`), trackers for any `nn.Module` (`averages`)."""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
    from unitgain.ema.averages import ExponentialEMA, PowerEMA
    from unitgain.ema.buffers import Buffers, is_statistic
    from unitgain.ema.described import RAW, check_description, describe, file_name, power_profile, profile_of
    from unitgain.ema.profiles import (
        SIGMA_REL_MAX,
        DensityProfile,
        ExponentialProfile,
        PowerProfile,
        Profile,
        UniformProfile,
        check_sigma_rel,
        gamma_to_sigma_rel,
        sigma_rel_to_gamma,
    )
    from unitgain.ema.tracker import EMA

__all__ = [
    "EMA",
    "RAW",
    "SIGMA_REL_MAX",
    "Buffers",
    "DensityProfile",
    "ExponentialEMA",
    "ExponentialProfile",
    "PowerEMA",
    "PowerProfile",
    "Profile",
    "UniformProfile",
    "check_description",
    "check_sigma_rel",
    "describe",
    "file_name",
    "gamma_to_sigma_rel",
    "is_statistic",
    "power_profile",
    "profile_of",
    "sigma_rel_to_gamma",
]

__getattr__, __dir__ = offer(__name__)
