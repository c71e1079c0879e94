"""Tables that pair pictures and arrays with classes and conditions: what is stored is what was there."""

import csv
import json

import h5py
import nibabel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from pictures import contents, encoded, picture
from PIL import Image
from samples import values

from unitgain.data.fit import Fit
from unitgain.data.manifest import DataError
from unitgain.data.prepare import BrokenPictureError, prepare_data
from unitgain.data.prepared import PreparedDataset
from unitgain.data.sources import SourceOptions

FIT = Fit(resolution=8)
TOKENS = [[[1.0, 2.0]], [], [[3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]]
LINES = [
    {"image": f"images/{row}.png", "label": "ab"[row % 2], "vector": [row, 2.0, -1], "condition": f"small/{row}.png"}
    | {"tokens": TOKENS[row], "age": 10 * row}
    for row in range(3)
]


@pytest.fixture
def root(tmp_path):
    """Pictures, and smaller ones that are conditions."""
    (tmp_path / "images").mkdir()
    (tmp_path / "small").mkdir()
    for row in range(3):
        (tmp_path / "images" / f"{row}.png").write_bytes(encoded(picture(row, 8, 8)))
        (tmp_path / "small" / f"{row}.png").write_bytes(encoded(picture(10 + row, 4, 4)))
    return tmp_path


def make(source, folder, fit=FIT, **options):
    prepare_data(str(source), folder, fit, options=SourceOptions(**options) if options else None, workers=1, shard=2)
    return PreparedDataset(folder)


def jsonl(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def table_of(path, lines):
    if path.suffix == ".jsonl":
        return jsonl(path, lines)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(lines), path)
        return path
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, lines[0], delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(
            {name: json.dumps(cell) if isinstance(cell, list) else cell for name, cell in line.items()}
            for line in lines
        )
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_what_tables_pair(root, suffix):
    table = table_of(root / f"table{suffix}", LINES)
    data = make(table, root / "data", conditions=("vector", "condition", "tokens", "years=age"))
    assert data.classes == ("a", "b") and data.labels.tolist() == [0, 1, 0]
    shapes = {"vector": (3,), "condition": (3, 4, 4), "tokens": (None, 2), "years": ()}
    assert dict(data.condition_shapes) == shapes
    told = data.conditions_of(np.array([2, 0, 1]))
    assert told.label is None and told.values.keys() == shapes.keys()
    assert told.values["vector"].tolist() == [[2, 2, -1], [0, 2, -1], [1, 2, -1]]
    assert told.values["years"].tolist() == [20, 0, 10]
    pixels = np.stack([np.asarray(picture(10 + row, 4, 4)).transpose(2, 0, 1) for row in (2, 0, 1)])
    torch.testing.assert_close(told.values["condition"], torch.from_numpy(pixels) / 127.5 - 1)
    assert told.masks["tokens"].tolist() == [[True] * 3, [True, False, False], [False] * 3]
    assert told.values["tokens"][0].tolist() == TOKENS[2] and told.values["tokens"][1, 0].tolist() == [1, 2]
    assert all(told.masks[name].all() for name in ("vector", "condition", "years"))


def test_usual_columns_are_conditions_and_others_not(root):
    data = make(jsonl(root / "table.jsonl", LINES), root / "data")
    assert set(data.condition_shapes) == {"vector", "condition", "tokens"}
    again = make(jsonl(root / "table.jsonl", LINES), root / "again", conditions=())
    assert not again.condition_shapes and again.conditions_of(np.array([0])).values == {}


def test_arrays_in_files_are_conditions(root):
    for row in range(3):
        np.save(root / f"{row}-vector.npy", values((1, 5), row)[0])
        np.save(root / f"{row}-field.npy", values((2, 4, 4), row))
        np.save(root / f"{row}-flat.npy", values((4, 4), row))
    lines = [
        {"file": f"images/{row}.png", "v": f"{row}-vector.npy", "f": f"{row}-field.npy", "g": f"{row}-flat.npy"}
        for row in range(3)
    ]
    asked = ("v", "f", "t=g", "g=g:image")
    data = make(jsonl(root / "table.jsonl", lines), root / "data", conditions=asked)
    assert dict(data.condition_shapes) == {"v": (5,), "f": (2, 4, 4), "t": (None, 4), "g": (1, 4, 4)}
    told = data.conditions_of(np.array([1]))
    assert np.array_equal(told.values["f"][0].numpy(), values((2, 4, 4), 1))
    assert np.array_equal(told.values["g"][0, 0].numpy(), told.values["t"][0].numpy())


def test_an_array_of_no_tokens_is_none(root):
    for row in range(3):
        np.save(root / f"{row}.npy", values((2, 5), row)[: row % 2])
    lines = [{"file": f"images/{row}.png", "said": f"{row}.npy"} for row in range(3)]
    data = make(jsonl(root / "table.jsonl", lines), root / "data", conditions=("said",))
    assert dict(data.condition_shapes) == {"said": (None, 5)}
    assert data.conditions_of(np.arange(3)).masks["said"].sum(1).tolist() == [0, 1, 0]


def test_files_of_no_values_are_named(root):
    np.save(root / "none.npy", np.zeros((3, 0, 8), np.float32))
    with pytest.raises(BrokenPictureError, match=r"none.npy is no readable NPY .* float32 \(3, 0, 8\), which holds no"):
        make(jsonl(root / "table.jsonl", [{"file": "none.npy"}]), root / "data")


def test_volumes_in_files_are_images(tmp_path):
    """With a channel of their own, where the file has none."""
    for row in range(3):
        for name, voxels in (("scan", values((8, 9, 10), row)), ("small", values((4, 4, 5), row))):
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / f"{row}-{name}.nii.gz")
        channels = nibabel.Nifti1Image(values((4, 4, 5, 2), row), np.eye(4))
        nibabel.save(channels, tmp_path / f"{row}-channels.nii")
    names = {"file": "scan.nii.gz", "small": "small.nii.gz", "channels": "channels.nii"}
    lines = [{name: f"{row}-{file}" for name, file in names.items()} for row in range(3)]
    asked = ("small", "channels")
    data = make(jsonl(tmp_path / "table.jsonl", lines), tmp_path / "data", Fit(resolution=None), conditions=asked)
    assert data.shape == (1, 8, 9, 10)
    assert dict(data.condition_shapes) == {"small": (1, 4, 4, 5), "channels": (2, 4, 4, 5)}
    told = data.conditions_of(np.array([1])).values
    assert np.array_equal(told["small"][0, 0].numpy(), values((4, 4, 5), 1))
    assert np.array_equal(told["channels"][0].numpy(), np.moveaxis(values((4, 4, 5, 2), 1), -1, 0))


