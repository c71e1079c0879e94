"""How `benchmarks/torture.py` judges; tests/unit/test_benchmarks_small.py runs it in short."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import torture
from unitgain.train import train


def test_a_wrong_result_is_noticed(tmp_path):
    train(torture.CONFIG, tmp_path, torture.dataset(), quiet=True, tensorboard=False)
    snapshots = tmp_path / "snapshots"
    reference = {path.name: path.read_bytes() for path in snapshots.iterdir()}
    assert not list(torture.judge(tmp_path, reference))
    damaged = bytearray(reference["0000000048-0.050.safetensors"])
    damaged[-1] ^= 1
    (snapshots / "0000000048-0.050.safetensors").write_bytes(damaged)  # says so when it is read
    assert not list(torture.judge(tmp_path, reference))
    (snapshots / "0000000096-0.050.safetensors").write_bytes(reference["0000000048-0.050.safetensors"])
    (snapshots / "0000000144-raw.safetensors").unlink()
    assert set(torture.judge(tmp_path, reference)) == {
        "0000000096-0.050.safetensors differs and does not say so",
        "0000000144-raw.safetensors is missing",
    }
