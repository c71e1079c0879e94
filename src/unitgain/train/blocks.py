"""Blocks of a network made to run in another way: activations computed again in the backward pass, or compiled."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unitgain.denoiser import Denoiser


def blocks(denoiser: Denoiser) -> list[nn.Module]:
    """The blocks of a network of ours, in the order in which they run: what is gathered or recomputed as a whole."""
    network = denoiser.network
    return [*network.get_submodule("enc").children(), *network.get_submodule("dec").children()]


def recompute_blocks(denoiser: Denoiser) -> None:
    """Make every block keep its input alone and compute its inside again in the backward pass, the same bit for bit.

    Names of parameters stay; dropout draws the same numbers again.
    """
    for block in blocks(denoiser):
        block.forward = partial(_run_again, block.forward)


def compile_blocks(denoiser: Denoiser) -> None:
    """Compile every block (`torch.compile`), at its first call and for the shapes it sees; names of parameters stay."""
    from torch._dynamo import config

    parts = blocks(denoiser)
    # All share one forward function, and a function is compiled anew for each block no more often than this says.
    config.recompile_limit = max(config.recompile_limit, 4 * len(parts))
    for block in parts:
        block.compile(dynamic=False)


def _run_again(forward: Callable[..., Tensor], *args: Any) -> Tensor:
    return checkpoint(forward, *args, use_reentrant=False)
