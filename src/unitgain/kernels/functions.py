"""The memory-bound functions of EDM2+, each in one pass over memory where a kernel can run, else in plain PyTorch.

A kernel runs on images that are channels-last, of float32, float16 or bfloat16, on a GPU with Triton installed (or on
the CPU under `TRITON_INTERPRET=1`, for tests). All else takes the functions of `reference`, which compute the same: the
kernels round once, to the dtype of the output, where those round after every step.
"""

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
) -> Float[Tensor, "n c h w"]:
    """Modulation, then SiLU times a constant: `silu * SiLU(scale x)`.

    Args:
        x: `[N, C, H, W]`.
        scale: factor per sample and channel; none by default.
        silu: constant factor of the SiLU, 1 / 0.596 for `mp_silu` (Eq. 81); no SiLU by default.
        fused: whether a kernel may run.
    """
    if not (fused and usable(x)):
        return reference.activate(x, scale, silu)
    if scale is None and silu is None:
        return x
    from unitgain.kernels import operators

    return operators.activate(x, _dense(scale), 1.0 if silu is None else silu, silu is not None)


def depthwise(
    x: Float[Tensor, "n c h w"],
    weight: Float[Tensor, "c 1 k k"],
    scale: Float[Tensor, "n c"] | None = None,
    silu: float | None = None,
    fused: bool = True,
) -> Float[Tensor, "n c h w"]:
    """Depthwise convolution of `activate(x, scale, silu)`, zero padding, the size kept.

    Args:
        x: `[N, C, H, W]`.
        weight: as the layer computes with it (`effective_weight`); any floating dtype, k odd.
        scale: see `activate`.
        silu: see `activate`.
        fused: whether a kernel may run.

    A 3x3 convolution activates its input on the way in; others in a pass of its own, as they read each pixel too often.
    """
    if not (fused and usable(x)):
        return reference.depthwise(x, weight, scale, silu)
    from unitgain.kernels import operators

    taps = weight.float().flatten(1).t().contiguous()
    k = weight.shape[-1]
    if k == 3:
        return operators.depthwise3(x, taps, _dense(scale), 1.0 if silu is None else silu, silu is not None)
    return operators.depthwise(activate(x, scale, silu), taps, k)


def pixel_norm(x: Float[Tensor, "n c h w"], eps: float = EPS, fused: bool = True) -> Float[Tensor, "n c h w"]:
    """Every pixel's channels scaled to unit magnitude: `x / (eps + ||x|| / sqrt(C))` (Eq. 30).

    Args:
        x: `[N, C, H, W]`.
        eps: added to the magnitude.
        fused: whether a kernel may run.
    """
    if not (fused and usable(x) and x.shape[1] <= MAX_CHANNELS):
        return reference.pixel_norm(x, eps)
    from unitgain.kernels import operators

    return operators.pixel_norm(x, eps)


def weighted_sum(
    a: Float[Tensor, "n c h w"],
    b: Float[Tensor, "n c h w"],
    of_a: float,
    of_b: float,
    limit: float | None = None,
    fused: bool = True,
) -> Float[Tensor, "n c h w"]:
    """`of_a a + of_b b`, clamped to [-limit, limit]; with `mp_sum_factors`, the magnitude-preserving sum (Eq. 88).

    Args:
        a: main path.
        b: branch, of the same shape and dtype.
        of_a: factor of `a`.
        of_b: factor of `b`.
        limit: of the output; none by default.
        fused: whether a kernel may run.

    No gradient passes where the output lies at the limit, even where the sum was exactly that; PyTorch's passes there.
    """
    if not (fused and usable(a, b)):
        return reference.weighted_sum(a, b, of_a, of_b, limit)
    from unitgain.kernels import operators

    return operators.weighted_sum(a, b, of_a, of_b, limit)


def _dense(scale: Tensor | None) -> Tensor | None:
    return None if scale is None else scale.float().contiguous()
