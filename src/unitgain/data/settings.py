"""What may be chosen when data are prepared and encoded, apart from what does it, so that options show at once."""

from typing import Literal, get_args

from unitgain.serial import suggest

OnError = Literal["fail", "skip"]  # about a picture that cannot be used
Normalize = Literal["official", "measured"]  # of pixels
Normalization = Literal["auto", "official", "measured"]  # of latents
PixelRange = Literal["0..1", "-1..1"]  # what a VAE is fed with
ConditionKind = Literal["scalar", "vector", "image", "tokens"]  # of what networks are told
BY_DIMENSIONS: tuple[ConditionKind, ...] = ("scalar", "vector", "tokens")  # of values but of images
Layout = Literal["channels-first", "channels-last", "no-channels", "latents"]  # of the axes of an array


def dimensions_of(kind: ConditionKind, sides: int) -> int:
    """How many dimensions values of a kind have, in data of so many sides."""
    return sides + 1 if kind == "image" else BY_DIMENSIONS.index(kind)


def known_kind(kind: str, condition: str) -> ConditionKind | None:
    """The kind of values that is asked for; None for no text.

    Args:
        kind: the text.
        condition: as it was asked for.

    Raises:
        ValueError: if there is no such kind.
    """
    known = {one: one for one in get_args(ConditionKind)}
    if kind and kind not in known:
        raise ValueError(f"condition {condition!r}: unknown kind {kind!r}; {suggest(kind, known)}")
    return known.get(kind)
