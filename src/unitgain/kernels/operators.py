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


@torch.library.custom_op("unitgain::depthwise", mutates_args=())
def depthwise(x: Tensor, taps: Tensor, k: int) -> Tensor:
    """Depthwise k x k convolution, k odd; `taps` are `[k * k, C]`, float32."""
    return launch.depthwise(x, taps, k)


@torch.library.custom_op("unitgain::depthwise_backward", mutates_args=())
def depthwise_backward(grad: Tensor, x: Tensor, taps: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Gradients of `x` and `taps`."""
    return launch.depthwise_backward(grad, x, taps, k)


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


@depthwise.register_fake
def _(x: Tensor, taps: Tensor, k: int) -> Tensor:
    return launch.empty_like(x)


@depthwise_backward.register_fake
def _(grad: Tensor, x: Tensor, taps: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return launch.empty_like(x), torch.empty_like(taps)


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


def _keep_depthwise(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, taps, ctx.k = inputs
    ctx.save_for_backward(x, taps)


def _pull_depthwise(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, taps = ctx.saved_tensors
    return *depthwise_backward(_image(grad), x, taps, ctx.k), None


depthwise3.register_autograd(_pull_depthwise3, setup_context=_keep_depthwise3)
depthwise.register_autograd(_pull_depthwise, setup_context=_keep_depthwise)
