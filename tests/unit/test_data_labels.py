"""Classes that sources give their pictures: by name, whatever the order, and never by what only looks like it."""

import io
import json
import os
import re
import tarfile
import zipfile

import datasets
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import encoded, picture

from unitgain.data.sources import SourceOptions, open_source

PICTURE = encoded(picture(0, 8, 8))
NAMES = ("cat", "dog")


def told(what, scratch, **options):
    """The names of the classes of all pictures, in order."""
    source = open_source(str(what), scratch, SourceOptions(**options))
    items = list(source.read())
    assert None not in [item.label for item in items]
    return [source.classes[item.label] for item in items]


def refused(words, what, scratch, **options):
    with pytest.raises(ValueError, match=words):
        open_source(str(what), scratch, SourceOptions(**options))


def folder(root, *names, **tables):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PICTURE)
    return root


def official(path, labels, classes=None):
    about = {"labels": labels} | ({} if classes is None else {"classes": classes})
    path.write_text(json.dumps(about))
    return path


def rows_of(labels, names=None):
    features = {"image": datasets.Image(), "label": datasets.Value("int64")}
    if names:
        features["label"] = datasets.ClassLabel(names=list(names))
    rows = {"image": [{"bytes": PICTURE, "path": None}] * len(labels), "label": labels}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def parquet(path, labels, names=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows_of(labels, names).to_parquet(path)
    return path


def saved(root, labels, names):
    rows_of(labels, names).save_to_disk(root / "set")
    return root / "set"


def streamed(root, labels, names):
    parquet(root / "set" / "train-00000-of-00001.parquet", labels, names)
    return f"hub:{root / 'set'}"


def in_folder(root, labels, names):
    folder(root / "set", "0.png", "1.png")
    official(root / "set" / "dataset.json", [[f"{row}.png", label] for row, label in enumerate(labels)], names)
    return root / "set"


def in_zip(root, labels, names):
    in_folder(root, labels, names)
    with zipfile.ZipFile(root / "set.zip", "w") as archive:
        for path in sorted((root / "set").iterdir()):
            archive.write(path, path.name)
    return root / "set.zip"


@pytest.mark.parametrize(
    "make", [lambda root, *rest: parquet(root / "a.parquet", *rest), saved, streamed, in_folder, in_zip]
)
def test_classes_that_data_name_keep_their_names_in_any_order(tmp_path, make):
    what = make(tmp_path, [0, 1], NAMES)
    for given in (None, ("dog", "cat"), ("eel", "dog", "ape", "cat")):
        source = open_source(str(what), tmp_path, SourceOptions(classes=given))
        assert source.classes == (given or NAMES)
        assert told(what, tmp_path, classes=given) == ["cat", "dog"]
    refused("has the class 'dog', which is none of the 2 of --classes", what, tmp_path, classes=("cat", "eel"))


@pytest.mark.parametrize("make", [lambda root, *rest: parquet(root / "a.parquet", *rest), saved])
def test_fingerprints_tell_what_numbers_stand_for(tmp_path, make):
    """Data that were prepared with other labels are not taken for these."""
    found = set()
    for place, names in (("a", NAMES), ("b", NAMES[::-1])):
        what = make(tmp_path / place, [0, 1], names)
        for path in (tmp_path / place).rglob("*.*"):
            os.utime(path, (10**9, 10**9))
        found.add(open_source(str(what), tmp_path, SourceOptions(classes=NAMES)).fingerprint)
    assert len(found) == 2


def test_classes_that_data_name_by_their_numbers_alone_can_be_named(tmp_path):
    what = parquet(tmp_path / "a.parquet", [1, 0], ("0", "1"))
    assert told(what, tmp_path, classes=("zero", "one")) == ["one", "zero"]
    assert told(what, tmp_path, classes=("1", "0")) == ["1", "0"]


def test_classes_that_are_numbers_are_found_by_name(tmp_path):
    folder(tmp_path, "0.png", "1.png")
    table = tmp_path / "t.csv"
    for labels in ((0, 1), (3, 5)):
        table.write_text("file,label\n0.png,{}\n1.png,{}\n".format(*labels))
        for given in (labels, labels[::-1]):
            assert told(table, tmp_path, classes=tuple(map(str, given))) == [str(label) for label in labels]
    refused(r"0.png has label '3', but classes are named \['0', '1'\]", table, tmp_path, classes=("0", "1"))
    assert told(parquet(tmp_path / "a.parquet", [1, 0]), tmp_path, classes=("1", "0")) == ["1", "0"]
    assert told(parquet(tmp_path / "a.parquet", [1, 0]), tmp_path, classes=NAMES) == ["dog", "cat"]


def test_files_of_labels_number_their_own_classes(tmp_path):
    folder(tmp_path, "a/0.png", "b/0.png", "c/0.png")
    official(tmp_path / "a" / "dataset.json", [["0.png", 0]], ["cat", "dog"])
    official(tmp_path / "b" / "dataset.json", [["0.png", 0]], ["dog", "cat"])
    (tmp_path / "c" / "labels.csv").write_text("file,label\n0.png,dog\n")
    assert told(tmp_path, tmp_path) == ["cat", "dog", "dog"]
    (tmp_path / "c" / "labels.csv").write_text("file,label\n0.png,1\n")
    refused(r"c/labels.csv has the label 1, .* number them differently", tmp_path, tmp_path)
    official(tmp_path / "b" / "dataset.json", [["0.png", 0]], ["cat", "dog"])
    assert told(tmp_path, tmp_path) == ["cat", "cat", "dog"]
    (tmp_path / "c" / "labels.csv").write_text("file,label\n0.png,7\n")
    refused("c/labels.csv has the label 7, which is none of the 2 classes", tmp_path, tmp_path)


def test_manifests_of_drawn_images_number_their_own_classes(tmp_path):
    for run, names in (("one", ["cat", "dog"]), ("two", ["rose", "tulip"])):
        folder(tmp_path, f"{run}/0.png")
        images = {"format": "unitgain-images/1", "classes": names, "images": [{"file": "0.png", "class": 1}]}
        (tmp_path / run / "manifest.json").write_text(json.dumps(images))
    assert told(tmp_path, tmp_path) == ["dog", "tulip"]


def test_files_of_a_parquet_set_number_their_own_classes(tmp_path):
    parquet(tmp_path / "0.parquet", [0])
    parquet(tmp_path / "1.parquet", [0], ("dog", "cat"))
    assert told(tmp_path, tmp_path) == ["dog", "dog"]
    parquet(tmp_path / "0.parquet", [0], NAMES)
    assert told(tmp_path, tmp_path) == ["cat", "dog"]


def test_rows_of_another_split_need_no_class(tmp_path):
    table = rows_of([0, 1, -1], NAMES).add_column("split", ["train", "train", "test"])
    table.to_parquet(tmp_path / "a.parquet")
    table.save_to_disk(tmp_path / "set")
    for what in (tmp_path / "a.parquet", tmp_path / "set"):
        assert told(what, tmp_path, split="train") == ["cat", "dog"]
        refused("has the label -1, which is none of the 2 classes", what, tmp_path, split="all")


def test_a_named_file_of_labels_names_its_classes(tmp_path):
    folder(tmp_path / "set", "0.png", "1.png")
    labels = official(tmp_path / "labels.json", [["0.png", 1], ["1.png", 0]], NAMES)
    assert told(tmp_path / "set", tmp_path, labels=labels) == ["dog", "cat"]
    assert told(tmp_path / "set", tmp_path, labels=labels, classes=("dog", "cat")) == ["dog", "cat"]


def test_numbers_and_names_of_one_set_are_no_classes_together(tmp_path):
    parquet(tmp_path / "p" / "a.parquet", [0])
    pq.write_table(pa.table({"image": [PICTURE], "label": ["cat"]}), tmp_path / "p" / "b.parquet")
    refused("a.parquet/000000000 has the number 0 .* b.parquet/000000001 the name 'cat'", tmp_path / "p", tmp_path)
    for name, labels in (("a", [0]), ("b", ["cat"])):
        (tmp_path / "s").mkdir(exist_ok=True)
        np.savez(tmp_path / "s" / f"{name}.npz", x=np.zeros((1, 3, 8, 8), np.uint8), y=np.array(labels))
    refused("a.npz/000000000 has the number 0 .* b.npz/000000000", tmp_path / "s", tmp_path, stacked=True)
    folder(tmp_path / "f", "a/0.png", "b/0.png")
    (tmp_path / "f" / "b" / "labels.csv").write_text("file,label\n0.png,cat\n")
    for number in (0, "0"):
        official(tmp_path / "f" / "a" / "dataset.json", [["0.png", number]])
        if number:
            (tmp_path / "f" / "a" / "dataset.json").unlink()
            (tmp_path / "f" / "a" / "labels.csv").write_text("file,label\n0.png,0\n")
        words = r"files of labels \(a/\w+.\w+, b/labels.csv\): a/0.png has the number 0 .* b/0.png the name 'cat'"
        refused(words, tmp_path / "f", tmp_path)


MEMBERS = {
    "a later member counts": (
        [("x.png", PICTURE), ("x.cls", "0"), ("y.png", PICTURE), ("y.cls", "0"), ("x.png", PICTURE), ("x.cls", "1")],
        {"x.png": "1", "y.png": "0"},
    ),
    "whole names come first": (
        [
            *(("photo.2021.01.png", PICTURE), ("photo.2021.01.json", '{"label": "cat", "age": 1}')),
            *(("photo.2021.02.png", PICTURE), ("photo.2021.02.json", '{"label": "dog", "age": 2}')),
        ],
        {"photo.2021.01.png": "cat", "photo.2021.02.png": "dog"},
    ),
    "of volumes too": (
        [("a.1.nii.gz", b""), ("a.1.cls", "cat"), ("a.2.nii.gz", b""), ("a.2.cls", "dog")],
        {"a.1.nii.gz": "cat", "a.2.nii.gz": "dog"},
    ),
    "samples share names up to the first dot": (
        [
            ("x.meta.json", '{"label": "cat"}'),
            ("x.left.png", PICTURE),
            ("y.png", PICTURE),
            ("y.meta.json", '{"cls": "eel"}'),
        ],
        {"x.left.png": "cat", "y.png": "eel"},
    ),
    "two that agree": (
        [("x.png", PICTURE), ("x.cls", "7"), ("x.json", '{"label": 7}')],
        {"x.png": "7"},
    ),
    "the first key that is not null": (
        [("x.png", PICTURE), ("x.json", '{"label": null, "class": "cat", "cls": 3}')],
        {"x.png": "cat"},
    ),
    "what lies beside no picture": (
        [("x.png", PICTURE), ("x.cls", "cat"), ("names.json", '{"labels": ["cat", "dog"]}'), ("notes.cls", b"\xff")],
        {"x.png": "cat"},
    ),
}


def archive_of(path, members):
    """A tar archive of members, of which some may have one name."""
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            data = content if isinstance(content, bytes) else content.encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("case", MEMBERS)
def test_what_lies_beside_pictures_in_archives(tmp_path, case):
    members, expected = MEMBERS[case]
    source = open_source(str(archive_of(tmp_path / "a.tar", members)), tmp_path, SourceOptions())
    assert {item.key: source.classes[item.label] for item in source.read()} == expected


def test_conditions_beside_pictures_are_those_of_each(tmp_path):
    path = archive_of(tmp_path / "a.tar", MEMBERS["whole names come first"][0])
    source = open_source(str(path), tmp_path, SourceOptions(conditions=("age",)))
    assert [[cell.get() for cell in item.conditions] for item in source.read()] == [[1], [2]]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (
            [("x.cls", "1"), ("x.json", '{"label": 7}')],
            r"x.cls and x.json are both beside x.png, with the label '1' and 7",
        ),
        ([("x.json", '{"label": 3.0}')], r"x.png has label 3.0; one class per picture"),
        ([("x.json", '{"label": [1]}')], r"x.png has label \[1\]; one class per picture"),
        ([("x.json", '{"label": 1.5, "class": "cat"}')], "x.png has label 1.5; one class"),
        ([("x.cls", b"\xe4")], r"x.png has label b'\\xe4', which is no text in UTF-8"),
        ([("x.json", b'{"label": "\xe4"}')], "which is no text in UTF-8"),
    ],
)
def test_what_lies_beside_pictures_and_is_no_class_is_refused(tmp_path, members, words):
    path = archive_of(tmp_path / "a.tar", [("x.png", PICTURE), *members])
    refused(words, path, tmp_path)
    assert open_source(str(path), tmp_path, SourceOptions(no_labels=True)).classes is None


