"""Layers without learning: a convolution whose weight is final, and the steps of a residual branch in PyTorch."""

import copy
import math
import platform
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.arch.conditioning import join_all
from unitgain.arch.linear import PlainConv
from unitgain.arch.values import Conditions
from unitgain.layers import CONVOLUTIONS, MEMORY_FORMATS, MPConv
from unitgain.native import images
from unitgain.ops import normalize, over_pixels


class Step(nn.Module):
    """One operation of a residual branch, or several neighbours, as a backend runs them: `step(x, scales)`.

    One that `adds` takes the sum after it, too: `step(x, scales, after=Sum(...))`; one that `upsamples`, an input whose
    pixels are yet to be doubled: `step(x, scales, upsample=True)`.

    Attributes:
        reads: precision of what it is given; None for any.
        upsamples: see above.
        at_once: images that libraries get at a time, since they sum in another order for more, and the last numbers of
            an array, which fill no vector, come out otherwise; None for all.
    """

    reads: torch.dtype | None = None
    upsamples = False
    at_once: int | None = None

    def adds(self, upsample: bool) -> bool:
        """See above; `upsample`: whether pixels before it are yet to be doubled."""
        return False


class FoldedConv(Step):
    """A convolution that keeps the size, with a weight that holds normalization, gain and constants.

    Args:
        weight: `[C_out, C_in / groups, *kernel]`, float32.
        groups: of the convolution.
        dtype: to compute in.

    Attributes:
        activate: whether `silu` follows, which costs nothing where libraries take it in.
    """

    weight: nn.Parameter | None

    def __init__(self, weight: Float[Tensor, "o i *kernel"], groups: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.groups, self.channels, self.reads = groups, len(weight), dtype
        self.activate = False
        self.padding, self.size = [size // 2 for size in weight.shape[2:]], ()
        self.weight = frozen(weight.to(dtype).contiguous(memory_format=MEMORY_FORMATS[weight.ndim - 2]))
        self.packed: Tensor | None = None

    def pack(self, size: tuple[int, ...]) -> None:
        """Give up the weight for one in the layout of oneDNN, which would else be made anew at each call.

        That layout pays where weights are large and images are small. Images of any size are taken; `size` is that of
        those it is laid out for, height and width.
        """
        if self.weight is None or self.groups > 1:
            return
        self.size = size
        self.packed = self._laid_out(self.weight)
        self.weight = None

    def _laid_out(self, weight: Tensor) -> Tensor:
        size = [1, weight.shape[1], *self.size]
        one = [1, 1]
        return torch.ops.mkldnn._reorder_convolution_weight(weight, self.padding, one, one, self.groups, size)

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

    def forward(self, x: Float[Tensor, "n c *size"], scales: Sequence[Tensor] = ()) -> Float[Tensor, "n c2 *size"]:
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
            convolve = CONVOLUTIONS[x.ndim - 2]
            x = convolve(x, self.weight, padding=tuple(self.padding), groups=self.groups)
            return F.silu(x, inplace=True) if self.activate else x
        one, after = [1, 1], "swish" if self.activate else "none"
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.packed, None, self.padding, one, one, self.groups, after, [], ""
        )


def apart(function: Callable[[Tensor], Tensor], x: Tensor, at_once: int | None) -> Tensor:
    """What a function makes of all images, given so many at a time."""
    if at_once is None or len(x) <= at_once:
        return function(x)
    return torch.cat([function(part) for part in x.split(at_once)])


def joined_apart(modules: nn.ModuleDict, x: Tensor, conditions: Conditions, at_once: int | None) -> Tensor:
    """As `join_all`, of so many samples at a time, each part in memory of its own."""
    if at_once is None or len(x) <= at_once:
        return join_all(modules, x, conditions)
    parts = zip(x.split(at_once), conditions.split(at_once), strict=False)
    return torch.cat([join_all(modules, part.clone(), told) for part, told in parts])


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of torch has oneDNN's layouts for `dtype` on this processor."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")):
        return False
    return dtype == torch.float32 or supported(dtype)


def multiplies_bfloat16() -> bool:
    """Whether this processor has products of bfloat16, as far as torch can tell; some with AVX-512 have none."""
    asked = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    known = [ask for ask in asked if ask is not None]
    return platform.machine().lower() not in ("x86_64", "amd64") or not known or any(ask() for ask in known)


def supported(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes in this low precision on this processor; bfloat16 it also emulates, by AVX-512."""
    name = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}[dtype]
    check = getattr(torch.ops.mkldnn, name, None)
    return bool(check()) if check is not None else False


class SiLU(Step):
    """`silu(x)`; the constant of the magnitude-preserving one is part of the next weight.

    Attributes:
        inplace: whether `x` is written over.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inplace: bool = False

    def forward(self, x: Float[Tensor, "n c *size"], scales: Sequence[Tensor] = ()) -> Float[Tensor, "n c *size"]:
        """Apply to `x`."""
        return apart(partial(F.silu, inplace=self.inplace), x, self.at_once)


class Multiply(Step):
    """A constant factor that no weight can take."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Float[Tensor, "n c *size"], scales: Sequence[Tensor] = ()) -> Float[Tensor, "n c *size"]:
        """Apply to `x`."""
        return x * self.factor


class Modulated(Step):
    """Channels times entry `slot` of the factors that the embedding has given for all blocks at once."""

    def __init__(self, slot: int) -> None:
        super().__init__()
        self.slot = slot

    def forward(self, x: Float[Tensor, "n c *size"], scales: Sequence[Tensor]) -> Float[Tensor, "n c *size"]:
        """Apply to `x`; `scales` are `[N, C]`, float32."""
        return x * over_pixels(scales[self.slot], x).to(x.dtype)


def factors(scales: Sequence[Tensor], slot: int | None) -> Float[Tensor, "n c"] | None:
    """Those of a modulation, as kernels take them; None without one."""
    return None if slot is None else scales[slot]


class Applied(Step):
    """A module that no backend knows, run by PyTorch in float32 whatever is around it.

    Args:
        module: as trained; not changed.
        slot: of the embedding among the scales; None for a module that does not look at it.
        dtype: of the result.
    """

    reads = torch.float32

    def __init__(self, module: nn.Module, slot: int | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.slot, self.dtype = freeze(module, torch.float32), slot, dtype

    def forward(self, x: Float[Tensor, "n c *size"], scales: Sequence[Tensor] = ()) -> Float[Tensor, "n c2 *size2"]:
        """Apply to `x`."""
        inputs = (x,) if self.slot is None else (x, scales[self.slot])
        parts = [
            self.module(*part) for part in zip(*(each.split(self.at_once or len(x)) for each in inputs), strict=True)
        ]
        y = (parts[0] if len(parts) == 1 else torch.cat(parts)).to(self.dtype)
        y = y.clone() if y.data_ptr() == x.data_ptr() else y  # what follows may write over it
        return y.contiguous(memory_format=MEMORY_FORMATS[y.ndim - 2])


class FrozenConv(nn.Module):
    """A layer whose weight was normalized once; it takes the place of an `MPConv`."""

    def __init__(self, layer: MPConv, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_channels = layer.in_channels
        self.conv = FoldedConv(fold_weight(layer), layer.groups, dtype) if layer.kernel else None
        self.weight = None if layer.kernel else constant(fold_weight(layer))

    def forward(self, x: Float[Tensor, "..."], gain: float | Tensor = 1.0) -> Float[Tensor, "..."]:
        """Apply to `x`, the result times `gain`."""
        if self.conv is not None:
            y = self.conv(x)
        else:
            assert self.weight is not None
            y = F.linear(x, self.weight.to(x.dtype))
        return y if isinstance(gain, float) and gain == 1 else y * gain


def freeze(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a network, or a part of one, that normalizes no weight any more, its convolutions in `dtype`."""
    frozen = copy.deepcopy(network).requires_grad_(False).float().eval()
    if isinstance(frozen, MPConv):
        return FrozenConv(frozen, dtype)
    for parent in list(frozen.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, MPConv):
                setattr(parent, name, FrozenConv(child, dtype))
            elif isinstance(child, PlainConv) and child.kernel:
                memory_format = MEMORY_FORMATS[len(child.kernel)]
                child.to(dtype).to(memory_format=memory_format)  # type: ignore[call-overload]
    return frozen


def fold_weight(layer: MPConv, factor: float | Tensor = 1.0) -> Float[Tensor, "..."]:
    """The weight that a layer computes with, times a factor; float32, whatever it is stored in, and new.

    As `effective_weight`, to the bit, in one piece of new memory rather than two: it takes long to be had.
    """
    weight = layer.weight.detach()
    factor = factor.detach().float() if isinstance(factor, Tensor) else factor
    unit = normalize(weight if weight.dtype == torch.float64 else weight.float())
    return unit.mul_(factor / math.sqrt(weight[0].numel())).float()


def constant(value: Tensor) -> nn.Parameter:
    """A copy that is not trained."""
    return frozen(value.detach().clone())


def frozen(value: Tensor) -> nn.Parameter:
    """A parameter that is not trained."""
    return nn.Parameter(value, requires_grad=False)
