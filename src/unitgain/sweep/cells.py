"""What a sweep is over: averages and weights of guidance."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from unitgain.ema import check_sigma_rel
from unitgain.given import real, settle, several, whole
from unitgain.sample.seeds import check_seeds

if TYPE_CHECKING:
    from unitgain.posthoc.targets import Target


def _numbers(words: list[str]) -> tuple[float, ...] | None:
    from unitgain.posthoc.targets import parse_lengths

    return None if words[0] == "None" else tuple(parse_lengths(words[0]))


NUMBERS = tyro.constructors.PrimitiveConstructorSpec[tuple[float, ...] | None](
    nargs=1,
    metavar="NUMBERS",
    instance_from_str=_numbers,
    is_instance=lambda value: value is None or isinstance(value, tuple),
    str_from_instance=lambda value: [str(value) if value is None else ",".join(f"{number:g}" for number in value)],
)
Numbers = Annotated[tuple[float, ...], NUMBERS]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One network and how it is guided.

    Args:
        length: sigma_rel of the average.
        guidance: weight w of Eq. 152.
        guide_length: sigma_rel of the guide's average; None where it has none of its own.
        pattern: names of the tensors that alone have the length; None for all.
        base: sigma_rel of the others.
    """

    length: float
    guidance: float = 1.0
    guide_length: float | None = None
    pattern: str | None = None
    base: float | None = None

    def target(self) -> "Target":
        """The average to reconstruct."""
        from unitgain.posthoc.targets import Length, Target

        if self.pattern is None:
            return Target(sigma_rel=self.length)
        return Target(sigma_rel=self.base, overrides={self.pattern: Length(sigma_rel=self.length)})


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The cells of a sweep, and the images of each.

    Args:
        lengths: of the averages, sigma_rel; on the command line 0.05, a list 0.05,0.1 or a range with both ends
            0.02:0.20:0.02.
        guidance: weights, in the same form; 1 is none.
        guide_lengths: of the guide's averages, swept on their own; None ties them to those of the network.
        patterns: names of tensors, as 'network.dec.*': each is swept by itself over the lengths, the others have that
            of `base` (EDM2, Fig. 5b); on the command line it may be given again, and D.6 there stands for the tensors
            that the paper looked at.
        base: length of the tensors that no pattern names; needed with one.
        images: per cell and repetition.
        first_seed: seed of the first; the others follow, the same in every cell.
        repeat: evaluations per cell, each with seeds of its own; the best counts, as in the papers, with three.

    Raises:
        ValueError: if there are no cells, or a value is out of range.
    """

    lengths: Numbers
    guidance: Numbers = (1.0,)
    guide_lengths: Annotated[tuple[float, ...] | None, NUMBERS] = None
    patterns: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="pattern")] = ()
    base: float | None = None
    images: int = 50_000
    first_seed: int = 0
    repeat: int = 1

    def __post_init__(self) -> None:
        for name in ("lengths", "guidance", "guide_lengths"):
            if (values := getattr(self, name)) is not None:
                settle(self, **{name: tuple(real(one, name) for one in several(values, name))})
        settle(self, patterns=several(self.patterns, "patterns"))
        for name in ("images", "first_seed", "repeat"):
            settle(self, **{name: whole(getattr(self, name), name)})
        for length in (*self.lengths, *(self.guide_lengths or ()), *([] if self.base is None else [self.base])):
            check_sigma_rel(length)
        if not self.lengths or not self.guidance or self.guide_lengths == ():
            raise ValueError("a sweep needs at least one length and one weight of guidance")
        if not all(map(math.isfinite, self.guidance)):
            raise ValueError(f"weights of guidance must be finite, not {', '.join(map(str, self.guidance))}")
        if self.images < 2 or self.repeat < 1 or self.first_seed < 0:
            raise ValueError(
                f"a sweep needs images >= 2, repeat >= 1 and a first seed >= 0, "
                f"not {self.images}, {self.repeat} and {self.first_seed}"
            )
        check_seeds(self.seeds(self.repeat - 1), "the last seed of the sweep,")
        if bool(self.patterns) != (self.base is not None):
            raise ValueError(
                "patterns of tensors need a base, the length of all other tensors, and the other way round"
            )

    def cells(self, tied: bool = True) -> list[Cell]:
        """All cells, by length first; those without guidance once.

        Args:
            tied: the guide has averages of its own, by default of the length of the main network's.
        """
        axes = (self.patterns or (None,), self.lengths, self.guidance, self.guide_lengths or (None,))
        return list(dict.fromkeys(self.cell(*values, tied=tied) for values in itertools.product(*axes)))

    def cell(self, pattern: str | None, length: float, weight: float, guide_length: float | None, tied: bool) -> Cell:
        """One cell; a guide's length that is None is that of the network, where the guide has averages of its own."""
        if guide_length is None and tied:
            guide_length = length if pattern is None else self.base
        return Cell(
            length=length,
            guidance=weight,
            guide_length=None if weight == 1 else guide_length,
            pattern=pattern,
            base=None if pattern is None else self.base,
        )

    def seeds(self, repetition: int) -> range:
        """Seeds of one repetition."""
        first = self.first_seed + repetition * self.images
        return range(first, first + self.images)


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """What one metric says of one cell.

    Attributes:
        cell: which.
        metric: its name.
        values: one per repetition.
        images: in each.
        higher: higher is better.
        errors: standard error of each value, from the images that happened to be drawn; empty where it is not known.
        nimg: where the average ends, in images seen or whatever the run counts.
    """

    cell: Cell
    metric: str
    values: tuple[float, ...]
    images: int
    higher: bool = False
    errors: tuple[float, ...] = ()
    nimg: float | None = None

    @property
    def error(self) -> float | None:
        """Standard error of the value; None where it is not known."""
        return self.errors[self.values.index(self.value)] if self.errors else None

    @property
    def value(self) -> float:
        """The best of the repetitions, as the papers report it."""
        return max(self.values) if self.higher else min(self.values)

    @property
    def worst(self) -> float:
        """The worst of them."""
        return min(self.values) if self.higher else max(self.values)


def best(results: Sequence[CellResult]) -> CellResult:
    """The best of some results of one metric."""
    return (max if results[0].higher else min)(results, key=lambda result: result.value)


def best_by(results: Sequence[CellResult], key: Callable[[CellResult], Any]) -> dict[Any, CellResult]:
    """The best of each group, groups in the order of their first result."""
    groups: dict[Any, list[CellResult]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return {name: best(group) for name, group in groups.items()}
