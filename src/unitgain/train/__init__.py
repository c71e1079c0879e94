"""Training: what a run is (`config`), one step (`step`), the loop around it (`loop`)."""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
    from unitgain.train.config import Evaluation as Evaluation
    from unitgain.train.config import Execution as Execution
    from unitgain.train.config import Init as Init
    from unitgain.train.config import TrainConfig as TrainConfig
    from unitgain.train.finetune import open_init as open_init
    from unitgain.train.fitting import fit as fit
    from unitgain.train.loop import train as train
    from unitgain.train.planning import Plan as Plan
    from unitgain.train.planning import plan as plan
    from unitgain.train.state import TrainState as TrainState
    from unitgain.train.step import Microbatch as Microbatch
    from unitgain.train.step import Observer as Observer
    from unitgain.train.step import train_step as train_step

__getattr__, __dir__ = offer(__name__)
