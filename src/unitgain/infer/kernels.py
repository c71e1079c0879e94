"""The backend on the Triton kernels (`unitgain.kernels`), for GPUs: depthwise convolutions with what comes before them.

All else is as PyTorch runs it, and for `torch.compile` to fuse.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from unitgain.arch.operations import Convolve, Operation, lead
from unitgain.infer.backend import Backend, Slot
from unitgain.infer.layers import Step, factors, folded, frozen
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
        """Apply to `x`; `scales` are `[N, C, 1, 1]`, float32."""
        return depthwise(x, self.weight, factors(scales, self.slot), 1.0 if self.silu else None, after=self.after)


@dataclass(frozen=True)
class Kernels(Backend):
    """Triton."""

    def take(self, operations: Sequence[Operation], slot: Slot) -> tuple[Step, int]:
        """Depthwise convolutions with modulation and SiLU before them, which no other convolution then takes."""
        first = lead(operations)
        convolve = _depthwise(operations[first.count :])
        if convolve is not None:
            at = None if first.modulate is None else slot(first.modulate)
            weight, silu = folded(convolve.layer, convolve.factor), first.activate is not None
            step = ActivatedDepthwise(weight, at, silu, silu and first.after)
            step.reads = self.dtype
            return step, first.count + 1
        one, following = operations[0], lead(operations[1:])
        if isinstance(one, Convolve) and _depthwise(operations[1 + following.count :]) is not None:
            return self.convolution(one), 1
        return super().take(operations, slot)


def _depthwise(operations: Sequence[Operation]) -> Convolve | None:
    """The depthwise convolution that these begin with, if they do."""
    first = operations[0] if operations else None
    return first if isinstance(first, Convolve) and first.depthwise else None