def test_one_of_two_labels_beside_a_picture_can_be_chosen(tmp_path):
    path = archive_of(
        tmp_path / "a.tar", [("x.png", PICTURE), ("x.cls", "1"), ("x.json", '{"name": "cat", "label": 7}')]
    )
    assert [told(path, tmp_path, label_column=key) for key in ("cls", "label", "name")] == [["1"], ["7"], ["cat"]]


def test_a_name_alone_is_that_of_one_picture(tmp_path):
    for other in ("sub/m.png", "a/m.png"):
        root = folder(tmp_path / other[0], "m.png", other)
        (root / "labels.csv").write_text("file,label\nm.png,1\n")
        refused("m.png may be .*m.png or .*m.png: give the paths of files", root, tmp_path)


def test_blank_labels_are_missing(tmp_path):
    folder(tmp_path, "0.png", "1.png")
    (tmp_path / "labels.csv").write_text("file,label\n0.png, \n1.png,dog\n")
    refused("line 2: file or label is missing", tmp_path, tmp_path)
    (tmp_path / "labels.csv").unlink()
    official(tmp_path / "dataset.json", [["0.png", " "], ["1.png", "dog"]])
    refused("1 of 2 pictures have no label", tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (["a", "a"], "classes 0 and 1 are both called 'a': rename one"),
        (["a", None], "a list of their names is expected"),
        ({"a": 0}, "a list of their names is expected"),
        ("ab", "a list of their names is expected"),
        (["\ud800", "b"], "no text in Unicode"),
    ],
)
def test_names_of_classes_that_are_none_are_refused(tmp_path, classes, words):
    folder(tmp_path, "0.png", "1.png")
    path = official(tmp_path / "dataset.json", [["0.png", 0], ["1.png", 1]], classes)
    refused(f"{re.escape(str(path))}: .*{words}", tmp_path, tmp_path)


