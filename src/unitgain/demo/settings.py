"""What the demo does."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unitgain.ema import check_sigma_rel
from unitgain.recipes import DIGITS
from unitgain.train.config import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor

LENGTHS = (0.03, 0.06, 0.10, 0.15, 0.21)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What the demo does.

    Args:
        seed: of the training run.
        duration: training images; rounded up to whole steps.
        lengths: EMA lengths to sweep.
        images: images drawn at each length, at least 2; seeds 0, 1, ..., the same at every length.
        steps: of Heun's method.
        sigma_min: last noise level before 0; 8-bit digits show nothing finer.
        sigma_max: first noise level, far above the 0.5 of the data.
    """

    seed: int = 0
    duration: int = DIGITS.duration
    lengths: tuple[float, ...] = LENGTHS
    images: int = 448
    steps: int = 12
    sigma_min: float = 0.02
    sigma_max: float = 30.0

    def __post_init__(self) -> None:
        DIGITS.replace(duration=self.duration)
        if not (self.steps >= 2 and 0 < self.sigma_min < self.sigma_max):
            given = f"{self.steps}, {self.sigma_min} and {self.sigma_max}"
            raise ValueError(f"the demo needs at least 2 steps and 0 < sigma_min < sigma_max, not {given}")
        for sigma_rel in self.lengths:
            check_sigma_rel(sigma_rel)
        if self.images < 2 or not self.lengths:
            raise ValueError(
                f"the demo needs at least 2 images and 1 length, not {self.images} and {len(self.lengths)}"
            )

    def sigmas(self) -> "Tensor":
        """The noise levels of sampling."""
        from unitgain.sample import sigma_grid

        return sigma_grid(self.steps, self.sigma_min, self.sigma_max)

    def training(self, data: str) -> TrainConfig:
        """The training run, on data of this name."""
        recipe = DIGITS.replace(duration=self.duration)
        return TrainConfig(
            recipe=recipe,
            data=data,
            seed=self.seed,
            tick=recipe.snapshot_every // 5,
            checkpoint_every=recipe.duration,
        )
