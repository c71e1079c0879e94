"""Branches and blocks for CPUs, of parts in C.

What happens between convolutions is part of one of them, or one pass over memory.
"""

import math
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from unitgain.arch.block import Block, Branch
from unitgain.infer.blocks import FoldedAttention, FoldedBlock, FoldedBranch, Rule, Slot
from unitgain.infer.fused import FilteredConv, FusedBottleneck, FusedDepthwise, FusedPointwise
from unitgain.infer.layers import Bottleneck, FoldedConv, Modulate, SiLU, apart
from unitgain.layers import CosineAttention, MPConv
from unitgain.native import attend, can_attend, can_pass, converted, joined, summed
from unitgain.ops import resample


class PassBranch(FoldedBranch):
    """A branch whose convolutions take in what is before or after them, and the sum with the main path.

    Args:
        branch: as trained.
        factor: of its output.
        rule: of the network.
        slot: where to leave the weights of modulations.

    Attributes:
        silu: whether `silu` comes first; it is left to the pass before.
        reads: precision of what it is given. Images that only filtered convolutions see are of float16 rather than
            bfloat16: products of integers keep more than the 8 bits of that. A block may choose another for a depthwise
            convolution, which reads any.
    """

    def __init__(self, branch: Branch, factor: float, rule: Rule, slot: Slot) -> None:
        super().__init__(branch, factor, rule, slot)
        self.silu = len(self) > 0 and isinstance(self[0], SiLU)
        if self.silu:
            del self[0]
        between = torch.float16 if rule.dtype == torch.bfloat16 and can_pass(torch.float16) else rule.dtype
        self.reads = between if len(self) > 0 and isinstance(self[0], FilteredConv) else rule.dtype
        for step, following in pairwise(self):
            if isinstance(step, FilteredConv) and isinstance(following, FilteredConv):
                step.dtype = between

    def _activate(self) -> None:
        last = self[-1] if len(self) else None
        if isinstance(last, FilteredConv) and not last.activate:
            last.activate = True
        else:
            super()._activate()

    def _modulate(self, slot: int) -> None:
        last = self[-1] if len(self) else None
        if isinstance(last, FilteredConv) and last.slot is None and not last.activate:
            last.slot = slot
        else:
            super()._modulate(slot)

    def _convolve(self, weight: Tensor, layer: MPConv, rule: Rule) -> None:
        tile = rule.tile(weight, layer.groups)
        if tile is not None:
            self.append(FilteredConv(weight, tile, rule.dtype))
        elif layer.groups == layer.in_channels == len(weight):
            self._convolve_depthwise(weight)
        else:
            made, last = rule.convolution(weight, layer.groups), self[-1] if len(self) else None
            low = rule.dtype != torch.float32  # the parts of a bottleneck take longer than the whole in that
            if isinstance(last, FusedPointwise) and isinstance(made, FusedPointwise):
                self[-1] = FusedBottleneck(last, made)
            elif low and all(isinstance(conv, FoldedConv) and conv.pointwise for conv in (last, made)):
                self[-1] = Bottleneck(cast(FoldedConv, last), cast(FoldedConv, made))
            else:
                self.append(made)

    def _convolve_depthwise(self, weight: Tensor) -> None:
        silu, after, slot = False, False, None
        while len(self):
            last = self[-1]
            if isinstance(last, SiLU) and not silu:
                silu = True
            elif isinstance(last, Modulate) and slot is None:
                slot, after = last.slot, not silu
            else:
                break
            del self[-1]
        self.append(FusedDepthwise(weight, slot, silu, silu and after, self.dtype))

    def forward(
        self, x: Float[Tensor, "n c h w"], scales: list[Tensor], doubled: bool = False
    ) -> Float[Tensor, "n c2 h2 w2"]:
        """Run the steps on `x`, which `reads` says the precision of and which comes activated if `silu` is first.

        Its pixels are doubled before that if `doubled`. It is left as it is.
        """
        return self._run(len(self), x, scales, doubled)

    def _run(self, count: int, x: Tensor, scales: list[Tensor], doubled: bool) -> Tensor:
        """The first `count` steps."""
        for step in list(self)[:count]:
            if isinstance(step, FilteredConv):
                x = step(x, scales, doubled)
            else:
                x = resample(x, "up") if doubled else x
                x = step(x, scales) if isinstance(step, Modulate | FusedDepthwise) else step(x)
            doubled = False
        return resample(x, "up") if doubled else x

    def add(
        self,
        x: Float[Tensor, "n c h w"],
        scales: list[Tensor],
        main: Tensor,
        share: float,
        limit: float,
        doubled: bool = False,
    ) -> Float[Tensor, "n c2 h2 w2"]:
        """What `forward` makes of `x`, times `left`, plus `share` times `main`, clamped; in the precision of sums.

        Where `main` is half as high and wide, its pixels are doubled.
        """
        last = self[-1] if len(self) else None
        if isinstance(last, FilteredConv) and last.slot is None and not last.activate and self.left == 1:
            alone = len(self) == 1
            x = self._run(len(self) - 1, x, scales, doubled and not alone)
            return last.add(x, main, share, limit, self.sums, doubled and alone)
        if isinstance(last, FusedDepthwise) and self.left == 1:
            x = self._run(len(self) - 1, x, scales, doubled)
            return last.add(x, scales, main, share, limit, self.sums)
        branch = self(x, scales, doubled)
        return summed(branch, main, self.sums, left=self.left, share=share, limit=limit)


