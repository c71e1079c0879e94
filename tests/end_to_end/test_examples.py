"""The examples of examples/ that are told something: in small, on made-up data, from files to figures."""

import importlib.util
import json
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from unitgain.data.images import to_image

EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = ("--width", 8, "--num-blocks", 1, "--batch", 8, "--duration", 32, "--snapshot-every", 32, "--device", "cpu")


def script(name):
    """An example's script as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / name / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(module, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["example.py", *map(str, words)])
    module.main()


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("quick_bench")
def test_heartbeats(place, call, call_train, monkeypatch):
    """Made-up ones, of a second and a bit less in turn; what is told is when the next one comes."""
    example, seconds = script("signals"), np.arange(0, 100, 0.001)
    gaps = 0.9 + 0.1 * np.sin(np.arange(150))
    recording = sum(np.exp(-(((seconds - beat) / 0.02) ** 2)) for beat in np.cumsum(gaps))
    example.write(recording, Path("beats"))
    for part in ("train", "held"):
        call("data", "prepare", f"beats/{part}.csv", part, "--layout", "no-channels", "--conditions", "interval")
    call_train("--data", "train", "--out", "run", *SHORT)
    run(example, monkeypatch, "draw", "run", "held", "drawn")
    found = json.loads(Path("drawn/result.json").read_text())
    assert 8 <= found["heartbeats"] <= 11  # of the last 10 seconds
    assert found["error_ms"].keys() == {"the mean of all", "right", "wrong", "none"}
    assert 30 < found["error_ms"]["the mean of all"] < 100  # of a sine of 100 ms
    Image.open("drawn/samples.png").verify()


def test_the_time_to_the_next_beat_is_measured_as_it_was_told(place):
    example, seconds = script("signals"), np.arange(0, 30, 0.001)
    beats = np.cumsum(0.8 + 0.04 * np.arange(30) % 0.2)
    recording = sum(np.exp(-(((seconds - beat) / 0.02) ** 2)) for beat in beats)
    example.write(recording, Path("beats"))
    for line in Path("beats/train.csv").read_text().splitlines()[1:]:
        file, told = line.split(",")
        signal = torch.from_numpy(np.load(Path("beats", file)))[None, None]
        assert abs(example.interval(signal).item() - float(told)) < 1e-6
        assert min(abs(float(told) - gap) for gap in np.diff(beats)) < 0.017  # two samples, each to half of 8 ms


@pytest.mark.usefixtures("quick_bench")
def test_blocks_of_a_head(place, call, call_train, monkeypatch):
    example = script("volumes")
    voxels = np.random.default_rng(0).integers(0, 256, (60, 224, 62), dtype=np.uint8)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), "scan.nii.gz")
    scan = example.opened(Path("scan.nii.gz"))
    assert scan.shape == (32, 112, 32)
    trained, held = example.corners(scan)
    assert {y for _, y, _ in held} == {48} and all(y <= 32 or y >= 64 for _, y, _ in trained)
    monkeypatch.setattr(example, "STRIDE", 16)
    example.write(scan, Path("blocks"))
    for part in ("train", "held"):
        call("data", "prepare", f"blocks/{part}.csv", part, "--conditions", "small")
    call_train("--data", "train", "--out", "run", *SHORT)
    run(example, monkeypatch, "draw", "run", "held", "drawn")
    found = json.loads(Path("drawn/result.json").read_text())
    assert found["blocks"] == 4 and found["rms_error"].keys() == {"enlarged", "right", "wrong", "none"}
    assert Image.open("drawn/samples.png").size == (2 * 5 * 32, 2 * 32)


def test_blocks_are_put_together_where_they_were(place):
    example = script("volumes")
    scan = np.random.default_rng(0).integers(0, 256, (48, 112, 48), dtype=np.uint8)
    blocks = torch.stack([torch.from_numpy(example.block(scan, corner)) for corner in example.corners(scan)[1]])
    assert np.array_equal(example.slab(blocks[:, None]).numpy(), scan[:, 48:64])


def test_small_pictures(place, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    for name in "ab":
        Path("sprites", name).mkdir(parents=True)
        for number in range(20):
            pixels = torch.randint(0, 256, (3, 16, 16), generator=generator, dtype=torch.uint8)
            to_image(pixels).save(Path("sprites", name, f"{number:02d}.png"))
    run(script("superresolution"), monkeypatch, "sprites", "out", "--side", 8, "--images", 64)
    found = json.loads(Path("out/result.json").read_text())
    assert found["drawn"].keys() == {"enlarged", "right", "wrong", "none"} and found["pictures"] == 4
    for one in found["drawn"].values():
        assert (
            one.keys() == {"mean_error", "error", "small_error", "detail"} and one["mean_error"] <= one["error"] + 1e-3
        )
    Image.open("out/samples.png").verify()
