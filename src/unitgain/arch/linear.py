"""Learned layers of the configs before weight normalization (EDM2, configs A-C)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.layers import CONVOLUTIONS


class PlainConv(nn.Module):
    """Linear layer or convolution that computes with its weight as it is.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel: `()` for a linear layer over the last dimension, or up to three odd sizes for a convolution that keeps
            the size.
        bias: whether it has one.
        zero: start at zero instead of the uniform distribution.

    Weight and bias start uniform in +-1/sqrt(fan_in) (B.1, after He et al.).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: tuple[int, ...] = (), bias: bool = True, zero: bool = False
    ) -> None:
        super().__init__()
        self.kernel = kernel
        bound = 0.0 if zero else 1 / math.sqrt(in_channels * math.prod(kernel))
        self.weight = nn.Parameter(_uniform(bound, out_channels, in_channels, *kernel))
        self.bias = nn.Parameter(_uniform(bound, out_channels)) if bias else None

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Apply the layer to `x`, `[N, C_in, ...]` (linear: `[..., C_in]`), in the dtype of `x`."""
        weight = self.weight.to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if not self.kernel:
            return F.linear(x, weight, bias)
        return CONVOLUTIONS[len(self.kernel)](x, weight, bias, padding=tuple(k // 2 for k in self.kernel))

    def extra_repr(self) -> str:
        """Shape of the layer, for `print`."""
        shape = tuple(self.weight.shape)
        return f"{shape[1]}, {shape[0]}, kernel={self.kernel}, bias={self.bias is not None}"


def _uniform(bound: float, *shape: int) -> Tensor:
    empty = torch.empty(*shape)
    # On the meta device there is nothing to draw, and the first draw would import a thousand modules of torch.
    return empty if empty.is_meta else empty.uniform_(-bound, bound)
