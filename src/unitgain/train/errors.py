"""What can go wrong with a run, and how several processes say it once."""

from collections.abc import Callable
from typing import TypeVar

from unitgain.checkpoint.state import CheckpointError
from unitgain.parallel import World

T = TypeVar("T")


class TrainingError(Exception):
    """Training cannot go on, or what it left is damaged; the last checkpoint is intact."""


class SharedError(Exception):
    """An error that all processes know of, so that one of them is enough to print it."""


class LostProcessError(Exception):
    """Another process of the run ended before this one."""


class PreflightError(Exception):
    """The processes of a run or their machines do not fit together."""


def is_shared(error: BaseException) -> bool:
    """Whether all processes of a run raise this error alike."""
    return isinstance(error, SharedError | PreflightError | TrainingError | CheckpointError)


def together(world: World, phase: str, work: Callable[[], T]) -> T:
    """Do something on all processes; if it fails on any, it fails on all, with a message that names rank and phase.

    Args:
        world: the processes; a single one raises its own error as it is.
        phase: what is being done, for the message.
        work: called once on each process, without communication of its own that others would wait for in vain.

    Raises:
        SharedError: if it failed on some of several processes.
    """
    if world.size == 1:
        return work()
    value, error = None, None
    try:
        value = work()
    except Exception as caught:
        error = caught
    said = world.gather(None if error is None else f"{type(error).__name__}: {error}")
    failed = {rank: text for rank, text in enumerate(said) if text is not None}
    if failed:
        where = f"rank {', '.join(map(str, failed))} of {world.size}"
        texts = sorted(set(failed.values()))
        raise SharedError(f"{phase} failed on {where}: {'; '.join(texts)}") from error
    return value  # type: ignore[return-value]
