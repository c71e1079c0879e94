"""Residual blocks with every constant folded into a weight, run by any backend.

A block may be asked for its output times a constant, so that a concatenation further on need not scale its parts; it
then bounds its output by as many times the limit. A block that gets such an input undoes the factor where it
normalizes: the norm of a multiple is that multiple of the norm, if eps is multiplied too.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.arch.block import Block
from unitgain.arch.operations import Activate, Convolve, Operation, fold
from unitgain.arch.values import Conditions
from unitgain.infer.backend import Backend, Entry, Slot
from unitgain.infer.layers import Applied, Step, freeze, joined_apart
from unitgain.layers import CosineAttention, MPConv
from unitgain.native import Sum
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
        self, x: Float[Tensor, "n c *size"], scales: Sequence[Tensor], upsample: bool = False
    ) -> Float[Tensor, "n c2 *size2"]:
        """Run the steps on `x`, whose pixels are doubled before that if `upsample`; it is left as it is."""
        return self._run(self._steps(), x, scales, None, upsample)

    def add(
        self, x: Float[Tensor, "n c *size"], scales: Sequence[Tensor], after: Sum, upsample: bool = False
    ) -> Float[Tensor, "n c2 *size2"]:
        """What `forward` makes of `x`, times `left`, and the sum after it, in the last step if that takes it."""
        steps = self._steps()
        if steps and self.left == 1 and steps[-1].adds(upsample):
            return self._run(steps, x, scales, after, upsample)
        return self.backend.add(self._run(steps, x, scales, None, upsample), self.left, after)

    def _steps(self) -> list[Step]:
        return cast(list[Step], list(self))

    def _run(self, steps: list[Step], x: Tensor, scales: Sequence[Tensor], after: Sum | None, upsample: bool) -> Tensor:
        for index, step in enumerate(steps):
            options: dict[str, Any] = {}
            if upsample and step.upsamples:
                options["upsample"] = True
            elif upsample:
                x = resample(x, "up")
            if after is not None and index == len(steps) - 1:
                options["after"] = after
            x = x if step.reads in (None, x.dtype) else self.backend.convert(x, step.reads)
            x, upsample = step(x, scales, **options), False
        return resample(x, "up") if upsample else x


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
        self.backend = backend
        self.heads = attention.heads
        self.eps = EPS * scale
        self.at_once: int | None = None
        self.main, branch = attention.shares
        self.qkv = backend.convolution(Convolve(cast(MPConv, attention.qkv)))
        self.proj = backend.convolution(Convolve(cast(MPConv, attention.proj), branch * scale))

    def forward(self, x: Float[Tensor, "n c *size"], limit: float) -> Float[Tensor, "n c *size"]:
        """Attend over all pixels of `x`, sum with `x`, and clamp; in the precision of `x`."""
        backend = self.backend
        qkv = self.qkv(backend.convert(x, backend.dtype))
        y = backend.attend(qkv, self.heads, self.eps, self.at_once)
        after = Sum(x, self.main, limit, x.dtype)
        return self.proj(y, after=after) if self.proj.adds(False) else backend.add(self.proj(y), 1.0, after)


class AppliedAttention(nn.Module):
    """Attention of another kind, run by PyTorch in float32.

    Args:
        module: as trained; not changed.
        scale: factor that input and output have.
    """

    def __init__(self, module: nn.Module, scale: float) -> None:
        super().__init__()
        self.module, self.scale = Applied(module, None, torch.float32), scale

    def forward(self, x: Float[Tensor, "n c *size"], limit: float) -> Float[Tensor, "n c *size"]:
        """What the module makes of `x`, clamped; in the precision of `x`."""
        y = self.module(x.float() / self.scale) * self.scale
        return y.clamp(-limit, limit).to(x.dtype)


def fold_attention(module: nn.Module, backend: Backend, scale: float) -> FoldedAttention | AppliedAttention | None:
    """What follows the sum of a block; None if nothing does.

    Args:
        module: as trained.
        backend: runs it, if it is cosine attention.
        scale: factor that input and output have.
    """
    if isinstance(module, nn.Identity):
        return None
    if isinstance(module, CosineAttention) and isinstance(module.qkv, MPConv) and isinstance(module.proj, MPConv):
        return FoldedAttention(module, backend, scale)
    return AppliedAttention(module, scale)


class FoldedBlock(nn.Module):
    """A block of a token network.

    Args:
        block: as trained.
        backend: makes and runs its steps.
        slot: where to leave modulations.
        scale_in: factor that the input of an encoder block comes with.
        scale_out: factor that the output is wanted with.

    Attributes:
        at_once: images that attend to sequences at a time; None for all.
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
        steps = cast(list[Step], list(self.branch))
        self.reads = backend.first_reads(steps, block.normalizes or self.shortcut is None)
        self.attention = fold_attention(block.attention, backend, scale_out)
        self.cross, self.scale = cast(nn.ModuleDict, freeze(block.cross, backend.dtype)), scale_out
        self.at_once: int | None = None

    def forward(
        self,
        x: Float[Tensor, "n c *size"],
        scales: Sequence[Tensor],
        skip: Float[Tensor, "n c3 *size"] | None = None,
        shares: tuple[float, float] = (1.0, 1.0),
        conditions: Conditions | None = None,
    ) -> Float[Tensor, "n c2 *size2"]:
        """Features times `scale_out`, in the precision of sums; the input is left as it is.

        Args:
            x: features.
            scales: factors of modulations.
            skip: features that `x` is joined with first, in the precision that is enough for both.
            shares: of `x` and `skip`.
            conditions: sequences that it attends to.
        """
        # All that happens before the branch happens to each pixel by itself, so that pixels can be doubled after it.
        upsample = self.mode == "up"
        x = x if upsample else resample(x, self.mode)
        main, branch = self._paths(x, skip, shares, own=self.mode == "down")
        conditions = conditions if self.cross else None
        limit = self.limit if self.attention is None and conditions is None else math.inf
        x = self.branch.add(branch, scales, Sum(main, self.main, limit, self.backend.sums), upsample)
        if self.attention is not None:
            x = self.attention(x, self.limit if conditions is None else math.inf)
        return x if conditions is None else self._attend(x, conditions)

    def _attend(self, x: Tensor, conditions: Conditions) -> Tensor:
        """To sequences, in the network's precision, by PyTorch."""
        y = (x / self.scale).to(self.backend.dtype)
        y = joined_apart(self.cross, y, conditions, self.at_once) * self.scale
        return y.clamp(-self.limit, self.limit).to(x.dtype)

    def _paths(self, x: Tensor, skip: Tensor | None, shares: tuple[float, float], own: bool) -> tuple[Tensor, Tensor]:
        """Main path, and what the branch reads; `own`: whether nobody else has `x`."""
        backend = self.backend
        if self.norm_eps is not None and self.shortcut is not None:
            x, own = self.shortcut(backend.convert(x, backend.dtype)), True
        dtype = backend.sums if self.norm_eps is not None or skip is not None else None
        after = self.shortcut if self.norm_eps is None else None  # what the main path goes through
        into = Entry(self.norm_eps, dtype if after is None else backend.dtype, self.reads, self.branch.silu)
        main, branch = backend.enter(x, skip, shares, into, own)
        return main if after is None else after(main), branch
