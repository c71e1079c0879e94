"""Sampling: noise schedule, samplers, and random numbers that belong to each sample.

A sampler is a value with its settings, `StochasticHeun(S_churn=10)`, that is called as `sampler(denoise, noise,
sigmas)`; `denoise(x, sigma) -> denoised` is any callable that takes images `[N, C, *size]` and a scalar noise level: a
denoiser with its label bound, a guided one, or a formula. `heun` is a plain function for the same. `generate` draws the
images of seeds with any of them, of points between seeds (`interpolate`), or from an image (`FromImage`).
"""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
    from unitgain.sample.edit import FromImage as FromImage
    from unitgain.sample.generation import Step as Step
    from unitgain.sample.generation import generate as generate
    from unitgain.sample.generators import SampleGenerators as SampleGenerators
    from unitgain.sample.samplers import SAMPLERS as SAMPLERS
    from unitgain.sample.samplers import DPMpp2M as DPMpp2M
    from unitgain.sample.samplers import Euler as Euler
    from unitgain.sample.samplers import Heun as Heun
    from unitgain.sample.samplers import Sampler as Sampler
    from unitgain.sample.samplers import StochasticHeun as StochasticHeun
    from unitgain.sample.samplers import heun as heun
    from unitgain.sample.schedule import sigma_grid as sigma_grid
    from unitgain.sample.seeds import Between as Between
    from unitgain.sample.seeds import interpolate as interpolate
    from unitgain.sample.tiles import Tiled as Tiled
    from unitgain.sample.tiles import tile_size as tile_size
    from unitgain.sample.tiles import tiled as tiled

__getattr__, __dir__ = offer(__name__)
