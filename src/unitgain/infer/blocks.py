"""Residual blocks with every constant folded into a weight.

A block may be asked for its output times a constant, so that a concatenation further on need not scale its parts; it
then bounds its output by as many times the limit. A block that gets such an input undoes the factor where it
normalizes: the norm of a multiple is that multiple of the norm, if eps is multiplied too.
"""

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.arch.block import Block, Branch, EncoderBlock, Modulation, MPSiLU, UngainedModulation
from unitgain.infer.layers import Bottleneck, FoldedConv, FusedDepthwise, Modulate, Scale, SiLU, folded
from unitgain.layers import CosineAttention, MPConv
from unitgain.ops import EPS, SILU_MAGNITUDE, Resampling, magnitude, resample

Slot = Callable[[Tensor, float], int]
"""Takes a modulation's weight `[C, C_emb]` and its constant term; returns where its factors will be found."""


class Rule:
    """How a network is folded: its precision, and the factors of main path and branch, and of a concatenation's parts.

    Args:
        preserving: whether its functions preserve magnitudes.
        dtype: to compute in.
        fused: whether depthwise convolutions are made in C, with what comes before them, and bottlenecks in parts.
    """

    def __init__(self, preserving: bool, dtype: torch.dtype, fused: bool) -> None:
        self.preserving = preserving
        self.dtype = dtype
        self.fused = fused
        self.silu = 1 / SILU_MAGNITUDE if preserving else 1.0
        # Rounded to the 8 bits of bfloat16 after each block, the sums would add to the error all the way down.
        self.sums = torch.float32 if dtype == torch.bfloat16 else dtype

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
                self.append(Modulate(slot(weight.mul_(rule.silu * pending * extra), pending * extra)))
            pending = 1.0
        self.left = pending * (1.0 if foldable else factor)

    def _activate(self) -> None:
        """Let `silu` follow: as part of a convolution before it, if there is one."""
        last = self[-1] if len(self) else None
        if isinstance(last, FoldedConv) and not last.activate:
            last.activate = True
        else:
            self.append(SiLU(inplace=len(self) > 0))

    def _convolve(self, weight: Tensor, layer: MPConv, rule: Rule) -> None:
        """Let a convolution follow; a depthwise one takes in what is before it."""
        if not (rule.fused and layer.groups == layer.in_channels == len(weight)):
            made, last = FoldedConv(weight, layer.groups, rule.dtype), self[-1] if len(self) else None
            if rule.fused and isinstance(last, FoldedConv) and last.pointwise and made.pointwise:
                self[-1] = Bottleneck(last, made)
            else:
                self.append(made)
            return
        silu = len(self) > 0 and isinstance(self[-1], SiLU)
        if silu:
            del self[-1]
        slot = None
        if len(self) and isinstance(self[-1], Modulate):
            slot = cast(Modulate, self[-1]).slot
            del self[-1]
        self.append(FusedDepthwise(weight, slot, silu))

    def forward(self, x: Float[Tensor, "n c h w"], scales: list[Tensor]) -> Float[Tensor, "n c2 h w"]:
        """Run the steps; `x` is left as it is."""
        for step in self:
            x = step(x, scales) if isinstance(step, Modulate | FusedDepthwise) else step(x)
        return x


class FoldedBlock(nn.Module):
    """A block of a token network.

    Args:
        block: as trained.
        rule: of the network.
        slot: where to leave the weights of modulations.
        scale_in: factor that the input of an encoder block comes with.
        scale_out: factor that the output is wanted with.
    """

    def __init__(self, block: Block, rule: Rule, slot: Slot, scale_in: float, scale_out: float) -> None:
        super().__init__()
        self.mode: Resampling = block.mode
        self.dtype = rule.dtype
        self.sums = rule.sums
        self.limit = block.clip_act * scale_out
        self.norm_eps = EPS * scale_in if isinstance(block, EncoderBlock) else None
        main, branch = (factor * scale_out for factor in rule.add(block.res_balance))
        self.branch = FoldedBranch(block.branch, branch, rule, slot)
        self.shortcut = None
        if isinstance(block.shortcut, MPConv):
            inside, main = (1.0, main) if self.norm_eps is not None else (main, 1.0)  # a norm would undo it
            self.shortcut = FoldedConv(folded(block.shortcut).mul_(inside), 1, rule.dtype)
        self.main = main
        self.attention = (
            FoldedAttention(block.attention, rule, scale_out) if isinstance(block.attention, CosineAttention) else None
        )

    def forward(self, x: Float[Tensor, "n c h w"], scales: list[Tensor]) -> Float[Tensor, "n c2 h2 w2"]:
        """Features times `scale_out`, in the precision of sums; the input is left as it is."""
        main, branch = self._paths(x, scales)
        if self.branch.left != 1:
            branch = branch * self.branch.left
        x = branch.to(self.sums)
        del branch  # where it is another tensor, its memory is for the next one
        if main.shape == x.shape:
            x.add_(main, alpha=self.main)
        else:  # doubled while it is added
            of_pixel = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
            of_pixel.add_(main[:, :, :, None, :, None], alpha=self.main)
        if self.attention is not None:
            x = self.attention(x)
        return x.clamp_(-self.limit, self.limit)

    def _paths(self, x: Tensor, scales: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Main path, before it is doubled if nothing else happens to it, and branch."""
        if self.norm_eps is None:
            seen = resample(x.to(self.dtype), self.mode)  # doubling and rounding commute
            return x if self.shortcut is None else self.shortcut(seen), self.branch(seen, scales)
        main = resample(x, self.mode)
        if self.shortcut is not None:
            main = self.shortcut(main.to(self.dtype)).to(self.sums)
        own = None if main is x else main  # what nobody else has is written over
        main = torch.mul(main, magnitude(main, 1, self.norm_eps).reciprocal().to(main.dtype), out=own)
        return main, self.branch(main.to(self.dtype), scales)


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
        self.qkv = FoldedConv(folded(attention.qkv), 1, rule.dtype)
        self.proj = FoldedConv(folded(attention.proj).mul_(branch * scale), 1, rule.dtype)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Attend over the H x W pixels of `x` and sum with `x`."""
        n, c, h, w = x.shape
        tokens = self.qkv(x.to(self.dtype)).permute(0, 2, 3, 1).reshape(n, h * w, 3, self.heads, c // self.heads)
        tokens = tokens * magnitude(tokens, -1, self.eps).reciprocal().to(tokens.dtype)
        q, k, v = tokens.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        y = y.transpose(1, 2).reshape(n, h, w, c).permute(0, 3, 1, 2)
        return self.proj(y).to(x.dtype).add_(x, alpha=self.main)
