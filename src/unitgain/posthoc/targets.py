"""What a user may ask for: an average by its length, where it ends, and lengths of its own for some tensors."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from unitgain.ema import (
    ExponentialProfile,
    PowerProfile,
    Profile,
    gamma_to_sigma_rel,
    length_text,
    sigma_rel_to_gamma,
)

MOST = 10_000  # lengths in a range


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long an average is: exactly one of three.

    Args:
        sigma_rel: of a power-function average, in (0, 0.2886): standard deviation relative to the time it ends at.
        gamma: of a power-function average, at least 0: its exponent.
        half_life: of an exponential average, in the unit of t.
    """

    sigma_rel: float | None = None
    gamma: float | None = None
    half_life: float | None = None

    def __post_init__(self) -> None:
        if [self.sigma_rel, self.gamma, self.half_life].count(None) != 2:
            raise ValueError("give one of sigma_rel, gamma and half_life")
        if self.sigma_rel is not None:
            sigma_rel_to_gamma(self.sigma_rel)  # raises if it is out of range
        if self.gamma is not None and not 0 <= self.gamma < math.inf:
            raise ValueError(f"gamma must be at least 0 and finite, not {self.gamma}")
        if self.half_life is not None and not 0 < self.half_life < math.inf:
            raise ValueError(f"half_life must be positive and finite, not {self.half_life}")

    def profile(self, t: float) -> Profile:
        """The profile of this length that ends at `t`."""
        if self.half_life is not None:
            return ExponentialProfile(t, self.half_life)
        return PowerProfile(t, sigma_rel_to_gamma(self.sigma_rel) if self.gamma is None else self.gamma)  # pyright: ignore

    def __str__(self) -> str:
        """As files are named: sigma_rel as `length_text` writes it, or `hl` and the half-life."""
        if self.half_life is not None:
            return f"hl{self.half_life:g}"
        return length_text(gamma_to_sigma_rel(self.gamma) if self.sigma_rel is None else self.sigma_rel)  # pyright: ignore


@dataclass(frozen=True, kw_only=True)
class Target(Length):
    """An average to reconstruct.

    Args:
        t: where it ends; at the last snapshot by default.
        overrides: other lengths for some tensors, by name or pattern (`*` and `?`); of several that match a name, the
            last counts (Section 3.3).
    """

    t: float | None = None
    overrides: Mapping[str, Length] = field(default_factory=dict[str, Length], hash=False)

    def length_of(self, name: str) -> Length:
        """The length for one tensor."""
        return next((self.overrides[one] for one in reversed([*self.overrides]) if fnmatchcase(name, one)), self)


def as_target(value: "float | Target | Length", t: float | None = None) -> Target:
    """A number is a sigma_rel; `t` where the target does not say itself where it ends."""
    length = value if isinstance(value, Length) else Length(sigma_rel=float(value))
    target = length if isinstance(length, Target) else Target(**vars(length))
    return replace(target, t=t) if target.t is None else target


def parse_lengths(text: str) -> list[float]:
    """Lengths sigma_rel from text: `0.05`, a list `0.05,0.1`, a range `start:stop:step` with both ends, or a mixture.

    Raises:
        ValueError: if a part is none of these.
    """
    return [number for part in text.split(",") for number in _numbers(part)]


def parse_targets(text: str) -> list[Length]:
    """As `parse_lengths`, where a part may begin with `gamma=` or `half_life=`: `0.05:0.2:0.05,half_life=5e6`.

    Raises:
        ValueError: if a part is none of these, or out of range.
    """
    lengths: list[Length] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(sigma_rel|gamma|half[_-]life)\s*=\s*(.*)", part)
        kind, numbers = (match[1].replace("-", "_"), match[2]) if match else ("sigma_rel", part)
        lengths += [Length(**{kind: number}) for number in _numbers(numbers)]
    return lengths


def parse_overrides(texts: Sequence[str]) -> dict[str, Length]:
    """Lengths by pattern from `PATTERN=LENGTH` texts, as in `*.attention.*=0.05`.

    Raises:
        ValueError: if a text is not of this form.
    """
    overrides: dict[str, Length] = {}
    for text in texts:
        pattern, equals, length = text.partition("=")
        if not equals or not pattern or len(lengths := parse_targets(length)) != 1:
            raise ValueError(f"cannot read {text!r}: write a pattern of tensor names and one length, as 'dec.*=0.05'")
        overrides[pattern] = lengths[0]
    return overrides


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(number) for number in text.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        return numbers
    if len(numbers) == 3 and all(map(math.isfinite, numbers)) and numbers[2] > 0 and numbers[1] >= numbers[0]:
        start, stop, step = numbers
        if (stop - start) / step > MOST:
            raise ValueError(f"the range {text!r} has over {MOST:,} lengths: take a larger step")
        count = math.floor((stop - start) / step + 1e-6) + 1
        return [round(start + i * step, 9) for i in range(count)]
    raise ValueError(f"cannot read the lengths {text!r}: write 0.05, 0.05,0.1 or start:stop:step as 0.01:0.25:0.01")
