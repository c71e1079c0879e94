"""Sampling: noise schedule, samplers, and random numbers that belong to each sample.

A sampler is a function `(denoise, noise, sigmas, ...)`; `denoise(x, sigma) -> denoised` is any callable that takes
images `[N, C, H, W]` and a scalar noise level: a denoiser with its label bound, a guided one, or a formula. `generate`
draws the images of seeds with any of them.
"""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
    from unitgain.sample.generation import generate
    from unitgain.sample.generators import SampleGenerators
    from unitgain.sample.samplers import SAMPLERS, Sampler, dpmpp_2m, euler, evaluations, heun, stochastic_heun
    from unitgain.sample.schedule import sigma_grid
    from unitgain.sample.tiles import Tiled, tile_size, tiled

__all__ = [
    "SAMPLERS",
    "SampleGenerators",
    "Sampler",
    "Tiled",
    "dpmpp_2m",
    "euler",
    "evaluations",
    "generate",
    "heun",
    "sigma_grid",
    "stochastic_heun",
    "tile_size",
    "tiled",
]

__getattr__, __dir__ = offer(
    __name__,
    {
        "SAMPLERS": "unitgain.sample.samplers",
        "SampleGenerators": "unitgain.sample.generators",
        "Sampler": "unitgain.sample.samplers",
        "Tiled": "unitgain.sample.tiles",
        "dpmpp_2m": "unitgain.sample.samplers",
        "euler": "unitgain.sample.samplers",
        "evaluations": "unitgain.sample.samplers",
        "generate": "unitgain.sample.generation",
        "heun": "unitgain.sample.samplers",
        "sigma_grid": "unitgain.sample.schedule",
        "stochastic_heun": "unitgain.sample.samplers",
        "tile_size": "unitgain.sample.tiles",
        "tiled": "unitgain.sample.tiles",
    },
)
