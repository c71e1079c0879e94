"""What is said about a source counts, or is refused: nothing of it is ignored. Tables say one thing of a picture."""

import csv
import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pictures import encoded, folder_of, picture, tar_of
from samples import folder_of_arrays, folder_of_volumes

from unitgain.data.fit import Fit
from unitgain.data.prepare import BrokenPictureError, prepare_data
from unitgain.data.prepared import PreparedDataset
from unitgain.data.sources import SourceOptions, open_source
from unitgain.evaluate.images import open_images

PNG = encoded(picture(1, 8, 8))
WHOLE = Fit(resolution=8)


def opened(what, tmp_path, **options):
    return open_source(str(what), tmp_path / "scratch", SourceOptions(**options))


def source_of(kind, root):
    root.mkdir(parents=True)
    table = pa.table({"image": pa.array([PNG] * 2)})
    match kind:
        case "hub":
            return "hub:nobody/nothing"
        case "saved":
            datasets.Dataset(table).save_to_disk(root / "a")
            return root / "a"
        case "parquet":
            pq.write_table(table, root / "a.parquet")
            return root / "a.parquet"
        case "table":
            (root / "a.png").write_bytes(PNG)
            (root / "a.csv").write_text("file\na.png\na.png\n")
            return root / "a.csv"
        case "stack":
            np.save(root / "a.npy", np.zeros((3, 2, 8), np.float32))
            return root / "a.npy"
        case "tar":
            return tar_of(root / "a.tar", {"a.png": PNG, "b.png": PNG})
        case "pictures":
            return folder_of(root / "a", classes=("",), each=2)
    raise AssertionError(kind)


CATS = ('"cat"', '"cat"', "2")
LABELS = {"labels": Path("nowhere.csv")}
SPLIT, LINKS, SHARDS, SET, STACKED = (
    {"split": "train"},
    {"follow_links": True},
    {"archives": "shards"},
    {"config": "a"},
    {"stacked": True},
)
ONE = {"image_column": "x"}
IGNORED = {
    "hub": (LABELS, LINKS, SHARDS, STACKED),
    "saved": (LABELS, SPLIT, LINKS, SHARDS, SET, STACKED),
    "parquet": (LABELS, SPLIT, LINKS, SHARDS, SET, STACKED),
    "table": (LABELS, SPLIT, LINKS, SHARDS, SET, STACKED),
    "stack": (SPLIT, LINKS, SHARDS, SET, ONE, {"label_column": "y"}),
    "tar": (LINKS, SET, STACKED, ONE, {"label_column": "y"}),
    "pictures": (SHARDS, SET, STACKED, ONE, {"label_column": "y"}),
}


@pytest.mark.parametrize("kind", IGNORED)
def test_what_a_source_would_ignore_is_refused(tmp_path, kind):
    what = source_of(kind, tmp_path / "set")
    given = (*IGNORED[kind], *(({"classes": ("a", "b")},) if kind != "hub" else ()))
    for options in given:
        (name,) = options
        with pytest.raises(ValueError, match=name.replace("_", ".")):
            opened(what, tmp_path, **options)
    if kind != "hub":
        assert len(opened(what, tmp_path, split=None if kind == "tar" else "all")) >= 2


def test_labels_and_none_at_once_are_refused(tmp_path):
    with pytest.raises(ValueError, match="none are wanted"):
        opened(folder_of(tmp_path / "a", each=1), tmp_path, no_labels=True, labels=tmp_path / "x.csv")


def test_a_column_of_labels_goes_with_labels_in_columns(tmp_path):
    root = folder_of(tmp_path / "a", each=1)
    (tmp_path / "x.json").write_text('{"labels": {"cat/0.png": 0, "dog/0.png": 1, "eel/0.png": 0}}')
    with pytest.raises(ValueError, match="label column 'y', and no labels are wanted"):
        opened(root, tmp_path, no_labels=True, label_column="y")
    with pytest.raises(ValueError, match=r"label column 'y': labels .*x\.json is no table"):
        opened(root, tmp_path, labels=tmp_path / "x.json", label_column="y")
    np.savez(tmp_path / "b.npz", x=np.zeros((2, 3, 8, 8), np.uint8), y=np.arange(2))
    np.save(tmp_path / "x.npy", np.arange(2))
    with pytest.raises(ValueError, match=r"label column 'y': labels .*x\.npy is no table"):
        opened(tmp_path / "b.npz", tmp_path, labels=tmp_path / "x.npy", label_column="y")


