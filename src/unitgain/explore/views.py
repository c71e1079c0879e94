"""What is on screen: which networks, how they draw, which seeds. Imports no torch."""

from dataclasses import dataclass, field, replace
from typing import Any

from unitgain.draw.settings import DrawSettings
from unitgain.ema import check_sigma_rel
from unitgain.sample.seeds import check_seeds

SEEDS = tuple(range(8))
LEAST = 0.001  # length, of which no snapshots are near
MOST_SEEDS, MOST_STEPS = 256, 1000  # of a view


@dataclass(frozen=True, kw_only=True)
class Average:
    """Which average of a run.

    Args:
        length: its length sigma_rel; None for the longest that the run stores, and of a network that is no run.
        t: where it ends, in what the run counts; None for the last snapshot.

    Raises:
        ValueError: if a value is out of range.
    """

    length: float | None = None
    t: float | None = None

    def __post_init__(self) -> None:
        if self.length is not None:
            check_sigma_rel(self.length)
            if self.length < LEAST:
                raise ValueError(f"length = {self.length:g}: at least {LEAST:g} here")
        if self.t is not None and not 0 < self.t < 2**63:
            raise ValueError(f"t = {self.t}: an average ends at a positive time")


@dataclass(frozen=True, kw_only=True)
class View:
    """A picture of some seeds: everything that its pixels depend on.

    Args:
        average: of the network.
        guide: what guides, by its name in `Session.guides`; None where nothing does. It takes part where the weight of
            guidance of the settings is not 1.
        guide_average: which average of the guide, where that is a run.
        seeds: of the images, in order.
        settings: how they are drawn; class and weight of guidance too.

    Raises:
        ValueError: if there are no seeds or too many, one is out of range or comes twice, or there are too many steps.
    """

    average: Average = field(default_factory=Average)
    guide: str | None = None
    guide_average: Average = field(default_factory=Average)
    seeds: tuple[int, ...] = SEEDS
    settings: DrawSettings = field(default_factory=lambda: DrawSettings(dtype="auto"))

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        if not 1 <= len(self.seeds) <= MOST_SEEDS or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"a view has 1 to {MOST_SEEDS} seeds, each once, not {len(self.seeds)}")
        if self.settings.steps > MOST_STEPS:
            raise ValueError(f"steps = {self.settings.steps}: at most {MOST_STEPS} here")

    @property
    def guided(self) -> bool:
        """Whether the guide takes part."""
        return self.settings.guidance != 1

    def replace(self, **changes: Any) -> "View":
        """A copy with some fields changed."""
        return replace(self, **changes)

    def with_settings(self, **changes: Any) -> "View":
        """A copy with some settings of drawing changed."""
        return replace(self, settings=self.settings.replace(**changes))
