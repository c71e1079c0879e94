"""Residual blocks with every constant folded into a weight.

A block may be asked for its output times a constant, so that a concatenation further on need not scale its parts; it
then bounds its output by as many times the limit. A block that gets such an input undoes the factor where it
normalizes: the norm of a multiple is that multiple of the norm, if eps is multiplied too.
"""

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.arch.block import Block, Branch, EncoderBlock, Modulation, MPSiLU, UngainedModulation, plain_join
from unitgain.infer.fused import FusedPointwise, pays_to_multiply
from unitgain.infer.layers import FoldedConv, Modulate, Scale, SiLU, folded
from unitgain.layers import CosineAttention, MPConv
from unitgain.native import can_pass
from unitgain.ops import EPS, SILU_MAGNITUDE, Resampling, magnitude, resample

Slot = Callable[[Tensor, float], int]
"""Takes a modulation's weight `[C, C_emb]` and its constant term; returns where its factors will be found."""


NARROW = 32  # channels, below which filtering does not pay


class Rule:
    """How a network is folded: its precision, and the factors of main path and branch, and of a concatenation's parts.

    Args:
        preserving: whether its functions preserve magnitudes.
        dtype: to compute in.
        filtered: whether 3x3 convolutions are made by Winograd's filtering, with what comes after them.
        fused: whether what happens between convolutions is made in C, and 1x1 convolutions where that is faster.
    """

    def __init__(self, preserving: bool, dtype: torch.dtype, filtered: bool, fused: bool) -> None:
        self.preserving = preserving
        self.dtype = dtype
        self.filtered = filtered
        self.fused = fused
        self.pairs = fused and pays_to_multiply(dtype)
        self.resolution = 0
        self.silu = 1 / SILU_MAGNITUDE if preserving else 1.0
        # Rounded to the 8 bits of bfloat16 after each block, the sums would add to the error all the way down; the 11
        # of float16 are enough, where magnitudes are known to stay within its range.
        halves = fused and preserving and can_pass(torch.float16)
        self.sums = (torch.float16 if halves else torch.float32) if dtype == torch.bfloat16 else dtype

    def at(self, resolution: int) -> "Rule":
        """The rule for layers whose outputs have this resolution."""
        found = copy.copy(self)
        found.resolution = resolution
        return found

    def tile(self, weight: Tensor, groups: int) -> int | None:
        """How large tiles of a convolution with this weight are filtered; None for a convolution by its definition.

        Fewer than 16 tiles are too few to pay for reading their weights, of which large tiles have more.
        """
        narrow = min(weight.shape[:2]) < NARROW
        if not self.filtered or groups > 1 or weight.shape[2:] != (3, 3) or narrow or self.resolution < 8:
            return None
        return 4 if self.resolution >= (32 if self.dtype == torch.float32 else 16) else 2

    def convolution(self, weight: Tensor, groups: int = 1) -> FoldedConv | FusedPointwise:
        """The convolution with this weight, in this precision."""
        if self.pairs and groups == 1 and weight.shape[2:] == (1, 1) and weight.shape[1] % 2 == 0:
            return FusedPointwise(weight)
        return FoldedConv(weight, groups, self.dtype)

    def add(self, t: float) -> tuple[float, float]:
        """Factors of the main path and of the branch (Eq. 88)."""
        scale = 1 / math.sqrt((1 - t) ** 2 + t**2)
        return ((1 - t) * scale, t * scale) if self.preserving else (1.0, 1.0)

    def join(self, x: int, skip: int, t: float) -> tuple[float, float]:
        """Factors of features and skip connection with these channels (Eq. 103)."""
        scale = math.sqrt((x + skip) / ((1 - t) ** 2 + t**2))
        return (scale * (1 - t) / math.sqrt(x), scale * t / math.sqrt(skip)) if self.preserving else (1.0, 1.0)


class FoldedBranch(nn.ModuleList):
    """The steps of a residual branch.

    Args:
        branch: as trained.
        factor: of its output.
        rule: of the network.
        slot: where to leave the weights of modulations.

    Attributes:
        left: what of `factor` no weight could take.
    """

    def __init__(self, branch: Branch, factor: float, rule: Rule, slot: Slot) -> None:
        super().__init__()
        self.dtype, self.sums = rule.dtype, rule.sums
        layers = [module for module in branch if not isinstance(module, nn.Dropout)]
        linear = [i for i, module in enumerate(layers) if not isinstance(module, MPSiLU | nn.SiLU)]
        foldable = bool(linear) and linear[-1] == len(layers) - 1
        pending = 1.0
        for index, module in enumerate(layers):
            extra = factor if foldable and index == linear[-1] else 1.0
            if isinstance(module, MPSiLU | nn.SiLU):
                if pending != 1:
                    self.append(Scale(pending))
                self._activate()
                pending = rule.silu
                continue
            if isinstance(module, MPConv):
                self._convolve(folded(module).mul_(pending * extra), module, rule)
            else:
                assert isinstance(module, Modulation | UngainedModulation)
                weight = folded(module.linear, module.gain if isinstance(module, Modulation) else 1.0)
                self._modulate(slot(weight.mul_(rule.silu * pending * extra), pending * extra))
            pending = 1.0
        self.left = pending * (1.0 if foldable else factor)

    def _activate(self) -> None:
        """Let `silu` follow: as part of a convolution before it, if there is one."""
        last = self[-1] if len(self) else None
        if isinstance(last, FoldedConv | FusedPointwise) and not last.activate:
            last.activate = True
        else:
            self.append(SiLU(inplace=len(self) > 0))

    def _modulate(self, slot: int) -> None:
        """Let a modulation follow."""
        self.append(Modulate(slot))

    def _convolve(self, weight: Tensor, layer: MPConv, rule: Rule) -> None:
        """Let a convolution follow."""
        self.append(rule.convolution(weight, layer.groups))

    def forward(self, x: Float[Tensor, "n c h w"], scales: list[Tensor]) -> Float[Tensor, "n c2 h w"]:
        """Run the steps; `x` is left as it is."""
        for step in self:
            x = step(x, scales) if isinstance(step, Modulate) else step(x)
        return x

    def add(
        self, x: Float[Tensor, "n c h w"], scales: list[Tensor], main: Tensor, share: float, limit: float
    ) -> Float[Tensor, "n c2 h w"]:
        """What the steps make of `x`, times `left`, plus `share` times `main`, clamped; in the precision of sums.

        Where `main` is half as high and wide, its pixels are doubled.
        """
        branch = self(x, scales)
        branch = branch * self.left if self.left != 1 else branch
        if main.shape == branch.shape and branch.dtype != main.dtype == self.sums:
            x = torch.add(branch, main, alpha=share)  # in the wider of their types
        elif main.shape == branch.shape:
            x = branch.to(self.sums).add_(main, alpha=share)
        else:  # doubled while it is added
            x = branch.to(self.sums)
            of_pixel = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
            of_pixel.add_(main[:, :, :, None, :, None], alpha=share)
        return x if math.isinf(limit) else x.clamp_(-limit, limit)


