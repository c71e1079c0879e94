"""What a residual branch does, as a short list of operations: what prepared networks and kernels are made from.

A module of a branch says which operation it is (`operation`). The PyTorch modules remain the network that is trained;
this is how others, in other precisions and languages, learn what to compute. What they do not know is an `Apply`, which
PyTorch runs for all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor, nn

from unitgain.layers import MPConv


@dataclass(frozen=True, eq=False)
class Convolve:
    """Convolution with the weight of `layer`, times `factor`."""

    layer: MPConv
    factor: float = 1.0

    @property
    def depthwise(self) -> bool:
        """Whether each channel is convolved by itself, with a square kernel."""
        layer = self.layer
        square = len(layer.kernel) == 2 and layer.kernel[0] == layer.kernel[1]
        return square and layer.groups == layer.in_channels == len(layer.weight)


@dataclass(frozen=True, eq=False)
class Modulate:
    """Channels times `factor (1 + gain linear(emb))`."""

    linear: MPConv
    gain: float | Tensor = 1.0
    factor: float = 1.0

    def scale(self, emb: Float[Tensor, "n e"]) -> Float[Tensor, "n c"]:
        """What channels are multiplied by, but for `factor`; float32."""
        return self.linear(emb, gain=self.gain) + 1


@dataclass(frozen=True, eq=False)
class Activate:
    """`factor silu(x)`."""

    factor: float = 1.0


@dataclass(frozen=True, eq=False)
class Scale:
    """`factor x`."""

    factor: float


@dataclass(frozen=True, eq=False)
class Apply:
    """Whatever `module` makes of `x`, or of `x` and the embedding if it is `conditioned`."""

    module: nn.Module
    conditioned: bool = False


Operation = Convolve | Modulate | Activate | Scale | Apply


def operation(module: nn.Module, conditioned: bool = False) -> Operation:
    """What a module of a branch does: its method `operation` says so, unless it is a plain convolution or SiLU.

    Args:
        module: of a branch.
        conditioned: whether it is called with the embedding.
    """
    own: Callable[[], Operation] | None = getattr(module, "operation", None)
    if own is not None:
        return own()
    if isinstance(module, MPConv) and module.kernel:
        return Convolve(module)
    return Activate() if isinstance(module, nn.SiLU) else Apply(module, conditioned)


def is_idle(each: Operation) -> bool:
    """Whether this is dropout that drops nothing."""
    module = each.module if isinstance(each, Apply) else None
    return isinstance(module, nn.Dropout) and not (module.training and module.p)


def carry_out(each: Convolve | Scale | Apply, x: Tensor, emb: Float[Tensor, "n e"]) -> Tensor:
    """What an operation that no pass over memory takes in makes of `x`, by PyTorch."""
    if isinstance(each, Convolve):
        return each.layer(x, gain=each.factor)
    if isinstance(each, Scale):
        return x * each.factor
    return each.module(x, emb) if each.conditioned else each.module(x)


@dataclass(frozen=True, eq=False)
class Lead:
    """At most one modulation and one SiLU that operations begin with, in either order.

    Attributes:
        modulate: the modulation, if any.
        activate: the SiLU, if any.
        after: whether the modulation comes after it.
        count: how many operations these are.
    """

    modulate: Modulate | None
    activate: Activate | None
    after: bool
    count: int


def lead(operations: Sequence[Operation]) -> Lead:
    """What the operations begin with that one pass over memory can do."""
    modulate: Modulate | None = None
    activate: Activate | None = None
    count, after = 0, False
    for each in operations:
        if isinstance(each, Modulate) and modulate is None:
            modulate, after = each, activate is not None
        elif isinstance(each, Activate) and activate is None:
            activate = each
        else:
            break
        count += 1
    return Lead(modulate, activate, after, count)


def fold(operations: Sequence[Operation], factor: float) -> tuple[list[Operation], float]:
    """The same operations times `factor`, with every constant in a weight that follows, where that is exact.

    Args:
        operations: of a branch, in their order. Dropout is left out.
        factor: of the result.

    Returns:
        Operations in which no SiLU has a factor any more, and what of `factor` no weight could take.
    """
    operations = [each for each in operations if not (isinstance(each, Apply) and isinstance(each.module, nn.Dropout))]
    # What comes last can take `factor` if it is linear.
    last = len(operations) - 1 if operations and isinstance(operations[-1], Convolve | Modulate) else -1
    folded: list[Operation] = []
    pending = 1.0
    for index, each in enumerate(operations):
        if isinstance(each, Convolve | Modulate):
            folded.append(replace(each, factor=each.factor * pending * (factor if index == last else 1.0)))
            pending = 1.0
            continue
        if pending != 1:
            folded.append(Scale(pending))
        pending = each.factor if isinstance(each, Activate) else 1.0
        folded.append(Activate() if isinstance(each, Activate) else each)
    return folded, pending * (1.0 if last >= 0 else factor)
