"""From a folder of pictures that are not square, and whose sides do not halve, to samples and a report."""

import json

import pytest
from pictures import folder_of
from PIL import Image

import unitgain
from unitgain.arch import NetworkSpec
from unitgain.draw import sample_images
from unitgain.loss import EDMLoss
from unitgain.recipe import Recipe
from unitgain.recipes import RECIPES

SIZE = ["--resolution", "9x14"]
QUICK = ["--duration", "16", "--snapshot-every", "8", "--device", "cpu", "--quiet", "--no-tensorboard"]


@pytest.fixture
def tiny(monkeypatch):
    network = NetworkSpec(
        resolution=(9, 14), channels=3, model_channels=8, channel_mult=(1, 2), num_blocks=1, channels_per_head=8
    )
    loss = EDMLoss(P_mean=-0.8, P_std=1.0)
    recipe = Recipe(name="tiny", network=network, loss=loss, batch=8, duration=16, lr=0.01, snapshot_every=8, rampup=0)
    monkeypatch.setitem(RECIPES, "tiny", recipe)


def test_rectangles_all_the_way(call, tmp_path, tiny):
    pictures, data, run = folder_of(tmp_path / "pictures", classes=("cat", "dog"), each=4), tmp_path / "data", "run"
    assert "8 images of 3x9x14, 2 classes" in call("data", "prepare", pictures, data, *SIZE).out
    assert json.loads(call("data", "check", data, "--json").out)["shape"] == [3, 9, 14]
    call("data", "show", data, "--out", tmp_path / "sheet.png", "--columns", 3)
    run = tmp_path / "run"
    call("train", "tiny", "--data", data, "--out", run, "--magnitudes-every", 8, *QUICK)
    assert json.loads((run / "config.json").read_text())["recipe"]["network"]["resolution"] == [9, 14]
    rows = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    buckets = {bucket for row in rows for bucket in row.get("magnitudes", ())}
    assert buckets == {"Enc 10x14", "Enc 5x7", "Dec 5x7", "Dec 10x14"}
    snapshot = run / "snapshots" / "0000000016-0.100.safetensors"
    out = tmp_path / "samples"
    call("sample", snapshot, "--seeds", "0-2", "--steps", "3", "--out", out, "--device", "cpu", "--grid")
    with Image.open(out / "000000" / "000001.png") as image:
        assert image.size == (14, 9)
    assert [image.size for image in sample_images(unitgain.load(snapshot), [0, 1])] == [(14, 9)] * 2
    call("report", run, "--out", tmp_path / "report.html", "--device", "cpu")
    assert json.loads(call("inspect", snapshot, "--json").out)["network"]["resolution"] == [9, 14]
    call("train", "--init", snapshot, "--data", data, "--out", tmp_path / "tuned", *QUICK)


def test_wrong_sizes_are_refused_in_words(call, tmp_path):
    pictures = folder_of(tmp_path / "pictures", each=1)
    for text in ("9*14", "9x", "x", "-3"):
        err = call("data", "prepare", pictures, tmp_path / "data", "--resolution", text, code=2).err
        assert "48x64 for height x width" in " ".join(err.replace("│", " ").split())
    err = call("data", "prepare", pictures, tmp_path / "data", "--resolution", "4x4x4", code=2).err
    assert "is a picture: resolution 4x4x4 must be 1 to 16384 pixels" in err
