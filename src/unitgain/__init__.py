"""unitgain: magnitude-preserving diffusion models in PyTorch.

`load(what)` opens a snapshot, on disk or on the Hub, as a denoiser, `create(name)` makes a fresh one from a recipe;
`unitgain.sample.generate` draws images with either, and with a `Guided` pair of them. Post-hoc EMA is in `unitgain.ema`
and `unitgain.posthoc`.
"""

from unitgain import arch, ema, ops, posthoc, recipes, sample
from unitgain.checkpoint import nvidia
from unitgain.guide import Guided
from unitgain.hub import load, push_to_hub, save_pretrained
from unitgain.metrics import frechet
from unitgain.recipes import create
from unitgain.version import __version__

__all__ = [
    "Guided",
    "__version__",
    "arch",
    "create",
    "ema",
    "frechet",
    "load",
    "nvidia",
    "ops",
    "posthoc",
    "push_to_hub",
    "recipes",
    "sample",
    "save_pretrained",
]
