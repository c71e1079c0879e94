"""The backend on the Triton kernels (`unitgain.kernels`), for GPUs: depthwise convolutions with what comes before them.

All else is as PyTorch runs it, and for `torch.compile` to fuse.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from unitgain.infer.backend import DepthwiseBackend
from unitgain.infer.layers import Step, factors, frozen
from unitgain.kernels.functions import by_taps, depthwise


class ActivatedDepthwise(Step):
    """A depthwise convolution that takes in the modulation and the `silu` before it.

    Args:
        weight: `[C, 1, k, k]`, float32, and stays so.
        slot: of the modulation; None without.
        silu: whether `silu` comes before the convolution; the constant of the magnitude-preserving one is in a weight.
        after: whether the modulation comes after `silu`.
    """

    def __init__(self, weight: Float[Tensor, "c 1 k k"], slot: int | None, silu: bool, after: bool) -> None:
        super().__init__()
        self.weight = frozen(by_taps(weight))
        self.slot, self.silu, self.after = slot, silu, after

    def forward(self, x: Float[Tensor, "n c h w"], scales: Sequence[Tensor]) -> Float[Tensor, "n c h w"]:
        """Apply to `x`; `scales` are `[N, C]`, float32."""
        return depthwise(x, self.weight, factors(scales, self.slot), 1.0 if self.silu else None, after=self.after)


@dataclass(frozen=True)
class Kernels(DepthwiseBackend):
    """Triton."""

    widest = math.inf

    def depthwise(self, weight: Float[Tensor, "c 1 k k"], slot: int | None, silu: bool, after: bool) -> Step:
        """With the modulation and the `silu` before it."""
        step = ActivatedDepthwise(weight, slot, silu, after)
        step.reads = self.dtype
        return step
