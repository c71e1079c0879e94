"""Sampling: noise schedule, samplers, and random numbers that belong to each sample.

A sampler is a function `(denoise, noise, sigmas, ...)`; `denoise(x, sigma) -> denoised` is any callable that takes
images `[N, C, H, W]` and a scalar noise level: a denoiser with its label bound, a guided one, or a formula. `generate`
draws the images of seeds with any of them.
"""

from unitgain.sample.generation import generate
from unitgain.sample.samplers import SAMPLERS, Sampler, dpmpp_2m, euler, evaluations, heun, stochastic_heun
from unitgain.sample.schedule import sigma_grid
from unitgain.sample.seeds import SampleGenerators
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
