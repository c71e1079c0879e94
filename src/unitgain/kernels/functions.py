"""Depthwise convolutions with modulation and SiLU of the input in one pass, where a kernel can run; else in PyTorch.

The kernel takes 3x3 convolutions of images that are channels-last, of float32, float16 or bfloat16, on a GPU with
Triton installed (or on the CPU under `TRITON_INTERPRET=1`, for tests). All else takes the functions of `reference`,
which compute the same: the kernel rounds once, to the dtype of the output, where those round after every step.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from unitgain.kernels import reference
from unitgain.kernels.support import usable


def depthwise(
    x: Float[Tensor, "n c h w"],
    weight: Float[Tensor, "c 1 k k"],
    scale: Float[Tensor, "n c"] | None = None,
    silu: float | None = None,
    fused: bool = True,
    after: bool = False,
) -> Float[Tensor, "n c h w"]:
    """Depthwise convolution of `silu * SiLU(scale x)`, zero padding, the size kept.

    Args:
        x: `[N, C, H, W]`.
        weight: as the layer computes with it (`effective_weight`); any floating dtype, k odd.
        scale: factor per sample and channel; none by default.
        silu: constant factor of the SiLU, 1 / 0.596 for `mp_silu` (Eq. 81); no SiLU by default.
        fused: whether a kernel may run.
        after: whether the modulation comes after the SiLU: `scale * silu * SiLU(x)`.

    A kernel takes 3x3 convolutions alone: larger ones would activate each pixel too often. A weight whose taps lie
    `[k, k, C]` in memory (`by_taps`) is taken as it is; others are copied so in every call.
    """
    if not (fused and weight.shape[-1] == 3 and usable(x)):
        return reference.depthwise(x, weight, scale, silu, after)
    from unitgain.kernels import operators

    taps = weight.float().flatten(1).t().contiguous()
    gain, bends = (1.0, False) if silu is None else (silu, True)
    return operators.depthwise3(x, taps, _factors(scale), gain, bends, after)


def by_taps(weight: Float[Tensor, "c 1 k k"]) -> Float[Tensor, "c 1 k k"]:
    """The same weight of a depthwise convolution in float32, laid out in memory as the kernels read it."""
    taps = weight.detach().float().flatten(1).t().contiguous()
    return taps.t().unflatten(1, weight.shape[1:])


def _factors(scale: Tensor | None) -> Tensor | None:
    """As kernels read them: float32, each row dense; rows may be parts of longer ones."""
    if scale is None or (scale.dtype == torch.float32 and scale.stride(1) == 1):
        return scale
    return scale.float().contiguous()
