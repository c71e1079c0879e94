"""`unitgain metrics` and `unitgain metrics reference` as a user types them."""

import importlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from blocks import run_page
from sklearn.metrics.pairwise import rbf_kernel

from unitgain.arch import NetworkSpec
from unitgain.checkpoint.snapshot import Snapshot, SnapshotHeader, write_snapshot
from unitgain.cli.main import main
from unitgain.data.digits import digits
from unitgain.data.fit import Fit
from unitgain.data.images import to_image
from unitgain.data.prepare import prepare_data
from unitgain.denoiser import Denoiser
from unitgain.metrics.detectors import Pixels
from unitgain.metrics.measure import measure
from unitgain.metrics.reference import load_references
from unitgain.serial import to_dict
from unitgain.train.rows import read_stats


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a snapshot of an untrained network, a reference and images."""
    folder = tmp_path_factory.mktemp("metrics")
    network = NetworkSpec(
        resolution=8,
        channels=1,
        label_dim=10,
        model_channels=8,
        channel_mult=(1,),
        num_blocks=1,
        attn_resolutions=(),
        channels_per_head=8,
    )
    header = SnapshotHeader(
        network=network,
        sigma_data=0.5,
        nimg=0,
        profile={"kind": "raw"},
        recipe="none",
        encoder=to_dict(digits().encoder),
        classes=digits().classes,
    )
    write_snapshot(folder / "digits.safetensors", header, Denoiser(network, 0.5).state_dict())
    (folder / "images").mkdir()
    for i, pixels in enumerate(digits().images[:120]):
        to_image(pixels).save(folder / "images" / f"{i:03d}.png")
    main(["metrics", "reference", "digits", "--out", str(folder / "real.npz"), "--detectors", "pixels", "--features"])
    return folder


@pytest.mark.parametrize("command", [["metrics"], ["metrics", "reference"]])
def test_help_answers(call, command):
    text = call(*command, "--help").out
    assert f"usage: unitgain {' '.join(command)}" in text
    assert "--inception" in text


def test_a_folder_against_a_reference(call, place):
    out = place / "result.json"
    names = "fd_pixels,kid,precision,recall,density,coverage"
    arguments = ["--reference", place / "real.npz", "--metrics", names, "--detector", "pixels"]
    text = call("metrics", place / "images", *arguments, "--out", out).out
    assert "fd_pixels" in text
    assert "warning: 120 images, fewer than 50,000" in text
    results = {result["metric"]: result for result in json.loads(out.read_text())}
    assert list(results) == names.split(",")
    assert results["precision"]["best"] == 1  # they are among the real ones
    (record,) = results["fd_pixels"]["records"]
    assert record["reference"]["name"] == "digits"
    assert record["source"]["formats"] == {"png": 120}
    assert record["detector"]["settings"]["mean"] == pytest.approx(digits().encoder.mean)
    direct = call("metrics", place / "images", "--reference", "digits", "--metrics", "fd-pixels", "--json").out
    assert json.loads(direct)[0]["best"] == pytest.approx(record["value"], rel=1e-12)


def test_a_network_is_measured_as_it_draws_over_repetitions(call, place):
    arguments = ["--reference", place / "real.npz", "--metrics", "fd_pixels", "--steps", "2"]
    snapshot = place / "digits.safetensors"
    text = call("metrics", snapshot, *arguments, "--seeds", "0-39", "--repeat", "2", "--json").out
    (result,) = json.loads(text)
    first, second = result["records"]
    assert (first["source"]["seeds"], second["source"]["seeds"]) == ("0-39", "40-79")
    assert len(first["source"]["snapshot_hash"]) == 64
    assert result["spread"] == pytest.approx(abs(first["value"] - second["value"]))
    assert "2 x 40" in call("metrics", snapshot, *arguments, "--seeds", "0-39", "--repeat", "2").out
    call("sample", snapshot, "--seeds", "0-39", "--steps", "2", "--out", place / "drawn")
    drawn = json.loads(call("metrics", place / "drawn", *arguments[:-2], "--json").out)[0]["records"][0]
    assert drawn["value"] == pytest.approx(first["value"], rel=1e-12)
    assert (drawn["images"], drawn["source"]["seeds"]) == (40, "0-39")


def test_a_network_is_measured_with_the_options_of_sample(call, place):
    """Guided, by another sampler: the same value as of the files, and another one than without."""
    snapshot = place / "digits.safetensors"
    options = ["--seeds", "0-39", "--steps", "3", "--sampler", "dpmpp_2m", "--class", "3", "--guide", place / "worse"]
    options += ["--guidance", "2", "--interval", "0.01", "10"]
    (place / "worse").mkdir()
    torch.manual_seed(1)
    with Snapshot(snapshot) as opened:
        header, other = opened.header, Denoiser(opened.header.network, 0.5)
    state = {name: tensor if tensor.ndim else torch.tensor(0.5) for name, tensor in other.state_dict().items()}
    write_snapshot(place / "worse" / "model.safetensors", header, state)  # with gains that are not 0
    call("sample", snapshot, *options, "--out", place / "guided")
    arguments = ["--reference", place / "real.npz", "--metrics", "fd_pixels", "--json"]
    records = [
        json.loads(call("metrics", *what, *arguments).out)[0]["records"][0]
        for what in ([place / "guided"], [snapshot, *options], [snapshot, *options[:8]])
    ]
    files, direct, unguided = records
    assert files["value"] == direct["value"] != unguided["value"]
    assert files["source"]["sampler"] == direct["source"]["sampler"]
    assert direct["source"]["sampler"]["interval"] == "0.01-10.0"


def test_processes_share_the_work(call, place):
    arguments = [
        *("metrics", str(place / "digits.safetensors"), "--reference", str(place / "real.npz")),
        *("--metrics", "fd_pixels,kid", "--detector", "pixels", "--steps", "2", "--seeds", "0-32", "--json"),
    ]
    code = "from unitgain.cli.main import main; main()"
    script = place / "command.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    alone = call(*arguments).out
    for shared, single in zip(json.loads(done.stdout), json.loads(alone), strict=True):
        assert shared["best"] == pytest.approx(single["best"], rel=1e-10)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["images", "--metrics", "fd_pixels"], 2, "--reference (--metrics-reference in training)"),
        (["images", "--reference", "real.npz", "--metrics", "fids"], 2, "did you mean 'fid'"),
        (["nothing", "--reference", "real.npz"], 2, "no images at nothing"),
        (["images", "--reference", "other.npz", "--metrics", "fd_pixels"], 2, "no reference at other.npz"),
        (["images", "--metrics", "is", "--inception", "none.pt"], 2, "no detector at none.pt"),
        (["images", "--reference", "real.npz"], 2, "needs a reference in the features of inception; given: pixels"),
        (["images", "--reference", "real.npz", "--metrics", "no_such:thing"], 2, "PYTHONPATH"),
        (
            ["images", "--reference", "real.npz", "--metrics", "json:loads@pixels"],
            2,
            "is no unitgain.metrics.metric",
        ),
        (["images", "--metrics", "is", "--detector", "pixels"], 2, "names no classes"),
        (["images", "--reference", "nothere.npz", "--metrics", "is"], 2, "a reference, and is compare with none"),
        (
            ["images", "--reference", "real.npz", "--metrics", "fd_pixels", "--detector", "dinov2"],
            2,
            "--detector dinov2 is for metrics that name none, and fd_pixels do",
        ),
        (
            ["images", "--reference", "real.npz", "--metrics", "fd_pixels", "--inception", "none.pt"],
            2,
            "--inception is of the detector inception, and what is measured needs pixels alone",
        ),
        (
            ["reference", "digits", "--out", "new.npz", "--detectors", "pixels", "--inception-sha256", "1"],
            2,
            "--inception-sha256 is of the detector inception",
        ),
        (
            ["reference", "digits", "--out", "new.npz", "--detectors", "pixels", "--dinov2", "folder"],
            2,
            "--dinov2 is of the detector dinov2",
        ),
        (["images", "--reference", "real.npz", "--metrics", "fd_pixels", "--out", "images"], 2, "images is a folder"),
        (
            ["images", "--reference", "real.npz", "--metrics", "fd_pixels", "--out", "real.npz/records.json"],
            2,
            "real.npz is no folder",
        ),
        (["reference", "digits", "--out", "folder.npz", "--detectors", "pixels"], 2, "folder.npz is a folder"),
        (
            ["digits.safetensors", "--reference", "real.npz", "--guide", "self", "--guidance", "1"],
            2,
            "--guidance 1 is none: leave --guide out",
        ),
        (["images", "--reference", "broken.npz", "--metrics", "fd_pixels"], 1, "damaged or no reference"),
        (["images", "--reference", "stack.npz"], 1, "data prepare stack.npz DATA"),
        (["images", "--reference", "real.npz", "--metrics", "fd_pixels", "--repeat", "0"], 2, "--repeat 0"),
        (
            [
                "images",
                "--reference",
                "real.npz",
                "--guide",
                "self",
                "--class",
                "1",
                "--sampler",
                "euler",
                "--steps",
                "2",
            ],
            2,
            "--sampler, --steps, --class, --guide: for networks",
        ),
        (["images", "--reference", "real.npz", "--seeds", "0-9"], 2, "--seeds: for networks"),
        (["digits", "--reference", "digits", "--split", "train"], 2, "digits is one set"),
        (
            ["digits.safetensors", "--reference", "real.npz", "--split", "train"],
            2,
            "--split: for pictures that are there",
        ),
        (
            ["images", "--reference", "real.npz", "--reference-split", "train"],
            2,
            "--reference-split: for a --reference",
        ),
        (["digits.safetensors", "--reference", "real.npz", "--guidance", "2"], 2, "need a --guide"),
        (["reference", "digits", "--out", "real.txt"], 2, "is an .npz file"),
    ],
)
def test_wrong_use_is_explained(call, monkeypatch, place, arguments, code, message):
    monkeypatch.chdir(place)
    monkeypatch.setattr("unitgain.metrics.summary.summarize", lambda *_, **__: pytest.fail("measured"))
    (place / "folder.npz").mkdir(exist_ok=True)
    (place / "broken.npz").write_text("no archive")
    np.savez(place / "stack.npz", images=np.zeros((3, 8, 8), np.uint8))
    assert message in call("metrics", *arguments, code=code).err


def test_records_that_cannot_be_written_are_printed(call, monkeypatch, place):
    monkeypatch.chdir(place)

    def full(*_):
        raise OSError("no space")

    monkeypatch.setattr("unitgain.cli.metrics.write_text", full)
    words = ("metrics", "images", "--reference", "real.npz", "--metrics", "fd_pixels", "--out", "records.json")
    output = call(*words, code=1)
    assert "fd_pixels" in output.out and "no space" in output.err


def test_one_of_several_arrays_is_measured(call, monkeypatch, place):
    monkeypatch.chdir(place)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 12, 3, 4, 4), dtype=np.uint8)
    np.savez(place / "several.npz", u=pixels[0], v=pixels[1])
    make = ("metrics", "reference", "several.npz", "--out", "u.npz", "--detectors", "pixels")
    assert "choose one with --image-column" in call(*make, code=2).err
    call(*make, "--image-column", "u")
    judged = ("--reference", "u.npz", "--metrics", "fd_pixels", "--json", "--image-column")
    own, other = (json.loads(call("metrics", "several.npz", *judged, name).out)[0]["best"] for name in "uv")
    assert abs(own) < 1e-3 < other


def test_images_of_another_size_are_refused(call, monkeypatch, place):
    monkeypatch.chdir(place)
    (place / "wrong").mkdir()
    for i in range(4):
        to_image(torch.zeros(1, 4, 4, dtype=torch.uint8)).save(place / "wrong" / f"{i}.png")
    arguments = ["wrong", "--reference", "real.npz", "--metrics", "fd_pixels"]
    assert "another size" in call("metrics", *arguments, code=2).err


@pytest.mark.usefixtures("few_steps")
def test_the_page_runs(call, monkeypatch, place):
    """Commands, Python, and a metric of one's own wherever metrics are named."""
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    for name in ("gaussian", "beats"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    small = ["--batch", "16", "--duration", "64", "--snapshot-every", "16", "--model-channels", "8"]
    small += ["--channels-per-head", "8", "--device", "cpu", "--no-tensorboard", "--quiet"]
    call("train", "digits", "--out", "RUN", *small)
    signals(place / "ecg")
    call(
        "train",
        "--data",
        "ecg",
        "--out",
        "ecg-run",
        "--width",
        "8",
        "--batch",
        "16",
        "--duration",
        "32",
        *small[-4:],
        "--hours",
        "0.01",
    )
    printed = []
    run_page("docs/metrics.md", lambda *words: printed.append((words, call(*words).out)))
    metric = importlib.import_module("gaussian").GaussianDistance()
    pixels = Pixels(digits().encoder.mean, digits().encoder.std)
    (record,) = measure([digits().images[:120]], pixels, [metric], load_references(place / "real.npz"))
    said = {words[0]: text for words, text in printed if any("gaussian" in word for word in words)}
    assert f"{record.value:.6g}" in said["metrics"] and "fewer than 10,000" in said["metrics"]
    assert record.settings == {"width": 1.0} and record.value == pytest.approx(gaussian_by_hand(), rel=1e-9)
    assert "gaussian@pixels" in said["sweep"] and "gaussian@pixels" in said["tune"]
    (row,) = [row for row in read_stats(place / "RUN") if "metrics" in row]
    assert row["metrics"].keys() == {"gaussian@pixels"}
    assert "gaussian@pixels" in (place / "RUN" / "report.html").read_text()


def signals(folder):
    """Prepared signals."""
    noise = torch.randn(80, 1, 64, generator=torch.Generator().manual_seed(0))
    np.save(f"{folder}.npy", noise.cumsum(-1).numpy())
    prepare_data(f"{folder}.npy", folder, Fit(resolution=None, layout="channels-first"))


def gaussian_by_hand():
    data = digits()
    real, mine = (data.encoder.encode(images).flatten(1).double() for images in (data.images, data.images[:120]))
    xx, yy, xy = (rbf_kernel(a, b, gamma=1 / (2 * 64)) for a, b in ((mine, mine), (real, real), (mine, real)))
    n, m = len(mine), len(real)
    return (xx.sum() - n) / (n * (n - 1)) + (yy.sum() - m) / (m * (m - 1)) - 2 * xy.mean()
