"""What the kernels compute, in plain PyTorch: what they are tested against, and what runs in their place."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unitgain.ops import EPS, normalize


def activate(
    x: Float[Tensor, "n c h w"], scale: Float[Tensor, "n c"] | None = None, silu: float | None = None
) -> Float[Tensor, "n c h w"]:
    """Modulation, then SiLU times a constant; see `functions.activate`."""
    if scale is not None:
        x = x * scale[:, :, None, None].to(x.dtype)
    return x if silu is None else F.silu(x) * silu


def depthwise(
    x: Float[Tensor, "n c h w"],
    weight: Float[Tensor, "c 1 k k"],
    scale: Float[Tensor, "n c"] | None = None,
    silu: float | None = None,
) -> Float[Tensor, "n c h w"]:
    """Activation, then depthwise convolution; see `functions.depthwise`."""
    x = activate(x, scale, silu)
    return F.conv2d(x, weight.to(x.dtype), padding=weight.shape[-1] // 2, groups=len(weight))


def pixel_norm(x: Float[Tensor, "n c h w"], eps: float = EPS) -> Float[Tensor, "n c h w"]:
    """Every pixel's channels scaled to unit magnitude (Eq. 30)."""
    return normalize(x, dim=1, eps=eps)


def weighted_sum(
    a: Float[Tensor, "n c h w"],
    b: Float[Tensor, "n c h w"],
    of_a: float,
    of_b: float,
    limit: float | None = None,
) -> Float[Tensor, "n c h w"]:
    """`of_a a + of_b b`, clamped; see `functions.weighted_sum`."""
    y = torch.add(a * of_a, b, alpha=of_b)
    return y if limit is None else y.clamp(-limit, limit)
