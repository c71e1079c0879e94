"""From a folder of pictures to samples, as a user types it; and through a VAE."""

import json
import os
import sys

import datasets
import pytest
from pictures import encoded, folder_of, picture
from PIL import Image
from vaes import save_vae

import unitgain
from unitgain.arch import NetworkSpec
from unitgain.data.vae import load_vae
from unitgain.loss import EDMLoss
from unitgain.recipe import Recipe
from unitgain.recipes import RECIPES

QUICK = ["--batch", "8", "--duration", "48", "--snapshot-every", "24", "--device", "cpu", "--quiet", "--no-tensorboard"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Recipes for 8x8 images and 4x4 latents of them."""
    network = NetworkSpec(
        resolution=8, channels=3, label_dim=0, model_channels=8, channel_mult=(1,), num_blocks=1, channels_per_head=8
    )
    pixels = Recipe(
        name="tiny",
        network=network,
        loss=EDMLoss(P_mean=-0.8, P_std=1.0),
        batch=8,
        duration=48,
        lr=0.01,
        snapshot_every=24,
        rampup=0,
    )
    monkeypatch.setitem(RECIPES, "tiny", pixels)
    spec = network.replace(resolution=4, channels=4, label_dim=2)
    monkeypatch.setitem(RECIPES, "tiny-latents", pixels.replace(name="tiny-latents", network=spec, latents=True))


def test_data_with_classes_train_with_them_unless_told_otherwise(call, tmp_path):
    call("data", "prepare", folder_of(tmp_path / "pictures", each=3), tmp_path / "data", "--resolution", 8)
    common = ["--data", tmp_path / "data", *QUICK]
    options = {
        "labelled": (["tiny-latents", "--channels", 3, "--resolution", 8, "--label-dropout", "0.5"], 3),
        "plain": (["tiny", "--classes", "none"], 0),
    }
    for name, (words, count) in options.items():
        call("train", *words, "--out", tmp_path / name, *common)
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["recipe"]["network"]["label_dim"] == count
        assert config["classes"] == (["cat", "dog", "eel"] if count else None)
        snapshot = unitgain.load(tmp_path / name / "snapshots" / "0000000048-0.050.safetensors")
        assert snapshot.classes == (("cat", "dog", "eel") if count else None)
        assert snapshot.label_dropout == (0.5 if count else None)
        if count:
            drawing = ["--guide", "self", "--guidance", "1.5", "--class", "eel", "--steps", "2", "--device", "cpu"]
            file = tmp_path / name / "snapshots" / "0000000048-0.050.safetensors"
            call("sample", file, "--seeds", "0", "--out", tmp_path / "guided", *drawing)
            assert json.loads((tmp_path / "guided" / "manifest.json").read_text())["guide"] == {"name": "self"}
        config["data"] = str(tmp_path / "data")
        (tmp_path / f"{name}.json").write_text(json.dumps(config | {"data_fingerprint": ""}))
        call(
            "train",
            "--config",
            tmp_path / f"{name}.json",
            "--out",
            tmp_path / f"{name}-again",
            "--quiet",
            "--no-tensorboard",
        )
        again = json.loads((tmp_path / f"{name}-again" / "config.json").read_text())
        assert again["recipe"]["network"]["label_dim"] == count


def test_pixels(call, tmp_path):
    pictures, data = folder_of(tmp_path / "pictures", classes=("cat", "dog"), each=6), tmp_path / "data"
    (pictures / "cat" / "6.png").write_bytes(b"broken")
    refused = call("data", "prepare", pictures, data, "--resolution", 8, code=2)
    assert "cat/6.png cannot be decoded" in refused.err
    made = call("data", "prepare", pictures, data, "--resolution", 8, "--on-error", "skip").out
    assert "12 images of 3x8x8, 2 classes" in made
    assert "1 pictures could not be used" in made
    report = json.loads(call("data", "check", data, "--json").out)
    assert report["counts"] == [6, 6]
    text = call("data", "check", data).out
    assert "0 groups of exact duplicates" in text
    assert "sigma_data = 0.5" in text
    call("data", "show", data, "--out", tmp_path / "sheet.png", "--columns", 3)
    assert call("data", "show", data).out.splitlines()[0] == f"{data}.png"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height == 2 * 50 + 2
    assert "must end in .png" in call("data", "show", data, "--out", tmp_path / "sheet.svg", code=2).err
    call("data", "export", data, tmp_path / "out.zip")
    run = tmp_path / "run"
    options = ["--normalize", "measured", "--flip", "--sigma-data", "0.6", "--P-mean", "-0.5"]
    call("train", "tiny", "--data", data, "--out", run, *options, *QUICK)
    config = json.loads((run / "config.json").read_text())
    assert config["recipe"]["network"]["label_dim"] == 2 and config["classes"] == ["cat", "dog"]
    assert (config["recipe"]["sigma_data"], config["recipe"]["loss"]["P_mean"]) == (0.6, -0.5)
    snapshot = run / "snapshots" / "0000000048-0.100.safetensors"
    assert unitgain.load(snapshot).sigma_data == 0.6
    drawing = ["--steps", "3", "--device", "cpu", "--class", "Dog"]
    call("sample", snapshot, "--seeds", "0-2", "--out", tmp_path / "samples", *drawing)
    with Image.open(tmp_path / "samples" / "000000" / "000002.png") as sample:
        assert sample.size == (8, 8)
    data.rename(tmp_path / "moved")
    resume = ["--resume", "--out", run, "--duration", "96", "--quiet", "--no-tensorboard", "--device", "cpu"]
    assert "unknown data set" in call("train", *resume, code=2).err
    call("train", *resume, "--data", tmp_path / "moved")
    assert json.loads((run / "config.json").read_text())["recipe"]["duration"] == 96
    (pictures / "cat" / "6.png").write_bytes(encoded(picture(6)))
    call("data", "prepare", pictures, tmp_path / "other", "--resolution", 8)
    refused = call("train", *resume, "--data", tmp_path / "other", code=2).err
    assert f"was made with other data, {tmp_path / 'moved'}" in refused
    (tmp_path / "moved").rename(tmp_path / "before")
    (tmp_path / "other").rename(tmp_path / "moved")
    refused = call("train", *resume, code=2).err
    assert f"the data {tmp_path / 'moved'} as they were before they changed" in refused


def test_interrupted_training_on_prepared_data_ends_with_the_same_bytes(call, tmp_path):
    folder_of(tmp_path / "pictures", classes=("cat", "dog"), each=6)
    call("data", "prepare", tmp_path / "pictures", tmp_path / "data", "--resolution", 8, "--shard", 5)
    common = ["--data", tmp_path / "data", "--flip", *QUICK]
    call("train", "tiny", "--out", tmp_path / "whole", *common)
    half = [24 if word == "48" else word for word in common]
    call("train", "tiny", "--out", tmp_path / "parts", *half, "--cache")
    resume = ["--resume", "--out", tmp_path / "parts", "--duration", 48, "--workers", 0, "--quiet", "--device", "cpu"]
    call("train", *resume, "--no-tensorboard")
    for name in ("0000000024-0.050", "0000000048-0.050", "0000000048-0.100"):
        whole, parts = (tmp_path / run / "snapshots" / f"{name}.safetensors" for run in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes()


def test_latents(call, tmp_path):
    folder_of(tmp_path / "pictures", classes=("cat", "dog"), each=6)
    data, latents, vae = tmp_path / "data", tmp_path / "latents", save_vae(tmp_path / "vae")
    call("data", "prepare", tmp_path / "pictures", data, "--resolution", 8)
    refused = call("train", "tiny-latents", "--data", data, "--out", tmp_path / "x", *QUICK, code=2).err
    assert "unitgain data encode" in refused
    made = call("data", "encode", data, latents, "--vae", vae, "--device", "cpu")
    assert "normalization: measured" in made.err
    assert "12 latents of 4x4x4, 2 classes" in made.out
    assert "measured std per channel" in made.out
    assert "That fits: nothing to change." in call("data", "check", latents).out
    call("data", "show", latents, "--out", tmp_path / "sheet.png")
    call("data", "export", latents, tmp_path / "latents.zip")
    back = call("data", "prepare", tmp_path / "latents.zip", tmp_path / "back")
    assert "12 latents of 4x4x4" in back.out and "taken for stabilityai/sd-vae-ft-mse" in back.err
    assert datasets.load_from_disk(str(latents)).features["label"].names == ["cat", "dog"]
    run = tmp_path / "run"
    call("train", "tiny-latents", "--data", latents, "--out", run, *QUICK)
    snapshot = run / "snapshots" / "0000000048-0.100.safetensors"
    sample = ["sample", snapshot, "--seeds", "0-1", "--steps", "2", "--device", "cpu"]
    call(*sample, "--out", tmp_path / "samples")
    with Image.open(tmp_path / "samples" / "000000" / "000001.png") as image:
        assert image.size == (8, 8)
    os.rename(vae, tmp_path / "moved")
    load_vae.cache_clear()
    assert "cannot load the VAE" in call(*sample, "--out", tmp_path / "more", code=2).err
    call(*sample, "--out", tmp_path / "more", "--vae", tmp_path / "moved")
    before, after = ((tmp_path / name / "000000" / "000000.png").read_bytes() for name in ("samples", "more"))
    assert before == after


@pytest.mark.parametrize("command", ["prepare", "check", "show", "encode", "export"])
def test_help_answers(call, command):
    assert f"usage: unitgain data {command}" in call("data", command, "--help").out


def test_mistakes_are_answered(call, tmp_path):
    missing = call("data", "prepare", tmp_path / "x", tmp_path / "y", "--resolution", 8, code=2).err
    assert "does not exist" in missing
    assert not (tmp_path / "y").exists()
    assert "make it with: unitgain data prepare" in call("data", "check", tmp_path / "x", code=2).err
    none = call("data", "prepare", tmp_path, tmp_path / "y", "--workers", 0, code=2).err
    assert "workers 0: must be at least 1" in none
    none = call("data", "check", tmp_path, "--workers", -1, code=2).err
    assert "workers -1: must be at least 1" in none


def test_nothing_heavy_is_imported():
    optional = {"datasets", "pyarrow", "diffusers", "transformers"}
    code = f"import sys; import unitgain.cli.data, unitgain.data.sources; print(sorted(set(sys.modules) & {optional}))"
    import subprocess

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
