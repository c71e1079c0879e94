"""What networks cost, as numbers: of one evaluation, of an image, of training (EDM2, Table 6).

`unitgain.analysis.cost` counts them of any network, in seconds. Those of the recipes are written down beside this file,
so that looking at a recipe needs no torch; `python benchmarks/counts.py` writes them anew.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from unitgain.serial import from_dict

NFE = 63
"""Evaluations of the network for one image: 32 steps of Heun's method, the last without correction (D.1)."""

PASSES = 3
"""Evaluations that training on an image costs: the backward pass takes twice the forward (Table 6)."""

PRODUCTS = ("convolution", "mm", "bmm", "addmm", "baddbmm")
"""Operations that multiply and accumulate; so does attention, which is called by several names."""

VAE_DECODER_GFLOPS = 1260.9
"""Cost of decoding one 64x64x4 latent to 512x512 pixels (Fig. 9)."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of one evaluation on one sample.

    Attributes:
        parameters: trainable parameters.
        flops: operations of one evaluation.
        by_op: operations by kind, most first: "convolution", "mul", ...
        by_part: operations by part of the network, which add up to `flops`.
        by_resolution: operations of encoder and decoder by resolution, "64x64" first.
    """

    parameters: int
    flops: int
    by_op: Mapping[str, int]
    by_part: Mapping[str, int]
    by_resolution: Mapping[str, int]

    @property
    def gflops(self) -> float:
        """Operations of one evaluation, in 10^9."""
        return self.flops / 1e9

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one evaluation, in convolutions and matrix products, attention included."""
        return sum(n for name, n in self.by_op.items() if name in PRODUCTS or "scaled_dot_product" in name)


def sampling_teraflops(gflops: float, latents: bool, guide_gflops: float = 0.0) -> float:
    """Cost of one image, in 10^12 operations (Table 6).

    Args:
        gflops: of one evaluation of the network.
        latents: whether the image is decoded from 64x64x4 latents.
        guide_gflops: of one evaluation of the guiding network; 0 for no guidance.
    """
    return (NFE * (gflops + guide_gflops) + (VAE_DECODER_GFLOPS if latents else 0.0)) / 1e3


def training_zettaflops(gflops: float, images: int) -> float:
    """Cost of training on so many images, in 10^21 operations (Table 6)."""
    return PASSES * gflops * images / 1e12


def state_bytes(parameters: int, averages: int) -> int:
    """Memory of what is trained, all float32: weights, gradients, two moments of Adam, averages."""
    return 4 * parameters * (4 + averages)


@dataclass(frozen=True, kw_only=True)
class RecipeCost:
    """What a recipe's network costs.

    Attributes:
        parameters: that training learns, u(sigma) included, as the papers count them.
        activation_bytes: that training keeps for the backward pass of one sample, in float32.
        evaluation: of one sample.
    """

    parameters: int
    activation_bytes: int
    evaluation: Cost

    def images_per_second(self, rate: float) -> float:
        """Images that a machine trains on in a second, at so many operations per second."""
        return rate / (PASSES * self.evaluation.flops)


def recipe_costs() -> dict[str, RecipeCost]:
    """What each recipe costs, by name."""
    text = resources.files("unitgain.analysis").joinpath("counts.json").read_text(encoding="utf-8")
    return {name: from_dict(RecipeCost, cost, name) for name, cost in json.loads(text).items()}
