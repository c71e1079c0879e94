"""Convolutions in training on CPUs: output, gradient of images and gradient of weights each in the way that is fastest.

The rules, by the shapes and the type of images, are from measurements (`benchmarks/gradients.py`):

- large 3x3 convolutions of float32 are filtered, where few of the outputs that filtering makes are beside the images or
  channels; in bfloat16 libraries multiply several times as fast, where processors have AMX;
- of depthwise 3x3 convolutions in bfloat16, the gradient of images is a convolution too, with the weight turned around,
  and that of the weight is made in C: PyTorch takes several times as long for both as for the convolution;
- everything else is left to PyTorch.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from unitgain.native import Winograd, can_convolve_depthwise, can_filter
from unitgain.native.depthwise import depthwise_gradient
from unitgain.native.filter_gradient import can_filter_gradients, filtered_gradient
from unitgain.native.training import can_train
from unitgain.native.winograd import MAX_CHANNELS

TILE = 4  # outputs of a tile of Winograd's filtering, in each direction
WIDE = 64  # outputs that it makes at once
FEW = 32  # channels from which transforms cost less than the multiplications that they save
FILLED = 0.7  # of what it makes, from which it pays
WORTH = 2**27  # multiplications from which a call from Python costs little beside them


class Shape(NamedTuple):
    """What the way of a convolution depends on: channels in and out, kernel, groups, images, sides, and their type."""

    inputs: int
    outputs: int
    kernel: tuple[int, int]
    groups: int
    images: int
    sides: tuple[int, int]
    dtype: torch.dtype

    @classmethod
    def of(cls, x: Tensor, weight: Tensor, groups: int) -> "Shape":
        """Of these images and this weight."""
        n, c, h, w = x.shape
        return cls(c, len(weight), (weight.shape[2], weight.shape[3]), groups, n, (h, w), x.dtype)

    @property
    def transposed(self) -> "Shape":
        """Of the convolution that makes the gradient of images."""
        return self._replace(inputs=self.outputs, outputs=self.inputs)

    @property
    def filled(self) -> float:
        """Share of the outputs of tiles that there are."""
        return self.sides[0] * self.sides[1] / math.prod(-(-side // TILE) * TILE for side in self.sides)

    @property
    def padding(self) -> list[int]:
        """Zeros around images."""
        return [side // 2 for side in self.kernel]

    @property
    def multiplications(self) -> int:
        """Of the convolution, by its definition."""
        each = self.inputs // self.groups * math.prod(self.kernel)
        return self.images * math.prod(self.sides) * self.outputs * each


class Ways(NamedTuple):
    """How to make a convolution and its gradients; images are channels-last, and a weight is of their type.

    Attributes:
        output: the convolution, of images and a weight.
        of_images: the gradient of images, from that of the output, and the weight.
        of_weight: the gradient of the weight, from that of the output, and images.
    """

    output: Callable[[Tensor, Tensor, Shape], Tensor]
    of_images: Callable[[Tensor, Tensor, Shape], Tensor]
    of_weight: Callable[[Tensor, Tensor, Shape], Tensor]


def _output(x: Tensor, weight: Tensor, shape: Shape) -> Tensor:
    return F.conv2d(x, weight, padding=shape.padding, groups=shape.groups)


def _of_images(gradient: Tensor, weight: Tensor, shape: Shape) -> Tensor:
    n, _, h, w = gradient.shape
    x = gradient.new_empty((n, h, w, shape.inputs)).permute(0, 3, 1, 2)  # of which the shape is all that counts
    return _backward(gradient, x, weight, shape, [True, False, False])[0]


def _of_weight(gradient: Tensor, x: Tensor, shape: Shape) -> Tensor:
    weight = gradient.new_empty((shape.outputs, shape.inputs // shape.groups, *shape.kernel))
    return _backward(gradient, x, weight, shape, [False, True, False])[1].contiguous()


def _backward(gradient: Tensor, x: Tensor, weight: Tensor, shape: Shape, mask: list[bool]) -> Any:
    sizes = [1, 1], shape.padding, [1, 1], False, [0, 0]
    return torch.ops.aten.convolution_backward(gradient, x, weight, None, *sizes, shape.groups, mask)


def _filtered(x: Tensor, weight: Tensor, _: Shape) -> Tensor:
    return Winograd(weight, TILE, integers=False)(x, x.dtype)


BY_LIBRARY = Ways(_output, _of_images, _of_weight)
"""As PyTorch does it, one gradient at a time."""

BY_FILTER = Ways(
    output=_filtered,
    of_images=lambda gradient, weight, shape: _filtered(gradient, weight.flip(2, 3).transpose(0, 1), shape),
    of_weight=lambda gradient, x, _: filtered_gradient(x, gradient),
)
"""3x3 convolutions by Winograd's filtering in float32, with a quarter of the multiplications."""

