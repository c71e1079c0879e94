"""Layers without learning: a convolution whose weight is final, and the steps of a residual branch."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.layers import MPConv
from unitgain.native import Conv1x1, Depthwise, Winograd, can_filter, can_multiply_pairs, images
from unitgain.ops import EPS, magnitude


class FoldedConv(nn.Module):
    """A convolution that keeps the size, with a weight that holds normalization, gain and constants.

    Args:
        weight: `[C_out, C_in / groups, k, k]`, float32.
        groups: of the convolution.
        dtype: to compute in.

    Attributes:
        activate: whether `silu` follows, which costs nothing where libraries take it in.
        at_once: images that libraries get at a time, since they sum in another order for more; None for all.
    """

    weight: nn.Parameter | None

    def __init__(self, weight: Float[Tensor, "o i k k"], groups: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.groups, self.channels = groups, len(weight)
        self.activate = False
        self.at_once: int | None = None
        self.padding, self.resolution = weight.shape[-1] // 2, 0
        kept = weight.to(dtype).contiguous(memory_format=torch.channels_last)
        self.weight = frozen(kept)
        self.packed: Tensor | None = None

    @property
    def pointwise(self) -> bool:
        """Whether a pixel depends on that pixel alone."""
        return self.padding == 0 and self.groups == 1

    def pack(self, resolution: int) -> None:
        """Give up the weight for one in the layout of oneDNN, which would else be made anew at each call.

        That layout pays where weights are large and images are small. Images of any size are taken; `resolution` is
        that of those it is laid out for.
        """
        if self.weight is None or self.groups > 1:
            return
        self.resolution = resolution
        self.packed = self._laid_out(self.weight)
        self.weight = None

    def _laid_out(self, weight: Tensor) -> Tensor:
        size = [1, weight.shape[1], self.resolution, self.resolution]
        padding, one = [self.padding] * 2, [1, 1]
        return torch.ops.mkldnn._reorder_convolution_weight(weight, padding, one, one, self.groups, size)

    def __getstate__(self) -> dict[str, Any]:
        """For copies: a layout of oneDNN has no storage to copy, so they lay the weight out again."""
        state = dict(self.__dict__)
        if self.packed is not None:
            state["packed"] = self.packed.to_dense()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.packed is not None:
            self.packed = self._laid_out(self.packed.contiguous(memory_format=torch.channels_last))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h w"]:
        """Apply to `x`, which is channels-last and of the layer's dtype."""
        if self.at_once is None or len(x) <= self.at_once:
            return self._convolve(x)
        n, _, h, w = x.shape
        out = images((n, self.channels, h, w), x.dtype)
        for first in range(0, n, self.at_once):
            out[first : first + self.at_once] = self._convolve(x[first : first + self.at_once])
        return out

    def _convolve(self, x: Tensor) -> Tensor:
        if self.packed is None:
            assert self.weight is not None
            x = F.conv2d(x, self.weight, padding=self.padding, groups=self.groups)
            return F.silu(x, inplace=True) if self.activate else x
        padding, one, after = [self.padding] * 2, [1, 1], "swish" if self.activate else "none"
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.packed, None, padding, one, one, self.groups, after, [], ""
        )


