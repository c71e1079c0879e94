"""What can go wrong with a run."""

from unitgain.checkpoint.state import CheckpointError
from unitgain.parallel import SharedError


class TrainingError(Exception):
    """Training cannot go on, or what it left is damaged; the last checkpoint is intact."""


class LostProcessError(Exception):
    """Another process of the run ended before this one."""


class PreflightError(Exception):
    """The processes of a run or their machines do not fit together."""


def is_shared(error: BaseException) -> bool:
    """Whether all processes of a run raise this error alike."""
    return isinstance(error, SharedError | PreflightError | TrainingError | CheckpointError)
