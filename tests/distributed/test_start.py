"""What must not start: processes that do not fit together, that do not come, or that have no room."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import runs
import torch
from launch import free_port, launch

from unitgain.lock import FolderInUseError, hold
from unitgain.parallel import JoinError, SharedError, pick_device, processes, world
from unitgain.train import TrainConfig
from unitgain.train.errors import PreflightError
from unitgain.train.preflight import check_disk, check_folder
from unitgain.train.state import TrainState


def refuse(rank: int, folder: str) -> None:
    """Start runs that differ between the two processes; note what each says."""
    said = []
    with processes() as world:
        other = runs.config(seed=5) if rank else runs.config()
        wrong = runs.data(2) if rank else runs.data()
        shape = runs.data() if not rank else dataset_of(torch.zeros(4, 3, 8, 8, dtype=torch.uint8))
        elsewhere = Path(folder) / f"run{rank}"  # as on machines that share no disk
        cases = [{"config": other}, {"dataset": wrong}, {"dataset": shape}, {"folder": elsewhere}]
        cases += [{"shard": bool(rank)}, {"resume": bool(rank)}, {"recompute": not rank}]
        for options in cases:
            with pytest.raises((PreflightError, SharedError)) as caught:
                runs.run(options.pop("folder", Path(folder) / "run"), **options)
            said.append(str(caught.value))
        taken = Path(folder) / "taken"
        with pytest.raises(SharedError) as caught:
            runs.run(taken)
        said.append(str(caught.value))
        there, here = world.gather([text.replace("/run1", "/run0") for text in said])
        assert there == here  # all know
    (Path(folder) / f"said{rank}").write_text("\n".join(said))


def dataset_of(images: torch.Tensor):
    return runs.ArrayDataset(name="other", images=images)


def test_processes_that_differ_are_refused_with_rank_and_phase(tmp_path):
    with hold(tmp_path / "taken"):
        launch(refuse, 2, str(tmp_path))
    config, data, shape, folder, shard, resume, recompute, taken = (tmp_path / "said0").read_text().splitlines()
    assert config.startswith("settings are not the same on all processes. rank 1") and "seed: 0 -> 5" in config
    assert data.startswith("data are not the same on all processes. rank 1") and "fingerprint" in data
    assert shape.startswith("checking the data failed on rank 1 of 2: ValueError: data other: images are (3, 8, 8)")
    assert "rank 1" in folder and "does not see the run folder" in folder
    for name, text in (("shard", shard), ("resume", resume)):
        assert text.startswith("options are not the same on all processes. rank 1") and f"{name}: False -> True" in text
    assert "recompute: True -> False" in recompute
    assert "locking the run folder failed on rank 0 of 2: FolderInUseError" in taken
    assert f"in use by process {os.getpid()} on" in taken
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_missing_rank_is_named(monkeypatch):
    variables = {"RANK": 0, "WORLD_SIZE": 3, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(JoinError, match="for 3 processes, but rank 1, 2 did not come"), processes(start=0.2):
        pass
    waiting = processes(start=30, cancelled=lambda: "SIGTERM")
    with pytest.raises(JoinError, match="stopped by SIGTERM while waiting for rank 1, 2"), waiting:
        pass
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(ValueError, match="WORLD_SIZE=3, but RANK=3: start the processes with torchrun"), processes():
        pass


LAUNCHER = """
import os, subprocess, sys, time
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", 0, 2, True, wait_for_workers=False)
env = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": sys.argv[1], "MASTER_ADDR": "127.0.0.1"}
env |= {"MASTER_PORT": str(store.port), "TORCHELASTIC_RUN_ID": "1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
worker = subprocess.Popen([sys.executable, "-c", sys.argv[2]], env={**os.environ, **env})
print(worker.pid, flush=True)
time.sleep(60)
"""
WORKER = """
import signal, sys, threading, time
from unitgain.parallel import processes
asked = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: asked.set())
print("there", flush=True)
with processes():
    print("begun", flush=True)
    sys.exit(7 if asked.wait(30) else 0)