class PassAttention(FoldedAttention):
    """Attention that reads queries, keys and values where the convolution left them.

    Attributes:
        at_once: images that libraries get at a time; None for all.
    """

    def __init__(self, attention: CosineAttention, rule: Rule, scale: float) -> None:
        super().__init__(attention, rule, scale)
        self.at_once: int | None = None

    def add(self, x: Float[Tensor, "n c h w"], limit: float) -> Float[Tensor, "n c h w"]:
        """What `forward` makes of `x`, in its precision, clamped to [-limit, limit]."""
        y = self.values(converted(x, self.dtype))
        if isinstance(self.proj, FusedPointwise):
            return self.proj.add(y, x, self.main, limit, x.dtype)
        return summed(self.proj(y), x, x.dtype, share=self.main, limit=limit)

    def values(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """As that of `FoldedAttention`."""
        if not can_attend(self.dtype, x.shape[1] // self.heads):
            return apart(super().values, x, self.at_once)
        return attend(self.qkv(x), self.heads, self.eps)


class PassBlock(FoldedBlock):
    """A block that makes its main path, and what the branch reads, in one pass over its input."""

    branch_type = PassBranch
    attention_type = PassAttention

    def __init__(self, block: Block, rule: Rule, slot: Slot, scale_in: float, scale_out: float) -> None:
        super().__init__(block, rule, slot, scale_in, scale_out)
        branch = cast(PassBranch, self.branch)
        sums_are_there = self.norm_eps is not None or self.shortcut is None
        if len(branch) and isinstance(branch[0], FusedDepthwise) and sums_are_there:
            branch.reads = rule.sums  # the precision that the main path has

    def forward(
        self,
        x: Float[Tensor, "n c h w"],
        scales: list[Tensor],
        skip: Float[Tensor, "n c3 h w"] | None = None,
        shares: tuple[float, float] = (1.0, 1.0),
    ) -> Float[Tensor, "n c2 h2 w2"]:
        """As that of `FoldedBlock`."""
        branch, doubled = cast(PassBranch, self.branch), self.mode == "up"
        x = resample(x, self.mode) if self.mode == "down" else x
        # All that follows happens to each pixel by itself, so that pixels can be doubled after it.
        main, seen = self._entered(x, skip, shares) if self.norm_eps is None else self._normalized(x)
        if self.attention is None:
            return branch.add(seen, scales, main, self.main, self.limit, doubled)
        x = branch.add(seen, scales, main, self.main, math.inf, doubled)
        return cast(PassAttention, self.attention).add(x, self.limit)

    def _entered(self, x: Tensor, skip: Tensor | None, shares: tuple[float, float]) -> tuple[Tensor, Tensor]:
        """Main path through the shortcut, and the whole input for the branch."""
        whole = self.sums if skip is not None else None
        if self.shortcut is not None:
            whole = self.dtype
        main, seen = self._pass(x, skip, shares, None, whole)
        return main if self.shortcut is None else self.shortcut(main), seen

    def _normalized(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Main path through shortcut and pixel norm, and the same for the branch."""
        x = x if self.shortcut is None else self.shortcut(converted(x, self.dtype))
        return self._pass(x, None, (1.0, 1.0), self.norm_eps, self.sums)

    def _pass(
        self,
        x: Tensor,
        skip: Tensor | None,
        shares: tuple[float, float],
        eps: float | None,
        whole: torch.dtype | None,
    ) -> tuple[Tensor, Tensor]:
        """The input joined and normalized, in `whole`, or as it is if that is None; and as the branch reads it."""
        branch = cast(PassBranch, self.branch)
        alike = not branch.silu and branch.reads == (x.dtype if whole is None else whole)
        main, seen = joined(
            x,
            skip,
            shares=shares,
            eps=eps,
            whole=whole,
            seen=None if alike else branch.reads,
            silu=branch.silu,
        )
        main = x if main is None else main
        return main, main if seen is None else seen
