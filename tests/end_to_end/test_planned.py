"""`unitgain train` without a recipe: what is planned is trained, said, and an ordinary recipe afterwards."""

import pytest
import torch
from PIL import Image

from unitgain.train import plan, train
from unitgain.train.run import load_config


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    from unitgain.data.fit import Fit
    from unitgain.data.prepare import prepare_data

    folder = tmp_path_factory.mktemp("pictures")
    for kind, shade in (("dark", 0), ("light", 160)):
        (folder / kind).mkdir()
        for number in range(6):
            noise = torch.randint(0, 90, (8, 8, 3), generator=torch.Generator().manual_seed(number)) + shade
            Image.fromarray(noise.to(torch.uint8).numpy()).save(folder / kind / f"{number}.png")
    prepare_data(str(folder), folder.parent / f"{folder.name}-data", Fit(resolution=None))
    return folder.parent / f"{folder.name}-data"


def test_a_run_is_planned_said_and_trained(pictures, tmp_path, call, monkeypatch):
    run, quick = tmp_path / "run", ["--width", "8", "--batch", "8", "--duration", "16", "--device", "cpu"]
    said = call("train", "--data", pictures, "--out", run, "--hours", "0.01", *quick, "--no-tensorboard")
    for word in ("network: 3x8x8, 2 classes; width 8", "images/s measured", "memory: about", "batch 8, 2 steps", "EMA"):
        assert word in said.out
    config = load_config(run)
    recipe = config.recipe
    assert (recipe.network.model_channels, recipe.network.label_dim, recipe.batch, recipe.duration) == (8, 2, 8, 16)
    assert config.normalize == "measured" and recipe.label_dropout > 0
    assert (run / "snapshots" / "0000000016-0.050.safetensors").is_file()
    again = ["--config", run / "config.json", "--out", tmp_path / "again", "--max-time", "1s", "--seed", "5"]
    call("train", *again, "--no-tensorboard", "--quiet")
    assert load_config(tmp_path / "again").recipe == recipe and load_config(tmp_path / "again").seed == 5
    call("train", "--data", pictures, "--out", run, "--resume", "--no-tensorboard", "--quiet")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # torchrun gives the same words again
    said = call("train", "--data", pictures, "--out", run, "--hours", "0.01", *quick, "--no-tensorboard")
    assert "images/s measured" not in said.out and "finished at 16 images" in said.out
    assert load_config(run) == config


def test_what_cannot_be_planned_is_said(pictures, tmp_path, call):
    out = ["--out", tmp_path / "run"]
    assert "hours = 0.0: must be positive" in call("train", "--data", pictures, *out, "--hours", "0", code=2).err
    assert "leave out the recipe" in call("train", "digits", *out, "--hours", "1", code=2).err
    assert "hours: expected a number" in call("train", "--data", pictures, *out, "--hours", "soon", code=2).err
    assert "unknown data set" in call("train", "--data", tmp_path / "none", *out, code=2).err
    assert not (tmp_path / "run").exists()


def test_from_python_and_without_classes(pictures, tmp_path, call):
    from unitgain.data.named import open_data

    data = open_data(str(pictures))
    found = plan(data, hours=0.0001, device="cpu", measure=lambda *_: 50.0)
    result = train(found.config, tmp_path / "run", data, execution=found.execution, quiet=True, tensorboard=False)
    assert result.finished and load_config(tmp_path / "run").recipe == found.recipe
    quick = ["--classes", "none", "--width", "8", "--batch", "8", "--duration", "8", "--device", "cpu", "--quiet"]
    call("train", "--data", pictures, "--out", tmp_path / "none", "--no-tensorboard", *quick)
    assert load_config(tmp_path / "none").recipe.network.label_dim == 0


def test_other_sizes_of_every_recipe_are_options(tmp_path):
    from unitgain.cli.train import Train

    for name in ("digits", "pixels32", "pixels64", "edm2-img64-s", "edm2plus-img64-xs"):
        network = Train.read(
            [name, "--out", str(tmp_path), "--width", "48", "--resolution", "16"]
        ).settings.recipe.network
        assert (network.model_channels, network.resolution) == (48, 16)
        assert 48 % network.channels_per_head == 0