class FoldedAttention(nn.Module):
    """Cosine attention and its sum with its input.

    Args:
        attention: as trained.
        rule: of the network.
        scale: factor that input and output have.
    """

    def __init__(self, attention: CosineAttention, rule: Rule, scale: float) -> None:
        super().__init__()
        assert isinstance(attention.qkv, MPConv)
        assert isinstance(attention.proj, MPConv)
        self.heads = attention.heads
        self.dtype = rule.dtype
        self.eps = EPS * scale
        self.main, branch = rule.add(attention.balance)
        self.qkv = rule.convolution(folded(attention.qkv))
        self.proj = rule.convolution(folded(attention.proj).mul_(branch * scale))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Attend over the H x W pixels of `x` and sum with `x`."""
        return self.attend(x.to(self.dtype)).to(x.dtype).add_(x, alpha=self.main)

    def attend(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The attention branch alone, with its factor of the sum."""
        return self.proj(self.values(x))

    def values(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """What pixels gather from each other, before the projection."""
        n, c, h, w = x.shape
        tokens = self.qkv(x).permute(0, 2, 3, 1).reshape(n, h * w, 3, self.heads, c // self.heads)
        q, k, v = self.normalized(tokens).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return y.transpose(1, 2).reshape(n, h, w, c).permute(0, 3, 1, 2)

    def normalized(self, tokens: Float[Tensor, "n p 3 heads c"]) -> Float[Tensor, "n p 3 heads c"]:
        """Queries, keys and values of unit magnitude."""
        return tokens * magnitude(tokens, -1, self.eps).reciprocal().to(tokens.dtype)


class FoldedBlock(nn.Module):
    """A block of a token network.

    Args:
        block: as trained.
        rule: of the network.
        slot: where to leave the weights of modulations.
        scale_in: factor that the input of an encoder block comes with.
        scale_out: factor that the output is wanted with.

    Attributes:
        branch_type: what its branch becomes.
        attention_type: what its attention becomes.
    """

    branch_type: type[FoldedBranch] = FoldedBranch
    attention_type: type[FoldedAttention] = FoldedAttention

    def __init__(self, block: Block, rule: Rule, slot: Slot, scale_in: float, scale_out: float) -> None:
        super().__init__()
        self.mode: Resampling = block.mode
        self.dtype = rule.dtype
        self.sums = rule.sums
        self.limit = block.clip_act * scale_out
        self.norm_eps = EPS * scale_in if isinstance(block, EncoderBlock) else None
        main, branch = (factor * scale_out for factor in rule.add(block.res_balance))
        self.branch = self.branch_type(block.branch, branch, rule, slot)
        self.shortcut = None
        if isinstance(block.shortcut, MPConv):
            inside, main = (1.0, main) if self.norm_eps is not None else (main, 1.0)  # a norm would undo it
            self.shortcut = rule.convolution(folded(block.shortcut).mul_(inside))
        self.main = main
        self.attention = None
        if isinstance(block.attention, CosineAttention):
            self.attention = self.attention_type(block.attention, rule, scale_out)

    def forward(
        self,
        x: Float[Tensor, "n c h w"],
        scales: list[Tensor],
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
        main, seen = self._paths(beside(x, skip, shares))
        if self.attention is None:
            return self.branch.add(seen, scales, main, self.main, self.limit)
        x = self.branch.add(seen, scales, main, self.main, math.inf)
        return self.attention(x).clamp_(-self.limit, self.limit)

    def _paths(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Main path, before it is doubled if nothing else happens to it, and what the branch reads."""
        if self.norm_eps is None:
            seen = resample(x.to(self.dtype), self.mode)  # doubling and rounding commute
            return x if self.shortcut is None else self.shortcut(seen), seen
        main = resample(x, self.mode)
        if self.shortcut is not None:
            main = self.shortcut(main.to(self.dtype)).to(self.sums)
        own = None if main is x else main  # what nobody else has is written over
        main = torch.mul(main, magnitude(main, 1, self.norm_eps).reciprocal().to(main.dtype), out=own)
        return main, main.to(self.dtype)


def beside(x: Tensor, skip: Tensor | None, shares: tuple[float, float]) -> Tensor:
    """`x` and, if there is one, `skip`, each times its share, as one image in the precision of `skip`."""
    if skip is None:
        return x
    if shares != (1.0, 1.0):
        x, skip = x * shares[0], skip * shares[1]
    return plain_join(x.to(skip.dtype), skip)