def test_audio_in_files_is_an_image(tmp_path):
    for row in range(3):
        for name, channels in (("wave", 1), ("heard", 2)):
            wave = values((32, channels), row) / 10
            soundfile.write(tmp_path / f"{row}-{name}.wav", wave, 8000, subtype="FLOAT")
    lines = [{"file": f"{row}-wave.wav", "a": f"{row}-heard.wav", "b": f"{row}-heard.wav"} for row in range(3)]
    table = jsonl(tmp_path / "table.jsonl", lines)
    data = make(table, tmp_path / "data", Fit(resolution=None), conditions=("a", "b:image"))
    assert dict(data.condition_shapes) == {"a": (2, 32), "b": (2, 32)}
    told = data.conditions_of(np.array([1])).values
    assert np.array_equal(told["a"][0].numpy(), (values((32, 2), 1) / 10).T.astype(np.float32))


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_stacked_arrays_are_conditions(tmp_path, suffix):
    arrays = {"x": values((6, 1, 32)), "embedding": values((6, 3)), "y": np.arange(6) % 2}
    if suffix == ".npz":
        np.savez(tmp_path / "x.npz", **arrays)
    else:
        with h5py.File(tmp_path / "x.h5", "w") as file:
            for name, array in arrays.items():
                file[name] = array
    data = make(tmp_path / f"x{suffix}", tmp_path / "data", Fit(resolution=None), conditions=("e=embedding",))
    assert dict(data.condition_shapes) == {"e": (3,)} and data.label_dim == 2
    assert np.array_equal(data.conditions_of(np.arange(6)).values["e"].numpy(), arrays["embedding"])


def test_missing_values_are_refused_or_absent(root):
    lines = [dict(line) for line in LINES]
    lines[0]["vector"] = None
    del lines[2]["condition"]
    table = jsonl(root / "table.jsonl", lines)
    with pytest.raises(
        BrokenPictureError, match=r"has no value of the condition 'vector': fill it in, or .*allow-missing"
    ):
        make(table, root / "data")
    data = make(table, root / "data", allow_missing=True)
    told = data.conditions_of(np.arange(3))
    assert told.masks["vector"].tolist() == [False, True, True]
    assert told.masks["condition"].tolist() == [True, True, False] and not told.values["condition"][2].any()
    for line in lines:
        line["vector"] = None
    with pytest.raises(ValueError, match="'vector' has no value in any row: leave it out"):
        make(jsonl(root / "table.jsonl", lines), root / "none", allow_missing=True)


