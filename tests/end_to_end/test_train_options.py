"""Options of `unitgain train` that carry a run out: limits, checkpoints, memory, and several processes' messages."""

import pytest

from unitgain.checkpoint.state import CheckpointError, list_checkpoints
from unitgain.cli.main import explain, main
from unitgain.train.errors import PreflightError
from unitgain.train.run import load_config

SMALL = ["--batch", "16", "--duration", "160", "--snapshot-every", "160", "--checkpoint-every", "16", "--device", "cpu"]


def call(capsys, *arguments, code=0):
    found = 0
    try:
        main([str(argument) for argument in ("train", *arguments, "--no-tensorboard", "--quiet")])
    except SystemExit as stop:
        found = stop.code or 0
    output = capsys.readouterr()
    assert found == code, output.err
    return output


def test_a_run_in_parts_with_every_option(tmp_path, capsys):
    run = tmp_path / "run"
    memory = ["--recompute", "--ema-device", "cpu", "--keep-checkpoints", "1", "--keep-every", "64"]
    said = call(capsys, "digits", "--out", run, *SMALL, *memory, "--max-time", "1s").out
    assert "stopped by --max-time" in said and "--resume" in said
    said = call(capsys, "--out", run, "--resume", "--max-time", "soon", code=2).err
    assert "cannot read the time 'soon'" in said
    config = (run / "config.json").read_text()
    (run / "config.json").write_text(config.replace('"tick": ', '"tick": 1'))
    said = call(capsys, "--out", run, "--resume", code=1).err
    assert "config.json does not match its checksum" in said
    (run / "config.json").write_text(config)
    call(capsys, "--out", run, "--resume")
    assert [int(path.name) for path in list_checkpoints(run / "checkpoints")] == [64, 128, 160]
    assert load_config(run).keep_every == 64


def test_processes_share_the_batch_and_say_things_once(tmp_path, capsys, monkeypatch):
    from unitgain.cli.train import Train

    monkeypatch.setenv("WORLD_SIZE", "4")
    assert Train(recipe="digits", batch=32)._settings()[1].microbatch == 8
    assert Train(recipe="digits", batch=32, microbatch=16)._settings()[1].microbatch == 16
    with pytest.raises(ValueError, match="a batch of 30 images does not divide by 4 processes"):
        Train(recipe="digits", batch=30)._settings()
    for rank, seen in (("0", True), ("3", False)):
        monkeypatch.setenv("RANK", rank)
        for error in (PreflightError("clocks"), CheckpointError("disk")):
            assert explain(error) == 1
            assert bool(capsys.readouterr().err) == seen
        assert explain(ValueError("seed")) == 2
        assert f"rank {rank}: seed" in capsys.readouterr().err