BY_CHANNEL = Ways(
    output=_output,
    of_images=lambda gradient, weight, shape: _output(gradient, weight.flip(2, 3), shape),
    of_weight=lambda gradient, x, shape: depthwise_gradient(x, gradient, shape.kernel[0]),
)
"""Depthwise convolutions with square kernels, in the types of `can_convolve_depthwise`."""


def ways(shape: Shape) -> Ways:
    """How to make the convolution, the gradient of its images, and that of its weight: see the module."""
    depthwise = shape.groups == shape.inputs == shape.outputs > 1
    if shape.kernel == (3, 3) and depthwise and shape.dtype == torch.bfloat16 and can_convolve_depthwise(shape.dtype):
        return BY_CHANNEL
    large = shape.dtype == torch.float32 and shape.multiplications >= WORTH
    fits = shape.kernel == (3, 3) and shape.groups == 1 and max(shape.inputs, shape.outputs) <= MAX_CHANNELS
    if fits and large and can_filter(integers=False) and can_filter_gradients():
        found = _worth(shape), _worth(shape.transposed), _worth_of_weight(shape)
        return Ways(found[0].output, found[1].of_images, found[2].of_weight)
    return BY_LIBRARY


def faster_ways(x: Tensor, weight: Tensor, groups: int) -> Ways | None:
    """`ways`, or None where PyTorch's own is as fast, or nothing here takes these images (`can_train`)."""
    if not can_train(x) or hasattr(x, "fake_mode"):  # shapes alone, of which memory is estimated
        return None
    found = ways(Shape.of(x, weight, groups))
    return None if found == BY_LIBRARY else found


def _worth(shape: Shape) -> Ways:
    wide = -(-shape.outputs // WIDE) * WIDE
    return BY_FILTER if shape.inputs >= FEW and shape.filled * shape.outputs / wide >= FILLED else BY_LIBRARY


def _worth_of_weight(shape: Shape) -> Ways:
    return BY_FILTER if min(shape.inputs, shape.outputs) >= FEW and shape.filled >= FILLED else BY_LIBRARY


def convolve(
    x: Float[Tensor, "n c h w"], weight: Float[Tensor, "c2 c3 k k2"], groups: int, by: Ways
) -> Float[Tensor, "n c2 h w"]:
    """Convolution that keeps the size, with zero padding, channels-last, in the type of `x`, which `can_train`.

    Args:
        x: images.
        weight: of the type of `x`, odd kernel.
        groups: of channels.
        by: how to make it and both gradients, which have none themselves.
    """
    return _Convolution.apply(x, weight, Shape.of(x, weight, groups), by)  # type: ignore[no-untyped-call]


class _Convolution(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, shape: Shape, by: Ways) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.shape, ctx.by = shape, by
        ctx.save_for_backward(x, weight)
        return by.output(x, weight, shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x, of_weight = ctx.needs_input_grad[:2]
        return (
            ctx.by.of_images(gradient, weight, ctx.shape) if of_x else None,
            ctx.by.of_weight(gradient, x, ctx.shape) if of_weight else None,
            None,
            None,
        )