def test_classes_that_are_given_twice_are_refused(tmp_path):
    folder(tmp_path / "set", "a/0.png", "b/1.png")
    for what in (tmp_path / "set", parquet(tmp_path / "a.parquet", [0, 1])):
        refused("classes 0 and 2 are both called 'a'", what, tmp_path, classes=("a", "b", "a"))


def test_labels_that_cannot_be_written_or_read_are_refused(tmp_path):
    folder(tmp_path, "0.png", "1.png")
    official(tmp_path / "dataset.json", [["0.png", "\ud800"], ["1.png", "b"]])
    refused("no text in Unicode", tmp_path, tmp_path)
    (tmp_path / "dataset.json").unlink()
    (tmp_path / "labels.csv").write_text(f"file,label\n0.png,{'9' * 5000}\n1.png,1\n")
    refused("0.png has a label of 5,000 characters", tmp_path, tmp_path)
    (tmp_path / "labels.csv").write_text("file,label\n0.png,-1\n1.png,-1\n")
    refused("0.png has label -1, but classes are numbered from 0", tmp_path, tmp_path)


ROWS = np.zeros((2, 3, 8, 8), np.uint8)


def test_labels_of_arrays_that_are_no_text_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", ROWS)
    np.save(tmp_path / "labels.npy", np.array([b"a", b"\xff"]))
    words = r"no text in UTF-8, b'\\xff' in row 1"
    refused(f"labels.npy cannot be used: .*{words}", tmp_path / "x.npy", tmp_path, labels=tmp_path / "labels.npy")
    for kind in (np.array([b"a", b"\xff"]), np.array([b"a", b"\xff"], dtype=h5py.string_dtype())):
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file["x"], file["label"] = ROWS, kind
        refused(words, tmp_path / "x.h5", tmp_path)


def test_arrays_of_no_rows_and_labels_of_another_shape_are_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.float32(1)
    np.savez(tmp_path / "x.npz", x=np.float32(1))
    for name in ("x.h5", "x.npz"):
        refused(r"holds one array of shape \(\)", tmp_path / name, tmp_path)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"], file["label"] = ROWS, np.int64(1)
    refused(r"has labels int64 \(\); one class per array", tmp_path / "x.h5", tmp_path)
    np.save(tmp_path / "x.npy", ROWS)
    for labels, words in ((np.zeros((2, 2), int), r"int64 \(2, 2\)"), (np.array(["a", None]), "objects are not read")):
        np.save(tmp_path / "labels.npy", labels, allow_pickle=True)
        refused(f"labels.npy cannot be used: .*{words}", tmp_path / "x.npy", tmp_path, labels=tmp_path / "labels.npy")
    with pytest.raises(FileNotFoundError, match=r"no file of labels at .*none.npy"):
        open_source(str(tmp_path / "x.npy"), tmp_path, SourceOptions(labels=tmp_path / "none.npy"))
