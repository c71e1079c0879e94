"""What a network may be told beside its noise level: declarations, frozen and checked, that travel as JSON.

A condition is a field of `NetworkSpec.conditions`. Its values for a batch are in `unitgain.Conditions`. Every
one is optional, for each sample: what is absent adds nothing, and leaves the rest at unit magnitude.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from unitgain.serial import from_dict, suggest
from unitgain.text import brief

MOST_CHANNELS = 2**16
MOST_CONDITIONS = 64
NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
RESERVED = ("label", "masks", "self", "key", "image", "latent", "array", "x", "sigma")  # that mean something else


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What all conditions have.

    Args:
        name: of its values in data and calls: lower-case letters, digits and underscores.
        dropout: share of images that are trained on without it, in [0, 1): what guidance by leaving it out needs.

    Attributes:
        kind: in files.
        words: for it, with what is measured of data.
        form: of its values.

    Raises:
        ValueError: if a field is out of its range, naming the field, the value and the remedy.
    """

    kind: ClassVar[str]
    words: ClassVar[str]
    form: ClassVar[str]
    name: str
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_name(self.name)
        self._require("dropout", 0 <= self.dropout < 1, "is a share in [0, 1)")
        for field, (holds, remedy) in RANGES.items():
            if hasattr(self, field):
                self._require(field, holds(getattr(self, field)), remedy)

    @property
    def shape(self) -> str:
        """Of its values, in words."""
        return self.form.format(**vars(self))

    @property
    def summary(self) -> str:
        """Name and kind in words, as `style (a vector of 5)`."""
        return f"{self.name} ({self.words.format(**vars(self))})"

    def to_json(self) -> dict[str, Any]:
        """The kind and all fields."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"kind": self.kind} | {name: list(it) if isinstance(it, tuple) else it for name, it in fields.items()}

    @staticmethod
    def from_json(data: Any, where: str) -> "Condition":
        """Inverse of `to_json`.

        Raises:
            ValueError: if a field is unknown, missing, or of another type, or out of its range.
        """
        kind = data.get("kind") if isinstance(data, dict) else None
        if kind not in KINDS:
            known = suggest(kind, KINDS) if isinstance(kind, str) else f"known: {', '.join(KINDS)}"
            raise ValueError(f"{where}: a condition of unknown kind {brief(kind)}; {known}")
        return from_dict(KINDS[kind], {name: value for name, value in data.items() if name != "kind"}, where)

    def _require(self, name: str, holds: object, remedy: str) -> None:
        if not holds:
            raise ValueError(f"{type(self).__name__}.{name} = {brief(getattr(self, name))}: {remedy}")


@dataclass(frozen=True, kw_only=True)
class Vector(Condition):
    """A vector of numbers, such as an embedding: its direction counts, its length does not.

    It is scaled to unit magnitude, goes through a linear layer, and joins the embedding by `mp_sum`.

    Args:
        dim: how many numbers; for a single one that means an amount take `Scalar`.
        balance: its share in the embedding (t of Eq. 88), in [0, 1]; several conditions join one after the other.
    """

    kind: ClassVar[str] = "vector"
    words: ClassVar[str] = "a vector of {dim}"
    form: ClassVar[str] = "[N, {dim}]"
    dim: int
    balance: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Scalar(Condition):
    """An amount, such as a time gap, an angle or a physical parameter.

    It is divided by `scale`, becomes Fourier features (Eq. 75), goes through a linear layer, and joins the embedding by
    `mp_sum`.

    Args:
        scale: about the standard deviation of the values in the data.
        features: number of Fourier features.
        balance: its share in the embedding (t of Eq. 88), in [0, 1]; several conditions join one after the other.
    """

    kind: ClassVar[str] = "scalar"
    words: ClassVar[str] = "an amount of scale {scale:g}"
    form: ClassVar[str] = "[N]"
    scale: float = 1.0
    features: int = 64
    balance: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Image(Condition):
    """An image, signal or volume, such as a smaller version (super-resolution), a mask or the slice before.

    It is brought to mean 0 and unit standard deviation, enlarged where it is smaller, and concatenated to the network's
    input, with a channel that says whether it is there.

    Args:
        channels: of it.
        mean: of its values in the data.
        std: their standard deviation; 0.5 for pixels in [-1, 1] as networks see them.
    """

    kind: ClassVar[str] = "image"
    words: ClassVar[str] = "a {channels}-channel image, mean {mean:g}, deviation {std:g}"
    form: ClassVar[str] = "[N, {channels}, *size], no side longer than that of x"
    channels: int
    mean: float = 0.0
    std: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Tokens(Condition):
    """A sequence of vectors, such as those of a text encoder: any length, in an order that carries no meaning.

    Each is scaled to unit magnitude. Blocks attend to them after they have attended to themselves: cosine attention
    (Eqs. 30-34), joined by `mp_sum`.

    Args:
        dim: of each token.
        resolutions: of the levels whose blocks attend to them; by default wherever there is self-attention.
        balance: share of what is attended to (t of Eq. 88), in [0, 1].
    """

    kind: ClassVar[str] = "tokens"
    words: ClassVar[str] = "tokens of {dim}"
    form: ClassVar[str] = "[N, T, {dim}], any T, with a mask [N, T] where lengths differ"
    dim: int
    resolutions: tuple[int, ...] = ()
    balance: float = 0.3


def check_name(name: object) -> None:
    """Raise `ValueError` if a condition cannot be called so."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"a condition named {brief(name)}: a name must be like age or text_2")
    if name in RESERVED:
        raise ValueError(f"a condition named {name!r}, which has a meaning of its own: take another name")


KINDS: dict[str, type[Condition]] = {one.kind: one for one in (Vector, Scalar, Image, Tokens)}
# Of their fields, whichever of them a kind has.
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("dim", "features", "channels"), (lambda value: 1 <= value <= MOST_CHANNELS, f"must be 1 to {MOST_CHANNELS}")
    ),
    **dict.fromkeys(("scale", "std"), (lambda value: 0 < value < math.inf, "must be positive")),
    "mean": (math.isfinite, "must be finite"),
    "balance": (lambda value: 0 <= value <= 1, "is a share in [0, 1]"),
}


def check_conditions(conditions: tuple[Condition, ...]) -> None:
    """Raise `ValueError` if these cannot be the conditions of one network."""
    names = [condition.name for condition in conditions]
    if len(names) > MOST_CONDITIONS:
        raise ValueError(f"{len(names)} conditions: at most {MOST_CONDITIONS} are meant to be there")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two conditions are named {twice[0]}: names tell their values apart")
