"""unitgain: magnitude-preserving diffusion models in PyTorch.

`load(what)` opens a snapshot, on disk or on the Hub, as a denoiser, `create(name)` makes a fresh one from a recipe;
`generate` draws images with either, and with a `Guided` pair of them; `prepare` makes them fast. Post-hoc EMA is in
`unitgain.ema` and `unitgain.posthoc`, training in `unitgain.train`. Everything is imported when it is asked for.
"""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
    from unitgain import arch as arch
    from unitgain import ema as ema
    from unitgain import ops as ops
    from unitgain import posthoc as posthoc
    from unitgain import recipes as recipes
    from unitgain import sample as sample
    from unitgain.arch import NetworkSpec as NetworkSpec
    from unitgain.arch import conditions as conditions
    from unitgain.arch.values import Conditions as Conditions
    from unitgain.checkpoint import nvidia as nvidia
    from unitgain.denoiser import Denoiser as Denoiser
    from unitgain.draw import FromPicture as FromPicture
    from unitgain.draw import sample_arrays as sample_arrays
    from unitgain.draw import sample_images as sample_images
    from unitgain.draw import sample_pixels as sample_pixels
    from unitgain.draw import to_arrays as to_arrays
    from unitgain.draw import to_images as to_images
    from unitgain.draw import to_pixels as to_pixels
    from unitgain.ema import ExponentialEMA as ExponentialEMA
    from unitgain.ema import PowerEMA as PowerEMA
    from unitgain.guide import Guided as Guided
    from unitgain.hub import load as load
    from unitgain.hub import push_to_hub as push_to_hub
    from unitgain.hub import save_pretrained as save_pretrained
    from unitgain.infer import prepare as prepare
    from unitgain.loss import EDMLoss as EDMLoss
    from unitgain.metrics import frechet as frechet
    from unitgain.posthoc import SnapshotStore as SnapshotStore
    from unitgain.posthoc import reconstruct as reconstruct
    from unitgain.recipe import Recipe as Recipe
    from unitgain.recipes import create as create
    from unitgain.recipes import list_recipes as list_recipes
    from unitgain.sample import generate as generate
    from unitgain.sample import heun as heun
    from unitgain.sample import interpolate as interpolate
    from unitgain.sample import sigma_grid as sigma_grid
    from unitgain.version import __version__ as __version__

__getattr__, __dir__ = offer(__name__)