def changed(row, **cells):
    return [line | (cells if at == row else {}) for at, line in enumerate(LINES)]


WRONG = [
    (
        changed(1, vector=[1, 2]),
        r"vector \[2\], where others have float32, vector \[3\]",
    ),
    (changed(1, tokens=[[1, 2], [3]]), r"'tokens' that cannot be used: it is ragged, with rows of \[1, 2\] numbers"),
    (changed(1, tokens=[[1, 2, 3]]), r"tokens \[any, 3\], where others have float32, tokens \[any, 2\]"),
    (changed(1, vector=[]), r"nothing in a list for the condition vector \[3\]"),
    (changed(0, vector=[]), r"nothing in a list for the condition vector \[3\]"),
    (changed(1, vector=[1, float("nan"), 2]), "'vector' that cannot be used: it holds values that are NaN or infinite"),
    (changed(1, vector="no/such.npy"), "'vector' that cannot be used: it is text, 'no/such.npy', and no such file"),
    (changed(1, vector="../secret.npy"), "leads out of"),
    (
        changed(1, condition="images/1.png"),
        r"condition \[3, 8, 8\], where others have uint8, condition \[3, 4, 4\]",
    ),
    (changed(1, vector={"a": 1}), "'vector' that cannot be used: it is an object of a: numbers, lists of numbers"),
    (changed(1, condition="images/large.png"), "is 9x9, larger than the 8x8 of what it goes with"),
    (changed(1, vector="none.npy"), r"'vector' that cannot be used: it has the shape \(0, 3, 4\), with nothing in it"),
    (changed(1, image="../images/1.png"), "leads out of"),
    (changed(1, image=""), "row 2: column 'image' names no file"),
    (changed(1, label=["a"]), "row 2: label"),
]


@pytest.mark.parametrize("lines, why", WRONG, ids=range(len(WRONG)))
def test_what_does_not_fit_is_said(root, lines, why):
    (root / "table").mkdir()
    for name in ("images", "small"):
        (root / name).rename(root / "table" / name)
    (root / "images").mkdir()
    (root / "images" / "1.png").write_bytes(encoded(picture(1, 8, 8)))
    Image.new("RGB", (9, 9)).save(root / "table" / "images" / "large.png")
    np.save(root / "table" / "none.npy", np.zeros((0, 3, 4)))
    np.save(root / "secret.npy", values((1, 3))[0])
    with pytest.raises((BrokenPictureError, ValueError), match=why):
        make(jsonl(root / "table" / "table.jsonl", lines), root / "data")
    assert not (root / "data" / "unitgain.json").exists()


@pytest.mark.parametrize(
    "asked, why",
    [
        ("y=none", "has no column 'none'"),
        ("y=age:number", "unknown kind 'number'"),
        ("key=age", "a condition named 'key'"),
        ("image=age", "which has a meaning of its own"),
        ("A b=age", "a name must be like age"),
    ],
)
def test_conditions_that_are_none(root, asked, why):
    with pytest.raises(ValueError, match=why):
        make(jsonl(root / "table.jsonl", LINES), root / "data", conditions=(asked,))


def test_interruptions_change_nothing(root, monkeypatch):
    table = jsonl(root / "table.jsonl", LINES)
    make(table, root / "once")
    bad = changed(2, vector=[1])
    jsonl(table, bad)
    with pytest.raises(BrokenPictureError):
        make(table, root / "once2")
    assert contents(root / "once")["data-00000.arrow"] == contents(root / "once2")["data-00000.arrow"]


def test_values_are_as_long_as_the_manifest_says(root):
    make(jsonl(root / "table.jsonl", LINES), root / "data")
    path = root / "data" / "unitgain.json"
    whole = json.loads(path.read_text())
    for place, wrong in ((0, [5, 5]), (0, [2**30, 2**30]), (1, [None, None]), (1, [7]), (2, [2])):
        about = json.loads(json.dumps(whole))
        about["conditions"][place]["shape"] = wrong
        path.write_text(json.dumps(about))
        with pytest.raises(DataError):
            PreparedDataset(root / "data").conditions_of(np.arange(3))
