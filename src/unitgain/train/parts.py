"""Magnitudes of gradients, weights and updates by part of what is trained, at one step.

A part is the encoder or decoder at one resolution, as in `unitgain.analysis.magnitude`, the embedding, the output, or
u(sigma); gains, and biases where a config has them, are a part of their own, because their gradients are sums over
whole layers. The magnitude of a part is the root mean square over its elements (EDM2, Eq. 3).
"""

from typing import Any

import torch
from torch import Tensor, nn

from unitgain.analysis.buckets import bucket_of, resolution_of
from unitgain.analysis.cost import part_of
from unitgain.parallel import World, is_sharded, local

SMALL = "gains, biases"
QUANTITIES = ("gradient", "weight", "update")


class StepProbe:
    """Sums of squares around one step of an optimizer.

    Args:
        modules: what is trained; its parameter names say which part they belong to.

    Attributes:
        squares: `[3, parameters]`, float64, of what lies on this process: gradient, weight before the step, and what
            the step changed; None before there was a step.
    """

    def __init__(self, modules: nn.Module) -> None:
        self.named = list(modules.named_parameters())
        self.squares: Tensor | None = None
        self._before: list[Tensor] = []

    @torch.no_grad()
    def before(self) -> None:
        """Look at gradients, and keep the weights."""
        weights = [local(parameter) for _, parameter in self.named]
        gradients = [
            torch.zeros_like(weight) if parameter.grad is None else local(parameter.grad)
            for (_, parameter), weight in zip(self.named, weights, strict=True)
        ]
        squares = _squares(weights)
        self.squares = torch.stack([_squares(gradients), squares, torch.zeros_like(squares)])
        self._before = [weight.clone() for weight in weights]

    @torch.no_grad()
    def after(self) -> None:
        """Look at what has changed."""
        assert self.squares is not None
        torch._foreach_sub_(self._before, [local(parameter) for _, parameter in self.named])
        self.squares[2] = _squares(self._before)
        self._before = []

    def parts(self, world: World) -> dict[str, dict[str, float | None]]:
        """The result, in the order of the network: `{"Enc 64x64": {"gradient": ..., "weight": ..., ...}, ...}`.

        All processes must call this together. A magnitude that is not finite is None.
        """
        assert self.squares is not None, "the optimizer made no step while it was watched"
        once = [float(world.main or is_sharded(parameter)) for _, parameter in self.named]
        total = self.squares.cpu() * torch.tensor(once, dtype=torch.float64)  # what is whole everywhere counts once
        world.sum([total])
        sums: dict[str, Tensor] = {}
        sizes: dict[str, int] = {}
        for (name, parameter), squares in zip(self.named, total.unbind(1), strict=True):
            part = weight_part(name, parameter.ndim)
            sums[part] = sums.get(part, torch.zeros(3, dtype=torch.float64)) + squares
            sizes[part] = sizes.get(part, 0) + parameter.numel()
        return {part: _magnitudes(sums[part], sizes[part]) for part in sorted(sums, key=_place)}


def weight_part(name: str, ndim: int) -> str:
    """Part that a parameter belongs to, from its name (`denoiser.network.enc.8x8_...`) and dimensions."""
    if ndim < 2:
        return SMALL
    top, _, rest = name.partition(".")
    return bucket_of(name) or (part_of(rest) if top == "denoiser" else top)


def _squares(tensors: list[Tensor]) -> Tensor:
    """Sum of squares of each, float64."""
    return torch.stack(torch._foreach_norm(tensors)).double().square()


def _magnitudes(squares: Tensor, size: int) -> dict[str, float | None]:
    values: list[Any] = (squares / max(size, 1)).sqrt().tolist()
    return {name: value if value < float("inf") else None for name, value in zip(QUANTITIES, values, strict=True)}


def _place(part: str) -> tuple[int, int]:
    """Embedding, encoder from fine to coarse, decoder back, the rest."""
    side = part[:3] if part.startswith(("Enc ", "Dec ")) else part
    order = ("embedding", "Enc", "Dec", "output", "uncertainty", SMALL)
    resolution = resolution_of(part) or 0
    return order.index(side) if side in order else len(order), resolution if side == "Dec" else -resolution
