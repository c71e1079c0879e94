"""Averages of weights: profiles (`profiles`; in files: `described`), trackers for any `nn.Module` (`averages`)."""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
    from unitgain.ema.averages import ExponentialEMA as ExponentialEMA
    from unitgain.ema.averages import PowerEMA as PowerEMA
    from unitgain.ema.buffers import Buffers as Buffers
    from unitgain.ema.buffers import is_statistic as is_statistic
    from unitgain.ema.described import RAW as RAW
    from unitgain.ema.described import check_description as check_description
    from unitgain.ema.described import check_names as check_names
    from unitgain.ema.described import describe as describe
    from unitgain.ema.described import file_name as file_name
    from unitgain.ema.described import length_text as length_text
    from unitgain.ema.described import power_profile as power_profile
    from unitgain.ema.described import profile_of as profile_of
    from unitgain.ema.described import time_text as time_text
    from unitgain.ema.profiles import SIGMA_REL_MAX as SIGMA_REL_MAX
    from unitgain.ema.profiles import DensityProfile as DensityProfile
    from unitgain.ema.profiles import ExponentialProfile as ExponentialProfile
    from unitgain.ema.profiles import PowerProfile as PowerProfile
    from unitgain.ema.profiles import Profile as Profile
    from unitgain.ema.profiles import UniformProfile as UniformProfile
    from unitgain.ema.profiles import check_sigma_rel as check_sigma_rel
    from unitgain.ema.profiles import gamma_to_sigma_rel as gamma_to_sigma_rel
    from unitgain.ema.profiles import sigma_rel_to_gamma as sigma_rel_to_gamma
    from unitgain.ema.tracker import EMA as EMA

__getattr__, __dir__ = offer(__name__)
