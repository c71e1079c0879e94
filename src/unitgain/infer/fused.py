"""Convolutions in C with what comes before and after them, and whether they pay on this processor."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from unitgain.infer.layers import Step, factors
from unitgain.native import Conv1x1, Depthwise, Sum, Winograd, can_convolve_pairs, can_filter


class FusedPointwise(Step):
    """A 1x1 convolution in C, of bfloat16, with the `silu` or sum after it.

    Args:
        weight: `[C_out, C_in, 1, 1]`, of an even number of input channels.

    Attributes:
        activate: whether `silu` follows.
    """

    reads = torch.bfloat16

    def __init__(self, weight: Float[Tensor, "o i 1 1"]) -> None:
        super().__init__()
        self.activate = False
        self.convolve = Conv1x1(weight)

    def adds(self, upsample: bool) -> bool:
        """Where no pixels are doubled."""
        return not upsample

    def forward(
        self, x: Float[Tensor, "n c h w"], scales: Sequence[Tensor] = (), after: Sum | None = None
    ) -> Float[Tensor, "n c2 h w"]:
        """Apply to `x`, which is of bfloat16, as the result without a sum."""
        return self.convolve(x, silu=self.activate, after=after)


class FusedBottleneck(Step):
    """Two 1x1 convolutions in C; what is between them stays in the processor's caches, but of few pixels.

    Args:
        expand: to more channels.
        project: back to fewer.
    """

    reads = torch.bfloat16

    def __init__(self, expand: FusedPointwise, project: FusedPointwise) -> None:
        super().__init__()
        self.expand, self.project = expand, project

    def forward(self, x: Float[Tensor, "n c h w"], scales: Sequence[Tensor] = ()) -> Float[Tensor, "n c2 h w"]:
        """Apply to `x`, which is of bfloat16, as the result."""
        return self.expand.convolve.then(self.project.convolve, x, silu=self.expand.activate)


class FusedDepthwise(Step):
    """A depthwise convolution with the modulation and the `silu` before it, and the sum after it, in one pass in C.

    Args:
        weight: `[C, 1, k, k]`, float32.
        slot: of the modulation; None without.
        silu: whether `silu` comes before the convolution.
        modulates_after: whether the modulation comes after `silu`.
        dtype: of the result without a sum.
    """

    def __init__(
        self, weight: Float[Tensor, "c 1 k k"], slot: int | None, silu: bool, modulates_after: bool, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.slot, self.dtype = slot, dtype
        self.convolve = Depthwise(weight, silu, modulates_after)

    def adds(self, upsample: bool) -> bool:
        """Always."""
        return True

    def forward(
        self, x: Float[Tensor, "n c h w"], scales: Sequence[Tensor], after: Sum | None = None
    ) -> Float[Tensor, "n c h w"]:
        """Apply to `x`, of any precision; `scales` are `[N, C]`, float32."""
        return self.convolve(x, factors(scales, self.slot), self.dtype, after)


class FilteredConv(Step):
    """A 3x3 convolution by Winograd's filtering in C, with the modulation, `silu` or sum after it.

    Args:
        weight: `[C_out, C_in, 3, 3]`, float32.
        tile: outputs per tile and side, 2 or 4.
        dtype: of images; the products are of float32 if it is that, else of integers.
        slot: of a modulation that follows; None without.
        activate: whether `silu` follows.

    Attributes:
        dtype: of the result without a sum.
    """

    upsamples = True

    def __init__(
        self, weight: Float[Tensor, "o i 3 3"], tile: int, dtype: torch.dtype, slot: int | None, activate: bool
    ) -> None:
        super().__init__()
        self.dtype, self.slot, self.activate = dtype, slot, activate
        self.convolve = Winograd(weight, tile, integers=dtype != torch.float32)

    def adds(self, upsample: bool) -> bool:
        """Where nothing else comes after the convolution."""
        return self.slot is None and not self.activate

    def forward(
        self, x: Float[Tensor, "n c h w"], scales: Sequence[Tensor], after: Sum | None = None, upsample: bool = False
    ) -> Float[Tensor, "n c2 h2 w2"]:
        """Apply to `x`, whose pixels are doubled first if `upsample`; `scales` are `[N, C]`, float32."""
        return self.convolve(x, self.dtype, factors(scales, self.slot), self.activate, after, upsample)


def pays_to_filter(dtype: torch.dtype) -> bool:
    """Whether 3x3 convolutions of images of `dtype` are faster by `Winograd` than by libraries, on this processor.

    In float32 they take a quarter of the products; in bfloat16 integers are multiplied at the same rate. AMX multiplies
    bfloat16 so much faster than VNNI integers that libraries win: EDM2-S on one core takes 0.30 s by them, 0.50 s so
    (`benchmarks/amx.py`).
    """
    if dtype == torch.float32:
        return can_filter(integers=False)
    return dtype == torch.bfloat16 and can_filter(integers=True) and not _has_amx()


def pays_to_convolve(dtype: torch.dtype) -> bool:
    """Whether 1x1 convolutions of images of `dtype` are faster by `Conv1x1` than by libraries, on this processor.

    With AMX they are not (`benchmarks/amx.py`): EDM2+-S on one core takes 0.24 s by libraries, 1.01 s so.
    """
    return dtype == torch.bfloat16 and can_convolve_pairs() and not _has_amx()


def _has_amx() -> bool:
    return getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
