"""As a user starts it: torchrun with restarts, and a worker that dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import unitgain
from unitgain.checkpoint.state import list_checkpoints

TRAIN = ["digits", "--batch", "16", "--microbatch", "8", "--duration", "960", "--snapshot-every", "960"]
OPTIONS = ["--checkpoint-every", "160", "--device", "cpu", "--no-tensorboard", "--quiet"]


def torchrun(folder: Path) -> subprocess.Popen:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    command = [*launcher, "-m", "unitgain", "train", *TRAIN, "--out", str(folder), *OPTIONS]
    source = str(Path(unitgain.__file__).parents[1])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": source}
    return subprocess.Popen(command, stdout=-1, stderr=subprocess.STDOUT, text=True, env=env)


def await_checkpoint(folder: Path, process: subprocess.Popen, seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not list_checkpoints(folder / "checkpoints"):
        assert process.poll() is None and time.monotonic() < end, process.communicate(timeout=5)[0]
        time.sleep(0.05)


def test_a_dead_worker_is_replaced_and_the_run_resumes(tmp_path):
    process = torchrun(tmp_path / "run")
    try:
        await_checkpoint(tmp_path / "run", process)
        holder = json.loads((tmp_path / "run" / ".lock").read_text())["pid"]
        os.kill(holder, signal.SIGKILL)
        text = process.communicate(timeout=300)[0]
    finally:
        process.kill()
    assert process.returncode == 0, text
    assert "finished at 960 images" in text
    assert (tmp_path / "run" / "snapshots" / "0000000960-raw.safetensors").is_file()
    rows = [json.loads(line) for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines()]
    assert [row["nimg"] for row in rows] == sorted({row["nimg"] for row in rows})  # resumed, and no line twice
