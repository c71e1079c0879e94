"""A run that does not fit into memory is refused before its first step, with an accumulation that does."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from unitgain.data.digits import digits
from unitgain.parallel import World
from unitgain.recipes import DIGITS
from unitgain.room import RESERVED
from unitgain.train import Observer, TrainConfig, train
from unitgain.train.accumulation import check_memory, fitting
from unitgain.train.config import Execution
from unitgain.train.run import load_config

DEVICE = torch.device("cpu")
LIMITED = """
import resource, sys
import unitgain.train.loop
from unitgain.cli.main import main
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + int(sys.argv[1]),) * 2)
main(sys.argv[2:])
"""


def limited(room, *arguments):
    command = [sys.executable, "-c", LIMITED, str(room), "train", "digits", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space, and reads /proc")
def test_a_limited_address_space_refuses_and_its_remedy_trains(tmp_path):
    batch = ["--batch", 1024, "--duration", 1024, "--snapshot-every", 1024, "--device", "cpu"]
    quick = [*batch, "--out", tmp_path / "run", "--quiet", "--no-tensorboard"]
    room = RESERVED + 3 * 2**28
    done = limited(room, *quick)
    assert done.returncode == 2, done.stderr
    assert "ulimit -v" in done.stderr and not (tmp_path / "run").exists()
    remedy = re.search(r"Add (--microbatch \d+):", done.stderr)
    assert remedy, done.stderr
    done = limited(room, *quick, *remedy[1].split())
    assert done.returncode == 0, done.stderr
    assert load_config(tmp_path / "run").microbatch < 1024


def test_what_does_not_fit_is_said_with_what_does(tmp_path, call, monkeypatch):
    from unitgain.room import Room

    def free(gigabytes):
        monkeypatch.setattr(
            "unitgain.train.accumulation.free_memory", lambda device: Room(int(gigabytes * 1e9), "available")
        )

    out = ["--out", tmp_path / "run", "--no-tensorboard", "--quiet", "--device", "cpu"]
    free(0.001)
    said = call("train", "digits", *out, "--batch", "8", code=2).err
    assert "--width 16" in said and "planned" in said
    small = ["--batch", "8", "--duration", "8", "--snapshot-every", "8"]
    call("train", "digits", *out, *small, "--no-check-memory")
    said = call("train", "--out", tmp_path / "run", "--resume", "--quiet", "--duration", "16", code=2).err
    assert "--microbatch" not in said and "--no-check-memory" in said


def test_the_largest_microbatch_divides_the_batch_and_fits(tiny_recipe):
    made = tiny_recipe.replace(batch=96)
    whole = fitting(made, 10**12, DEVICE)
    assert whole.microbatch == 96
    part = fitting(made, whole.bytes // 2, DEVICE)
    assert part.microbatch in (12, 16, 24, 32) and part.bytes <= whole.bytes // 2
    assert fitting(made, 10**4, DEVICE, microbatch=2).microbatch is None


def test_a_run_resumed_by_more_processes_is_sized_by_its_own_passes(monkeypatch):
    from unitgain.room import Room

    config = TrainConfig(recipe=DIGITS.replace(batch=64), data="digits")  # begun by one process, all at once
    whole, quarter = (fitting(config.recipe, 10**12, DEVICE, microbatch=size).bytes for size in (64, 16))
    room = Room((whole + quarter) // 2, "available")
    monkeypatch.setattr("unitgain.train.accumulation.free_memory", lambda device: room)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    with pytest.raises(ValueError, match="a pass of 64 images does not fit into memory"):
        check_memory(config, Execution(), World(size=4), resumes=True)
    check_memory(replace(config, microbatch=16), Execution(), World(size=4), resumes=True)


def test_a_signal_in_the_first_step_ends_it_at_once(tmp_path, capfd):
    class Signals(Observer):
        def before(self, microbatch):
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the step went on")

    config = TrainConfig(recipe=DIGITS.replace(batch=16, duration=32, snapshot_every=16), data="digits")
    result = train(config, tmp_path / "run", digits(), observe=lambda run: [Signals()], tensorboard=False)
    assert (result.nimg, result.finished, result.signal) == (0, False, "SIGTERM")
    assert "SIGTERM: stopping at once" in capfd.readouterr().err
    assert train(config, tmp_path / "run", digits(), resume=True, tensorboard=False, quiet=True).finished
    train(config, tmp_path / "whole", digits(), tensorboard=False, quiet=True)
    names = sorted(path.name for path in (tmp_path / "whole" / "snapshots").iterdir())
    for name in names:
        parts, whole = (tmp_path / run / "snapshots" / name for run in ("run", "whole"))
        assert parts.read_bytes() == whole.read_bytes()
