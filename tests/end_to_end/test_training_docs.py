"""The Python of docs/training.md runs as it stands: a changed recipe, then a loss of one's own."""

import json
from pathlib import Path

import pytest
import torch
from blocks import run_page

from unitgain.guide import Guided
from unitgain.hub import load
from unitgain.loss import RecordedLoss
from unitgain.train import TrainConfig, train
from unitgain.train.rows import read_stats
from unitgain.train.run import load_config


def test_the_page_trains_a_changed_recipe_and_a_loss_of_ones_own(tmp_path, monkeypatch, call_train):
    monkeypatch.chdir(tmp_path)
    names = run_page("docs/training.md", call_train, shorter={"6400": "640", "3200": "320"})

    changed = Path("runs/changed")
    assert names["result"].finished and load_config(changed).recipe == names["changed"]
    written = load(changed / "snapshots" / "0000000640-0.200.safetensors")
    assert (written.spec.model_channels, written.label_dropout) == (16, 0.1)
    assert Guided(written, None, 2.0).label_dropout == 0.1  # it may guide itself

    run, known = Path("runs/log-uniform"), {"class": "LogUniform", "low": 0.01, "high": 10.0}
    assert json.loads((run / "config.json").read_text())["recipe"]["loss"] == known
    levels = [row["noise_levels"]["images"] for row in read_stats(run) if "noise_levels" in row]
    assert sum(map(sum, levels)) == 320
    saved = load_config(run).recipe
    assert isinstance(saved.loss, RecordedLoss)
    with pytest.raises(ValueError, match="loss of its own, LogUniform"):
        saved.loss.draw(torch.zeros(2, 1, 8, 8))
    said = call_train("--out", run, "--resume", "--device", "cpu", "--duration", "640", code=2).err
    assert "LogUniform" in said and "go on in Python" in said
    longer = TrainConfig(recipe=names["other"].replace(duration=640), data="digits")
    assert train(longer, run, resume=True, quiet=True, tensorboard=False).nimg == 640
    other = names["LogUniform"](high=9.0)
    with pytest.raises(ValueError, match=r"recipe\.loss\.high: 10\.0 -> 9\.0"):
        train(TrainConfig(recipe=longer.recipe.replace(loss=other)), run, resume=True, quiet=True)
