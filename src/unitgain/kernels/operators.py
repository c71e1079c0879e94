"""The kernels as PyTorch operators with gradients, which `torch.compile` takes as they are (`torch.library`).

All images are channels-last, of any of `support.DTYPES`; `functions` checks that. The output is of the type `dtype`, by
default that of the input. There are no second derivatives.
"""

from typing import Any

import torch
from torch import Tensor

from unitgain.kernels import launch


@torch.library.custom_op("unitgain::activate", mutates_args=())
def activate(
    x: Tensor, scale: Tensor | None, gain: float, silu: bool, dtype: torch.dtype | None = None, after: bool = False
) -> Tensor:
    """`gain silu(scale x)`, or `scale gain silu(x)` if `after`; `scale` is `[N, C]`, float32, each row dense."""
    return launch.activate(x, scale, gain, silu, dtype, after)


@torch.library.custom_op("unitgain::activate_backward", mutates_args=())
def activate_backward(
    grad: Tensor, x: Tensor, scale: Tensor | None, gain: float, silu: bool, after: bool = False
) -> tuple[Tensor, Tensor]:
    """Gradients of `x` and `scale`."""
    return launch.activate_backward(grad, x, scale, gain, silu, after)


@torch.library.custom_op("unitgain::depthwise3", mutates_args=())
def depthwise3(
    x: Tensor,
    taps: Tensor,
    scale: Tensor | None,
    gain: float,
    silu: bool,
    dtype: torch.dtype | None = None,
    after: bool = False,
) -> Tensor:
    """Depthwise 3x3 convolution of what `activate` gives; `taps` are `[9, C]`, float32."""
    return launch.depthwise3(x, taps, scale, gain, silu, dtype, after)


