"""The kernels as PyTorch operators with gradients, which `torch.compile` takes as they are (`torch.library`).

All images are channels-last, of any of `support.DTYPES`; `functions` checks that. There are no second derivatives.
"""

from typing import Any

import torch
from torch import Tensor

from unitgain.kernels import launch

depthwise3 = torch.library.custom_op("unitgain::depthwise3", launch.depthwise3, mutates_args=())
depthwise3_backward = torch.library.custom_op(
    "unitgain::depthwise3_backward", launch.depthwise3_backward, mutates_args=()
)


@depthwise3.register_fake
def _(x: Tensor, *_: object) -> Tensor:
    return launch.empty_like(x)


@depthwise3_backward.register_fake
def _(grad: Tensor, x: Tensor, taps: Tensor, scale: Tensor | None, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    of_scale = x.new_empty(0, dtype=torch.float32) if scale is None else scale.new_empty(scale.shape)
    return launch.empty_like(x), torch.empty_like(taps), of_scale


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
