"""Branches on the Triton kernels (`unitgain.kernels`), for GPUs: depthwise convolutions with what comes before them.

All else is as folded, and for `torch.compile` to fuse.
"""

from jaxtyping import Float
from torch import Tensor, nn

from unitgain.infer.blocks import FoldedBlock, FoldedBranch, Rule
from unitgain.infer.layers import FoldedConv, Modulate, SiLU, frozen
from unitgain.kernels.functions import by_taps, depthwise
from unitgain.kernels.fuse import is_depthwise
from unitgain.layers import MPConv


class ActivatedDepthwise(nn.Module):
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

    def forward(self, x: Float[Tensor, "n c h w"], scales: list[Tensor]) -> Float[Tensor, "n c h w"]:
        """Apply to `x`; `scales` are `[N, C, 1, 1]`, float32."""
        scale = None if self.slot is None else scales[self.slot].flatten(1)
        return depthwise(x, self.weight, scale, 1.0 if self.silu else None, after=self.after)


class KernelBranch(FoldedBranch):
    """A branch whose depthwise convolutions take in what is before them."""

    def _convolve(self, weight: Tensor, layer: MPConv, rule: Rule) -> None:
        if not is_depthwise(layer):
            super()._convolve(weight, layer, rule)
            return
        slot, silu, after = None, False, False
        while len(self):
            last = self[-1]
            if isinstance(last, SiLU) and not silu:
                silu = True
            elif isinstance(last, Modulate) and slot is None:
                slot, after = last.slot, not silu
            else:
                break
            del self[-1]
        last = self[-1] if len(self) else None
        if isinstance(last, FoldedConv) and last.activate and not silu:
            last.activate, silu = False, True
        self.append(ActivatedDepthwise(weight, slot, silu, silu and after))

    def forward(self, x: Float[Tensor, "n c h w"], scales: list[Tensor]) -> Float[Tensor, "n c2 h w"]:
        """Run the steps; `x` is left as it is."""
        for step in self:
            x = step(x, scales) if isinstance(step, Modulate | ActivatedDepthwise) else step(x)
        return x


class KernelBlock(FoldedBlock):
    """A block with such a branch."""

    branch_type = KernelBranch