def test_missing_values_are_those_of_conditions(tmp_path):
    with pytest.raises(ValueError, match=r"--allow-missing: .*a has no conditions"):
        opened(folder_of(tmp_path / "a", each=1), tmp_path, allow_missing=True)


def of_pictures(root):
    return folder_of(root, each=1)


def of_arrays(root):
    return folder_of_arrays(root, (2, 16), each=1)


def of_volumes(root):
    return folder_of_volumes(root, each=1)


@pytest.mark.parametrize(
    ("source", "fit", "why"),
    [
        (
            of_pictures,
            Fit(resolution=8, layout="channels-first"),
            r"--layout channels-first .*cat/0\.png: its file says",
        ),
        (of_pictures, Fit(resolution=8, layout="latents"), "--layout latents would be ignored"),
        (of_pictures, Fit(resolution=None, fit="pad"), "--fit pad .*without --resolution"),
        (of_volumes, Fit(resolution=None, layout="channels-last"), "--layout channels-last would be ignored"),
        (
            of_arrays,
            Fit(resolution=None, format="webp"),
            "--format webp .*it is no picture but array of 2 channels, 16",
        ),
        (of_arrays, Fit(resolution=None, background="red"), "--background red .*it is no picture but array"),
        (of_arrays, Fit(resolution=None, fit="stretch"), "--fit stretch .*without --resolution"),
    ],
)
def test_what_pictures_or_arrays_would_ignore_is_refused(tmp_path, source, fit, why):
    what = str(source(tmp_path / "a"))
    with pytest.raises(ValueError, match=why):
        prepare_data(what, tmp_path / "data", fit, workers=1)
    plain = Fit(resolution=fit.resolution)
    assert prepare_data(what, tmp_path / "data", plain, workers=1).rows > 0  # nothing is left of the other


def test_a_layout_counts_for_arrays_among_pictures(tmp_path):
    root = folder_of(tmp_path / "a", classes=("",), each=1)
    np.save(root / "1.npy", np.zeros((14, 20, 3), np.uint8))
    fit = Fit(resolution=8, layout="channels-last")
    assert prepare_data(str(root), tmp_path / "data", fit, workers=1).rows == 2


def test_a_layout_and_a_background_count_for_conditions(tmp_path):
    """Those of pictures may be arrays, and those of arrays pictures."""
    root = folder_of(tmp_path / "a", classes=("",), each=1, width=8, height=8)
    np.save(root / "1.npy", np.zeros((2, 8, 8), np.float32))
    asked = SourceOptions(conditions=("told",))
    (root / "set.csv").write_text("file,told\n0.png,1.npy\n")
    fit = Fit(resolution=None, layout="channels-first")
    assert prepare_data(str(root / "set.csv"), tmp_path / "pictures", fit, options=asked, workers=1).rows == 1
    (root / "set.csv").write_text("file,told\n1.npy,0.png\n")
    fit = Fit(resolution=None, layout="channels-first", background="black")
    assert prepare_data(str(root / "set.csv"), tmp_path / "arrays", fit, options=asked, workers=1).kind == "array"


