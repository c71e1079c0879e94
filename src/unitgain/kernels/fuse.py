"""`fuse`: a built network whose depthwise convolutions run on the kernels, and `unfuse`.

The branches change class and nothing else: modules, parameters and their names stay, so checkpoints, EMA, DDP, FSDP2,
copies and `infer.prepare` see the network that they know. Weights are normalized in the graph as before. A branch
gathers modulation and SiLU; a depthwise convolution takes them in, and before any other layer PyTorch applies them.
"""

from typing import TypeVar, cast

from jaxtyping import Float
from torch import Tensor, nn

from unitgain.arch.block import Branch, Modulation, MPSiLU, UngainedModulation
from unitgain.extras import require
from unitgain.kernels.functions import depthwise
from unitgain.kernels.reference import activate
from unitgain.kernels.support import no_depthwise
from unitgain.layers import MPConv
from unitgain.ops import SILU_MAGNITUDE

Network = TypeVar("Network", bound=nn.Module)


class FusedBranch(Branch):
    """A branch whose depthwise convolutions take in the modulation and the SiLU before them."""

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
                x = activate(x, scale, silu, after)
                scale, silu, after = None, None, False
            if modulates:
                after = silu is not None
                scale = cast(Modulation | UngainedModulation, module).scale(emb)
            elif bends:
                silu = 1 / SILU_MAGNITUDE if isinstance(module, MPSiLU) else 1.0
            else:
                x = module(x)
        return activate(x, scale, silu, after)


def fuse(network: Network) -> Network:
    """Let the depthwise convolutions of a network run on the kernels, in place.

    Args:
        network: a denoiser, or anything else whose branches have some (EDM2+), before FSDP2 shards it.

    Returns:
        The same network. Done twice, it changes nothing more.

    Raises:
        ImportError: if Triton is not installed.
        ValueError: if there are no depthwise convolutions, or the branches are sharded already.
    """
    require("triton", "kernels")
    branches = _branches(network)
    if not any(is_depthwise(module) for branch in branches for module in branch):
        raise no_depthwise(type(network).__name__)
    for branch in branches:
        if type(branch) not in (Branch, FusedBranch):
            raise ValueError(
                f"a branch has become a {type(branch).__name__}, as sharding makes it: fuse the network before FSDP2 "
                "(or whatever else changes its classes) takes it over"
            )
    for branch in branches:
        _turn(branch, FusedBranch)
    return network


def unfuse(network: Network) -> Network:
    """Undo `fuse`, in place; returns the same network."""
    for branch in _branches(network):
        if type(branch) is FusedBranch:
            _turn(branch, Branch)
    return network


def is_depthwise(module: nn.Module) -> bool:
    """Whether this is a depthwise convolution with a square kernel."""
    if not isinstance(module, MPConv) or len(module.kernel) != 2 or module.kernel[0] != module.kernel[1]:
        return False
    return module.groups == module.in_channels == len(module.weight)


def _turn(branch: Branch, into: type[Branch]) -> None:
    branch.__class__ = into


def _branches(network: nn.Module) -> list[Branch]:
    return [module for module in network.modules() if isinstance(module, Branch)]
