"""Options of `unitgain train` that carry a run out: limits, checkpoints, memory, and several processes' messages."""

import json
import sys

import pytest
import torch
import yaml

from unitgain.checkpoint.state import CheckpointError, list_checkpoints
from unitgain.cli.main import explain, main
from unitgain.cli.train import Train
from unitgain.data.digits import digits
from unitgain.recipes import DIGITS
from unitgain.serial import to_dict
from unitgain.train import TrainConfig
from unitgain.train.errors import PreflightError
from unitgain.train.fitting import complete
from unitgain.train.run import load_config

SMALL = ["--batch", "16", "--duration", "160", "--snapshot-every", "160", "--checkpoint-every", "16", "--device", "cpu"]


def test_a_run_in_parts_with_every_option(tmp_path, call_train):
    run = tmp_path / "run"
    memory = ["--recompute", "--ema-device", "cpu", "--keep-checkpoints", "1", "--keep-every", "64"]
    said = call_train("digits", "--out", run, *SMALL, *memory, "--max-time", "1s").out
    assert "stopped by --max-time" in said and "--resume" in said
    said = call_train("--out", run, "--resume", "--max-time", "soon", code=2).err
    assert "cannot read the time 'soon'" in said
    for budget in ("inf", "nan", "-1", "much"):
        said = call_train("--out", run, "--resume", "--snapshot-budget", budget, code=2).err
        assert f"cannot read the size '{budget}'" in said
    config = (run / "config.json").read_text()
    (run / "config.json").write_text(config.replace('"tick": ', '"tick": 1'))
    said = call_train("--out", run, "--resume", code=1).err
    assert "config.json does not match its checksum" in said
    (run / "config.json").write_text(config)
    call_train("--out", run, "--resume")
    assert [int(path.name) for path in list_checkpoints(run / "checkpoints")] == [64, 128, 160]
    assert load_config(run).keep_every == 64


def test_processes_share_the_batch_and_say_things_once(tmp_path, capsys, monkeypatch):
    def share(batch, microbatch=None):
        config = TrainConfig(recipe=DIGITS.replace(batch=batch), microbatch=microbatch)
        return complete(config, digits(), torch.device("cpu"), processes=4).microbatch

    assert (share(32), share(32, 16)) == (8, 16)
    with pytest.raises(ValueError, match="a batch of 30 images does not divide by 4 processes"):
        share(30)
    monkeypatch.setenv("WORLD_SIZE", "4")
    for rank, seen in (("0", True), ("3", False)):
        monkeypatch.setenv("RANK", rank)
        for error in (PreflightError("clocks"), CheckpointError("disk")):
            assert explain(error) == 1
            assert bool(capsys.readouterr().err) == seen
        assert explain(ValueError("seed")) == 2
        assert f"rank {rank}: seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes\nframe #0")]
)
def test_lack_of_memory_is_said_with_a_remedy(capsys, error):
    assert explain(error) == 1
    said = capsys.readouterr().err
    assert "memory ran out" in said
    assert "--microbatch" in said
    assert "frame" not in said
    assert "not expected" not in said


def test_a_system_without_what_unix_has_is_told_of_wsl(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    with pytest.raises(ImportError) as caught:
        import resource  # noqa: F401
    assert explain(caught.value) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "run it in WSL" in said and "resource" in said


def read(*arguments):
    return Train.read([str(argument) for argument in arguments]).opened()[1]


def test_every_field_of_a_recipe_is_an_option(tmp_path):
    options = ["--t-ref", "7", "--rampup", "0", "--dropout", "0.1", "--ema", "0.03", "0.1", "0.2", "--beta2", "0.999"]
    options += ["--branch", "s d E s P m d", "--channel-mult", "1", "2", "2", "--dtype", "bfloat16", "--P-mean", "-1"]
    config = read("digits", "--out", tmp_path, *options)
    made, network = config.recipe, config.recipe.network
    assert (made.t_ref, made.rampup, made.ema, made.beta2, made.loss.P_mean) == (7, 0, (0.03, 0.1, 0.2), 0.999, -1)
    assert (network.dropout, network.branch, network.channel_mult) == (0.1, "s d E s P m d", (1, 2, 2))
    assert made.precision == "bfloat16"
    assert to_dict(read("digits", "--out", tmp_path).recipe) == to_dict(DIGITS)
    assert read("--out", tmp_path / "a", "digits").recipe.name == "digits"


def test_intervals_are_whole_batches_and_follow_one_another(tmp_path):
    config = read("digits", "--out", tmp_path, "--batch", "48", "--duration", "100", "--snapshot-every", "50")
    assert (config.recipe.duration, config.recipe.snapshot_every) == (144, 96)
    assert (config.ticks_every, config.checkpoints_every) == (24, 96)
    config = read("digits", "--out", tmp_path, "--metrics", "fd_pixels,kid@pixels", "--samples", "9")
    assert config.evaluation.metrics == ("fd_pixels", "kid@pixels")
    assert config.evaluation.intervals(DIGITS.snapshot_every) == (DIGITS.snapshot_every, DIGITS.snapshot_every)


def test_options_are_the_same_with_underscores(tmp_path):
    def network(*options):
        return read("digits", "--out", tmp_path, *options).recipe.network

    assert network("--model_channels", "48") == network("--model-channels=48") == network("--width", "48")
    with pytest.raises(ValueError, match="--label-dropout leaves out labels"):
        network("--classes", "none", "--label_dropout", "0.3")


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_a_file_holds_what_options_say_and_options_come_before_it(tmp_path, form):
    settings = {"recipe": {"name": "digits", "lr": 0.5, "network": {"channel_mult": [1, 1]}}, "seed": 3}
    settings |= {"evaluation": {"steps": 7}, "execution": {"quiet": True}}
    path = tmp_path / f"settings.{form}"
    path.write_text(json.dumps(settings) if form == "json" else yaml.safe_dump(settings).replace("0.5", "5e-1"))
    command = Train.read(["--config", str(path), "--out", str(tmp_path / "run"), "--seed", "4"])
    config = command.opened()[1]
    assert (config.recipe.lr, config.recipe.network.channel_mult, config.seed) == (0.5, (1, 1), 4)
    assert config.evaluation.steps == 7 and command.execution.quiet
    path.write_text(json.dumps({"recipe": "digits", "sede": 3}))
    with pytest.raises(ValueError, match="config: unknown field 'sede'; did you mean 'seed'"):
        Train.read(["--config", str(path)])
    path.write_text("[1, 2")
    with pytest.raises(ValueError, match="neither YAML nor JSON"):
        Train.read(["--config", str(path)])


def test_the_config_of_a_run_is_a_file_of_settings(tmp_path, call_train):
    call_train("digits", "--out", tmp_path / "a", *SMALL, "--t-ref", "9", "--max-time", "1s")
    config = read("--config", tmp_path / "a" / "config.json", "--out", tmp_path / "b")
    assert config == load_config(tmp_path / "a") and config.recipe.t_ref == 9


def test_docstrings_of_the_settings_are_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["train", "edm2-img512-s", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--t-ref FLOAT steps after which the learning rate decays; 0 for never. (default: 70000)" in text
    for option in ("--channel-mult", "--evaluate-steps", "--metrics-reference", "--no-normalize-once", "--max-time"):
        assert option in text
    assert "--fingerprint" not in text and "--scores" not in text
