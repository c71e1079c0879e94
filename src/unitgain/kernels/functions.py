"""The memory-bound functions of EDM2+, each in one pass over memory where a kernel can run, else in plain PyTorch.

A kernel runs on images that are channels-last, of float32, float16 or bfloat16, on a GPU with Triton installed (or on
the CPU under `TRITON_INTERPRET=1`, for tests). All else takes the functions of `reference`, which compute the same: the
kernels round once, to the dtype of the output, where those round after every step. That dtype may be another than the
input's (`dtype`), which spares a pass that converts; gradients come in the dtype of what they belong to.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from unitgain.kernels import reference
from unitgain.kernels.launch import MAX_CHANNELS
from unitgain.kernels.support import usable
from unitgain.ops import EPS


def activate(
    x: Float[Tensor, "n c h w"],
    scale: Float[Tensor, "n c"] | None = None,
    silu: float | None = None,
    fused: bool = True,
    dtype: torch.dtype | None = None,
    after: bool = False,
) -> Float[Tensor, "n c h w"]:
    """Modulation, then SiLU times a constant: `silu * SiLU(scale x)`; or the other way around.

    Args:
        x: `[N, C, H, W]`.
        scale: factor per sample and channel; none by default.
        silu: constant factor of the SiLU, 1 / 0.596 for `mp_silu` (Eq. 81); no SiLU by default.
        fused: whether a kernel may run.
        dtype: of the output; that of `x` by default.
        after: whether the modulation comes after the SiLU: `scale * silu * SiLU(x)`.
    """
    if not (fused and usable(x, dtype=dtype)):
        return reference.activate(x, scale, silu, dtype, after)
    if scale is None and silu is None:
        return x if dtype is None else x.to(dtype)
    from unitgain.kernels import operators

    return operators.activate(x, _factors(scale), 1.0 if silu is None else silu, silu is not None, dtype, after)


def depthwise(
    x: Float[Tensor, "n c h w"],
    weight: Float[Tensor, "c 1 k k"],
    scale: Float[Tensor, "n c"] | None = None,
    silu: float | None = None,
    fused: bool = True,
    dtype: torch.dtype | None = None,
    after: bool = False,
) -> Float[Tensor, "n c h w"]:
    """Depthwise convolution of `activate(x, scale, silu, after=after)`, zero padding, the size kept.

    Args:
        x: `[N, C, H, W]`.
        weight: as the layer computes with it (`effective_weight`); any floating dtype, k odd.
        scale: see `activate`.
        silu: see `activate`.
        fused: whether a kernel may run.
        dtype: of the output; that of `x` by default.
        after: see `activate`.

    A 3x3 convolution activates its input on the way in; others in a pass of its own, as they read each pixel too often.
    A weight whose taps lie `[k, k, C]` in memory (`by_taps`) is taken as it is; others are copied so in every call.
    """
    if not (fused and usable(x, dtype=dtype)):
        return reference.depthwise(x, weight, scale, silu, dtype, after)
    from unitgain.kernels import operators

    taps = weight.float().flatten(1).t().contiguous()
    k = weight.shape[-1]
    if k == 3:
        gain, bends = (1.0, False) if silu is None else (silu, True)
        return operators.depthwise3(x, taps, _factors(scale), gain, bends, dtype, after)
    if scale is not None or silu is not None:
        x = activate(x, scale, silu, dtype=dtype, after=after)
    return operators.depthwise(x, taps, k, dtype)


def by_taps(weight: Float[Tensor, "c 1 k k"]) -> Float[Tensor, "c 1 k k"]:
    """The same weight of a depthwise convolution in float32, laid out in memory as the kernels read it."""
    taps = weight.detach().float().flatten(1).t().contiguous()
    return taps.t().unflatten(1, weight.shape[1:])


def pixel_norm(
    x: Float[Tensor, "n c h w"], eps: float = EPS, fused: bool = True, dtype: torch.dtype | None = None
) -> Float[Tensor, "n c h w"]:
    """Every pixel's channels scaled to unit magnitude: `x / (eps + ||x|| / sqrt(C))` (Eq. 30).

    Args:
        x: `[N, C, H, W]`.
        eps: added to the magnitude.
        fused: whether a kernel may run.
        dtype: of the output; that of `x` by default.
    """
    if not (fused and usable(x, dtype=dtype) and x.shape[1] <= MAX_CHANNELS):
        return reference.pixel_norm(x, eps, dtype)
    from unitgain.kernels import operators

    return operators.pixel_norm(x, eps, dtype)


def weighted_sum(
    a: Float[Tensor, "n c h w"],
    b: Float[Tensor, "n c h w"],
    of_a: float,
    of_b: float,
    limit: float | None = None,
    fused: bool = True,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "n c h w"]:
    """`of_a a + of_b b`, clamped to [-limit, limit]; with `mp_sum_factors`, the magnitude-preserving sum (Eq. 88).

    Args:
        a: main path.
        b: branch, of the same shape; its dtype may be another.
        of_a: factor of `a`.
        of_b: factor of `b`.
        limit: of the output; none by default.
        fused: whether a kernel may run.
        dtype: of the output; by default the wider of those of `a` and `b`, float32 for the two of 16 bits.

    No gradient passes where the output lies at the limit, even where the sum was exactly that; PyTorch's passes there.
    """
    if not (fused and usable(a, b, dtype=dtype)):
        return reference.weighted_sum(a, b, of_a, of_b, limit, dtype)
    from unitgain.kernels import operators

    return operators.weighted_sum(a, b, of_a, of_b, limit, dtype)


def _factors(scale: Tensor | None) -> Tensor | None:
    """As kernels read them: float32, each row dense; rows may be parts of longer ones."""
    if scale is None or (scale.dtype == torch.float32 and scale.stride(1) == 1):
        return scale
    return scale.float().contiguous()
