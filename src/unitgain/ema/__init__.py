"""Averages of weights: their profiles (`profiles`), and trackers for any `nn.Module` while it trains (`tracker`)."""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
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
        "SIGMA_REL_MAX": "unitgain.ema.profiles",
        "UniformProfile": "unitgain.ema.profiles",
        "check_sigma_rel": "unitgain.ema.profiles",
        "gamma_to_sigma_rel": "unitgain.ema.profiles",
        "half_life_to_sigma_rel": "unitgain.ema.profiles",
        "sigma_rel_to_gamma": "unitgain.ema.profiles",
    },
)
