"""A network whose pixels, between convolutions, take one pass over memory each, and its weights too: in C, on CPUs.

Blocks and layers change class and nothing else, as with `unitgain.kernels.fuse`: modules, parameters and their names
stay, so checkpoints, averages, DDP, FSDP2, copies and `infer.prepare` see the network that they know. Numbers are those
of the plain ones to rounding. What C does not take, and blocks whose parts somebody watches, run as they are written.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.arch.block import Block, DecoderBlock, EncoderBlock, functions
from unitgain.arch.operations import Apply, Convolve, Operation, Scale, carry_out, is_idle, lead
from unitgain.arch.unet import MPUNet
from unitgain.arch.values import Conditions
from unitgain.denoiser import Denoiser
from unitgain.layers import CosineAttention, MPConv
from unitgain.native.training import balance, can_train, fork, join_features, modulate, normalize_pixels
from unitgain.ops import EPS, mp_cat, mp_cat_factors, resample
from unitgain.train.weights import FusedConv

FEW_TOKENS = 256  # up to which attention is made of products in bfloat16, whose memory is little then


class FusedEncoderBlock(EncoderBlock):
    """A block of the encoder in fewer passes."""

    def forward(
        self, x: Float[Tensor, "n c *size"], emb: Float[Tensor, "n e"], conditions: Conditions | None = None
    ) -> Float[Tensor, "n c2 *size2"]:
        """As it is written, but for rounding."""
        if not can_train(x) or self.cross or _watched(self):
            return super().forward(x, emb, conditions)
        operations, silu = _begin(self)
        x = self.shortcut(resample(x, self.mode))
        if silu is None:
            main = branch = normalize_pixels(x, EPS)
        else:
            main, branch = fork(x, silu, EPS)
        return _add(self, main, _run(operations, branch, emb))


class FusedDecoderBlock(DecoderBlock):
    """A block of the decoder in fewer passes."""

    def forward(
        self, x: Float[Tensor, "n c *size"], emb: Float[Tensor, "n e"], conditions: Conditions | None = None
    ) -> Float[Tensor, "n c2 *size2"]:
        """As it is written, but for rounding."""
        if not can_train(x) or self.cross or _watched(self):
            return super().forward(x, emb, conditions)
        operations, silu = _begin(self)
        x = resample(x, self.mode)
        main, branch = (x, x) if silu is None else fork(x, silu)
        return _add(self, self.shortcut(main), _run(operations, branch, emb))


def fuse_passes(denoiser: Denoiser) -> None:
    """Let a network make fewer passes, in place: its weights, and pixels in token blocks (EDM2 F and G, EDM2+)."""
    _turn(denoiser, EncoderBlock, FusedEncoderBlock)
    _turn(denoiser, DecoderBlock, FusedDecoderBlock)
    _turn(denoiser, MPConv, FusedConv)
    if isinstance(denoiser.network, MPUNet):
        denoiser.network.mp_join = _join


def split_passes(denoiser: Denoiser) -> None:
    """Undo `fuse_passes`, in place."""
    _turn(denoiser, FusedEncoderBlock, EncoderBlock)
    _turn(denoiser, FusedDecoderBlock, DecoderBlock)
    _turn(denoiser, FusedConv, MPConv)
    if isinstance(denoiser.network, MPUNet):
        denoiser.network.mp_join = functions(denoiser.spec).join


def _turn(denoiser: Denoiser, these: type[nn.Module], into: type[nn.Module]) -> None:
    for module in denoiser.modules():
        if type(module) is these:
            module.__class__ = into


def _watched(block: Block) -> bool:
    """Whether there are hooks at parts that fewer passes do not call; layers are called as ever."""
    parts = [block.branch, *block.branch.children(), block.attention]
    return any(
        part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
        for part in parts
        if not isinstance(part, MPConv)
    )


def _begin(block: Block) -> tuple[Sequence[Operation], float | None]:
    """Operations of the branch, and the factor of the SiLU before them, which is none of them, where it begins so."""
    operations = [each for each in block.branch.operations() if not is_idle(each)]
    first = lead(operations)
    if first.activate is None or first.modulate is not None:
        return operations, None
    return operations[1:], first.activate.factor


def _run(operations: Sequence[Operation], x: Tensor, emb: Tensor) -> Tensor:
    """The operations of a branch in their order."""
    while operations:
        first = lead(operations)
        silu = None if first.activate is None else first.activate.factor
        if first.modulate is not None:
            x = modulate(x, first.modulate.scale(emb) * first.modulate.factor, silu, first.after)
        elif silu is not None:
            x = fork(x, silu)[1]
        operations = operations[first.count :]
        if operations and isinstance(following := operations[0], Convolve | Scale | Apply):
            x, operations = carry_out(following, x, emb), operations[1:]
    return x


def _add(block: Block, main: Tensor, branch: Tensor) -> Tensor:
    """The sum of both, attention, and the clamp."""
    attention = block.attention
    if not isinstance(attention, CosineAttention):
        return balance(main, branch, block.shares, block.clip_act)
    x = balance(main, branch, block.shares, math.inf)
    return balance(x, attention.attend(x, _units, _attention), attention.shares, block.clip_act)


def _units(vectors: Tensor) -> Tensor:
    flat = vectors.reshape(len(vectors), -1, 1, vectors.shape[-1]).movedim(-1, 1)
    return normalize_pixels(flat, EPS).movedim(1, -1).reshape(vectors.shape)


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if q.dtype == torch.bfloat16 and q.shape[-2] <= FEW_TOKENS:
        return torch.softmax((q @ k.mT) * q.shape[-1] ** -0.5, dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


def _join(x: Tensor, skip: Tensor, t: float) -> Tensor:
    """As `mp_cat`."""
    if can_train(x):
        return join_features(x, skip, mp_cat_factors(x.shape[1], skip.shape[1], t))
    return mp_cat(x, skip, t=t)
