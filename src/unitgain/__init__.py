"""unitgain: magnitude-preserving diffusion models in PyTorch.

`load(what)` opens a snapshot, on disk or on the Hub, as a denoiser, `create(name)` makes a fresh one from a recipe;
`unitgain.sample.generate` draws images with either. Post-hoc EMA is in `unitgain.ema` and `unitgain.posthoc`.
"""

from unitgain import arch, ema, ops, posthoc, recipes, sample
from unitgain.checkpoint import nvidia
from unitgain.hub import load, push_to_hub, save_pretrained
from unitgain.metrics import frechet
from unitgain.recipes import create

__version__ = "0.1.0"

__all__ = [
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
