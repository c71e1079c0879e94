"""Which seeds there are, and what lies between two of them. Imports no torch."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import TypeVar, cast

from unitgain.given import real, settle, several
from unitgain.text import brief

SEEDS = 2**32  # as many as official generators tell apart, which take a seed modulo this


@dataclass(frozen=True)
class Between:
    """A point on the way from one seed to another, which stands wherever a seed does.

    All that is random is mixed: noise as `sin((1 - t) pi/2) z_first + sin(t pi/2) z_last`, on the arc between the two,
    so that it is unit noise at every t; of the classes that the two seeds draw, the shares 1 - t and t. At the ends it
    draws the images of the two seeds.

    Args:
        first: seed at t = 0.
        last: seed at t = 1.
        t: 0 to 1.

    Raises:
        ValueError: if a seed or `t` is out of range.
    """

    first: int
    last: int
    t: float

    def __post_init__(self) -> None:
        first, last = as_seeds([self.first, self.last])
        settle(self, first=first, last=last, t=real(self.t, "t"))
        if not 0 <= self.t <= 1:
            raise ValueError(f"t = {self.t}: a point between two seeds has 0 <= t <= 1")

    def parts(self) -> tuple[tuple[int, float, float], ...]:
        """Both seeds, each with its weight in noise and its share in classes."""
        ends = ((self.first, 1 - self.t), (self.last, self.t))
        return tuple((seed, math.sin(share * math.pi / 2), share) for seed, share in ends)


Seed = int | Between
AnySeed = TypeVar("AnySeed", bound=Seed)  # whole numbers alone stay whole numbers


def interpolate(seeds: Sequence[int], frames: int = 16) -> list[Between]:
    """Points on the way through seeds, evenly in the angle, for `generate` and all that draws.

    Args:
        seeds: two or more, in the order in which they are passed; with the first again at the end it is a loop.
        frames: points from one seed to the next, at least 2, both of them counted; what two legs share comes once.

    Raises:
        ValueError: if there are fewer than two seeds, or frames.
    """
    seeds = as_seeds(seeds)
    if len(seeds) < 2:
        raise ValueError(f"to interpolate takes two seeds or more, such as 3,7, not {len(seeds)}")
    if frames < 2:
        raise ValueError(f"frames = {frames}: at least 2, for the two seeds themselves")
    legs = list(itertools.pairwise(seeds))
    points = [Between(first, last, i / (frames - 1)) for first, last in legs for i in range(frames - 1)]
    return [*points, Between(*legs[-1], 1.0)]


def as_seeds(seeds: Sequence[AnySeed]) -> Sequence[AnySeed]:
    """Seeds as plain whole numbers and points between them, of an array or a tensor too; errors as `check_seeds`."""
    if isinstance(seeds, range):
        check_seeds(seeds)
        return cast(Sequence[AnySeed], seeds)
    given = several(seeds, "seeds")
    check_seeds(given)
    return cast(Sequence[AnySeed], [one if isinstance(one, Between) else int(index(one)) for one in given])


def check_seeds(seeds: Sequence[Seed], what: str = "seed") -> None:
    """Raise `ValueError` unless each seed is a whole number from 0 to 2^32 - 1: beyond, two seeds would be one."""
    try:
        own = seeds if isinstance(seeds, range) else [index(one) for one in seeds if not isinstance(one, Between)]
    except TypeError as error:
        raise ValueError(f"{what}s are whole numbers from 0 to {SEEDS - 1}, not {brief(seeds)}") from error
    if len(own) and not (min(own) >= 0 and max(own) < SEEDS):
        wrong = min(own) if min(own) < 0 else max(own)
        raise ValueError(f"{what} {wrong} is out of range: seeds are whole numbers from 0 to {SEEDS - 1}")
