"""Branches and blocks on the Triton kernels (`unitgain.kernels`), for GPUs: one pass over memory for each step.

The main path keeps its precision, float32 where the network computes in bfloat16. Steps read it as it is and write in
the precision of the network, and the sum reads both, so that little is converted in a pass of its own.
"""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.infer.blocks import FoldedAttention, FoldedBlock, FoldedBranch, Rule, beside
from unitgain.infer.layers import FoldedConv, frozen
from unitgain.kernels.functions import activate, by_taps, depthwise, pixel_norm, weighted_sum
from unitgain.kernels.fuse import is_depthwise
from unitgain.layers import MPConv
from unitgain.ops import resample


class Activation(nn.Module):
    """Modulation and `silu`, or one of them; the constant of the magnitude-preserving one is part of a weight.

    Args:
        slot: of the modulation; None without.
        silu: whether there is one.
        dtype: to write in.
        after: whether the modulation comes after it.
    """

    def __init__(self, slot: int | None, silu: bool, dtype: torch.dtype, after: bool = False) -> None:
        super().__init__()
        self.slot = slot
        self.silu, self.after = silu, after
        self.dtype = dtype

    def taken(self, scales: list[Tensor]) -> tuple[Float[Tensor, "n c"] | None, float | None]:
        """The modulation and the factor of `silu`, as the kernels take them."""
        return None if self.slot is None else scales[self.slot].flatten(1), 1.0 if self.silu else None

    def forward(self, x: Float[Tensor, "n c h w"], scales: list[Tensor]) -> Float[Tensor, "n c h w"]:
        """Apply to `x`, of any precision; `scales` are `[N, C, 1, 1]`, float32."""
        return activate(x, *self.taken(scales), dtype=self.dtype, after=self.after)


class ActivatedDepthwise(Activation):
    """A depthwise convolution that takes in the modulation and the `silu` before it.

    Args:
        weight: `[C, 1, k, k]`, float32, and stays so.
        slot: of the modulation; None without.
        silu: whether `silu` comes before the convolution.
        dtype: to write in.
        after: whether the modulation comes after `silu`.
    """

    def __init__(
        self, weight: Float[Tensor, "c 1 k k"], slot: int | None, silu: bool, dtype: torch.dtype, after: bool = False
    ) -> None:
        super().__init__(slot, silu, dtype, after)
        self.weight = frozen(by_taps(weight))

    def forward(self, x: Float[Tensor, "n c h w"], scales: list[Tensor]) -> Float[Tensor, "n c h w"]:
        """Apply to `x`, of any precision; `scales` are `[N, C, 1, 1]`, float32."""
        return depthwise(x, self.weight, *self.taken(scales), dtype=self.dtype, after=self.after)


class KernelBranch(FoldedBranch):
    """A branch whose modulations, nonlinearities and depthwise convolutions are joined where one kernel takes them."""

    def _modulate(self, slot: int) -> None:
        last = self[-1] if len(self) else None
        if type(last) is Activation and last.slot is None:
            last.slot, last.after = slot, True
        else:
            self.append(Activation(slot, silu=False, dtype=self.dtype))

    def _activate(self) -> None:
        last = self[-1] if len(self) else None
        if type(last) is Activation and not last.silu:
            last.silu = True
        else:
            self.append(Activation(None, silu=True, dtype=self.dtype))

    def _convolve(self, weight: Tensor, layer: MPConv, rule: Rule) -> None:
        if not is_depthwise(layer):
            self.append(FoldedConv(weight, layer.groups, rule.dtype))
            return
        slot, silu, after = None, False, False
        if len(self) and type(self[-1]) is Activation:
            before = cast(Activation, self[-1])
            slot, silu, after = before.slot, before.silu, before.after
            del self[-1]
        self.append(ActivatedDepthwise(weight, slot, silu, rule.dtype, after))

    def forward(self, x: Float[Tensor, "n c h w"], scales: list[Tensor]) -> Float[Tensor, "n c2 h w"]:
        """Run the steps; `x`, of any precision, is left as it is."""
        for step in self:
            x = step(x, scales) if isinstance(step, Activation) else step(x.to(self.dtype))
        return x


class KernelAttention(FoldedAttention):
    """Attention that normalizes queries, keys and values in one pass, and sums and clamps in one."""

    def normalized(self, tokens: Float[Tensor, "n p 3 heads c"]) -> Float[Tensor, "n p 3 heads c"]:
        """As a norm over pixels that have the channels of a head."""
        pixels = tokens.reshape(1, -1, 1, tokens.shape[-1]).permute(0, 3, 1, 2)
        return pixel_norm(pixels, self.eps).permute(0, 2, 3, 1).reshape(tokens.shape)

    def summed(self, x: Float[Tensor, "n c h w"], limit: float) -> Float[Tensor, "n c h w"]:
        """Attend, sum with `x` in its precision, and clamp."""
        return weighted_sum(x, self.attend(x.to(self.dtype)), self.main, 1.0, limit, dtype=x.dtype)


class KernelBlock(FoldedBlock):
    """A block whose pixel norm is one pass, and whose sums and clamp are one."""

    branch_type = KernelBranch
    attention_type = KernelAttention

    def forward(
        self,
        x: Float[Tensor, "n c h w"],
        scales: list[Tensor],
        skip: Float[Tensor, "n c3 h w"] | None = None,
        shares: tuple[float, float] = (1.0, 1.0),
    ) -> Float[Tensor, "n c2 h2 w2"]:
        """As that of `FoldedBlock`."""
        x = main = resample(beside(x, skip, shares), self.mode)
        wide = self.sums
        if self.shortcut is not None:
            x = x.to(self.dtype)
            main = self.shortcut(x)
        if self.norm_eps is not None:
            x = main = pixel_norm(main, self.norm_eps, dtype=wide)
        branch = self.branch(x, scales)
        limit = self.limit if self.attention is None else None
        x = weighted_sum(main, branch, self.main, self.branch.left, limit, dtype=wide)
        return x if self.attention is None else cast(KernelAttention, self.attention).summed(x, self.limit)
