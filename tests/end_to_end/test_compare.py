"""`unitgain compare`: what several runs measured while they trained, over images and hours."""

import json

import pytest

from unitgain.report.compare import evaluations
from unitgain.report.history import read_history
from unitgain.train import TrainConfig, train


def run_of(folder, recipe, data, rows=()):
    train(TrainConfig(recipe=recipe, data="tiny", tick=24, checkpoint_every=96), folder, data, quiet=True)
    stats = folder / "stats.jsonl"
    ticks = [json.loads(line) for line in stats.read_text().splitlines()]
    for tick, seconds in zip([row for row in ticks if "loss" in row], (3600, 1800, 1800, 3600), strict=True):
        tick["seconds"] = seconds
    stats.write_text("".join(json.dumps(row) + "\n" for row in [*ticks, *rows]))
    return folder


def test_hours_are_those_of_training_until_then(tmp_path, tiny_recipe, tiny_data):
    rows = [{"nimg": 48, "metrics": {"fid": 3.0, "kid": None, "own": "none"}}, {"nimg": 84, "metrics": {"fid": 2.0}}]
    history = read_history(run_of(tmp_path / "run", tiny_recipe, tiny_data, rows))
    first, second = evaluations(history)
    assert first == {"nimg": 48, "hours": 1.5, "metrics": {"fid": 3.0}}
    assert second["hours"] == pytest.approx(2.5)  # half of the last hour


def test_runs_side_by_side(tmp_path, call, tiny_recipe, tiny_data):
    first = run_of(tmp_path / "first", tiny_recipe, tiny_data, [{"nimg": 96, "metrics": {"fid": 2.5}}])
    second = run_of(tmp_path / "second", tiny_recipe, tiny_data)
    assert "2.5" in call("compare", first, second).out
    found = json.loads(call("compare", first, second, "--json").out)
    assert found == {str(first): [{"nimg": 96, "hours": 3.0, "metrics": {"fid": 2.5}}], str(second): []}
    call("compare", first, second, "--plot", tmp_path / "c.svg")
    assert "hours of training" in (tmp_path / "c.svg").read_text()
    assert "--metrics-every" in call("compare", second, "--plot", tmp_path / "d.svg", code=2).err
    assert not (tmp_path / "d.svg").exists()
    call("compare", tmp_path / "nowhere", code=2)
