"""A signal to one of several processes, whatever it is at: all stop with a checkpoint, and go on to the same bytes."""

import os
import signal
from pathlib import Path

import pytest
import runs
from launch import launch

from unitgain.checkpoint.state import list_checkpoints
from unitgain.parallel import processes
from unitgain.train import loop
from unitgain.train.saver import Checkpoints
from unitgain.train.snapshots import Snapshots

PHASES = {
    "step": (loop, "train_step", signal.SIGTERM),
    "snapshot": (Snapshots, "report", signal.SIGINT),
    "checkpoint": (Checkpoints, "write", signal.SIGUSR1),
}


def interrupt(rank: int, folder: str, shard: bool) -> None:
    """A whole run, and for each phase one that a signal to rank 1 stops there and one that resumes it."""
    with processes():
        runs.run(Path(folder) / "whole", shard=shard)
        for phase, (owner, name, number) in PHASES.items():
            run = Path(folder) / phase
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(owner, name, signalling(getattr(owner, name), number if rank == 1 else None))
                result = runs.run(run, shard=shard)
            assert (result.finished, result.signal) == (False, number.name), phase
            assert list_checkpoints(run / "checkpoints")[-1].name == f"{result.nimg:010d}", phase
            assert runs.run(run, shard=shard, resume=True).finished


def signalling(function, number):
    """The function, which first sends a signal to this process when it is called the first time."""
    calls = []

    def call(*args, **kwargs):
        calls.append(1)
        if number is not None and len(calls) == 1:
            os.kill(os.getpid(), number)
        return function(*args, **kwargs)

    return call


@pytest.mark.parametrize("shard", [False, True])
def test_all_stop_with_a_checkpoint_and_go_on_to_the_same_bytes(tmp_path, shard):
    launch(interrupt, 2, str(tmp_path), shard)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole" / "snapshots").iterdir()}
    for phase in PHASES:
        found = {path.name: path.read_bytes() for path in (tmp_path / phase / "snapshots").iterdir()}
        assert found == whole, phase
