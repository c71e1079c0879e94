"""The kernels as PyTorch operators with gradients, which `torch.compile` takes as they are (`torch.library`).

All images are channels-last, of any of `support.DTYPES`; `functions` checks that. There are no second derivatives.
"""

from typing import Any

import torch
from torch import Tensor

from unitgain.kernels import launch


@torch.library.custom_op("unitgain::depthwise3", mutates_args=())
def depthwise3(
    x: Tensor,
    taps: Tensor,
    scale: Tensor | None,
    gain: float,
    silu: bool,
    after: bool = False,
) -> Tensor:
    """Depthwise 3x3 convolution of `gain silu(scale x)`, or of `scale gain silu(x)` if `after`.

    `taps` are `[9, C]`, float32; `scale` is `[N, C]`, float32, each row dense.
    """
    return launch.depthwise3(x, taps, scale, gain, silu, after)


@torch.library.custom_op("unitgain::depthwise3_backward", mutates_args=())
def depthwise3_backward(
    grad: Tensor, x: Tensor, taps: Tensor, scale: Tensor | None, gain: float, silu: bool, after: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `x`, `taps` and `scale`."""
    return launch.depthwise3_backward(grad, x, taps, scale, gain, silu, after)


@depthwise3.register_fake
def _(
    x: Tensor,
    taps: Tensor,
    scale: Tensor | None,
    gain: float,
    silu: bool,
    after: bool = False,
) -> Tensor:
    return launch.empty_like(x)


@depthwise3_backward.register_fake
def _(
    grad: Tensor, x: Tensor, taps: Tensor, scale: Tensor | None, gain: float, silu: bool, after: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    return launch.empty_like(x), torch.empty_like(taps), _scale_like(x, scale)


def _scale_like(x: Tensor, scale: Tensor | None) -> Tensor:
    return x.new_empty(0, dtype=torch.float32) if scale is None else scale.new_empty(scale.shape)


def _image(grad: Tensor) -> Tensor:
    return grad.contiguous(memory_format=torch.channels_last)


def _keep_depthwise3(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, taps, scale, ctx.gain, ctx.silu, ctx.after = inputs
    ctx.save_for_backward(x, taps, scale)


def _pull_depthwise3(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, taps, scale = ctx.saved_tensors
    how = ctx.gain, ctx.silu, ctx.after
    grad_x, grad_taps, grad_scale = depthwise3_backward(_image(grad), x, taps, scale, *how)
    return grad_x, grad_taps, None if scale is None else grad_scale, None, None, None


depthwise3.register_autograd(_pull_depthwise3, setup_context=_keep_depthwise3)
