"""Commands end with the command that continues, and it works as it is printed; `sample RUN` takes the best known."""

import json
import shlex
from pathlib import Path

import pytest
from PIL import Image

from unitgain.data.digits import digits
from unitgain.recipes import DIGITS
from unitgain.report.known import _average, best_known, is_run
from unitgain.train import TrainConfig, train
from unitgain.train.config import Evaluation


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs on the digits, hardly trained, in a folder whose name has to be quoted."""
    folder = tmp_path_factory.mktemp("some runs")
    network = DIGITS.network.replace(model_channels=8, channels_per_head=8)
    recipe = DIGITS.replace(network=network, batch=16, duration=128, snapshot_every=64, rampup=32, ema=(0.05, 0.1))
    measured = Evaluation(
        metrics=("fd_pixels",), metrics_every=64, metrics_images=32, reference="digits", ema=0.05, steps=2
    )
    for name, evaluation in (("plain", Evaluation()), ("measured", measured)):
        config = TrainConfig(recipe=recipe, data="digits", tick=64, checkpoint_every=128, evaluation=evaluation)
        train(config, folder / name, digits(), quiet=True, tensorboard=False)
    return folder


def next_of(output):
    """The words of the command that a command ends with."""
    lines = output.out.splitlines()
    assert lines[-2].startswith("next, ")
    name, *words = shlex.split(lines[-1])
    assert name == "unitgain"
    return words


def test_a_run_that_nothing_is_known_of_is_drawn_with_its_newest_average(trained, tmp_path, call):
    run = trained / "plain"
    assert is_run(run) and not is_run(tmp_path)
    newest = run / "snapshots" / "0000000128-0.100.safetensors"
    assert best_known(run).network == newest
    call("sample", run, "--guide", run, "--guidance", 2, "--out", tmp_path / "guided", "--seeds", "0", "--steps", 2)
    assert json.loads((tmp_path / "guided" / "manifest.json").read_text())["guide"]["name"] == str(newest)
    output = call("sample", run, "--out", tmp_path / "drawn", "--seeds", "0-3", "--steps", 2, "--class", "3")
    assert "0000000128-0.100.safetensors, the newest average" in output.err
    again = next_of(output)
    assert next_of(call(*again))[0] == "metrics"
    assert (tmp_path / "drawn" / "grid.png").is_file()
    manifest = json.loads((tmp_path / "drawn" / "manifest.json").read_text())
    assert manifest["settings"]["steps"] == 2 and manifest["settings"]["class"] == 3


def test_a_run_that_was_evaluated_is_drawn_with_the_best_of_that(trained):
    run = trained / "measured"
    rows = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    values = {row["nimg"]: row["metrics"]["fd_pixels"] for row in rows if "metrics" in row}
    best = min(values, key=values.get)
    chosen = best_known(run)
    assert len(values) == 2 and chosen.network.name == f"{best:010d}-0.050.safetensors"
    assert chosen.value == values[best]


def test_sweeps_and_searches_end_with_the_best_setting_as_a_command(trained, tmp_path, call, monkeypatch):
    run, guide = trained / "plain", trained / "measured"
    drawing = ("--sampler", "euler", "--steps", 2, "--metric", "fd_pixels,precision", "--reference", "digits")
    cells = ("--lengths", "0.05,0.1", "--guidance", "1,1.5", "--images", 32)
    output = call("sweep", run, "--guide", guide, *drawing, *cells)
    words = next_of(output)
    picture = run / "sweep" / "sweep-measured-pictures.png"
    drawn = picture.stat().st_mtime_ns
    with Image.open(picture) as image:
        assert min(image.size) > 2 * 2 * 8  # two rows and columns of two by two digits
    assert str(picture) in output.out
    assert call("sweep", run, "--guide", guide, *drawing, *cells).out == output.out
    assert picture.stat().st_mtime_ns == drawn  # nothing has changed
    found = call("tune", run, *drawing, "--lengths", "0.05,0.1", "--images", 32, "--evaluations", 2)
    assert next_of(found)[0] == "sample"
    chosen = best_known(run)
    assert words[:2] == ["sample", str(chosen.network)]
    assert (words[words.index("--guide") + 1] if "--guide" in words else None) == chosen.guide
    assert words[words.index("--sampler") + 1] == "euler" and words[words.index("--steps") + 1] == "2"
    assert "look at" in call(*words, "--seeds", "0-3").out
    known = call("sample", run, "--out", tmp_path / "best", "--seeds", "0-1", "--steps", 2, "--grid").err
    assert "fd_pixels" in known and chosen.network.name in known
    moved = tmp_path / "moved"
    run.rename(moved)
    try:
        assert best_known(moved).network.is_relative_to(moved)  # wherever the run lies now
        for path in (moved / "sweep" / "averages").rglob("*.safetensors"):
            path.rename(path.with_suffix(".gone"))
        assert best_known(moved).network == moved / "snapshots" / "0000000128-0.100.safetensors"
    finally:
        for path in (moved / "sweep" / "averages").rglob("*.gone"):
            path.rename(path.with_suffix(".safetensors"))
        moved.rename(run)


@pytest.mark.parametrize(
    "change",
    [
        {"network": "x"},
        {"network": {"name": "../../../secret.safetensors"}},
        {"network": {"name": 3}},
        {"network": {"name": "a\0/b.safetensors"}},
        {"record": []},
        {"guide": {"name": "org/network"}, "settings": {"guidance": 2}},
        {"guide": {"name": "self"}, "settings": {"guidance": "2"}},
        {"metric": ["fid"]},
    ],
)
def test_rows_of_a_table_that_make_no_sense_are_left_out(trained, tmp_path, change):
    run = tmp_path / "run"
    (run / "sweep" / "averages" / "a").mkdir(parents=True)
    (run / "snapshots").symlink_to(trained / "plain" / "snapshots")
    average = run / "sweep" / "averages" / "a" / "0000000128-0.070.safetensors"
    average.write_bytes(b"")
    row = {"key": "k", "metric": "fid", "value": 1.0, "record": {"images": 10, "higher": False}}
    row |= {"network": {"name": f"elsewhere/a/{average.name}"}, "guide": None, "settings": {"guidance": 1.0}}
    (run / "sweep" / "cells-0.jsonl").write_text(json.dumps(row) + "\n")
    assert best_known(run).network == average
    (run / "sweep" / "cells-0.jsonl").write_text(json.dumps(row | change) + "\n")
    assert best_known(run).value is None


def test_a_table_names_no_average_at_the_root_of_the_file_system(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    assert _average(tmp_path, "a/b.safetensors") == tmp_path / "sweep" / "averages" / "a" / "b.safetensors"
    assert _average(tmp_path, "/b.safetensors") is None


def test_data_that_are_prepared_say_how_to_train_on_them(tmp_path, call):
    (tmp_path / "some pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (16, 16), (80 * number, 0, 0)).save(tmp_path / "some pictures" / f"{number}.png")
    output = call("data", "prepare", tmp_path / "some pictures", tmp_path / "the data", "--resolution", 8)
    assert next_of(output) == ["train", "--data", str(tmp_path / "the data")]
