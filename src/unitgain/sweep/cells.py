"""What a sweep is over: averages and weights of guidance."""

import itertools
from dataclasses import dataclass, field

from unitgain.draw.settings import DrawSettings
from unitgain.ema import check_sigma_rel
from unitgain.posthoc.targets import Length, Target
from unitgain.sample.seeds import check_seeds


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One network and how it is guided.

    Args:
        length: sigma_rel of the average.
        guidance: weight w of Eq. 152.
        guide_length: sigma_rel of the guide's average; None where it has none of its own.
        pattern: names of the tensors that alone have the length, the others that of the sweep's `base`; None for all.
    """

    length: float
    guidance: float = 1.0
    guide_length: float | None = None
    pattern: str | None = None

    def target(self, base: float | None) -> Target:
        """The average to reconstruct."""
        if self.pattern is None:
            return Target(sigma_rel=self.length)
        return Target(sigma_rel=base, overrides={self.pattern: Length(sigma_rel=self.length)})


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The cells of a sweep, and how each is drawn.

    Args:
        lengths: of the averages, sigma_rel.
        guidance: weights.
        guide_lengths: of the guide's averages, swept on their own; None ties them to those of the main network.
        patterns: names of tensors; each is swept by itself over `lengths`, the others at `base` (EDM2, Fig. 5b).
        base: length of the tensors that are not swept; needed with `patterns`.
        images: per cell and repetition.
        first_seed: the seeds are first_seed, first_seed + 1, ..., the same in every cell.
        repeat: evaluations per cell with seeds of their own, as in the papers' minimum of three.
        settings: how images are drawn; their guidance is that of the cell.

    Raises:
        ValueError: if there are no cells, or a value is out of range.
    """

    lengths: tuple[float, ...]
    guidance: tuple[float, ...] = (1.0,)
    guide_lengths: tuple[float, ...] | None = None
    patterns: tuple[str, ...] = ()
    base: float | None = None
    images: int = 50_000
    first_seed: int = 0
    repeat: int = 1
    settings: DrawSettings = field(default_factory=DrawSettings)

    def __post_init__(self) -> None:
        for length in (*self.lengths, *(self.guide_lengths or ()), *([] if self.base is None else [self.base])):
            check_sigma_rel(length)
        if not self.lengths or not self.guidance or self.guide_lengths == ():
            raise ValueError("a sweep needs at least one length and one weight of guidance")
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
        for weight in self.guidance:
            self.settings.replace(guidance=weight)

    @property
    def guided(self) -> bool:
        """Whether any cell is."""
        return any(weight != 1 for weight in self.guidance)

    def cells(self, tied: bool = True) -> list[Cell]:
        """All cells, by length first; those without guidance once.

        Args:
            tied: the guide has averages of its own, by default of the length of the main network's.
        """
        cells: dict[Cell, None] = {}
        axes = (self.patterns or (None,), self.lengths, self.guidance)
        for pattern, length, weight in itertools.product(*axes):
            own = self.guide_lengths or ((length if pattern is None else self.base,) if tied else (None,))
            for guide_length in own:
                unguided = weight == 1
                cell = Cell(
                    length=length,
                    guidance=weight,
                    guide_length=None if unguided else guide_length,
                    pattern=pattern,
                )
                cells[cell] = None
        return list(cells)

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
    """

    cell: Cell
    metric: str
    values: tuple[float, ...]
    images: int
    higher: bool = False

    @property
    def value(self) -> float:
        """The best of the repetitions, as the papers report it."""
        return max(self.values) if self.higher else min(self.values)

    @property
    def worst(self) -> float:
        """The worst of them."""
        return min(self.values) if self.higher else max(self.values)
