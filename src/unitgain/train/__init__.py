"""Training: what a run is (`config`), one step (`step`), the loop around it (`loop`)."""

from unitgain.train.config import Evaluation, Execution, Init, TrainConfig
from unitgain.train.loop import train
from unitgain.train.state import TrainState
from unitgain.train.step import Microbatch, Observer, train_step

__all__ = [
    "Evaluation",
    "Execution",
    "Init",
    "Microbatch",
    "Observer",
    "TrainConfig",
    "TrainState",
    "train",
    "train_step",
]
