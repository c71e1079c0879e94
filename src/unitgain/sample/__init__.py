"""Sampling: noise schedule, samplers, and random numbers that belong to each sample.

A sampler is a value with its settings, `StochasticHeun(S_churn=10)`, that is called as `sampler(denoise, noise,
sigmas)`; `denoise(x, sigma) -> denoised` is any callable that takes images `[N, C, *size]` and a scalar noise level: a
denoiser with its label bound, a guided one, or a formula. `heun` is a plain function for the same. `generate` draws the
images of seeds with any of them, of points between seeds (`interpolate`), or from an image (`FromImage`).
"""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
    from unitgain.sample.edit import FromImage
    from unitgain.sample.generation import Step, generate
    from unitgain.sample.generators import SampleGenerators
    from unitgain.sample.samplers import SAMPLERS, DPMpp2M, Euler, Heun, Sampler, StochasticHeun, heun
    from unitgain.sample.schedule import sigma_grid
    from unitgain.sample.seeds import Between, interpolate
    from unitgain.sample.tiles import Tiled, tile_size, tiled

__all__ = [
    "SAMPLERS",
    "Between",
    "DPMpp2M",
    "Euler",
    "FromImage",
    "Heun",
    "SampleGenerators",
    "Sampler",
    "Step",
    "StochasticHeun",
    "Tiled",
    "generate",
    "heun",
    "interpolate",
    "sigma_grid",
    "tile_size",
    "tiled",
]

__getattr__, __dir__ = offer(__name__)
