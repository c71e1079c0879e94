"""Training: what a run is (`config`), one step (`step`), the loop around it (`loop`)."""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
    from unitgain.train.config import Evaluation, Execution, Init, TrainConfig
    from unitgain.train.finetune import open_init
    from unitgain.train.fitting import fit
    from unitgain.train.loop import train
    from unitgain.train.planning import Plan, plan
    from unitgain.train.state import TrainState
    from unitgain.train.step import Microbatch, Observer, train_step

__all__ = [
    "Evaluation",
    "Execution",
    "Init",
    "Microbatch",
    "Observer",
    "Plan",
    "TrainConfig",
    "TrainState",
    "fit",
    "open_init",
    "plan",
    "train",
    "train_step",
]

__getattr__, __dir__ = offer(__name__)
