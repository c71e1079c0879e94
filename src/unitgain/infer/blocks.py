"""Residual blocks with every constant folded into a weight, run by any backend.

A block may be asked for its output times a constant, so that a concatenation further on need not scale its parts; it
then bounds its output by as many times the limit. A block that gets such an input undoes the factor where it
normalizes: the norm of a multiple is that multiple of the norm, if eps is multiplied too.
"""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from unitgain.arch.block import Block
from unitgain.arch.operations import Activate, Convolve, Operation, fold
from unitgain.infer.backend import Backend, Entry, Slot
from unitgain.infer.layers import Step, Sum
from unitgain.layers import CosineAttention, MPConv
from unitgain.ops import EPS, Resampling, resample


class FoldedBranch(nn.ModuleList):
    """The steps of a residual branch.

    Args:
        operations: of the branch.
        factor: of its output.
        backend: makes and runs them.
        slot: where to leave modulations.

    Attributes:
        silu: whether its input comes activated, as `enter` does it.
        left: what of `factor` no weight could take.
    """

    def __init__(self, operations: Sequence[Operation], factor: float, backend: Backend, slot: Slot) -> None:
        program, left = fold(operations, factor)
        silu = backend.activates and bool(program) and isinstance(program[0], Activate)
        super().__init__(backend.steps(program[silu:], slot))
        self.backend, self.left, self.silu = backend, left, silu

    def forward(
        self, x: Float[Tensor, "n c h w"], scales: Sequence[Tensor], doubled: bool = False
    ) -> Float[Tensor, "n c2 h2 w2"]:
        """Run the steps on `x`, whose pixels are doubled before that if `doubled`; it is left as it is."""
        return self._run(len(self), x, scales, doubled)

    def _run(self, count: int, x: Tensor, scales: Sequence[Tensor], doubled: bool) -> Tensor:
        """The first `count` steps."""
        for step in list(self)[:count]:
            assert isinstance(step, Step)
            if doubled and step.doubles:
                x = step(x, scales, doubled=True)
            else:
                x = resample(x, "up") if doubled else x
                x = step(x if step.reads in (None, x.dtype) else self.backend.converted(x, step.reads), scales)
            doubled = False
        return resample(x, "up") if doubled else x

    def add(
        self,
        x: Float[Tensor, "n c h w"],
        scales: Sequence[Tensor],
        after: Sum,
        doubled: bool = False,
    ) -> Float[Tensor, "n c2 h2 w2"]:
        """What `forward` makes of `x`, times `left`, and the sum after it."""
        last = self[-1] if len(self) else None
        if not (isinstance(last, Step) and last.adds(doubled) and self.left == 1):
            return self.backend.summed(self(x, scales, doubled), self.left, after)
        late = {"doubled": True} if doubled and last.doubles and len(self) == 1 else {}
        x = self._run(len(self) - 1, x, scales, doubled and not late)
        x = x if last.reads in (None, x.dtype) else self.backend.converted(x, last.reads)
        return last(x, scales, after=after, **late)


class FoldedAttention(nn.Module):
    """Cosine attention and its sum with its input.

    Args:
        attention: as trained.
        backend: runs it.
        scale: factor that input and output have.

    Attributes:
        at_once: images that libraries get at a time; None for all.
    """

    def __init__(self, attention: CosineAttention, backend: Backend, scale: float) -> None:
        super().__init__()
        assert isinstance(attention.qkv, MPConv) and isinstance(attention.proj, MPConv)
        self.backend = backend
        self.heads = attention.heads
        self.eps = EPS * scale
        self.at_once: int | None = None
        self.main, branch = attention.shares
        self.qkv = backend.convolution(Convolve(attention.qkv))
        self.proj = backend.convolution(Convolve(attention.proj, branch * scale))

    def forward(self, x: Float[Tensor, "n c h w"], limit: float) -> Float[Tensor, "n c h w"]:
        """Attend over the H x W pixels of `x`, sum with `x`, and clamp; in the precision of `x`."""
        backend = self.backend
        qkv = self.qkv(backend.converted(x, backend.dtype))
        y = backend.attended(qkv, self.heads, self.eps, self.at_once)
        after = Sum(x, self.main, limit, x.dtype)
        return self.proj(y, after=after) if self.proj.adds(False) else backend.summed(self.proj(y), 1.0, after)


class FoldedBlock(nn.Module):
    """A block of a token network.

    Args:
        block: as trained.
        backend: makes and runs its steps.
        slot: where to leave modulations.
        scale_in: factor that the input of an encoder block comes with.
        scale_out: factor that the output is wanted with.
    """

    def __init__(self, block: Block, backend: Backend, slot: Slot, scale_in: float, scale_out: float) -> None:
        super().__init__()
        self.mode: Resampling = block.mode
        self.backend = backend
        self.limit = block.clip_act * scale_out
        self.norm_eps = EPS * scale_in if block.normalizes else None
        main, branch = (factor * scale_out for factor in block.shares)
        self.branch = FoldedBranch(block.branch.operations(), branch, backend, slot)
        self.shortcut = None
        if isinstance(block.shortcut, MPConv):
            inside, main = (1.0, main) if block.normalizes else (main, 1.0)  # a norm would undo it
            self.shortcut = backend.convolution(Convolve(block.shortcut, inside))
        self.main = main
        self.reads = backend.first_reads(list(self.branch), block.normalizes or self.shortcut is None)  # type: ignore[arg-type]
        self.attention = None
        if isinstance(block.attention, CosineAttention):
            self.attention = FoldedAttention(block.attention, backend, scale_out)

    def forward(
        self,
        x: Float[Tensor, "n c h w"],
        scales: Sequence[Tensor],
        skip: Float[Tensor, "n c3 h w"] | None = None,
        shares: tuple[float, float] = (1.0, 1.0),
    ) -> Float[Tensor, "n c2 h2 w2"]:
        """Features times `scale_out`, in the precision of sums; the input is left as it is.

        Args:
            x: features.
            scales: factors of modulations.
            skip: features that `x` is joined with first, in the precision that is enough for both.
            shares: of `x` and `skip`.
        """
        # All that happens before the branch happens to each pixel by itself, so that pixels can be doubled after it.
        doubled = self.mode == "up" and self.backend.doubles_late
        own = self.mode != "keep" and not doubled
        x = x if doubled else resample(x, self.mode)
        main, seen = self._paths(x, skip, shares, own)
        limit = self.limit if self.attention is None else math.inf
        x = self.branch.add(seen, scales, Sum(main, self.main, limit, self.backend.sums), doubled)
        return x if self.attention is None else self.attention(x, self.limit)

    def _paths(self, x: Tensor, skip: Tensor | None, shares: tuple[float, float], own: bool) -> tuple[Tensor, Tensor]:
        """Main path, and what the branch reads."""
        backend = self.backend
        if self.norm_eps is not None and self.shortcut is not None:
            x, own = self.shortcut(backend.converted(x, backend.dtype)), True
        whole = backend.sums if self.norm_eps is not None or skip is not None else None
        after = self.shortcut if self.norm_eps is None else None  # what the main path goes through
        into = Entry(self.norm_eps, whole if after is None else backend.dtype, self.reads, self.branch.silu)
        main, seen = backend.enter(x, skip, shares, into, own)
        return main if after is None else after(main), seen
