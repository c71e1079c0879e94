"""Where conditions enter a magnitude-preserving network: its embedding, its input, and its blocks' attention.

Samples that lack a condition keep unit magnitude: what would have been joined with it is taken as it is.
"""

from collections.abc import Iterable
from typing import Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unitgain.arch.conditions import Image, Scalar, Tokens, Vector
from unitgain.arch.spec import NetworkSpec
from unitgain.arch.values import Conditions
from unitgain.layers import CrossAttention, MPConv, MPFourier
from unitgain.ops import mp_sum, normalize, over_pixels

ENLARGE = {1: "linear", 2: "bilinear", 3: "trilinear"}  # by the number of spatial dimensions


@runtime_checkable
class Reader(Protocol):
    """What takes a condition in, in two steps."""

    def read(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        """What of it does not depend on anything else."""
        ...

    def join(self, x: Tensor, known: Tensor, mask: Tensor) -> Tensor:
        """`x` with that, where the mask says that it is there."""
        ...


class Summed(nn.Module):
    """What is summed with the embedding (Eq. 88); subclasses make it of a condition."""

    balance: float

    def join(
        self, emb: Float[Tensor, "n e"], known: Float[Tensor, "n e"], mask: Bool[Tensor, " n"]
    ) -> Float[Tensor, "n e"]:
        """The embedding with what is there."""
        return torch.where(mask[:, None], mp_sum(emb, known, t=self.balance), emb)


class VectorEmbedding(Summed):
    """A vector, brought to unit magnitude, linear."""

    def __init__(self, condition: Vector, emb_channels: int) -> None:
        super().__init__()
        self.balance = condition.balance
        self.linear = MPConv(condition.dim, emb_channels)

    def read(self, value: Float[Tensor, "n d"], dtype: torch.dtype) -> Float[Tensor, "n e"]:
        """What is summed with the embedding."""
        return self.linear(normalize(value, dim=1).to(dtype))


class ScalarEmbedding(Summed):
    """An amount, as Fourier features (Eq. 75), linear."""

    def __init__(self, condition: Scalar, emb_channels: int) -> None:
        super().__init__()
        self.balance = condition.balance
        self.scale = condition.scale
        self.fourier = MPFourier(condition.features)
        self.linear = MPConv(condition.features, emb_channels)

    def read(self, value: Float[Tensor, " n"], dtype: torch.dtype) -> Float[Tensor, "n e"]:
        """What is summed with the embedding."""
        return self.linear(self.fourier(value / self.scale).to(dtype))


def embeddings(spec: NetworkSpec) -> nn.ModuleDict:
    """What the embedding has of each vector and scalar, by name."""
    made: dict[str, nn.Module] = {}
    for condition in spec.conditions:
        if isinstance(condition, Vector):
            made[condition.name] = VectorEmbedding(condition, spec.emb_channels)
        elif isinstance(condition, Scalar):
            made[condition.name] = ScalarEmbedding(condition, spec.emb_channels)
    return nn.ModuleDict(made)


def images_of(spec: NetworkSpec) -> tuple[Image, ...]:
    """The conditions that are concatenated to the input."""
    return tuple(condition for condition in spec.conditions if isinstance(condition, Image))


def with_images(
    x: Float[Tensor, "n c *size"], images: Iterable[Image], conditions: Conditions | None
) -> Float[Tensor, "n c2 *size"]:
    """The input with the channels of each image, and one that says whether it is there.

    Where an image is absent, its channels are 0 and the others are larger, so that all together keep their magnitude.
    """
    parts, absent = [x], x.new_zeros(len(x))
    for condition in images:
        value = None if conditions is None else conditions.values.get(condition.name)
        size = (len(x), condition.channels + 1, *x.shape[2:])
        if value is None or conditions is None:
            parts.append(x.new_zeros(size))
            absent = absent + size[1]
            continue
        mask = conditions.masks[condition.name]
        enlarged = _enlarged(condition, conditions, x)
        there = over_pixels(mask, x).expand(len(x), 1, *x.shape[2:])
        parts += [enlarged, there.to(x.dtype)]
        absent = absent + ~mask * size[1]
    if len(parts) == 1:
        return x
    joined = torch.cat(parts, dim=1)
    channels = joined.shape[1]
    return joined * over_pixels((channels / (channels - absent.float())).sqrt(), x).to(x.dtype)


def _enlarged(condition: Image, conditions: Conditions, x: Tensor) -> Tensor:
    """An image as the input has it: made once for all noise levels where conditions keep it."""

    def make() -> Tensor:
        standard = (conditions.values[condition.name] - condition.mean) / condition.std
        standard = standard.where(over_pixels(conditions.masks[condition.name], x), 0.0)
        return enlarge(standard, x.shape[2:], condition.name).to(x.dtype)

    return conditions.once((condition.name, x.shape[2:], x.dtype), make) if conditions.keeps else make()


def enlarge(value: Float[Tensor, "n c *small"], size: torch.Size, name: str) -> Float[Tensor, "n c *size"]:
    """An image at another size, by linear interpolation, at a magnitude that smooth content keeps.

    Raises:
        ValueError: if a side is longer than it is to be.
    """
    if value.shape[2:] == size:
        return value
    if any(side > most for side, most in zip(value.shape[2:], size, strict=True)):
        raise ValueError(
            f"the condition {name!r} has values of {'x'.join(map(str, value.shape[2:]))}, larger than the "
            f"{'x'.join(map(str, size))} of x: make it smaller first"
        )
    return F.interpolate(value, size=tuple(size), mode=ENLARGE[len(size)], align_corners=False)


def cross_attentions(spec: NetworkSpec, sequences: Iterable[Tokens], channels: int) -> nn.ModuleDict:
    """What a block with so many channels has for each sequence that it attends to, by name."""
    return nn.ModuleDict(
        {
            one.name: CrossAttention(channels, spec.channels_per_head, one.dim, one.balance, spec.dims)
            for one in sequences
        }
    )


def join_all(modules: nn.ModuleDict, x: Float[Tensor, "n ..."], conditions: Conditions) -> Float[Tensor, "n ..."]:
    """The embedding with each vector and scalar that is there, or features that have attended to each sequence."""
    for name, module in modules.items():
        if name in conditions.values:
            known = _known(cast(Reader, module), conditions, name, x.dtype)
            x = cast(Reader, module).join(x, known, conditions.masks[name])
    return x


def _known(module: "Reader", conditions: Conditions, name: str, dtype: torch.dtype) -> Tensor:
    """What a module makes of a condition alone: made once for all noise levels where conditions keep it."""
    if not conditions.keeps:
        return module.read(conditions.values[name], dtype)
    return conditions.once((module, dtype), lambda: module.read(conditions.values[name], dtype))
