"""What the kernels compute, in plain PyTorch: what they are tested against, and what runs in their place.

Where another dtype is wanted than that of the input, the wider of the two is computed in.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unitgain.ops import EPS, normalize


def activate(
    x: Float[Tensor, "n c h w"],
    scale: Float[Tensor, "n c"] | None = None,
    silu: float | None = None,
    dtype: torch.dtype | None = None,
    after: bool = False,
) -> Float[Tensor, "n c h w"]:
    """Modulation and SiLU times a constant; see `functions.activate`."""
    dtype = dtype or x.dtype
    x = _wide(x, dtype)
    factors = None if scale is None else scale[:, :, None, None].to(x.dtype)
    if factors is not None and not after:
        x = x * factors
    if silu is not None:
        x = F.silu(x) * silu
    return (x * factors if factors is not None and after else x).to(dtype)


def depthwise(
    x: Float[Tensor, "n c h w"],
    weight: Float[Tensor, "c 1 k k"],
    scale: Float[Tensor, "n c"] | None = None,
    silu: float | None = None,
    dtype: torch.dtype | None = None,
    after: bool = False,
) -> Float[Tensor, "n c h w"]:
    """Activation, then depthwise convolution; see `functions.depthwise`."""
    dtype = dtype or x.dtype
    x = activate(_wide(x, dtype), scale, silu, after=after)
    return F.conv2d(x, weight.to(x.dtype), padding=weight.shape[-1] // 2, groups=len(weight)).to(dtype)


def pixel_norm(
    x: Float[Tensor, "n c h w"], eps: float = EPS, dtype: torch.dtype | None = None
) -> Float[Tensor, "n c h w"]:
    """Every pixel's channels scaled to unit magnitude (Eq. 30)."""
    dtype = dtype or x.dtype
    return normalize(_wide(x, dtype), dim=1, eps=eps).to(dtype)


def weighted_sum(
    a: Float[Tensor, "n c h w"],
    b: Float[Tensor, "n c h w"],
    of_a: float,
    of_b: float,
    limit: float | None = None,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "n c h w"]:
    """`of_a a + of_b b`, clamped; see `functions.weighted_sum`."""
    wide = torch.promote_types(a.dtype, b.dtype)
    dtype = dtype or wide
    y = torch.add(_wide(a, wide, dtype) * of_a, _wide(b, wide, dtype), alpha=of_b)
    return (y if limit is None else y.clamp(-limit, limit)).to(dtype)


def _wide(x: Tensor, *others: torch.dtype) -> Tensor:
    """In the widest type that occurs."""
    dtype = x.dtype
    for other in others:
        dtype = torch.promote_types(dtype, other)
    return x.to(dtype)
