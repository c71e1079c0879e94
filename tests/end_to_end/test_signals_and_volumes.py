"""From files of audio, volumes and fields to samples of the same kind, by a run that is planned."""

import json
import math

import nibabel
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from samples import folder_of_arrays, folder_of_tones, folder_of_volumes

import unitgain
from unitgain.checkpoint.snapshot import Snapshot
from unitgain.draw import DrawSettings
from unitgain.explore import Average, Session, View
from unitgain.train.run import load_config

pytestmark = pytest.mark.usefixtures("known_speed")
QUICK = ["--width", "8", "--batch", "8", "--duration", "16", "--hours", "0.01", "--device", "cpu", "--no-tensorboard"]
DRAW = ["--steps", "3", "--device", "cpu", "--seeds", "0-2"]
FLAT = ["--layout", "channels-first"]


@pytest.mark.parametrize(
    "folder_of, options, shape, suffix",
    [
        (lambda root: folder_of_tones(root), ["--resolution", "200"], (1, 200), ".wav"),
        (lambda root: folder_of_volumes(root, (6, 8, 9)), [], (1, 6, 8, 9), ".nii.gz"),
        (lambda root: folder_of_arrays(root, (5, 12, 8)), FLAT, (5, 12, 8), ".npy"),
    ],
    ids=["audio", "volumes", "fields"],
)
def test_all_the_way(call, tmp_path, folder_of, options, shape, suffix):
    folder, data, run, out = folder_of(tmp_path / "files"), tmp_path / "data", tmp_path / "run", tmp_path / "out"
    side = "x".join(map(str, shape))
    assert f"arrays of {side}" in call("data", "prepare", folder, data, *options).out
    report = json.loads(call("data", "check", data, "--json").out)
    assert (report["shape"], report["kind"], report["scale"]["fits"]) == (list(shape), "array", True)
    call("data", "show", data, "--out", tmp_path / "sheet.png", "--columns", 3)
    call("train", "--data", data, "--out", run, *QUICK, "--samples", "4")
    assert load_config(run).recipe.network.size == shape[1:]
    snapshot = run / "snapshots" / "0000000016-0.050.safetensors"
    call("sample", snapshot, "--out", out, *DRAW, "--grid")
    drawn = out / "000000" / f"000001{suffix}"
    network = unitgain.prepare(unitgain.load(snapshot))
    array = unitgain.sample_arrays(network, [1], settings=DrawSettings(steps=3))[0].numpy()
    np.testing.assert_allclose(read(drawn), array.clip(-1, 1) if suffix == ".wav" else array, atol=1e-4)
    with Image.open(out / "grid.png") as sheet:
        first = np.asarray(sheet, dtype=int)
    call("sample", snapshot, "--out", out, *DRAW, "--grid")  # nothing is drawn: what is shown is read from the files
    with Image.open(out / "grid.png") as sheet:
        assert np.abs(np.asarray(sheet, dtype=int) - first).max() <= (255 if suffix == ".wav" else 1)
    call("report", run, "--out", tmp_path / "report.html", "--device", "cpu")
    page = (tmp_path / "report.html").read_text()
    assert "Not drawn" not in page and "data:image/png" in page
    with Session(run, settings=DrawSettings(steps=2)) as session:
        (looked_at,) = session.pictures(View(average=Average(length=0.05), seeds=(1,), settings=session.settings))
    assert (looked_at.pixels.dtype, looked_at.pixels.ndim) == (torch.uint8, 3)
    with Snapshot(snapshot) as opened:
        assert opened.header.encoder["kind"] == "arrays"
    assert "drawing from a picture" in call("sample", snapshot, "--from", tmp_path / "sheet.png", *DRAW, code=2).err
    assert "official archives" in call("data", "export", data, tmp_path / "x.zip", code=2).err


