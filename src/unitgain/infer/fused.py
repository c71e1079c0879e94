"""Convolutions in C with what comes before and after them, and whether they pay on this processor."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.native import Conv1x1, Depthwise, Winograd, can_filter, can_multiply_pairs


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
        after: whether the modulation comes after `silu`.
        dtype: of the result without a sum.
    """

    def __init__(
        self, weight: Float[Tensor, "c 1 k k"], slot: int | None, silu: bool, after: bool, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.slot, self.dtype = slot, dtype
        self.convolve = Depthwise(weight, silu, after)

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
