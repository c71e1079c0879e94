"""Networks that are told more than a class, on the command line."""

import dataclasses
import json

import pytest
import torch
from PIL import Image

from unitgain.data.images import from_image
from unitgain.draw import DrawSettings
from unitgain.draw.rows import _open
from unitgain.explore import Session, View, command_lines
from unitgain.train import TrainConfig, fit, train

ROWS = 29


@pytest.fixture
def told(tiny_data, monkeypatch):
    """Data of the name "told", which commands open."""
    values = {"age": torch.arange(ROWS) / 10, "style": torch.randn(ROWS, 5, generator=torch.Generator().manual_seed(1))}
    data = dataclasses.replace(tiny_data, name="told", conditions=values)
    monkeypatch.setattr("unitgain.data.named.open_data", lambda name, *args, **how: data)
    monkeypatch.setattr("unitgain.train.fitting.open_data", lambda name, *args, **how: data)
    _open.cache_clear()
    return data


@pytest.fixture
def run(tmp_path, tiny_recipe, told):
    network = fit(tiny_recipe.network, told)
    recipe = tiny_recipe.replace(network=network, duration=24, label_dropout=0.1)
    train(TrainConfig(recipe=recipe, data="told"), tmp_path / "run", told, quiet=True, tensorboard=False)
    return tmp_path / "run" / "snapshots" / "0000000024-0.100.safetensors"


def test_images_are_drawn_for_rows(tmp_path, call, run, told):
    fast = ("--steps", 2, "--device", "cpu", "--seeds", "0-4")
    call("sample", run, "--conditions", "told[3,5,7]", "--out", tmp_path / "drawn", *fast)
    manifest = json.loads((tmp_path / "drawn" / "manifest.json").read_text())
    assert manifest["settings"]["conditions"] == {"data": "told", "fingerprint": told.fingerprint, "rows": "3,5,7"}
    assert [one["class"] for one in manifest["images"]] == told.labels[[3, 5, 7, 3, 5]].tolist()
    guided = ("--guide", "self", "--guidance", 2, "--without", "style")
    call("sample", run, "--conditions", "told[3,5,7]", *guided, "--out", tmp_path / "guided", *fast)
    assert json.loads((tmp_path / "guided" / "manifest.json").read_text())["settings"]["without"] == ["style"]
    said = call("sample", run, "--conditions", "told[3:99]", "--out", tmp_path / "other", *fast, code=2).err
    assert "there are 29, 0 to 28" in said
    said = call("sample", run, "--out", tmp_path / "without", *fast)
    assert "drawn without age (an amount of scale" in said.out + said.err
    said = call("metrics", run, "--metrics", "fid", "--seeds", "0-9", "--device", "cpu", code=2).err
    assert "the network is told age, style" in said and "--conditions none" in said


def test_the_explorer_draws_for_rows_and_asks_for_them(tmp_path, call, run, told, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "--conditions none" in call("explore", run, "--export", "page.html", code=2).err
    settings = DrawSettings(steps=2, conditions="told[3,5,7]", dtype="auto")
    with Session(run, settings=settings) as session:
        view = View(seeds=(0, 1, 3), settings=settings)
        drawn = session.pictures(view)
        for _, *words in command_lines(session, view):
            call(*words)
    assert [one.label for one in drawn] == told.labels[[3, 5, 3]].tolist()
    for one in drawn:
        with Image.open(tmp_path / "drawn" / "000000" / f"{one.seed:06d}.png") as image:
            assert torch.equal(from_image(image), one.pixels)


def test_training_takes_the_conditions_that_are_named(tmp_path, call_train, told):
    options = ("--data", "told", "--device", "cpu", "--duration", 32, "--batch", 16, "--snapshot-every", 32)
    size = ("--resolution", 8, "--channels", 1, "--classes", "none")
    call_train("digits", *options, *size, "--conditions", "age", "--out", tmp_path / "age")
    saved = json.loads((tmp_path / "age" / "config.json").read_text())
    assert [one["name"] for one in saved["recipe"]["network"]["conditions"]] == saved["conditions"] == ["age"]
    call_train("digits", *options, *size, "--conditions", "none", "--out", tmp_path / "none")
    saved = json.loads((tmp_path / "none" / "config.json").read_text())
    assert "conditions" not in saved["recipe"]["network"] and saved["conditions"] == []
    said = call_train("digits", *options, *size, "--conditions", "weight", "--out", tmp_path / "other", code=2).err
    assert "no condition 'weight'" in said
    call_train("--out", tmp_path / "age", "--resume", "--device", "cpu", "--duration", 48)
    assert json.loads((tmp_path / "age" / "config.json").read_text())["conditions"] == ["age"]
    on = ("--resume", "--device", "cpu", "--conditions", "all")
    assert "conditions: [] -> " in call_train("--out", tmp_path / "none", *on, code=2).err
    call_train("digits", *options, *size, "--out", tmp_path / "all")
    call_train("--out", tmp_path / "all", *on)


def test_from_a_table_to_images_for_its_rows(tmp_path, call, call_train):
    """Nothing is said of conditions but in the table and where they are drawn for."""
    generator = torch.Generator().manual_seed(3)
    lines = []
    for row in range(12):
        pixels = torch.randint(0, 256, (8, 8), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"{row}.png")
        vector = torch.randn(4, generator=generator).tolist()
        lines.append(json.dumps({"image": f"{row}.png", "label": "ab"[row % 2], "vector": vector}))
    (tmp_path / "table.jsonl").write_text("\n".join(lines) + "\n")
    call("data", "prepare", tmp_path / "table.jsonl", tmp_path / "data", "--resolution", 8, "--channels", 1)
    quick = ("--device", "cpu", "--duration", 32, "--batch", 16, "--snapshot-every", 32)
    size = ("--resolution", 8, "--channels", 1)
    call_train("digits", "--data", tmp_path / "data", *size, *quick, "--out", tmp_path / "run")
    network = json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]["network"]
    assert network["label_dim"] == 2
    (vector,) = network["conditions"]
    assert (vector["kind"], vector["name"], vector["dim"], vector["dropout"]) == ("vector", "vector", 4, 0.1)
    (snapshot,) = (tmp_path / "run" / "snapshots").glob("*-0.100.safetensors")
    rows = ("--conditions", f"{tmp_path / 'data'}[2:4]")
    call("sample", snapshot, *rows, "--seeds", "0-2", "--steps", 2, "--device", "cpu", "--out", tmp_path / "drawn")
    manifest = json.loads((tmp_path / "drawn" / "manifest.json").read_text())
    assert manifest["settings"]["conditions"]["rows"] == "2-3"
    assert [one["class"] for one in manifest["images"]] == [0, 1, 0]
