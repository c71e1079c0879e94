"""unitgain: magnitude-preserving diffusion models in PyTorch.

`load(what)` opens a snapshot, on disk or on the Hub, as a denoiser, `create(name)` makes a fresh one from a recipe;
`generate` draws images with either, and with a `Guided` pair of them; `prepare` makes them fast. Post-hoc EMA is in
`unitgain.ema` and `unitgain.posthoc`, training in `unitgain.train`. Everything is imported when it is asked for.
"""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
    from unitgain import arch, ema, ops, posthoc, recipes, sample
    from unitgain.arch import NetworkSpec, conditions
    from unitgain.arch.values import Conditions
    from unitgain.checkpoint import nvidia
    from unitgain.denoiser import Denoiser
    from unitgain.draw import FromPicture, sample_arrays, sample_images, sample_pixels, to_arrays, to_images, to_pixels
    from unitgain.ema import ExponentialEMA, PowerEMA
    from unitgain.guide import Guided
    from unitgain.hub import load, push_to_hub, save_pretrained
    from unitgain.infer import prepare
    from unitgain.loss import EDMLoss
    from unitgain.metrics import frechet
    from unitgain.posthoc import SnapshotStore, reconstruct
    from unitgain.recipe import Recipe
    from unitgain.recipes import create, list_recipes
    from unitgain.sample import generate, heun, interpolate, sigma_grid
    from unitgain.version import __version__

__all__ = [
    "Conditions",
    "Denoiser",
    "EDMLoss",
    "ExponentialEMA",
    "FromPicture",
    "Guided",
    "NetworkSpec",
    "PowerEMA",
    "Recipe",
    "SnapshotStore",
    "__version__",
    "arch",
    "conditions",
    "create",
    "ema",
    "frechet",
    "generate",
    "heun",
    "interpolate",
    "list_recipes",
    "load",
    "nvidia",
    "ops",
    "posthoc",
    "prepare",
    "push_to_hub",
    "recipes",
    "reconstruct",
    "sample",
    "sample_arrays",
    "sample_images",
    "sample_pixels",
    "save_pretrained",
    "sigma_grid",
    "to_arrays",
    "to_images",
    "to_pixels",
]

__getattr__, __dir__ = offer(__name__)