def test_rows_of_a_table_are_of_their_split(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(PNG)
    table = tmp_path / "set.csv"
    table.write_text("file,label,split\na.png,cat,train\nb.png,dog,test\nc.png,cat,train\n")
    train = opened(table, tmp_path, split="train")
    assert (list(train.keys), train.classes) == (["a.png", "c.png"], ("cat",))
    assert list(opened(table, tmp_path, split="all").keys) == ["a.png", "b.png", "c.png"]
    with pytest.raises(ValueError, match=r"test \(1 rows\), train \(2 rows\).*--split all"):
        opened(table, tmp_path)
    with pytest.raises(ValueError, match="no rows of the split 'val'"):
        opened(table, tmp_path, split="val")


def test_classes_order_folders(tmp_path):
    root = folder_of(tmp_path / "a", classes=("cat", "dog"), each=1)
    source = opened(root, tmp_path, classes=("dog", "eel", "cat"))
    assert source.classes == ("dog", "eel", "cat")
    assert dict(zip(source.keys, source.labels.tolist(), strict=True)) == {"cat/0.png": 2, "dog/0.png": 0}
    with pytest.raises(ValueError, match="folders dog are none of the 2 classes named, cat, eel"):
        opened(root, tmp_path, classes=("cat", "eel"))


def test_labels_of_samples_are_of_the_key_that_is_named(tmp_path):
    files = {f"{name}.{kind}": data for name in "ab" for kind, data in (("png", PNG), ("cls", b"0"))}
    files |= {f"{name}.json": json.dumps({"label": 0, "age": age}).encode() for name, age in (("a", 0), ("b", 1))}
    assert opened(tar_of(tmp_path / "a.tar", files), tmp_path, label_column="age").labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "file,label\na.png,cat\nb.png,dog\n./a.png,dog\n"),
        ("metadata.jsonl", "".join(f'{{"file":"{n}.png","label":{v}}}\n' for n, v in zip("aba", CATS, strict=True))),
        ("dataset.json", '{"labels": [["a.png", "cat"], ["b.png", "cat"], ["a.png", "dog"]]}'),
    ],
)
def test_a_picture_has_one_label(tmp_path, name, text):
    root = tmp_path / "a"
    root.mkdir()
    for picture_name in ("a.png", "b.png"):
        (root / picture_name).write_bytes(PNG)
    (root / name).write_text(text)
    with pytest.raises(ValueError, match=r"a\.png is there twice, with the label 'cat' and ('dog'|2)"):
        opened(root, tmp_path)
    (root / name).write_text(text.replace("dog", "cat").replace("2}", '"cat"}'))
    assert opened(root, tmp_path).classes == ("cat",)


def test_a_picture_has_one_value_of_a_condition(tmp_path):
    root = tmp_path / "a"
    root.mkdir()
    (root / "a.png").write_bytes(PNG)
    (root / "metadata.csv").write_text("file,age,text\na.png,1,one\na.png,1,two\n")
    assert opened(root, tmp_path, conditions=("age",)).item(0).conditions[0].get() == "1"
    (root / "metadata.csv").write_text("file,age,text\na.png,1,one\na.png,2,two\n")
    with pytest.raises(ValueError, match=r"a\.png is there twice, with the values .*1.* and .*2"):
        opened(root, tmp_path, conditions=("age",))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "file,label,label\na.png,cat,dog\n"),
        ("metadata.csv", "file_name,split,text,split\na.png,train,x,test\n"),
        ("metadata.jsonl", '{"file_name": "a.png", "label": 0, "label": 1}\n'),
        ("dataset.json", '{"labels": {"a.png": 0, "a.png": 1}}'),
        ("set.tsv", "file\tlabel\tlabel\na.png\t0\t1\n"),
    ],
)
def test_a_table_has_each_column_once(tmp_path, name, text):
    root = tmp_path / "a"
    root.mkdir()
    (root / "a.png").write_bytes(PNG)
    (root / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name}.*'(label|split|a\.png)' twice"):
        opened(root / name if name == "set.tsv" else root, tmp_path)


def test_columns_without_a_name_may_be_several(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "set.csv").write_text("file,label,,\na.png,cat,,\n")
    assert opened(tmp_path / "set.csv", tmp_path).classes == ("cat",)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('file,label\na.png,"cat\na.png,dog\n', "line 2 is no CSV: .*a quote"),
        ('file,label\na.png,cat\na.png,"dog\na.png,cat\na.png,"eel"\n', "line 3 is no CSV: .*a quote"),
        ("file,age,label\na.png,1,5,cat\n", "line 2 has 4 cells, and the header names 3 columns: put quotes"),
        ('file,label\n"a.png","cat\nblack"\na.png,dog,2\n', "line 4 has 3 cells, and the header names 2 columns"),
    ],
)
def test_a_table_of_which_something_would_be_lost_is_refused(tmp_path, text, why):
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "set.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"set\.csv, {why}"):
        opened(tmp_path / "set.csv", tmp_path)