@pytest.mark.parametrize(
    "folder_of, shape, cut",
    [
        (folder_of_tones, (200,), True),
        (folder_of_volumes, (6, 8, 8), False),
        (folder_of_arrays, (2, 40), False),
    ],  # WAV is cut
    ids=["audio", "volumes", "signals"],
)
def test_what_is_drawn_is_measured(call, tmp_path, monkeypatch, folder_of, shape, cut):
    """References, metrics of data, networks and files, a sweep, a search, and metrics while training."""
    data, run, real = tmp_path / "data", tmp_path / "run", tmp_path / "real.npz"
    if folder_of is folder_of_tones:
        folder = folder_of_tones(tmp_path / "files", length=200)
    else:
        folder = folder_of(tmp_path / "files", shape)
    call("data", "prepare", folder, data)
    said = call(
        "metrics", "reference", data, "--out", real, "--detectors", "pixels", "--features", "--device", "cpu"
    ).out
    assert "in the features of pixels" in said
    every = ["--metrics-every", "8", "--metrics-images", "16", "--evaluate-steps", "2", "--metrics-reference", data]
    call("train", "--data", data, "--out", run, *QUICK, "--metrics", "fd,kid", *every)
    rows = [row["metrics"] for row in map(json.loads, (run / "stats.jsonl").open()) if "metrics" in row]
    assert [*rows[-1]] == ["fd_pixels", "kid@pixels"] and all(map(math.isfinite, rows[-1].values()))
    call("report", run, "--out", tmp_path / "report.html", "--device", "cpu")
    assert "fd_pixels" in (tmp_path / "report.html").read_text()

    def measured(*words):
        (record,) = json.loads(call("metrics", *words, "--device", "cpu", "--json").out)
        return record["best"]

    spread = measured(data, "--reference", real, "--metrics", "fd_pixels")
    snapshot, out = run / "snapshots" / "0000000016-0.050.safetensors", tmp_path / "out"
    call("sample", snapshot, "--out", out, *DRAW)
    drawn = measured(snapshot, "--reference", real, "--metrics", "fd_pixels", *DRAW[:2], *DRAW[4:])
    assert abs(spread) < 1e-3 * drawn
    files = measured(out, "--reference", data, "--metrics", "fd")  # pixels go by themselves
    assert abs(files - drawn) <= 1e-6 * drawn or (cut and 0 < files < drawn)
    (tmp_path / "arrays_seen.py").write_text("def means(x):\n    return x.flatten(2).mean(2)\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = ["--reference", data, "--metrics", "fd@arrays_seen:means"]
    assert 0 <= measured(data, *own) < 1e-3 * measured(out, *own)
    sweeping = ["--reference", data, "--images", "4", "--steps", "2", "--device", "cpu"]
    assert "fd_pixels" in call("sweep", run, "--lengths", "0.05,0.1", "--metric", "fd", *sweeping).out
    with Image.open(run / "sweep" / "sweep-pictures.png") as picture:
        assert min(picture.size) > 32
    call("tune", run, "--lengths", "0.05:0.1:0.05", "--metric", "fd", "--evaluations", "2", *sweeping)


def test_networks_that_see_pictures_refuse_arrays(call, tmp_path):
    folder, data = folder_of_arrays(tmp_path / "files", (2, 40)), tmp_path / "data"
    call("data", "prepare", folder, data)
    alone = "inception sees pictures alone, and these are arrays"
    for source in (data, folder):
        words = ["metrics", "reference", source, "--out", tmp_path / "x.npz"]
        assert alone in call(*words, code=2).err and "fd_pixels" in call(*words, code=2).err
        assert alone in call("metrics", folder, "--reference", source, code=2).err
    assert "unitgain data prepare" in call("metrics", folder, "--reference", folder, "--metrics", "fd", code=2).err
    assert "each channel" in call("metrics", data, "--reference", "digits", "--metrics", "fd_pixels", code=2).err
    every = ["--metrics", "fid", "--metrics-reference", data, "--metrics-every", "8"]
    assert alone in call("train", "--data", data, "--out", tmp_path / "run", *QUICK, *every, code=2).err
    assert not (tmp_path / "run" / "stats.jsonl").exists()


def read(path):
    """The array of a file, `[C, *size]`."""
    if path.suffix == ".wav":
        wave, rate = soundfile.read(path, always_2d=True)
        assert rate == 8000
        return wave.T
    if path.suffix == ".npy":
        return np.load(path)
    image = nibabel.load(path)
    assert image.header.get_zooms() == (1.0, 2.0, 3.0)
    return image.get_fdata()[None]