@torch.library.custom_op("unitgain::depthwise3_backward", mutates_args=())
def depthwise3_backward(
    grad: Tensor, x: Tensor, taps: Tensor, scale: Tensor | None, gain: float, silu: bool, after: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `x`, `taps` and `scale`."""
    return launch.depthwise3_backward(grad, x, taps, scale, gain, silu, after)


@torch.library.custom_op("unitgain::depthwise", mutates_args=())
def depthwise(x: Tensor, taps: Tensor, k: int, dtype: torch.dtype | None = None) -> Tensor:
    """Depthwise k x k convolution, k odd; `taps` are `[k * k, C]`, float32."""
    return launch.depthwise(x, taps, k, dtype)


@torch.library.custom_op("unitgain::depthwise_backward", mutates_args=())
def depthwise_backward(grad: Tensor, x: Tensor, taps: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Gradients of `x` and `taps`."""
    return launch.depthwise_backward(grad, x, taps, k)


@torch.library.custom_op("unitgain::pixel_norm", mutates_args=())
def pixel_norm(x: Tensor, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    """`x / (eps + magnitude)`, the magnitude over the channels."""
    return launch.pixel_norm(x, eps, dtype)


@torch.library.custom_op("unitgain::pixel_norm_backward", mutates_args=())
def pixel_norm_backward(grad: Tensor, x: Tensor, eps: float) -> Tensor:
    """Gradient of `x`."""
    return launch.pixel_norm_backward(grad, x, eps)


@torch.library.custom_op("unitgain::weighted_sum", mutates_args=())
def weighted_sum(
    a: Tensor, b: Tensor, of_a: float, of_b: float, limit: float | None, dtype: torch.dtype | None = None
) -> Tensor:
    """`of_a a + of_b b`, clamped to +-limit; by default in the wider of their types."""
    return launch.weighted_sum(a, b, of_a, of_b, limit, dtype)


@torch.library.custom_op("unitgain::weighted_sum_backward", mutates_args=())
def weighted_sum_backward(
    grad: Tensor,
    y: Tensor,
    of_a: float,
    of_b: float,
    limit: float | None,
    dtype_a: torch.dtype | None = None,
    dtype_b: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients of `a` and `b`, of their types; by default of that of the output."""
    return launch.weighted_sum_backward(grad, y, of_a, of_b, limit, (dtype_a, dtype_b))


@activate.register_fake
def _(
    x: Tensor, scale: Tensor | None, gain: float, silu: bool, dtype: torch.dtype | None = None, after: bool = False
) -> Tensor:
    return launch.empty_like(x, dtype)


@activate_backward.register_fake
def _(
    grad: Tensor, x: Tensor, scale: Tensor | None, gain: float, silu: bool, after: bool = False
) -> tuple[Tensor, Tensor]:
    return launch.empty_like(x), _scale_like(x, scale)


@depthwise3.register_fake
def _(
    x: Tensor,
    taps: Tensor,
    scale: Tensor | None,
    gain: float,
    silu: bool,
    dtype: torch.dtype | None = None,
    after: bool = False,
) -> Tensor:
    return launch.empty_like(x, dtype)


@depthwise3_backward.register_fake
def _(
    grad: Tensor, x: Tensor, taps: Tensor, scale: Tensor | None, gain: float, silu: bool, after: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    return launch.empty_like(x), torch.empty_like(taps), _scale_like(x, scale)


@depthwise.register_fake
def _(x: Tensor, taps: Tensor, k: int, dtype: torch.dtype | None = None) -> Tensor:
    return launch.empty_like(x, dtype)


@depthwise_backward.register_fake
def _(grad: Tensor, x: Tensor, taps: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return launch.empty_like(x), torch.empty_like(taps)


@pixel_norm.register_fake
def _(x: Tensor, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    return launch.empty_like(x, dtype)


@pixel_norm_backward.register_fake
def _(grad: Tensor, x: Tensor, eps: float) -> Tensor:
    return launch.empty_like(x)


@weighted_sum.register_fake
def _(a: Tensor, b: Tensor, of_a: float, of_b: float, limit: float | None, dtype: torch.dtype | None = None) -> Tensor:
    return launch.empty_like(a, launch.summed(a, b, dtype))


@weighted_sum_backward.register_fake
def _(
    grad: Tensor,
    y: Tensor,
    of_a: float,
    of_b: float,
    limit: float | None,
    dtype_a: torch.dtype | None = None,
    dtype_b: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    return launch.empty_like(grad, dtype_a), launch.empty_like(grad, dtype_b)


def _scale_like(x: Tensor, scale: Tensor | None) -> Tensor:
    return x.new_empty(0, dtype=torch.float32) if scale is None else scale.new_empty(scale.shape)


def _image(grad: Tensor) -> Tensor:
    return grad.contiguous(memory_format=torch.channels_last)


def _keep_activate(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, scale, ctx.gain, ctx.silu, _, ctx.after = inputs
    ctx.save_for_backward(x, scale)


def _pull_activate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, scale = ctx.saved_tensors
    grad_x, grad_scale = activate_backward(_image(grad), x, scale, ctx.gain, ctx.silu, ctx.after)
    return grad_x, None if scale is None else grad_scale, None, None, None, None


def _keep_depthwise3(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, taps, scale, ctx.gain, ctx.silu, _, ctx.after = inputs
    ctx.save_for_backward(x, taps, scale)


def _pull_depthwise3(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, taps, scale = ctx.saved_tensors
    how = ctx.gain, ctx.silu, ctx.after
    grad_x, grad_taps, grad_scale = depthwise3_backward(_image(grad), x, taps, scale, *how)
    return grad_x, grad_taps, None if scale is None else grad_scale, None, None, None, None


def _keep_depthwise(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, taps, ctx.k, _ = inputs
    ctx.save_for_backward(x, taps)


def _pull_depthwise(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, taps = ctx.saved_tensors
    return *depthwise_backward(_image(grad), x, taps, ctx.k), None, None


def _keep_norm(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, ctx.eps, _ = inputs
    ctx.save_for_backward(x)


def _pull_norm(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (x,) = ctx.saved_tensors
    return pixel_norm_backward(_image(grad), x, ctx.eps), None, None


def _keep_sum(ctx: Any, inputs: tuple, output: Tensor) -> None:
    a, b, ctx.of_a, ctx.of_b, ctx.limit, _ = inputs
    ctx.types = a.dtype, b.dtype
    ctx.save_for_backward(*([] if ctx.limit is None else [output]))


def _pull_sum(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad = _image(grad)
    y = ctx.saved_tensors[0] if ctx.saved_tensors else grad
    return *weighted_sum_backward(grad, y, ctx.of_a, ctx.of_b, ctx.limit, *ctx.types), None, None, None, None


activate.register_autograd(_pull_activate, setup_context=_keep_activate)
depthwise3.register_autograd(_pull_depthwise3, setup_context=_keep_depthwise3)
depthwise.register_autograd(_pull_depthwise, setup_context=_keep_depthwise)
pixel_norm.register_autograd(_pull_norm, setup_context=_keep_norm)
weighted_sum.register_autograd(_pull_sum, setup_context=_keep_sum)
