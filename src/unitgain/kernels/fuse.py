"""`fuse`: a built network whose blocks run on the kernels, and `unfuse`.

The blocks change class and nothing else: modules, parameters and their names stay, so checkpoints, EMA, DDP, FSDP2,
copies and `infer.prepare` see the network that they know. Weights are normalized in the graph as before. A
branch gathers modulation and SiLU until something takes them: a depthwise convolution does so on its way in; before any
other layer, and at the end, one pass applies both.
"""

from collections.abc import Mapping
from typing import TypeVar, cast

from jaxtyping import Float
from torch import Tensor, nn

from unitgain.arch.block import (
    Block,
    Branch,
    DecoderBlock,
    EncoderBlock,
    Modulation,
    MPSiLU,
    PlainAttention,
    UngainedModulation,
)
from unitgain.extras import require
from unitgain.kernels.functions import activate, depthwise, pixel_norm, weighted_sum
from unitgain.kernels.support import no_blocks
from unitgain.layers import CosineAttention, MPConv
from unitgain.ops import SILU_MAGNITUDE, mp_sum, mp_sum_factors, resample

Network = TypeVar("Network", bound=nn.Module)


class FusedBranch(Branch):
    """A branch that fuses modulation and SiLU with one another and with the depthwise convolution after them."""

    def forward(self, x: Float[Tensor, "n c h w"], emb: Float[Tensor, "n e"]) -> Float[Tensor, "n c2 h w"]:
        """Run the tokens in order; one by one while somebody watches them with hooks."""
        if any(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks for module in self):
            return super().forward(x, emb)
        scale: Tensor | None = None
        silu: float | None = None
        after = False
        for module in self:
            modulates, bends = isinstance(module, Modulation | UngainedModulation), isinstance(module, MPSiLU | nn.SiLU)
            if isinstance(module, nn.Dropout) and not (module.training and module.p):
                continue
            if is_depthwise(module):
                x = depthwise(x, cast(MPConv, module).effective(), scale, silu, after=after)
                scale, silu, after = None, None, False
                continue
            full = (modulates and scale is not None) or (bends and silu is not None)
            if full or not (modulates or bends):
                x = activate(x, scale, silu, after=after)
                scale, silu, after = None, None, False
            if modulates:
                after = silu is not None
                scale = cast(Modulation | UngainedModulation, module).scale(emb)
            elif bends:
                silu = 1 / SILU_MAGNITUDE if isinstance(module, MPSiLU) else 1.0
            else:
                x = module(x)
        return activate(x, scale, silu, after=after)


class FusedBlock(Block):
    """A block whose sums and clamp are one pass each."""

    def forward(self, x: Float[Tensor, "n c h w"], emb: Float[Tensor, "n e"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Features; see `Block.forward`."""
        main, branch = self.paths(resample(x, self.mode), emb)
        factors = mp_sum_factors(self.res_balance) if self.add is mp_sum else (1.0, 1.0)
        if not isinstance(self.attention, CosineAttention):
            return weighted_sum(main, branch, *factors, limit=self.clip_act)
        x = weighted_sum(main, branch, *factors)
        plain = isinstance(self.attention, PlainAttention)
        factors = (1.0, 1.0) if plain else mp_sum_factors(self.attention.balance)
        return weighted_sum(x, self.attention.attend(x), *factors, limit=self.clip_act)


class FusedEncoderBlock(FusedBlock, EncoderBlock):
    """An encoder block whose pixel norm is one pass."""

    def paths(self, x: Tensor, emb: Tensor) -> tuple[Tensor, Tensor]:
        """Main path and residual branch."""
        main = pixel_norm(self.shortcut(x))
        return main, self.branch(main, emb)


class FusedDecoderBlock(FusedBlock, DecoderBlock):
    """A decoder block."""


FUSED: Mapping[type, type] = {
    Branch: FusedBranch,
    EncoderBlock: FusedEncoderBlock,
    DecoderBlock: FusedDecoderBlock,
}


def fuse(network: Network) -> Network:
    """Let the blocks of a network run on the kernels, in place.

    Args:
        network: a denoiser, or anything else that contains token blocks (EDM2's rungs F and G, EDM2+), before FSDP2
            shards it.

    Returns:
        The same network. Done twice, it changes nothing more.

    Raises:
        ImportError: if Triton is not installed.
        ValueError: if there are no such blocks, or they are sharded already.
    """
    require("triton", "kernels")
    return _replace(network, FUSED)


def unfuse(network: Network) -> Network:
    """Undo `fuse`, in place; returns the same network."""
    return _replace(network, {fused: plain for plain, fused in FUSED.items()})


def is_depthwise(module: nn.Module) -> bool:
    """Whether this is a depthwise convolution with a square kernel."""
    if not isinstance(module, MPConv) or len(module.kernel) != 2 or module.kernel[0] != module.kernel[1]:
        return False
    return module.groups == module.in_channels == len(module.weight)


def _replace(network: Network, classes: Mapping[type, type]) -> Network:
    blocks = [module for module in network.modules() if isinstance(module, Branch | EncoderBlock | DecoderBlock)]
    if not blocks:
        raise no_blocks(type(network).__name__)
    known = {*classes, *classes.values()}
    for block in blocks:
        if type(block) not in known:
            raise ValueError(
                f"a block has become a {type(block).__name__}, as sharding makes it: fuse the network before FSDP2 "
                "(or whatever else changes its classes) takes it over"
            )
    for block in blocks:
        block.__class__ = classes.get(type(block), type(block))
    return network
