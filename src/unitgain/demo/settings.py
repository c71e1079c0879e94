"""What the demo does."""

from dataclasses import dataclass

from unitgain.draw.settings import DrawSettings
from unitgain.recipes import DIGITS
from unitgain.sweep.cells import SweepConfig
from unitgain.train.config import TrainConfig

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

    Raises:
        ValueError: if a value is out of range.
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
        self.drawing()
        self.cells()

    def drawing(self) -> DrawSettings:
        """How images are drawn."""
        return DrawSettings(steps=self.steps, sigma_min=self.sigma_min, sigma_max=self.sigma_max)

    def cells(self) -> SweepConfig:
        """The averages that are compared."""
        return SweepConfig(lengths=self.lengths, images=self.images)

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
