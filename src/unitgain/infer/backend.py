"""How the operations of blocks are run: here by PyTorch, which knows all of them.

Another backend is a subclass that says which operations, and which neighbours together, it runs as one step; what it
leaves is run as here. It may also make a block's input and its sums in ways of its own.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unitgain.arch.block import plain_join
from unitgain.arch.operations import Activate, Apply, Convolve, Lead, Modulate, Operation, Scale, lead
from unitgain.infer.layers import Applied, FoldedConv, Modulated, Multiply, SiLU, Step, apart, fold_weight
from unitgain.native import Sum
from unitgain.ops import from_heads, magnitude, to_heads

Slot = Callable[[Modulate | None], int]
"""Takes a modulation; returns where its factors will be found among the scales. None is for the embedding itself."""


class Entry(NamedTuple):
    """What a block makes of its input.

    Attributes:
        eps: added to the magnitude of pixels; None without normalization.
        main: precision of the main path; None for that of the input.
        branch: precision of what the branch reads.
        silu: whether that is activated.
    """

    eps: float | None
    main: torch.dtype | None
    branch: torch.dtype
    silu: bool


@dataclass(frozen=True)
class Backend:
    """PyTorch.

    Args:
        dtype: to compute in.
        sums: precision of main paths. Rounded to the 8 bits of bfloat16 after each block, they would add to the error
            all the way down.
        resolution: of the outputs of what is made; of a rectangle, that of the square with as many pixels.

    Attributes:
        activates: whether `enter` takes in the SiLU that a branch begins with.
    """

    dtype: torch.dtype
    sums: torch.dtype
    resolution: int = 0
    activates = False

    def at(self, resolution: int) -> "Backend":
        """The same for layers whose outputs have this resolution."""
        return replace(self, resolution=resolution)

    def steps(self, operations: Sequence[Operation], slot: Slot) -> list[Step]:
        """The steps of a branch, of operations whose constants are folded."""
        steps: list[Step] = []
        while operations:
            step, count = self.take(operations, slot)
            if isinstance(step, SiLU):
                step.inplace = len(steps) > 0  # all steps but the first have their input for themselves
            steps.append(step)
            operations = operations[count:]
        return steps

    def take(self, operations: Sequence[Operation], slot: Slot) -> tuple[Step, int]:
        """A step for the first of these operations, and for how many of them."""
        first = operations[0]
        if isinstance(first, Convolve):
            convolution = self.convolution(first)
            if not isinstance(convolution, FoldedConv):
                return convolution, 1
            convolution.activate = self.activates_after(operations[1:])
            return convolution, 1 + convolution.activate
        if isinstance(first, Modulate):
            return self._plain(Modulated(slot(first))), 1
        if isinstance(first, Apply):
            return Applied(first.module, slot(None) if first.conditioned else None, self.dtype), 1
        return self._plain(Multiply(first.factor) if isinstance(first, Scale) else SiLU()), 1

    def activates_after(self, operations: Sequence[Operation]) -> bool:
        """Whether the step before takes in the SiLU that these begin with, if they do."""
        return bool(operations) and isinstance(operations[0], Activate)

    def _plain(self, step: Step) -> Step:
        step.reads = self.dtype
        return step

    def convolution(self, operation: Convolve) -> Step:
        """A convolution alone, also outside of a branch."""
        layer = operation.layer
        return FoldedConv(fold_weight(layer, operation.factor), layer.groups, self.dtype)

    def first_reads(self, steps: Sequence[Step], sums: bool) -> torch.dtype:
        """What a branch wants to be given; `sums`: whether its input is there in the precision of sums."""
        reads = steps[0].reads if steps else self.dtype
        return reads or (self.sums if sums else self.dtype)

    def convert(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """`x` in another precision."""
        return x.to(dtype)

    def enter(
        self, x: Float[Tensor, "n c *size"], skip: Tensor | None, shares: tuple[float, float], into: Entry, own: bool
    ) -> tuple[Float[Tensor, "n c2 *size"], Float[Tensor, "n c2 *size"]]:
        """The input, joined and normalized: as the main path takes it, and as the branch sees it.

        Args:
            x: features.
            skip: others beside them; None for none.
            shares: of both.
            into: what is wanted.
            own: whether nobody else has `x`, so that it may be written over.
        """
        x = beside(x, skip, shares)
        main = x if into.main is None else x.to(into.main)
        if into.eps is not None:
            out = main if own or main is not x else None
            main = torch.mul(main, magnitude(main, 1, into.eps).reciprocal().to(main.dtype), out=out)
        branch = main.to(into.branch)
        return main, F.silu(branch) if into.silu else branch

    def add(self, branch: Float[Tensor, "n c *size"], factor: float, after: Sum) -> Float[Tensor, "n c *size"]:
        """`factor` times `branch`, which may be written over, and the sum after it."""
        main, share, limit, dtype = after
        branch = branch * factor if factor != 1 else branch
        if main.shape == branch.shape and branch.dtype != main.dtype == dtype:
            x = torch.add(branch, main, alpha=share)  # in the wider of their types
        elif main.shape == branch.shape:
            x = branch.to(dtype).add_(main, alpha=share)
        else:  # doubled while it is added
            x = branch.to(dtype)
            of_pixel = x
            for dim in reversed(range(2, x.ndim)):
                of_pixel, main = of_pixel.unflatten(dim, (-1, 2)), main.unsqueeze(dim + 1)
            of_pixel.add_(main, alpha=share)
        return x if math.isinf(limit) else x.clamp_(-limit, limit)

    def attend(self, qkv: Float[Tensor, "n c3 *size"], heads: int, eps: float, at_once: int | None) -> Tensor:
        """What pixels gather from each other, `[N, C, *size]`; queries, keys and values are normalized here."""
        return apart(partial(self._attend, heads=heads, eps=eps), qkv, at_once)

    def _attend(self, qkv: Tensor, heads: int, eps: float) -> Tensor:
        q, k, v = self.normalized(to_heads(qkv, 3, heads), eps).permute(2, 0, 3, 1, 4).unbind(0)
        return from_heads(F.scaled_dot_product_attention(q, k, v), qkv.shape[2:])

    def normalized(self, tokens: Float[Tensor, "n p 3 heads c"], eps: float) -> Float[Tensor, "n p 3 heads c"]:
        """Queries, keys and values of unit magnitude."""
        return tokens * magnitude(tokens, -1, eps).reciprocal().to(tokens.dtype)


@dataclass(frozen=True)
class DepthwiseBackend(Backend, ABC):
    """One whose depthwise convolutions take in the modulation and the SiLU before them.

    Attributes:
        widest: kernel of those that do.
    """

    widest: ClassVar[float]

    def take(self, operations: Sequence[Operation], slot: Slot) -> tuple[Step, int]:
        """A depthwise convolution with what is before; all else as in `Backend`."""
        before = lead(operations)
        if (convolve := self._depthwise_after(before, operations)) is None:
            return super().take(operations, slot)
        at, silu = None if before.modulate is None else slot(before.modulate), before.activate is not None
        weight = fold_weight(convolve.layer, convolve.factor)
        return self.depthwise(weight, at, silu, silu and before.after), before.count + 1

    def activates_after(self, operations: Sequence[Operation]) -> bool:
        """Not where a depthwise convolution comes first."""
        return super().activates_after(operations) and self._depthwise_after(lead(operations), operations) is None

    def _depthwise_after(self, before: Lead, operations: Sequence[Operation]) -> Convolve | None:
        """The depthwise convolution after these, if there is one that takes them in."""
        convolve = operations[before.count] if before.count < len(operations) else None
        if not (isinstance(convolve, Convolve) and convolve.depthwise):
            return None
        return convolve if max(convolve.layer.kernel) <= self.widest else None

    @abstractmethod
    def depthwise(self, weight: Float[Tensor, "c 1 k k"], slot: int | None, silu: bool, after: bool) -> Step:
        """A depthwise convolution with the modulation and the `silu` before it.

        Args:
            weight: folded; not wider than `widest`.
            slot: of the modulation; None without.
            silu: whether `silu` comes before the convolution.
            after: whether the modulation comes after `silu`.
        """


def beside(x: Tensor, skip: Tensor | None, shares: tuple[float, float]) -> Tensor:
    """`x` and, if there is one, `skip`, each times its share, as one image in the precision of `skip`."""
    if skip is None:
        return x
    if shares != (1.0, 1.0):
        x, skip = x * shares[0], skip * shares[1]
    return plain_join(x.to(skip.dtype), skip)
