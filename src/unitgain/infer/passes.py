"""The backend for CPUs, in C: what happens between convolutions is part of one of them, or one pass over memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from unitgain.arch.operations import Convolve, Modulate, Operation
from unitgain.infer.backend import DepthwiseBackend, Entry, Slot
from unitgain.infer.fused import FilteredConv, FusedBottleneck, FusedDepthwise, FusedPointwise, pays_to_convolve
from unitgain.infer.layers import Step, fold_weight
from unitgain.native import Depthwise, Sum, add, attend, can_attend, can_pass, convert, join

NARROW = 32  # channels, below which filtering does not pay


@dataclass(frozen=True)
class Passes(DepthwiseBackend):
    """C.

    Args:
        filtered: whether 3x3 convolutions are made by Winograd's filtering, with what comes after them.
        pairs: whether 1x1 convolutions are made in C, too.
    """

    filtered: bool = False
    pairs: bool = False
    activates = True
    widest = Depthwise.MOST

    def steps(self, operations: Sequence[Operation], slot: Slot) -> list[Step]:
        """As PyTorch's; images that only filtered convolutions see are of float16 rather than bfloat16."""
        steps = super().steps(operations, slot)
        for step, following in pairwise(steps):
            if isinstance(step, FilteredConv) and isinstance(following, FilteredConv):
                step.dtype = self._between()
        return steps

    def take(self, operations: Sequence[Operation], slot: Slot) -> tuple[Step, int]:
        """Filtered convolutions with what is after, bottlenecks, and depthwise convolutions with what is before."""
        return (
            self._take_filtered(operations, slot) or self._take_pointwise(operations) or super().take(operations, slot)
        )

    def depthwise(self, weight: Float[Tensor, "c 1 k k"], slot: int | None, silu: bool, after: bool) -> Step:
        """With the modulation and the `silu` before it."""
        return FusedDepthwise(weight, slot, silu, after, self.dtype)

    def _take_filtered(self, operations: Sequence[Operation], slot: Slot) -> tuple[Step, int] | None:
        convolve = operations[0]
        if not isinstance(convolve, Convolve) or (tile := self.tile(convolve)) is None:
            return None
        modulate = operations[1] if len(operations) > 1 and isinstance(operations[1], Modulate) else None
        count = 1 + (modulate is not None)
        silu = self.activates_after(operations[count:])
        at = None if modulate is None else slot(modulate)
        weight = fold_weight(convolve.layer, convolve.factor)
        return FilteredConv(weight, tile, self.dtype, at, silu), count + silu

    def _take_pointwise(self, operations: Sequence[Operation]) -> tuple[Step, int] | None:
        """A 1x1 convolution in C and the SiLU after it, or two with the SiLU between them."""
        expand = self._pointwise(operations[0])
        if expand is None:
            return None
        expand.activate = self.activates_after(operations[1:])
        count = 1 + expand.activate
        project = self._pointwise(operations[count]) if count < len(operations) else None
        return (expand, count) if project is None else (FusedBottleneck(expand, project), count + 1)

    def convolution(self, operation: Convolve) -> Step:
        """In C if it is of pairs of bfloat16."""
        return self._pointwise(operation) or super().convolution(operation)

    def _pointwise(self, operation: Operation) -> FusedPointwise | None:
        """A 1x1 convolution in C, if this is one that C makes."""
        if not (self.pairs and isinstance(operation, Convolve)):
            return None
        layer = operation.layer
        if layer.kernel != (1, 1) or layer.groups > 1 or layer.in_channels % 2:
            return None
        return FusedPointwise(fold_weight(layer, operation.factor))

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

    def convert(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """`x` in another precision."""
        return convert(x, dtype)

    def enter(
        self, x: Tensor, skip: Tensor | None, shares: tuple[float, float], into: Entry, own: bool
    ) -> tuple[Tensor, Tensor]:
        """Main path, and what the branch reads, in one pass over the input."""
        alike = not into.silu and into.branch == (into.main or x.dtype)
        main, branch = join(
            x, skip, shares=shares, eps=into.eps, main=into.main, branch=None if alike else into.branch, silu=into.silu
        )
        main = x if main is None else main
        return main, main if branch is None else branch

    def add(self, branch: Tensor, factor: float, after: Sum) -> Tensor:
        """In one pass."""
        return add(branch, after, factor)

    def attend(self, qkv: Tensor, heads: int, eps: float, at_once: int | None) -> Tensor:
        """Reads queries, keys and values where the convolution left them."""
        if not can_attend(self.dtype, qkv.shape[1] // (3 * heads)):
            return super().attend(qkv, heads, eps, at_once)
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
    return Passes(dtype, sums, filtered=filtered, pairs=pays_to_convolve(dtype))
