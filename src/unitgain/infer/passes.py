"""The backend for CPUs, in C: what happens between convolutions is part of one of them, or one pass over memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from unitgain.arch.operations import Convolve, Modulate, Operation, lead
from unitgain.infer.backend import Backend, Entry, Slot, followed_by_silu
from unitgain.infer.fused import FilteredConv, FusedBottleneck, FusedDepthwise, FusedPointwise, pays_to_multiply
from unitgain.infer.layers import Step, Sum, folded
from unitgain.native import attend, can_attend, can_pass, converted, joined, summed

NARROW = 32  # channels, below which filtering does not pay


@dataclass(frozen=True)
class Passes(Backend):
    """C.

    Args:
        filtered: whether 3x3 convolutions are made by Winograd's filtering, with what comes after them.
        pairs: whether 1x1 convolutions are made in C, too.
    """

    filtered: bool = False
    pairs: bool = False
    activates = True

    def steps(self, operations: Sequence[Operation], slot: Slot) -> list[Step]:
        """As PyTorch's; images that only filtered convolutions see are of float16 rather than bfloat16."""
        made = super().steps(operations, slot)
        for step, following in pairwise(made):
            if isinstance(step, FilteredConv) and isinstance(following, FilteredConv):
                step.dtype = self._between()
        return made

    def take(self, operations: Sequence[Operation], slot: Slot) -> tuple[Step, int]:
        """Depthwise convolutions with what is before, filtered ones with what is after, and bottlenecks."""
        return (
            self._take_depthwise(operations, slot)
            or self._take_filtered(operations, slot)
            or self._take_pointwise(operations)
            or super().take(operations, slot)
        )

    def _take_depthwise(self, operations: Sequence[Operation], slot: Slot) -> tuple[Step, int] | None:
        first = lead(operations)
        convolve = operations[first.count] if first.count < len(operations) else None
        if not (isinstance(convolve, Convolve) and convolve.depthwise and max(convolve.layer.kernel) <= 15):
            return None
        at = None if first.modulate is None else slot(first.modulate)
        weight, silu = folded(convolve.layer, convolve.factor), first.activate is not None
        return FusedDepthwise(weight, at, silu, silu and first.after, self.dtype), first.count + 1

    def _take_filtered(self, operations: Sequence[Operation], slot: Slot) -> tuple[Step, int] | None:
        convolve = operations[0]
        tile = self.tile(convolve) if isinstance(convolve, Convolve) else None
        if tile is None:
            return None
        assert isinstance(convolve, Convolve)
        modulate = operations[1] if len(operations) > 1 and isinstance(operations[1], Modulate) else None
        count = 1 + (modulate is not None)
        silu = followed_by_silu(operations[count:])
        at = None if modulate is None else slot(modulate)
        weight = folded(convolve.layer, convolve.factor)
        return FilteredConv(weight, tile, self.dtype, at, silu), count + silu

    def _take_pointwise(self, operations: Sequence[Operation]) -> tuple[Step, int] | None:
        """A 1x1 convolution in C and the SiLU after it, or two with the SiLU between them; one before "s d" alone."""
        first = operations[0]
        if not isinstance(first, Convolve):
            return None
        following = lead(operations[1:])
        third = operations[1 + following.count] if len(operations) > 1 + following.count else None
        before_depthwise = isinstance(third, Convolve) and third.depthwise and max(third.layer.kernel) <= 15
        if not self._in_c(first):
            return (self.convolution(first), 1) if before_depthwise else None
        expand = FusedPointwise(folded(first.layer, first.factor))
        silu = followed_by_silu(operations[1:]) and not before_depthwise
        expand.activate = silu
        second = operations[1 + silu] if len(operations) > 1 + silu else None
        if not (isinstance(second, Convolve) and self._in_c(second)):
            return expand, 1 + silu
        return FusedBottleneck(expand, FusedPointwise(folded(second.layer, second.factor))), 2 + silu

    def convolution(self, operation: Convolve) -> Step:
        """In C if it is of pairs of bfloat16."""
        if self._in_c(operation):
            return FusedPointwise(folded(operation.layer, operation.factor))
        return super().convolution(operation)

    def _in_c(self, operation: Convolve) -> bool:
        return self.pairs and _pointwise(operation) and operation.layer.in_channels % 2 == 0

    def tile(self, operation: Convolve) -> int | None:
        """How large tiles of a convolution are filtered; None for a convolution by its definition.

        Fewer than 16 tiles are too few to pay for reading their weights, of which large tiles have more.
        """
        layer = operation.layer
        narrow = min(layer.weight.shape[:2]) < NARROW
        if not self.filtered or layer.groups > 1 or layer.kernel != (3, 3) or narrow or self.resolution < 8:
            return None
        return 4 if self.resolution >= (32 if self.dtype == torch.float32 else 16) else 2

    def first_reads(self, steps: Sequence[Step], sums: bool) -> torch.dtype:
        """Products of integers keep more than the 8 bits of bfloat16; depthwise convolutions read any precision."""
        if steps and isinstance(steps[0], FilteredConv):
            return self._between()
        return super().first_reads(steps, sums)

    def _between(self) -> torch.dtype:
        return torch.float16 if self.dtype == torch.bfloat16 and can_pass(torch.float16) else self.dtype

    def converted(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """`x` in another precision."""
        return converted(x, dtype)

    def enter(
        self, x: Tensor, skip: Tensor | None, shares: tuple[float, float], into: Entry, own: bool
    ) -> tuple[Tensor, Tensor]:
        """Main path, and what the branch reads, in one pass over the input."""
        alike = not into.silu and into.seen == (into.whole or x.dtype)
        made = joined(x, skip, shares=shares, **into._replace(seen=None if alike else into.seen)._asdict())
        main = x if made[0] is None else made[0]
        return main, main if made[1] is None else made[1]

    def summed(self, branch: Tensor, left: float, after: Sum) -> Tensor:
        """In one pass."""
        return summed(branch, left=left, **after._asdict())

    def attended(self, qkv: Tensor, heads: int, eps: float, at_once: int | None) -> Tensor:
        """Reads queries, keys and values where the convolution left them."""
        if not can_attend(self.dtype, qkv.shape[1] // (3 * heads)):
            return super().attended(qkv, heads, eps, at_once)
        return attend(qkv, heads, eps)


def passes(dtype: torch.dtype, preserving: bool, filtered: bool) -> Passes:
    """The backend for networks that compute in `dtype`.

    Main paths of bfloat16 are kept in float16, whose 11 bits are enough, where magnitudes are known to stay within its
    range.

    Args:
        dtype: to compute in.
        preserving: whether the network preserves magnitudes.
        filtered: whether 3x3 convolutions are filtered.
    """
    halves = preserving and can_pass(torch.float16)
    sums = (torch.float16 if halves else torch.float32) if dtype == torch.bfloat16 else dtype
    return Passes(dtype, sums, filtered=filtered, pairs=pays_to_multiply(dtype))


def _pointwise(operation: Convolve) -> bool:
    return operation.layer.kernel == (1, 1) and operation.layer.groups == 1
