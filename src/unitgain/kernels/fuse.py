"""`fuse`: a built network whose depthwise convolutions run on the kernels, and `unfuse`.

The branches change class and nothing else: modules, parameters and their names stay, so checkpoints, EMA, DDP, FSDP2,
copies and `infer.prepare` see the network that they know. Weights are normalized in the graph as before. A branch
gathers modulation and SiLU; a depthwise convolution takes them in, and before any other layer PyTorch applies them.
"""

from typing import TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from unitgain.arch.block import Branch
from unitgain.arch.operations import Apply, Convolve, Scale, carry_out, is_idle, lead
from unitgain.extras import require
from unitgain.kernels.functions import depthwise
from unitgain.kernels.reference import activate
from unitgain.kernels.support import no_depthwise

Network = TypeVar("Network", bound=nn.Module)


class FusedBranch(Branch):
    """A branch whose depthwise convolutions take in the modulation and the SiLU before them."""

    def forward(self, x: Float[Tensor, "n c h w"], emb: Float[Tensor, "n e"]) -> Float[Tensor, "n c2 h w"]:
        """Run the tokens in order; one by one while somebody watches them with hooks."""
        if any(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks for module in self):
            return super().forward(x, emb)
        operations = [each for each in self.operations() if not is_idle(each)]
        while operations:
            first = lead(operations)
            scale = None if first.modulate is None else first.modulate.scale(emb)
            silu = None if first.activate is None else first.activate.factor
            following = operations[first.count] if first.count < len(operations) else None
            if isinstance(following, Convolve) and following.depthwise:
                x = depthwise(x, following.layer.effective(), scale, silu, after=first.after)
            else:
                x = activate(x, scale, silu, first.after)
                if isinstance(following, Convolve | Scale | Apply):
                    x = carry_out(following, x, emb)
            operations = operations[first.count + isinstance(following, Convolve | Scale | Apply) :]
        return x


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
    if not has_depthwise(network):
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


def has_depthwise(network: nn.Module) -> bool:
    """Whether there are depthwise convolutions in its branches."""
    operations = [each for branch in _branches(network) for each in branch.operations()]
    return any(isinstance(each, Convolve) and each.depthwise for each in operations)


def _turn(branch: Branch, into: type[Branch]) -> None:
    branch.__class__ = into


def _branches(network: nn.Module) -> list[Branch]:
    return [module for module in network.modules() if isinstance(module, Branch)]
