"""Averages of weights: profiles (`profiles`; in files: `described`), trackers for any `nn.Module` (`tracker`)."""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
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
        half_life_to_sigma_rel,
        sigma_rel_to_gamma,
    )
    from unitgain.ema.tracker import EMA, ExponentialEMA, PowerEMA

__all__ = [
    "EMA",
    "RAW",
    "SIGMA_REL_MAX",
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
    "half_life_to_sigma_rel",
    "power_profile",
    "profile_of",
    "sigma_rel_to_gamma",
]

__getattr__, __dir__ = offer(
    __name__,
    {
        "DensityProfile": "unitgain.ema.profiles",
        "EMA": "unitgain.ema.tracker",
        "ExponentialEMA": "unitgain.ema.tracker",
        "ExponentialProfile": "unitgain.ema.profiles",
        "PowerEMA": "unitgain.ema.tracker",
        "PowerProfile": "unitgain.ema.profiles",
        "Profile": "unitgain.ema.profiles",
        "RAW": "unitgain.ema.described",
        "SIGMA_REL_MAX": "unitgain.ema.profiles",
        "UniformProfile": "unitgain.ema.profiles",
        "check_description": "unitgain.ema.described",
        "check_sigma_rel": "unitgain.ema.profiles",
        "describe": "unitgain.ema.described",
        "file_name": "unitgain.ema.described",
        "gamma_to_sigma_rel": "unitgain.ema.profiles",
        "half_life_to_sigma_rel": "unitgain.ema.profiles",
        "power_profile": "unitgain.ema.described",
        "profile_of": "unitgain.ema.described",
        "sigma_rel_to_gamma": "unitgain.ema.profiles",
    },
)
