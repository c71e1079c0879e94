"""Guides run from their first line to their last, where the files are that they speak of."""

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import soundfile
import torch
from blocks import run_page
from conftest import trained

import unitgain
from unitgain.arch import NetworkSpec
from unitgain.checkpoint.snapshot import Snapshot, SnapshotHeader, write_snapshot
from unitgain.data import Fit, prepare_data
from unitgain.data.digits import digits
from unitgain.data.encoder import PixelEncoder
from unitgain.data.images import to_image
from unitgain.serial import to_dict

CLASSES = ("flags", "food", *"abcdefgh")
NETWORKS = {"NETWORK": (10, 0.4), "WEAK": (10, 0.2), "UNCONDITIONAL": (0, 0.3)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three networks by the names of the pages, a folder of photographs, and data prepared from them."""
    folder = tmp_path_factory.mktemp("guides")
    for name, (classes, gain) in NETWORKS.items():
        network = NetworkSpec(
            resolution=8,
            channels=1,
            label_dim=classes,
            model_channels=8,
            channel_mult=(1,),
            num_blocks=1,
            channels_per_head=8,
        )
        header = SnapshotHeader(
            network=network,
            sigma_data=0.5,
            nimg=99360,
            profile={"kind": "raw"},
            recipe="none",
            encoder=to_dict(digits().encoder),
            classes=CLASSES if classes else None,
            label_dropout=0.1,
        )
        (folder / name).mkdir()
        write_snapshot(folder / name / "model.safetensors", header, trained(network, gain).state_dict())
    for number, pixels in enumerate(digits().images[:60]):
        (folder / "photographs").mkdir(exist_ok=True)
        to_image(pixels).save(folder / "photographs" / f"{number:03d}.png")
    prepare_data(str(folder / "photographs"), folder / "data", Fit(resolution=8, channels=1))
    shutil.copytree(folder / "data", folder / "data" / "64")
    _write_arrays(folder)
    return folder


def _write_arrays(folder):
    """Sounds, volumes, fields and signals."""
    generator = np.random.default_rng(0)
    for name in ("recordings", "scans", "fields"):
        (folder / name).mkdir()
    for number in range(3):
        soundfile.write(folder / "recordings" / f"{number}.wav", generator.normal(size=12000) * 0.1, 16000)
        volume = generator.normal(size=(32, 64, 64)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / "scans" / f"{number}.nii.gz")
        np.save(folder / "fields" / f"{number}.npy", generator.normal(size=(16, 16, 5)).astype(np.float32))
    np.save(folder / "signals.npy", generator.normal(size=(4, 2, 64)).astype(np.float32))


@pytest.fixture
def place(files, tmp_path, monkeypatch, few_steps):
    shutil.copytree(files, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    monkeypatch.setenv("UNITGAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "place"


def test_the_start(call, place):
    shorter = {"--duration 38400": "--duration 640", "--snapshot-every 1280": "--snapshot-every 64"}
    run_page("docs/index.md", call, shorter=shorter)
    assert len(list((place / "samples").rglob("*.png"))) == 64 + 1


def test_the_readme(call, place):
    run = place / "runs/mine/snapshots"
    run.mkdir(parents=True)
    shutil.copy(place / "NETWORK" / "model.safetensors", run / "0000099360-0.100.safetensors")
    assert len(run_page("README.md", call)["pictures"]) == 8


def test_data(call, place):
    run = place / "run/snapshots"
    run.mkdir(parents=True)
    shutil.copy(place / "NETWORK" / "model.safetensors", run / "0000524288-0.100.safetensors")
    rows = [f'photographs/{number:03d}.png,{number},photographs/000.png,"[[1, {number}]]"' for number in range(4)]
    Path("pairs.csv").write_text("\n".join(["image,years,thumbnail,embedding", *rows]))
    items = [
        {"image": torch.randn(1, 8, 8), "digit": number, "age": float(number), "caption": torch.randn(1 + number, 4)}
        for number in range(4)
    ]
    shorter = {"count=256": "count=32", "resolution=64": "resolution=16", "--resolution 64": "--resolution 8"}
    names = run_page("docs/data.md", call, {"dataset": items}, shorter)
    assert names["arrays"].shape == (4, 1, 8, 8)
    assert names["stored"].shape == (32, 3, 16, 16) and names["images"].dtype == torch.float32


def test_more_ways_to_draw(call, place):
    to_image(digits().images[4]).save("photo.png")
    mask = torch.zeros(1, 8, 8, dtype=torch.uint8)
    mask[:, 4:] = 255
    to_image(mask).save("mask.png")
    names = {"unitgain": unitgain, "denoiser": unitgain.load("NETWORK")}
    shorter = {"--seeds 0-15": "--seeds 0-1", "--seeds 0-9": "--seeds 0-1", "range(10)": "range(2)"}
    run_page("docs/drawing.md", call, names, shorter)
    for name in (
        "between.gif",
        "between.png",
        "loop.webp",
        "path.gif",
        "path.png",
        "variations",
        "completed",
        "resampled",
    ):
        assert Path(name).exists(), name


def test_sampling_and_guidance(call, place):
    denoiser = unitgain.load("NETWORK")
    names = {"denoiser": denoiser, "main": denoiser, "guide": unitgain.load("WEAK")}
    shorter = {"0-49999": "0-3", "0-89": "0-5", "--per-class 10": "--per-class 1"}
    names = run_page("docs/guidance.md", call, names, shorter)
    assert len(names["pictures"]) == 4 and names["pixels"].shape == (4, 1, 8, 8)
    for name, images in {"images": 4, "flags": 64, "three": 6, "five": 5, "each": 10, "a": 64, "d": 64}.items():
        drawn = [path for path in Path(name).rglob("*.png") if path.stem != "grid"]
        assert len(drawn) == images, name


@pytest.mark.parametrize("encoder", [PixelEncoder(), digits().encoder], ids=["official", "measured"])
def test_what_to_do_when_it_looks_bad(call, place, monkeypatch, encoder):
    """Pictures of its own are no copies, and those that were learned by heart are, in whatever scale they are drawn."""
    with Snapshot(place / "NETWORK" / "model.safetensors") as snapshot:
        tensors = {name: snapshot.tensor(name) for name in snapshot.names}
        write_snapshot(
            place / "NETWORK" / "model.safetensors", snapshot.header.replace(encoder=to_dict(encoder)), tensors
        )
    names = run_page("docs/looks-bad.md", call, {}, {"range(64)": "range(8)"})
    assert names["copies"] == 0 and names["to_real"].shape == (8, 60)
    heart = encoder.encode(digits().images[:8])
    monkeypatch.setattr(unitgain, "generate", lambda denoiser, seeds, sigmas: [(list(seeds), None, heart)])
    names = run_page("docs/looks-bad.md", call, {}, {"range(64)": "range(8)"})
    assert names["copies"] == 8 and names["nearest"].tolist() == list(range(8))