"""


@pytest.mark.parametrize("size", [1, 2])
def test_processes_end_when_torchrun_is_killed(size):
    """One of two that waits for the other; and one alone, which is asked to stop."""
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, str(size), WORKER], stdout=-1, stderr=-1, text=True)
    worker = None
    try:
        worker = int(launcher.stdout.readline())
        assert launcher.stdout.readline() == "there\n"
        if size == 1:
            assert launcher.stdout.readline() == "begun\n"
        time.sleep(0.5)
        launcher.kill()
        launcher.wait()
        began = time.monotonic()
        said = launcher.stderr.read()  # to its end: the worker has ended
        assert time.monotonic() - began < 20
        assert "rank 0: torchrun is gone; stopping" in said or "Connection" in said
    finally:
        launcher.kill()
        if worker is not None:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        launcher.communicate()


def test_a_launcher_that_is_gone_is_not_waited_for(monkeypatch):
    variables = {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in {**variables, "TORCHELASTIC_USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(world, "AGENT", 0.5)
    began = time.monotonic()
    with pytest.raises(JoinError, match="rank 1 cannot reach torchrun at"), processes():
        pass
    assert time.monotonic() - began < 20


def test_a_disk_without_room_is_refused_and_little_room_is_warned_of(tmp_path, capsys):
    state, config = TrainState.start(runs.RECIPE), runs.config()
    numbers = sum(parameter.numel() for parameter in state.modules.parameters())
    least = 4 * numbers * (3 + 2) + 4 * numbers * 2
    with pytest.raises(OSError, match="a checkpoint and the snapshots of one time take"):
        check_disk(state, config, tmp_path, lambda path: least - 1)
    check_disk(state, config, tmp_path, lambda path: least)
    assert "WARNING" in capsys.readouterr().err
    check_disk(state, config, tmp_path, lambda path: 100 * least)
    assert not capsys.readouterr().err
    long = replace(config, recipe=config.recipe.replace(duration=10**6))
    check_disk(state, long, tmp_path, lambda path: 100 * least)
    assert "WARNING" in capsys.readouterr().err
    check_disk(state, replace(long, snapshot_budget=10 * least), tmp_path, lambda path: 100 * least)
    assert not capsys.readouterr().err


def test_devices_that_are_not_there_are_refused_however_they_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "cuda:0", torch.device("cuda")):
        with pytest.raises(ValueError, match=f"--device {device}: torch finds no GPU"):
            pick_device(device)
    with pytest.raises(ValueError, match="--device gpu: torch knows no such device; use auto, cpu"):
        pick_device("gpu")
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto") == torch.device("cuda") and pick_device("cuda:1").index == 1
    with pytest.raises(ValueError, match="cuda:2: torch finds 2 GPUs here; use cuda:0 to cuda:1"):
        pick_device("cuda:2")


def test_the_estimate_of_the_disk_is_what_is_written(tmp_path):
    state = TrainState.start(runs.RECIPE)
    runs.run(tmp_path)
    numbers = sum(parameter.numel() for parameter in state.modules.parameters())
    checkpoint = sum(path.stat().st_size for path in (tmp_path / "checkpoints" / "0000000096").iterdir())
    # Of a network of a few thousand parameters, headers are the larger part: some 2 kB for each of 400 tensors.
    assert 4 * numbers * 5 < checkpoint < 4 * numbers * 5 + 3000 * 400


def test_a_read_only_folder_says_so(tmp_path, monkeypatch):
    def refused(path, *arguments):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("unitgain.lock.os.open", refused)
    with pytest.raises(PermissionError, match=r"Permission denied.*\.lock"):
        runs.run(tmp_path)


def test_a_folder_in_use_names_its_holder_and_a_dead_one_holds_nothing(tmp_path):
    used = rf"is in use by process {os.getpid()} on .* since 2"
    with hold(tmp_path), pytest.raises(FolderInUseError, match=used):
        hold(tmp_path).__enter__()
    assert not (tmp_path / ".lock").exists()
    code = f"""
import pathlib
from unitgain.lock import hold
with hold(pathlib.Path({str(tmp_path)!r})):
    print(1, flush=True)
    input()
"""
    killed = subprocess.Popen([sys.executable, "-c", code], stdout=-1, stdin=-1)
    assert killed.stdout.readline() == b"1\n"
    with pytest.raises(FolderInUseError, match=f"process {killed.pid}"):
        runs.run(tmp_path)
    killed.kill()
    killed.wait()
    assert (tmp_path / ".lock").exists()
    assert runs.run(tmp_path).finished  # the file alone is no lock, and no other run's


def test_a_folder_that_all_see_passes(tmp_path):
    with hold(tmp_path), processes() as world:
        check_folder(world, tmp_path)


def stuck(rank: int, folder: str) -> None:
    """Rank 0 waits for rank 1 in a sum and gets two signals meanwhile; rank 1 does not come."""
    from unitgain.train import signals

    signals.SAME, signals.GRACE = 0.2, 0.2
    with signals.StopSignal(), processes() as world:
        (Path(folder) / f"pid{rank}").write_text(str(os.getpid()))
        if rank == 0:
            world.sum([torch.zeros(1)])
        time.sleep(60)


def test_a_second_signal_ends_even_a_process_that_waits_for_another(tmp_path):
    code = f"""
        import os, sys
        sys.path[:0] = [{str(Path(__file__).parent)!r}]
        from test_start import stuck
        stuck(int(os.environ["RANK"]), {str(tmp_path)!r})
    """
    env = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    both = [subprocess.Popen(command, env={**env, "RANK": str(rank)}, stderr=-1) for rank in (0, 1)]
    try:
        while not all((tmp_path / f"pid{rank}").exists() for rank in (0, 1)):
            assert all(process.poll() is None for process in both)
            time.sleep(0.1)
        time.sleep(0.5)
        both[0].send_signal(signal.SIGTERM)
        time.sleep(0.4)
        assert both[0].poll() is None  # one signal asks
        both[0].send_signal(signal.SIGTERM)
        assert both[0].wait(5) == 130
    finally:
        for process in both:
            process.kill()
            process.communicate()


def test_execution_is_checked():
    from unitgain.train import Execution
    from unitgain.train.config import parse_duration

    assert [parse_duration(text) for text in ("90", "45m", "1.5h", "1d6h")] == [90, 2700, 5400, 108000]
    for text in ("", "x", "h", "1h30", "-5", "0"):
        with pytest.raises(ValueError, match="cannot read the time"):
            parse_duration(text)
    with pytest.raises(ValueError, match="max_time = 0"):
        Execution(max_time=0)


def test_the_time_limit_stops_as_a_signal_does(tmp_path):
    result = runs.run(tmp_path, max_time=1e-6)
    assert (result.nimg, result.finished, result.signal) == (0, False, "--max-time")
    assert runs.run(tmp_path, resume=True).finished
    assert isinstance(runs.config(), TrainConfig)
