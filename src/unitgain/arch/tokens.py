"""The residual branch as a sequence of tokens: what each is, does to the width, and which sequences make sense.

A branch is text, such as `s d E s P s m d` (EDM2+, Fig. 3). Widths follow from the tokens: the encoder's branch starts
with the block's output channels, the decoder's with its wider input, and every branch must end with the output ones.

`TOKENS` is the one place where a token is defined. A new one is an entry there; it can be trained, prepared for
inference and run on kernels at once, by PyTorch where they know nothing better (`unitgain.arch.operations`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Place:
    """Where a token stands: what its module is made from.

    Attributes:
        in_channels: that come in.
        out_channels: that go out.
        kernel: of the network's depthwise convolutions, a size per spatial dimension.
        emb_channels: of the embedding.
        preserving: whether the network's functions preserve magnitudes (config G and EDM2+), rather than not (F).
    """

    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    emb_channels: int
    preserving: bool

    def each(self, size: int) -> tuple[int, ...]:
        """A kernel of this size in every spatial dimension."""
        return (size,) * len(self.kernel)


@dataclass(frozen=True)
class Token:
    """What a token is.

    Attributes:
        what: in a few words.
        name: of its modules in a branch, which a number follows.
        make: its module, of `x` alone, or of `x` and the embedding if it is `conditioned`.
        width: channels that go out: as many as come "in", those of the block's "output", or e times those ("expanded").
        learned: whether it has a weight that dropout may go before.
        conditioned: whether it sees noise level and label.
    """

    what: str
    name: str
    make: "Callable[[Place], nn.Module]"
    width: Literal["in", "output", "expanded"] = "in"
    learned: bool = False
    conditioned: bool = False


def _convolution(*settings: Any, groups: int = 1) -> "nn.Module":
    from unitgain.layers import MPConv  # here, as torch elsewhere: a spec is read without

    return MPConv(*settings, groups=groups)


def _silu(place: Place) -> "nn.Module":
    from torch import nn

    from unitgain.arch.activation import MPSiLU

    return MPSiLU() if place.preserving else nn.SiLU()


def _modulation(place: Place) -> "nn.Module":
    from unitgain.arch.activation import Modulation

    return Modulation(place.in_channels, place.emb_channels, gained=place.preserving)


def _pointwise(place: Place) -> "nn.Module":
    return _convolution(place.in_channels, place.out_channels, place.each(1))


def _depthwise(place: Place) -> "nn.Module":
    return _convolution(place.in_channels, place.in_channels, place.kernel, groups=place.in_channels)


TOKENS = {
    "s": Token("SiLU", "silu", _silu),
    "c": Token(
        "3x3 convolution to the block's output channels",
        "conv",
        lambda place: _convolution(place.in_channels, place.out_channels, place.each(3)),
        width="output",
        learned=True,
    ),
    "d": Token("depthwise k x k convolution", "depthwise", _depthwise, learned=True),
    "E": Token(
        "1x1 convolution to e x the block's output channels", "expand", _pointwise, width="expanded", learned=True
    ),
    "P": Token("1x1 convolution to the block's output channels", "project", _pointwise, width="output", learned=True),
    "m": Token(
        "modulation by the embedding",
        "modulation",
        _modulation,
        conditioned=True,
    ),
}


@dataclass(frozen=True)
class Step:
    """One token with the channels that come in and go out."""

    token: str
    in_channels: int
    out_channels: int


def steps(tokens: tuple[str, ...], in_channels: int, out_channels: int, expansion: int) -> Iterator[Step]:
    """The tokens of a valid branch with their widths.

    Args:
        tokens: of the branch.
        in_channels: channels that the branch starts with.
        out_channels: of the block.
        expansion: e, relative to `out_channels` (EDM2+, Section 2.2).
    """
    width = in_channels
    for token in tokens:
        before = width
        width = {"in": width, "output": out_channels, "expanded": expansion * out_channels}[TOKENS[token].width]
        yield Step(token, before, width)


def last_learned(tokens: tuple[str, ...]) -> int:
    """Position of the last token of a valid branch that has a weight."""
    return max(position for position, token in enumerate(tokens) if TOKENS[token].learned)


def check_tokens(tokens: tuple[str, ...], starts_at_output: bool) -> None:
    """Check that a sequence makes sense as a residual branch.

    Args:
        tokens: of the branch.
        starts_at_output: whether the branch starts with the block's output channels, as in the encoder; in the decoder
            it starts with more.

    Raises:
        ValueError: if it does not, pointing at the token and naming the remedy.
    """
    if not tokens:
        raise ValueError("is empty: a branch needs at least a convolution and a modulation, such as 's c m s c'")
    for position, token in enumerate(tokens):
        if token not in TOKENS:
            known = ", ".join(f"{name} ({one.what})" for name, one in TOKENS.items())
            hint = ": put spaces between tokens" if len(token) > 1 and set(token) <= set(TOKENS) else ""
            own = "; one of your own has to be put into unitgain.arch.tokens.TOKENS first"
            raise ValueError(
                f"has an unknown token {token!r} at position {position}{hint}; known: {known}{'' if hint else own}"
                f"{_point(tokens, position)}"
            )
    if not any(TOKENS[token].learned for token in tokens):
        raise ValueError(
            f"never reaches the block's output channels, as it has no convolution: put in a c{_point(tokens, 0)}"
        )
    if not any(TOKENS[token].conditioned for token in tokens):
        remedy = "without m the network ignores noise level and label; put one in, for example after a convolution"
        raise ValueError(f"has no modulation: {remedy}{_point(tokens, last_learned(tokens))}")
    _check_width(tokens, starts_at_output)


def _check_width(tokens: tuple[str, ...], starts_at_output: bool) -> None:
    expanded, reached = None, starts_at_output
    for position, token in enumerate(tokens):
        if TOKENS[token].width == "expanded":
            expanded = position
        elif TOKENS[token].width == "output":
            expanded, reached = None, True
    if expanded is not None:
        remedy = "is never projected back to the block's output channels: put a P (or c) after it"
        raise ValueError(f"has an expansion that {remedy}{_point(tokens, expanded)}")
    if not reached:
        remedy = "in the decoder, where it starts with the channels of the skip connection too: it needs a c or P"
        raise ValueError(f"never reaches the block's output channels {remedy}{_point(tokens, last_learned(tokens))}")


def _point(tokens: tuple[str, ...], position: int) -> str:
    line = " ".join(tokens)
    column = sum(len(token) + 1 for token in tokens[:position])
    return f"\n  {line}\n  {' ' * column}{'^' * len(tokens[position])} position {position}"
