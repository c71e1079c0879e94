"""The residual branch as a sequence of tokens: what each does to the width, and which sequences make sense.

A branch is text, such as `s d E s P s m d` (EDM2+, Fig. 3). Widths follow from the tokens: the encoder's branch starts
with the block's output channels, the decoder's with its wider input, and every branch must end with the output ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass

TOKENS = {
    "s": "SiLU",
    "c": "3x3 convolution to the block's output channels",
    "d": "depthwise k x k convolution",
    "E": "1x1 convolution to e x the block's output channels",
    "P": "1x1 convolution to the block's output channels",
    "m": "modulation by the embedding",
}
CONVOLUTIONS = frozenset("cdEP")  # tokens with a weight of their own


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
        if token == "E":
            width = expansion * out_channels
        elif token in "cP":
            width = out_channels
        yield Step(token, before, width)


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
            known = ", ".join(f"{name} ({what})" for name, what in TOKENS.items())
            hint = ": put spaces between tokens" if len(token) > 1 and set(token) <= set(TOKENS) else ""
            raise ValueError(
                f"has an unknown token {token!r} at position {position}{hint}; known: {known}{_point(tokens, position)}"
            )
    if not CONVOLUTIONS & set(tokens):
        raise ValueError(
            f"never reaches the block's output channels, as it has no convolution: put in a c{_point(tokens, 0)}"
        )
    if "m" not in tokens:
        remedy = "without m the network ignores noise level and label; put one in, for example after a convolution"
        last = max(position for position, token in enumerate(tokens) if token in CONVOLUTIONS)
        raise ValueError(f"has no modulation: {remedy}{_point(tokens, last)}")
    _check_width(tokens, starts_at_output)


def _check_width(tokens: tuple[str, ...], starts_at_output: bool) -> None:
    expanded, reached = None, starts_at_output
    for position, token in enumerate(tokens):
        if token == "E":
            expanded = position
        elif token in "cP":
            expanded, reached = None, True
    if expanded is not None:
        remedy = "is never projected back to the block's output channels: put a P (or c) after it"
        raise ValueError(f"has an expansion that {remedy}{_point(tokens, expanded)}")
    if not reached:
        last = max(position for position, token in enumerate(tokens) if token in CONVOLUTIONS)
        remedy = "in the decoder, where it starts with the channels of the skip connection too: it needs a c or P"
        raise ValueError(f"never reaches the block's output channels {remedy}{_point(tokens, last)}")


def _point(tokens: tuple[str, ...], position: int) -> str:
    line = " ".join(tokens)
    column = sum(len(token) + 1 for token in tokens[:position])
    return f"\n  {line}\n  {' ' * column}{'^' * len(tokens[position])} position {position}"
