"""Weights of a network that is trained on a CPU, normalized, scaled and rounded by C, all of a pass in one call."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.denoiser import Denoiser
from unitgain.layers import MPConv, project_weights
from unitgain.native.weights import can_normalize, project, unit_weight, unit_weights
from unitgain.parallel import local
from unitgain.train.convolutions import convolve, faster_ways


class FusedConv(MPConv):
    """A layer whose weight is normalized, scaled and rounded in one pass, and that convolves in the fastest way."""

    made: Tensor | None = None  # the weight for a gain of 1, while `weights_together` holds it

    def forward(self, x: Float[Tensor, "..."], gain: float | Tensor = 1.0) -> Float[Tensor, "..."]:
        """As it is written, but for rounding."""
        by = faster_ways(x, self.weight, self.groups) if len(self.kernel) == 2 else None
        if by is None:
            return super().forward(x, gain)
        return convolve(x, self.effective(gain, x.dtype), self.groups, by)

    def effective(self, gain: float | Tensor = 1.0, dtype: torch.dtype | None = None) -> Float[Tensor, "..."]:
        """As it is written, but for rounding."""
        result = dtype or torch.float32
        if self.made is not None and self.made.dtype == result and not isinstance(gain, Tensor) and gain == 1:
            return self.made
        if self.normalized is not None or not can_normalize(self.weight, result):
            return super().effective(gain, dtype)
        if isinstance(gain, Tensor):
            return unit_weight(self.weight, result, self.factor, gain, spread=True)
        return unit_weight(self.weight, result, self.factor * gain, spread=True)

    @property
    def factor(self) -> float:
        """Of a normalized weight (Eq. 46)."""
        return 1 / math.sqrt(self.weight[0].numel())


@contextmanager
def weights_together(denoiser: Denoiser) -> Iterator[None]:
    """While a forward pass runs, give convolutions weights that are made in one call, and their gradients in another.

    The same numbers, to the bit, as one by one. Not where blocks are computed again in the backward pass, which comes
    after this.
    """
    layers = [module for module in denoiser.modules() if isinstance(module, FusedConv) and module.kernel]
    layers = [one for one in layers if one.normalized is None and can_normalize(one.weight, denoiser.dtype)]
    weights, factors = [layer.weight for layer in layers], [layer.factor for layer in layers]
    if layers:
        made = unit_weights(weights, denoiser.dtype, factors, spread=True)
        for layer, weight in zip(layers, made, strict=True):
            layer.made = weight
    try:
        yield
    finally:
        for layer in layers:
            layer.made = None


def project_together(module: nn.Module) -> None:
    """`project_weights`, but for rounding: in one call, where C takes the weights."""
    weights = [local(layer.weight.detach()) for layer in module.modules() if isinstance(layer, MPConv)]
    if weights and all(weight.is_contiguous() and can_normalize(weight, torch.float32) for weight in weights):
        project(weights)
    else:
        project_weights(module)