def test_cells_of_nothing_beyond_the_header_are_left_out(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "set.csv").write_text('file,label\na.png,"a ""cat"", black",, \n')
    assert opened(tmp_path / "set.csv", tmp_path).classes == ('a "cat", black',)


def test_parquet_files_have_each_column_once(tmp_path):
    columns = [pa.array([PNG]), pa.array([0]), pa.array([1])]
    pq.write_table(pa.table(columns, names=["image", "label", "label"]), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet.*'label' twice"):
        opened(tmp_path / "b.parquet", tmp_path)
    pq.write_table(pa.table(columns[:2], names=["image", "label"]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet.*'label' twice"):
        opened(tmp_path, tmp_path)


def test_json_beside_a_picture_that_cannot_be_read_is_noted(tmp_path):
    files = {"a.png": PNG, "a.json": b'{"label": 0, "label": 1}', "b.png": PNG, "b.json": b"{"}
    (note,) = opened(tar_of(tmp_path / "a.tar", files), tmp_path).notes
    assert note.startswith("2 files") and note.endswith(": a.json, b.json")


def test_each_parquet_file_is_opened_once(tmp_path, monkeypatch):
    for name in "ab":
        pq.write_table(pa.table({"image": [PNG], "label": [0]}), tmp_path / f"{name}.parquet")
    read, paths = pq.ParquetFile, []
    monkeypatch.setattr(pq, "ParquetFile", lambda path, **options: paths.append(path.name) or read(path, **options))
    assert len(opened(tmp_path, tmp_path)) == 2
    assert paths == ["a.parquet", "b.parquet"]


def test_lines_end_where_lines_end(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    odd = "a\u2028b\u2029c\x85d\x0be\x0cf"
    rows = [{"file": "a.png", "label": odd}, {"file": "a.png", "label": "b"}]
    text = "".join(json.dumps(row, ensure_ascii=False).replace("\\u000b", "\x85") + "\r\n" for row in rows)
    (tmp_path / "set.jsonl").write_bytes(text.encode())
    assert len(opened(tmp_path / "set.jsonl", tmp_path).classes) == 2
    (tmp_path / "set.jsonl").write_bytes(b'\n{"file":"a.png"}\n[1]\n')
    with pytest.raises(ValueError, match="line 3 is list"):
        opened(tmp_path / "set.jsonl", tmp_path)


def test_line_numbers_are_those_of_editors(tmp_path):
    root = folder_of(tmp_path / "a", classes=("",), each=2)
    (root / "labels.csv").write_text('file,text,label\n0.png,"two\nlines",a\n\n1.png,,\n')
    with pytest.raises(ValueError, match="line 5: file or label is missing"):
        opened(root, tmp_path)


def test_a_cell_holds_as_many_tokens_as_text_encoders_give(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    tokens = np.random.default_rng(0).normal(size=(77, 768)).round(4)
    with open(tmp_path / "set.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "tokens"), ("a.png", json.dumps(tokens.tolist()))])
    before = csv.field_size_limit()
    prepare_data(str(tmp_path / "set.csv"), tmp_path / "data", WHOLE, workers=1)
    assert csv.field_size_limit() == before
    value = PreparedDataset(tmp_path / "data").conditions_of(np.array([0])).values["tokens"]
    torch.testing.assert_close(value[0], torch.from_numpy(tokens).float())


@pytest.mark.parametrize("named", [True, False])
def test_an_interrupted_call_goes_on_with_the_same_rows_alone(tmp_path, named):
    root = tmp_path / "arrays"
    root.mkdir()
    for row in range(4):
        np.savez(root / f"{row}.npz", a=np.zeros((2, 8), np.float32), b=np.ones((2, 8), np.float32))
    (root / "3.npz").write_bytes(b"PK")

    def prepare(what, folder, **options):
        source = str(what) if named else opened(what, tmp_path, **options)
        options = SourceOptions(**options) if named else None
        prepare_data(source, folder, Fit(resolution=None), options=options, workers=1, shard=2)

    with pytest.raises(BrokenPictureError):
        prepare(root, tmp_path / "data", image_column="a")
    with pytest.raises(ValueError, match="image_column: 'a' -> 'b'"):
        prepare(root, tmp_path / "data", image_column="b")
    files = {f"{split}/{row}.png": PNG for split in ("train", "val") for row in range(4)}
    splits = tar_of(tmp_path / "a.tar", {**files, "train/3.png": b"broken"})
    with pytest.raises(BrokenPictureError):
        prepare(splits, tmp_path / "pixels", split="train", no_labels=True)
    with pytest.raises(ValueError, match="split: 'train' -> 'val'"):
        prepare(splits, tmp_path / "pixels", split="val", no_labels=True)
    with pytest.raises(ValueError, match="limit: None -> 3"):
        prepare(splits, tmp_path / "pixels", split="train", no_labels=True, limit=3)


def test_a_source_that_is_opened_takes_what_is_missing_as_absent(tmp_path):
    files = {"a.png": PNG, "b.png": PNG, "a.json": b'{"age": 3}'}
    source = opened(tar_of(tmp_path / "a.tar", files), tmp_path, conditions=("age",), allow_missing=True)
    assert prepare_data(source, tmp_path / "data", WHOLE, workers=1).rows == 2


def test_a_column_of_files_is_none_of_the_arrays_in_them(tmp_path):
    np.savez(tmp_path / "x.npz", v=np.zeros((2, 8), np.float32))
    (tmp_path / "set.csv").write_text("label,place\n0,x.npz\n")
    options = SourceOptions(image_column="place")
    data = prepare_data(str(tmp_path / "set.csv"), tmp_path / "data", Fit(resolution=None), options=options, workers=1)
    assert data.rows == 1
    assert open_images(str(tmp_path / "set.csv"), column="place").arrays


def test_values_of_conditions_in_parquet_come_with_their_rows(tmp_path, monkeypatch):
    tokens = [np.full((1 + row % 3, 4), row, np.float32) for row in range(9)]
    table = {"image": [PNG] * 9, "words": [one.tolist() for one in tokens]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet", row_group_size=4)
    with monkeypatch.context() as patch:
        patch.setattr("unitgain.data.sources.parquet._read", None)
        source = opened(tmp_path / "a.parquet", tmp_path, conditions=("words",))  # nothing is read yet
    assert [len(item.conditions[0].get()) for item in source.read(3)] == [1, 2, 3, 1, 2, 3]
    options = SourceOptions(conditions=("words",))
    prepare_data(str(tmp_path / "a.parquet"), tmp_path / "data", WHOLE, options=options, shard=2)
    told = PreparedDataset(tmp_path / "data").conditions_of(np.arange(9))
    for row, value in enumerate(tokens):
        assert np.array_equal(told.values["words"][row, : len(value)].numpy(), value)


@pytest.mark.parametrize("struct", [False, True])
def test_tables_of_paths_are_measured(tmp_path, struct):
    for name, kind in (("a.png", "PNG"), ("b.JPG", "JPEG")):
        (tmp_path / name).write_bytes(encoded(picture(1, 8, 8), kind))
    names = ["a.png", "b.JPG", "b.JPG"]
    column = [{"bytes": None, "path": name} for name in names] if struct else names
    if struct:
        column += [{"bytes": (tmp_path / "b.JPG").read_bytes(), "path": "gone.png"}]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()}) if struct else pa.string()
    pq.write_table(pa.table({"image": pa.array(column, kind)}), tmp_path / "paths.parquet")
    images = open_images(str(tmp_path / "paths.parquet"))
    assert images.source.formats == {"jpeg": 2 + struct, "other": 1}
    assert sum(len(batch) for batch in images.batches(range(len(images)))) == len(column)


def test_one_set_has_no_splits_to_measure():
    with pytest.raises(ValueError, match="split 'test'"):
        open_images("digits", split="test")
    with pytest.raises(ValueError, match="image column 'x'"):
        open_images("digits", column="x")
