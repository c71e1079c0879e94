"""From files of audio, volumes and fields to samples of the same kind, by a run that is planned."""

import json

import nibabel
import numpy as np
import pytest
import soundfile
from PIL import Image
from samples import folder_of_arrays, folder_of_tones, folder_of_volumes

import unitgain
from unitgain.checkpoint.snapshot import Snapshot
from unitgain.draw import DrawSettings
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
    with Snapshot(snapshot) as opened:
        assert opened.header.encoder["kind"] == "arrays"
    pixels = ["--metrics", "fd_pixels", "--reference", "digits", "--device", "cpu"]
    assert "only of pictures" in call("metrics", snapshot, *pixels, "--seeds", "0-31", code=2).err
    assert "holds arrays" in call("metrics", data, *pixels, code=2).err
    refused = call("train", "--data", data, "--out", tmp_path / "x", *QUICK, "--metrics", "fid", code=2)
    assert "only of pictures" in refused.err
    assert "drawing from a picture" in call("sample", snapshot, "--from", tmp_path / "sheet.png", *DRAW, code=2).err
    assert "official archives" in call("data", "export", data, tmp_path / "x.zip", code=2).err


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
