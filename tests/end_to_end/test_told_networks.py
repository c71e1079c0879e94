"""Networks that are told more than a class, all the way: signals and volumes to reports, pictures to measurements."""

import json

import numpy as np
import pytest
from pictures import encoded, picture
from PIL import Image
from samples import folder_of_tones, folder_of_volumes

from unitgain.train.run import load_config

pytestmark = pytest.mark.usefixtures("known_speed")
QUICK = ["--width", "8", "--batch", "8", "--duration", "16", "--hours", "0.01", "--device", "cpu", "--no-tensorboard"]
DRAW = ["--steps", "3", "--device", "cpu"]
SNAPSHOT = "0000000016-0.050.safetensors"


def table_of(root, files, cells):
    """A table beside files, with what each has."""
    lines = [json.dumps({"file": str(path.relative_to(root))} | cells(row)) for row, path in enumerate(files)]
    (root / "table.jsonl").write_text("\n".join(lines) + "\n")
    return root / "table.jsonl"


def signals(root):
    files = sorted(folder_of_tones(root / "tones", length=64).rglob("*.wav"))
    return table_of(root, files, lambda row: {"pitch": 500 + row, "text": [[1.0, row]] * (row % 3)})


def volumes(root):
    files = sorted(folder_of_volumes(root / "scans", (6, 8, 8)).glob("*.nii.gz"))
    return table_of(root, files, lambda row: {"pitch": row, "text": [[0.5, row]] * (row % 2 + 1)})


@pytest.mark.parametrize(
    "make, shape, preview", [(signals, (1, 64), (48, 192)), (volumes, (1, 6, 8, 8), (48, 144))], ids=["1-D", "3-D"]
)
def test_signals_and_volumes_with_conditions(call, tmp_path, make, shape, preview):
    table, data, run = make(tmp_path), tmp_path / "data", tmp_path / "run"
    call("data", "prepare", table, data, "--conditions", "pitch", "text")
    facts = json.loads(call("inspect", data, "--json").out)
    assert (facts["kind"], facts["shape"]) == ("data", list(shape))
    assert facts["conditions"] == {"pitch": [], "text": [None, 2]}
    assert "pitch (a number), text [any, 2]" in " ".join(call("inspect", data).out.split())
    call("train", "--data", data, "--out", run, *QUICK, "--samples", "4")
    snapshot = run / "snapshots" / SNAPSHOT
    told = json.loads(call("inspect", snapshot, "--json").out)["network"]["conditions"]
    assert [(one["name"], one["kind"], one["dropout"]) for one in told] == [
        ("pitch", "scalar", 0.1),
        ("text", "tokens", 0.1),
    ]
    shown = " ".join(call("inspect", snapshot).out.split())
    assert "pitch (an amount of scale" in shown and "text (tokens of 2), left out of 10 % of the images" in shown
    # Pairs: the real one, a gap, the drawn one.
    height, width = preview
    with Image.open(run / "samples" / "0000000016.png") as grid:
        assert grid.width // (2 * width + 1) >= 1 and grid.height >= height
    out = tmp_path / "out"
    call("sample", snapshot, "--out", out, *DRAW, "--seeds", "0-1", "--grid", "--columns", 1, "--conditions", data)
    with Image.open(out / "grid.png") as grid:
        scale = max(1, 64 // max(height, width))
        assert grid.size == (2 * scale * width + 3, 2 * scale * height + 3)
    call("report", run, "--out", tmp_path / "report.html", "--device", "cpu", "--seeds", "0-1")
    page = (tmp_path / "report.html").read_text()
    assert "the real picture" in page and "Not drawn" not in page
    for options, name in ((["--path", "--seeds", "0-1"], "path.gif"), (["--interpolate", "3,7"], "between.gif")):
        gif = tmp_path / name
        call("sample", snapshot, *DRAW, *options, "--frames", 3, "--out", gif, "--conditions", f"{data}[1]")
        with Image.open(gif) as frames:
            assert frames.n_frames > 1 and frames.height >= height  # those that look alike are one
    said = call("sample", snapshot, *DRAW, "--interpolate", "3,7", "--out", gif, "--conditions", data, code=2).err
    assert "name one row for all" in said


@pytest.fixture
def pairs(call, tmp_path):
    """A run on pictures with classes and two conditions, and its data."""
    root = tmp_path / "set"
    for row in range(20):
        for name, side in (("", 8), ("-small", 4)):
            path = root / "ab"[row % 2] / f"{row}{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(picture(row, side, side)))
    for letter in "ab":
        rows = [row for row in range(20) if "ab"[row % 2] == letter]
        lines = [{"file_name": f"{row}.png", "small": f"{row}-small.png", "age": row} for row in rows]
        (root / letter / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    call("data", "prepare", root, tmp_path / "data", "--conditions", "age", "small")
    call("train", "--data", tmp_path / "data", "--out", tmp_path / "run", *QUICK[:4], "--duration", "64", *QUICK[6:])
    return tmp_path / "run", tmp_path / "data"


def test_measuring_sweeping_and_tuning(call, tmp_path, pairs):
    run, data = pairs
    network = load_config(run).recipe.network
    assert network.label_dim == 2 and {one.name for one in network.conditions} == {"age", "small"}
    snapshot = sorted((run / "snapshots").glob("*-0.050.safetensors"))[-1]
    how = ["--reference", data, "--device", "cpu", "--steps", 2, "--batch", 16]
    told = ["--conditions", data]
    one = ["--metrics", "fd_pixels", "--seeds", "0-19"]
    right = call("metrics", snapshot, *how, *one, *told, "--out", tmp_path / "right.json")
    assert str(data) in right.out + (tmp_path / "right.json").read_text()
    call("metrics", snapshot, *how, *one, "--conditions", "none", "--out", tmp_path / "none.json")
    values = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("right", "none")]
    assert values[0] != values[1]
    common = ["--metric", "fd_pixels", "--images", 20, *how, "--lengths", "0.05:0.1:0.05"]
    for command, more in (("sweep", ["--guide", "self", "--guidance", "1,1.5"]), ("tune", ["--evaluations", 2])):
        said = call(command, run, *common, *more, code=2).err
        assert "the network is told age, small" in said and "--conditions" in said, command
        call(command, run, *common, *more, *told, "--out", tmp_path / command)
    cells = [json.loads(line) for line in (tmp_path / "sweep" / "cells-0.jsonl").read_text().splitlines()]
    assert len(cells) == 4 and np.isfinite([cell["value"] for cell in cells]).all()
    left = ["--guide", "self", "--without", "age", "--guidance", "1,1.5"]  # which is for the guided cells alone
    call("sweep", run, *common, *left, *told, "--out", tmp_path / "left")
    tried = (tmp_path / "tune" / "cells-0.jsonl").read_text().splitlines()
    assert len(tried) >= 2
