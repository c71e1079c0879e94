"""What the kernels compute, in plain PyTorch: what they are tested against, and what runs in their place."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def activate(
    x: Float[Tensor, "n c h w"], scale: Float[Tensor, "n c"] | None, silu: float | None, after: bool = False
) -> Float[Tensor, "n c h w"]:
    """Modulation and SiLU times a constant; see `functions.depthwise`."""
    factors = None if scale is None else scale[:, :, None, None].to(x.dtype)
    if factors is not None and not after:
        x = x * factors
    if silu is not None:
        x = F.silu(x) * silu
    return x * factors if factors is not None and after else x


def depthwise(
    x: Float[Tensor, "n c h w"],
    weight: Float[Tensor, "c 1 k k"],
    scale: Float[Tensor, "n c"] | None = None,
    silu: float | None = None,
    after: bool = False,
) -> Float[Tensor, "n c h w"]:
    """Activation, then depthwise convolution; see `functions.depthwise`."""
    x = activate(x, scale, silu, after)
    return F.conv2d(x, weight.to(x.dtype), padding=weight.shape[-1] // 2, groups=len(weight))