class Bottleneck(nn.Module):
    """Two 1x1 convolutions, a part of the image at a time if what is between them would take much memory.

    Args:
        expand: to more channels.
        project: back to fewer.
    """

    AT_ONCE = 2**22  # bytes between the two

    def __init__(self, expand: FoldedConv, project: FoldedConv) -> None:
        super().__init__()
        self.width, self.channels = expand.channels, project.channels
        self.expand, self.project = expand, project

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h w"]:
        """Apply to `x`, which is channels-last and of the layers' dtype."""
        n, _, h, w = x.shape
        parts = min(-(-self.width * h * w * x.element_size() // self.AT_ONCE), h)
        if n > 1 or parts < 2:  # rows of several images do not lie together
            return self.project(self.expand(x))
        out = x.new_empty((n, h, w, self.channels)).permute(0, 3, 1, 2)  # channels-last
        for part, into in zip(x.chunk(parts, dim=2), out.chunk(parts, dim=2), strict=True):
            into.copy_(self.project(self.expand(part)))
        return out


class FusedPointwise(nn.Module):
    """A 1x1 convolution in C, of bfloat16, with the `silu` or sum after it.

    Args:
        weight: `[C_out, C_in, 1, 1]`, of an even number of input channels.

    Attributes:
        activate: whether `silu` follows.
    """

    def __init__(self, weight: Float[Tensor, "o i 1 1"]) -> None:
        super().__init__()
        self.activate = False
        self.convolve = Conv1x1(weight)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h w"]:
        """Apply to `x`, which is of bfloat16, as the result."""
        return self.convolve(x, silu=self.activate)

    def add(
        self,
        x: Float[Tensor, "n c h w"],
        main: Float[Tensor, "n c2 h w"],
        share: float,
        limit: float,
        dtype: torch.dtype,
    ) -> Float[Tensor, "n c2 h w"]:
        """Apply to `x`, add `share` times `main` and clamp to [-limit, limit]; in `dtype`."""
        return self.convolve(x, dtype, self.activate, main, share, limit)


class FusedBottleneck(nn.Module):
    """Two 1x1 convolutions in C; what is between them stays in the processor's caches, but of few pixels.

    Args:
        expand: to more channels.
        project: back to fewer.
    """

    def __init__(self, expand: FusedPointwise, project: FusedPointwise) -> None:
        super().__init__()
        self.expand, self.project = expand, project

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h w"]:
        """Apply to `x`, which is of bfloat16, as the result."""
        assert not self.project.activate
        return self.expand.convolve.then(self.project.convolve, x, silu=self.expand.activate)


class FusedDepthwise(nn.Module):
    """A depthwise convolution with the modulation and the `silu` before it, and the sum after it, in one pass in C.

    Args:
        weight: `[C, 1, k, k]`, float32.
        slot: of the modulation; None without.
        silu: whether `silu` comes before the convolution.
        dtype: of the result without a sum.
    """

    def __init__(self, weight: Float[Tensor, "c 1 k k"], slot: int | None, silu: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.slot, self.dtype = slot, dtype
        self.convolve = Depthwise(weight, silu)

    def forward(self, x: Float[Tensor, "n c h w"], scales: list[Tensor]) -> Float[Tensor, "n c h w"]:
        """Apply to `x`, of any precision; `scales` are `[N, C, 1, 1]`, float32."""
        return self.convolve(x, self._scale(scales), self.dtype)

    def add(
        self,
        x: Float[Tensor, "n c h w"],
        scales: list[Tensor],
        main: Float[Tensor, "n c h2 w2"],
        share: float,
        limit: float,
        dtype: torch.dtype,
    ) -> Float[Tensor, "n c h w"]:
        """Apply to `x`, add `share` times `main` and clamp to [-limit, limit]; in `dtype`.

        Pixels of `main` are doubled if it is half as high and wide.
        """
        return self.convolve(x, self._scale(scales), dtype, main, share, limit)

    def _scale(self, scales: list[Tensor]) -> Tensor | None:
        return None if self.slot is None else scales[self.slot].flatten(1)


class FilteredConv(nn.Module):
    """A 3x3 convolution by Winograd's filtering in C, with the modulation, `silu` or sum after it.

    Args:
        weight: `[C_out, C_in, 3, 3]`, float32.
        tile: outputs per tile and side, 2 or 4.
        dtype: of images; the products are of float32 if it is that, else of integers.

    Attributes:
        dtype: of the result.
        slot: of a modulation that follows; None without.
        activate: whether `silu` follows.
    """

    def __init__(self, weight: Float[Tensor, "o i 3 3"], tile: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.slot: int | None = None
        self.activate = False
        self.convolve = Winograd(weight, tile, integers=dtype != torch.float32)

    def forward(
        self, x: Float[Tensor, "n c h w"], scales: list[Tensor], doubled: bool = False
    ) -> Float[Tensor, "n c2 h2 w2"]:
        """Apply to `x`, whose pixels are doubled first if `doubled`; `scales` are `[N, C, 1, 1]`, float32."""
        scale = None if self.slot is None else scales[self.slot].flatten(1)
        return self.convolve(x, self.dtype, scale, self.activate, doubled=doubled)

    def add(
        self,
        x: Float[Tensor, "n c h w"],
        main: Float[Tensor, "n c2 h3 w3"],
        share: float,
        limit: float,
        dtype: torch.dtype,
        doubled: bool = False,
    ) -> Float[Tensor, "n c2 h2 w2"]:
        """Apply to `x`, add `share` times `main` and clamp to [-limit, limit]; in `dtype`.

        Pixels of `x` are doubled first if `doubled`, those of `main` if it is half as high and wide as the result.
        """
        assert self.slot is None
        assert not self.activate
        return self.convolve(x, dtype, main=main, share=share, limit=limit, doubled=doubled)


def apart(function: Callable[[Tensor], Tensor], x: Tensor, at_once: int | None) -> Tensor:
    """What a function makes of all images, given so many at a time."""
    if at_once is None or len(x) <= at_once:
        return function(x)
    return torch.cat([function(part) for part in x.split(at_once)])


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of torch has oneDNN's layouts for `dtype` on this processor."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")):
        return False
    return dtype == torch.float32 or supported(dtype)


def pays_to_filter(dtype: torch.dtype) -> bool:
    """Whether 3x3 convolutions of images of `dtype` are faster by `Winograd` than by libraries, on this processor.

    In float32 they take a quarter of the products; in bfloat16 integers are multiplied at the same rate. AMX multiplies
    bfloat16 sixteen times as fast as VNNI integers, by its specification; none was measured.
    """
    if dtype == torch.float32:
        return can_filter(integers=False)
    return dtype == torch.bfloat16 and can_filter(integers=True) and not _has_amx()


def pays_to_multiply(dtype: torch.dtype) -> bool:
    """Whether 1x1 convolutions of images of `dtype` are faster by `Conv1x1` than by libraries, on this processor."""
    return dtype == torch.bfloat16 and can_multiply_pairs() and not _has_amx()


def _has_amx() -> bool:
    return getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()


def supported(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes in this low precision on this processor, rather than emulates it."""
    name = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}[dtype]
    check = getattr(torch.ops.mkldnn, name, None)
    return bool(check()) if check is not None else False


class SiLU(nn.Module):
    """`silu(x)`; the constant of the magnitude-preserving one is part of the next weight.

    Args:
        inplace: whether `x` is written over.

    Attributes:
        at_once: images that libraries get at a time, since the last numbers of an array, which fill no vector, come out
            otherwise; None for all.
    """

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace
        self.at_once: int | None = None

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Apply to `x`."""
        return apart(partial(F.silu, inplace=self.inplace), x, self.at_once)


class Scale(nn.Module):
    """A constant factor that no weight can take."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Apply to `x`."""
        return x * self.factor


class Modulate(nn.Module):
    """Scale channels by entry `slot` of the factors that the embedding has given for all blocks at once."""

    def __init__(self, slot: int) -> None:
        super().__init__()
        self.slot = slot

    def forward(self, x: Float[Tensor, "n c h w"], scales: list[Tensor]) -> Float[Tensor, "n c h w"]:
        """Apply to `x`; `scales` are `[N, C, 1, 1]`, float32."""
        return x * scales[self.slot].to(x.dtype)


def folded(layer: MPConv, factor: float | Tensor = 1.0) -> Float[Tensor, "..."]:
    """The weight that a layer computes with, times a factor; float32, whatever it is stored in, and new.

    As `effective_weight`, with one product instead of two: weights of large networks take long to be written.
    """
    weight = layer.weight.detach()
    factor = factor.detach().float() if isinstance(factor, Tensor) else factor
    found = weight if weight.dtype == torch.float64 else weight.float()
    scale = magnitude(found, eps=EPS).reciprocal() * (factor / math.sqrt(weight[0].numel()))
    return (found * scale if found is weight else found.mul_(scale)).float()


def constant(value: Tensor) -> nn.Parameter:
    """A copy that is not trained."""
    return frozen(value.detach().clone())


def frozen(value: Tensor) -> nn.Parameter:
    """A parameter that is not trained."""
    return nn.Parameter(value, requires_grad=False)
