"""Sets as other people and tools leave them: links, archives, splits, files of labels. Each with the right labels."""

import io
import json
import os
import tarfile
import unicodedata
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pictures import encoded, picture

from unitgain.data.fit import Fit, ImageError
from unitgain.data.prepare import prepare_data
from unitgain.data.sources import SourceOptions, open_source
from unitgain.data.sources.classes import is_series
from unitgain.data.sources.listing import companions, plain_path
from unitgain.draw.folder import ImageFolder

PNG = [encoded(picture(seed)) for seed in range(12)]


def opened(what, **options):
    return open_source(str(what), what.parent / "scratch", SourceOptions(**options))


def labelled(source):
    """Names and classes of all pictures."""
    labels = [None] * len(source) if source.labels is None else [source.classes[label] for label in source.labels]
    return dict(zip(source.keys, labels, strict=True))


def said(source):
    return "\n".join(source.notes)


def write(root, files):
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return root


def zipped(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files if isinstance(files, list) else files.items():
            archive.writestr(name, data)
    return path


def tar_bytes(files, links=(), mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files if isinstance(files, list) else files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target, kind in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    return buffer.getvalue()


# Links


def test_each_real_folder_is_visited_once(tmp_path):
    root = write(tmp_path / "set", {f"{name}/{index}.png": PNG[index] for name in ("cat", "dog") for index in range(2)})
    everything = labelled(opened(root))
    (root / "cat" / "up").symlink_to("..")
    (root / "cat" / "above").symlink_to(tmp_path)
    (root / "aaa").symlink_to("dog")  # sorts before what it leads to, which keeps its name
    source = opened(root)
    assert labelled(source) == everything
    assert "3 links lead to folders that are visited anyway and were left out: aaa, cat/above, cat/up" in said(source)


def links_out(place):
    """A folder with links that lead out of it, to folders, to a picture, to nothing; and one within it."""
    write(place / "store", {"eels/1.png": PNG[0]})
    root = write(place / "set", {"cat/1.png": PNG[1]})
    (root / "eel").symlink_to(place / "store" / "eels")
    (root / "fish").symlink_to(place / "store" / "eels")
    (root / "cat" / "2.png").symlink_to(place / "store" / "eels" / "1.png")
    (root / "cat" / "gone.png").symlink_to(place / "nowhere.png")
    return root


def test_links_out_of_the_folder_are_left_out_and_counted(tmp_path):
    root = links_out(tmp_path)
    (root / "cat" / "3.png").symlink_to("1.png")  # within
    (tmp_path / "way").symlink_to(root)  # what the user names may be a link
    (root / "dataset.json").symlink_to(tmp_path / "labels.json")
    (tmp_path / "labels.json").write_text('{"labels": [["cat/1.png", 5], ["cat/3.png", 6]]}')
    for place in (root, tmp_path / "way"):
        source = opened(place)
        assert labelled(source) == {"cat/1.png": "cat", "cat/3.png": "cat"}
        assert "5 links lead out of the folder and were not followed" in said(source)
        assert [item.load() for item in source.read()] == [PNG[1], PNG[1]]


def test_a_folder_of_links_out_of_it_says_so(tmp_path):
    write(tmp_path / "store", {"1.png": PNG[0]})
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "1.png").symlink_to(tmp_path / "store" / "1.png")
    with pytest.raises(ValueError, match=r"1 links lead out of the folder .*--follow-links.*: 1.png"):
        opened(tmp_path / "set")
    assert len(opened(tmp_path / "set", follow_links=True)) == 1


def test_links_out_of_the_folder_are_followed_once_where_that_is_asked_for(tmp_path):
    source = opened(links_out(tmp_path), follow_links=True)
    assert labelled(source) == {"cat/1.png": "cat", "cat/2.png": "cat", "cat/gone.png": "cat", "eel/1.png": "eel"}
    assert "fish" in said(source)
    first, second, lost, last = source.read()
    assert [item.load() for item in (first, second, last)] == [PNG[1], PNG[0], PNG[0]]
    with pytest.raises(ImageError, match="cannot be read"):
        lost.load()


def test_links_within_a_tar(tmp_path):
    sym, hard = tarfile.SYMTYPE, tarfile.LNKTYPE
    links = [
        ("dog/2.png", "../cat/1.png", sym),
        ("dog/3.png", "dog/2.png", hard),
        ("dog/4.png", "../../etc/x.png", sym),
        ("dog/5.png", "/etc/passwd", sym),
        ("dog/6.png", "7.png", sym),
        ("dog/7.png", "6.png", sym),
        ("kitten", "cat", sym),
    ]
    (tmp_path / "a.tar").write_bytes(tar_bytes({"cat/1.png": PNG[0], "dog/1.png": PNG[1]}, links))
    source = opened(tmp_path / "a.tar")
    assert labelled(source) == {"cat/1.png": "cat", "dog/1.png": "dog", "dog/2.png": "dog", "dog/3.png": "dog"}
    assert [item.load() for item in source.read()] == [PNG[0], PNG[1], PNG[0], PNG[0]]
    assert "4 links lead to no picture in it and were left out: dog/4.png, dog/5.png, dog/6.png" in said(source)
    assert "1 links lead to folders, whose pictures are taken once: kitten" in said(source)


def test_links_within_a_zip(tmp_path):
    link, lost = zipfile.ZipInfo("dog/2.png"), zipfile.ZipInfo("dog/3.png")
    link.external_attr = lost.external_attr = 0o120777 << 16
    zipped(tmp_path / "a.zip", [("cat/1.png", PNG[0]), ("dog/1.png", PNG[1]), (link, "../cat/1.png"), (lost, "4.png")])
    source = opened(tmp_path / "a.zip")
    assert labelled(source) == {"cat/1.png": "cat", "dog/1.png": "dog", "dog/2.png": "dog"}
    assert [item.load() for item in source.read()] == [PNG[0], PNG[1], PNG[0]]
    assert "dog/3.png" in said(source)


# Archives from elsewhere


@pytest.mark.parametrize("kind", ["zip", "tar", "folder"])
def test_labels_below_one_top_folder(tmp_path, kind):
    labels = json.dumps({"labels": [[f"0000{i % 2}/{i}.png", 5 - i] for i in range(6)]}).encode()
    files = {f"mydata/0000{i % 2}/{i}.png": PNG[i] for i in range(6)} | {"mydata/dataset.json": labels}
    if kind == "zip":
        what = zipped(tmp_path / "a.zip", files)
    elif kind == "tar":
        (what := tmp_path / "a.tar").write_bytes(tar_bytes(files))
    else:
        what = write(tmp_path / "a", files)
    assert labelled(opened(what)) == {f"mydata/0000{i % 2}/{i}.png": str(5 - i) for i in range(6)}


def test_a_zip_of_windows(tmp_path):
    files = [(f"set\\{name}\\{i}.png", PNG[i]) for name in ("cat", "dog") for i in range(2)]
    source = opened(zipped(tmp_path / "a.zip", files))
    assert labelled(source) == {f"set/{name}/{i}.png": name for name in ("cat", "dog") for i in range(2)}
    assert [item.load() for item in source.read()] == [PNG[0], PNG[1], PNG[0], PNG[1]]
    labels = json.dumps({"labels": [["cat\\0.png", 3], ["cat\\1.png", 2], ["dog\\0.png", 1], ["dog\\1.png", 0]]})
    source = opened(zipped(tmp_path / "b.zip", [*files, ("set\\dataset.json", labels)]))
    assert list(labelled(source).values()) == ["3", "2", "1", "0"]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_odd_names_in_archives(tmp_path, kind):
    files = [
        ("./a/1.png", PNG[0]),
        ("../up/2.png", PNG[1]),
        ("a/../../3.png", PNG[1]),
        ("/b//4.png", PNG[2]),
        ("b/5.png", PNG[3]),
        ("b/5.png", PNG[4]),
        ("b/./5.png", PNG[5]),
        ("__MACOSX/b/._5.png", b"x"),
        ("c.zip", b"x"),
    ]
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        with pytest.warns(UserWarning, match="Duplicate"):
            zipped(path, files)
    else:
        path.write_bytes(tar_bytes(files))
    source = opened(path)
    assert labelled(source) == {"a/1.png": "a", "b/4.png": "b", "b/5.png": "b"}
    assert [item.load() for item in source.read()] == [PNG[0], PNG[2], PNG[5]]  # the last, as in unpacking
    assert "2 files lie outside by their names and were left out: ../up/2.png, a/../../3.png" in said(source)
    assert "2 files have the name of a later one, which takes their place: b/5.png, b/5.png" in said(source)
    assert "1 hidden files look like pictures and were left out: __MACOSX/b/._5.png" in said(source)
    assert "1 files are no pictures and were left out: c.zip" in said(source)


def test_paths_in_one_form():
    for raw, plain in (
        ("./a//b.png", "a/b.png"),
        ("\\a\\b", "a/b"),
        ("a/../b", "b"),
        ("..", None),
        ("a/../../b", None),
    ):
        assert plain_path(raw) == plain
    assert plain_path("a\\b", backslashes=False) == "a\\b"


def test_a_stray_archive_hides_no_pictures(tmp_path):
    root = write(tmp_path / "set", {f"{name}/{i}.png": PNG[i] for name in ("cat", "dog") for i in range(6)})
    write(root, {"dog/x.tar": tar_bytes({"1.png": PNG[0]}), "cat/x.parquet": b"PAR1"})
    source = opened(root)
    assert len(source) == 12
    assert "2 archives and tables lie beside the pictures and were left out: dog/x.tar, cat/x.parquet" in said(source)


def test_a_stray_picture_hides_no_archives(tmp_path):
    data = {f"{i}.png": PNG[i] for i in range(6)}
    root = write(tmp_path / "set", {f"{i}.tar": tar_bytes(data) for i in range(2)} | {"preview.png": PNG[0]})
    source = opened(root)
    assert len(source) == 12
    assert "1 pictures lie beside the tar archives and were left out: preview.png" in said(source)


def test_which_is_meant_is_asked(tmp_path):
    root = write(tmp_path / "set", {"a.tar": tar_bytes({f"{i}.png": PNG[i] for i in range(12)})})
    write(root, {"x/1.png": PNG[0], "x/2.png": PNG[1]})
    with pytest.raises(ValueError, match=r"2 pictures of .* bytes \(x/1.png\), 1 tar archives of .*: give the file"):
        opened(root)


def test_nothing_but_archives_that_cannot_be_read_is_said(tmp_path):
    root = write(tmp_path / "set", {"a.zip": b"x", "b.zip": b"x"})
    with pytest.raises(ValueError, match=r"holds no pictures .*: 2 files are no pictures and were left out: a.zip, b"):
        opened(root)


# Labels


ROWS = [("a/1.png", "eel"), ("a/2.png", "ape"), ("b/1.png", "eel")]


@pytest.mark.parametrize("label", ["label", "Category"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_metadata_of_image_folders(tmp_path, kind, label):
    rows = [("file_name", "text", label), *((name, "a, b", text) for name, text in ROWS)]
    if kind == "csv":
        text = "".join(f'{name},"{caption}",{text}\n' for name, caption, text in rows)
    else:
        text = "".join(json.dumps(dict(zip(rows[0], row, strict=True))) + "\n" for row in rows[1:])
    root = write(tmp_path / "set", {name: PNG[0] for name, _ in ROWS} | {f"metadata.{kind}": text})
    source = opened(root)
    assert labelled(source) == dict(ROWS)
    assert source.classes == ("ape", "eel")


def test_metadata_of_each_split(tmp_path):
    files = {f"{split}/{i}.png": PNG[i] for split in ("train", "test") for i in range(2)}
    files |= {f"{split}/metadata.csv": "file_name,label\n0.png,x\n1.png,y\n" for split in ("train", "test")}
    root = write(tmp_path / "set", files)
    assert labelled(opened(root, split="test")) == {"test/0.png": "x", "test/1.png": "y"}
    assert list(labelled(opened(root, split="all")).values()) == ["x", "y", "x", "y"]


def test_metadata_without_labels_leaves_them_to_the_folders(tmp_path):
    root = write(tmp_path / "set", {name: PNG[0] for name, _ in ROWS} | {"metadata.csv": "file_name,text\na/1.png,x\n"})
    source = opened(root)
    assert labelled(source) == {"a/1.png": "a", "a/2.png": "a", "b/1.png": "b"}
    assert "1 files hold no labels and were not used: metadata.csv" in said(source)
    write(root, {"metadata.csv": "file_name,text,breed\n" + "".join(f"{name},x,{text}\n" for name, text in ROWS)})
    assert labelled(opened(root, label_column="Breed")) == dict(ROWS)
    with pytest.raises(ValueError, match=r"labels .colour.; its columns are file_name, text, breed"):
        opened(root, label_column="colour")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"file_name": "a/1.png", "label": [1, 2]}', r"line 1: label \[1, 2\]; one class per picture"),
        ("[1]", "line 1 is list; expected an object"),
        ("{", "line 1 is no JSON"),
        ('{"file_name": "a/1.png", "label": 3}\n\n{"file_name": "a/2.png", "label": null}', "line 3: file or label"),
    ],
)
def test_metadata_that_makes_no_sense_is_refused(tmp_path, text, words):
    root = write(tmp_path / "set", {name: PNG[0] for name, _ in ROWS} | {"metadata.jsonl": text})
    with pytest.raises(ValueError, match=words):
        opened(root)


def test_files_of_labels_that_are_not_used_are_said(tmp_path):
    root = write(tmp_path / "set", {name: PNG[0] for name, _ in ROWS})
    rows = "".join(f"{name},{text}\n" for name, text in ROWS)
    write(root, {"labels.csv": f"file,label\n{rows}", "metadata.csv": f"file_name,label\n{rows}", "boxes.json": "{}"})
    source = opened(root)
    assert labelled(source) == dict(ROWS)
    assert "files of labels were not used: another beside them counts: metadata.csv" in said(source)
    assert "1 files may hold labels and were not used (--labels FILE): boxes.json" in said(source)
    assert "boxes.json" not in said(opened(root, labels=write(root, {"boxes.json": '{"labels": null}'}) / "boxes.json"))


def test_one_name_for_several_pictures_is_refused(tmp_path):
    root = write(tmp_path / "set", {"a/1.png": PNG[0], "b/1.png": PNG[1], "labels.csv": "file,label\n1.png,x\n"})
    with pytest.raises(ValueError, match=r"1.png may be a/1.png or b/1.png: give the paths"):
        opened(root)


def test_accents_match_however_they_are_composed(tmp_path):
    apart, whole = unicodedata.normalize("NFD", "café"), unicodedata.normalize("NFC", "café")
    assert apart != whole
    root = write(tmp_path / "set", {f"{apart}/1.png": PNG[0], f"{whole}/2.png": PNG[1], "tea/3.png": PNG[2]})
    assert opened(root).classes == (whole, "tea")
    write(root, {"labels.csv": f"file,label\n{whole}/1.png,{apart}\n{apart}/2.png,{whole}\ntea/3.png,tea\n"})
    source = opened(root, classes=("tea", apart))
    assert source.labels.tolist() == [1, 1, 0]


def test_splits_are_asked_for(tmp_path):
    files = {f"images/{split}/{name}/{i}.png": PNG[i] for split in ("train", "val") for name in "ab" for i in range(2)}
    for what in (write(tmp_path / "set", files), zipped(tmp_path / "set.zip", files)):
        with pytest.raises(ValueError, match=r"train \(4 pictures\), val \(4 pictures\): choose one with --split"):
            opened(what)
        with pytest.raises(ValueError, match="no folder of the split 'test'; it has train, val"):
            opened(what, split="test")
        source = opened(what, split="val")
        assert labelled(source) == {f"images/val/{name}/{i}.png": name for name in "ab" for i in range(2)}
        assert "4 pictures are of other splits and were left out" in said(source)
        assert set(labelled(opened(what, split="all")).values()) == {"a", "b"}


@pytest.mark.parametrize(
    ("folders", "split"),
    [
        (("trainA", "testA"), True),
        (("train2017", "val2017"), True),
        (("cat/train", "cat/test", "dog/train"), True),
        (("train", "bus"), False),
        (("test", "testing"), False),
        (("trainer", "tests"), False),
        (("photos-train", "photos-val"), True),
        (("training-shoes", "test-tubes", "cats"), False),
    ],
)
def test_what_is_a_split(tmp_path, folders, split):
    root = write(tmp_path / "set", {f"{folder}/x/1.png": PNG[0] for folder in folders})
    if split:
        with pytest.raises(ValueError, match="choose one with --split"):
            opened(root)
    else:
        assert opened(root).classes == tuple(sorted(folders))


def test_splits_of_files(tmp_path):
    table = pa.table({"image": PNG[:2], "label": [0, 1]})
    (tmp_path / "set").mkdir()
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        pq.write_table(table, tmp_path / "set" / f"{name}.parquet")
    with pytest.raises(ValueError, match=r"test \(1 files\), train \(2 files\): choose one with --split"):
        opened(tmp_path / "set")
    assert len(opened(tmp_path / "set", split="train")) == 4
    assert len(opened(tmp_path / "set", split="all")) == 6
    with pytest.raises(ValueError, match="none of 3 files is of the split 'valid'; it has test, train"):
        opened(tmp_path / "set", split="valid")


@pytest.mark.parametrize(
    ("names", "split", "rows"),
    [
        (("pqs/train/0000", "pqs/train/0001", "pqs/test/0000"), "train", 4),  # as the Hub converts sets
        (("pqs/partial-train/0000", "pqs/partial-test/0000"), "partial-test", 2),
        (("cifar10-train", "cifar10-test"), "test", 2),
        (("imagenet1k-train-0000", "imagenet1k-train-0001", "imagenet1k-validation-00"), "validation", 2),
        (("old/test/train-0", "old/test/train-1", "old/test/val-0"), "train", 4),
        (("train/train-0", "train/val-0"), "train", 2),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_splits_of_files_by_folders_and_words(tmp_path, names, split, rows, kind):
    """None goes into training without a question."""
    table = pa.table({"image": PNG[:2], "label": [0, 1]})
    for name in names:
        path = tmp_path / "set" / f"{name}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "parquet":
            pq.write_table(table, path)
        else:
            path.write_bytes(tar_bytes({f"{label}/1.png": PNG[0] for label in "ab"}))
    with pytest.raises(ValueError, match=rf"{split} \(\d files\).*: choose one with --split"):
        opened(tmp_path / "set")
    assert len(opened(tmp_path / "set", split=split)) == rows
    whole = opened(tmp_path / "set", split="all")
    assert len(whole) == 2 * len(names) and len(whole.classes) == 2
    assert set(whole.classes) == ({"0", "1"} if kind == "parquet" else {"a", "b"})


@pytest.mark.parametrize("names", [("trainer", "tests"), ("retrain", "test"), ("train-station", "bus"), ("a", "test")])
def test_archives_that_name_classes_are_no_splits(tmp_path, names):
    write(tmp_path / "set", {f"{name}.tar": tar_bytes({"1.png": PNG[0]}) for name in names})
    assert opened(tmp_path / "set").classes == tuple(sorted(names))


def test_splits_of_stacked_arrays(tmp_path):
    (tmp_path / "set").mkdir()
    for name, count in (("train", 3), ("test", 2)):
        np.save(tmp_path / "set" / f"{name}.npy", np.zeros((count, 1, 9), np.float32))
    with pytest.raises(ValueError, match=r"test \(1 files\), train \(1 files\): choose one with --split"):
        opened(tmp_path / "set", stacked=True)
    assert len(opened(tmp_path / "set", stacked=True, split="train")) == 3
    assert len(opened(tmp_path / "set", stacked=True, split="all")) == 5


def test_columns_ignore_case(tmp_path):
    pq.write_table(pa.table({"Image": PNG[:2], "Label": ["b", "a"], "other": PNG[:2]}), tmp_path / "a.parquet")
    assert list(labelled(opened(tmp_path / "a.parquet")).values()) == ["b", "a"]
    assert list(labelled(opened(tmp_path / "a.parquet", label_column="LABEL", image_column="OTHER")).values()) == [
        "b",
        "a",
    ]
    pq.write_table(pa.table({"image": PNG[:2], "label": [0, 1], "Label": ["b", "a"]}), tmp_path / "b.parquet")
    assert list(labelled(opened(tmp_path / "b.parquet", label_column="Label")).values()) == ["b", "a"]


def test_folders_that_other_tools_number_otherwise(tmp_path):
    root = write(tmp_path / "set", {f"{name}/x.png": PNG[0] for name in ("1", "2", "10")})
    (root / "3").mkdir()
    (root / ".cache").mkdir()
    source = opened(root)
    assert source.classes == ("1", "2", "10")
    assert "1 folders hold no pictures and are no classes, which other tools may count: 3" in said(source)
    assert "classes are in the order of their numbers, 1, 2, 10; as text it is 1, 10, 2" in said(source)
    assert opened(write(tmp_path / "two", {f"{i}/x.png": PNG[0] for i in range(2)})).notes == ()


# ImageNet's


def wnids():
    return {name: {f"{name}_{i}.JPEG": PNG[i] for i in range(2)} for name in ("n01440764", "n01443537", "n15075141")}


def test_a_folder_of_a_tar_per_class(tmp_path):
    root = write(tmp_path / "train", {f"{name}.tar": tar_bytes(files) for name, files in wnids().items()})
    source = opened(root)
    assert list(labelled(source).values()) == [name for name in wnids() for _ in range(2)]
    assert source.keys[0] == "n01440764.tar/n01440764_0.JPEG"
    assert "3 archives, n01440764 to n15075141, are taken for classes" in said(source)


def test_a_tar_of_tars(tmp_path):
    inner = {f"{name}.tar": tar_bytes(files) for name, files in wnids().items()}
    inner["packed.tar.gz"] = tar_bytes({"1.png": PNG[0]}, mode="w:gz")
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(inner))
    source = opened(tmp_path / "ILSVRC2012_img_train.tar")
    assert list(labelled(source).values()) == [name for name in wnids() for _ in range(2)]
    assert [item.load() for item in source.read()] == [PNG[0], PNG[1]] * 3
    assert "1 archives within archives were left out: unpack the outer one: packed.tar.gz" in said(source)


def test_shards_are_no_classes(tmp_path):
    root = write(tmp_path / "set", {f"train-{i:04d}.tar": tar_bytes({f"{i}.png": PNG[i]}) for i in range(3)})
    source = opened(root)
    assert source.classes is None
    assert "3 archives, train-0000 to train-0002, are taken for shards, not for classes" in said(source)
    for stems, series in (
        (["00000", "00001", "00003"], True),
        (["a-0-of-9", "a-1-of-9"], True),
        (["img64-0", "img64-1"], True),
        (["cat", "dog"], False),
        (["n01440764", "n01443537"], False),
    ):
        assert is_series(stems) == series


def test_the_user_says_what_archives_are(tmp_path):
    root = write(tmp_path / "years", {f"{year}.tar": tar_bytes({"1.png": PNG[0]}) for year in (1998, 1999, 2000)})
    source = opened(root, archives="classes")
    assert (source.classes, source.labels.tolist()) == (("1998", "1999", "2000"), [0, 1, 2])
    assert "shards" not in said(source)
    assert "--archives classes" in said(opened(root))
    inner = {f"{name}.tar": tar_bytes(files) for name, files in wnids().items()}
    (tmp_path / "all.tar").write_bytes(tar_bytes(inner))
    assert opened(tmp_path / "all.tar", archives="shards").classes is None


def test_masks_of_webdataset_are_no_pictures_to_train_on(tmp_path):
    files = {}
    for i in range(3):
        files |= {f"d/{i}.jpg": PNG[i], f"d/{i}.seg.png": PNG[5], f"d/{i}.mask.png": PNG[6], f"d/{i}.cls": b"%d" % i}
    (tmp_path / "a.tar").write_bytes(tar_bytes(files))
    source = opened(tmp_path / "a.tar")
    assert labelled(source) == {f"d/{i}.jpg": str(i) for i in range(3)}
    assert "6 files are further pictures of a sample, such as masks, and were left out: d/0.mask.png" in said(source)
    assert companions(["1.0.png", "1.1.png", "2.left.png", "2.right.png", "3.png", "3.2.png"]) == set()


# Our own


@pytest.mark.parametrize("labels", [True, False])
def test_what_sample_wrote_comes_back_with_its_labels(tmp_path, labels):
    folder, archive = (ImageFolder(tmp_path / name, {"network": {"name": "x"}}) for name in ("drawn", "drawn.zip"))
    classes = {seed: (7 * seed) % 3 if labels else None for seed in (0, 1, 2, 1000)}
    for seed, label in classes.items():
        for each in (folder, archive):
            each.write(seed, label, torch.full((3, 4, 4), seed % 256, dtype=torch.uint8))
    entries = folder.finish()
    assert archive.finish() == entries
    write(tmp_path / "drawn", {"grid.png": PNG[0]})
    expected = {entry["file"]: None if entry["class"] is None else str(entry["class"]) for entry in entries}
    for what in (tmp_path / "drawn", tmp_path / "drawn.zip"):
        assert labelled(opened(what)) == expected
        assert list(opened(what, no_labels=True).keys) == list(expected)


# Names that are not UTF-8


def test_a_name_that_is_not_utf8_stops_nothing(tmp_path):
    root = write(tmp_path / "set", {"tea/1.png": PNG[0]})
    os.mkdir(os.fsencode(root) + b"/caf\xe9")
    with open(os.fsencode(root) + b"/caf\xe9/\xff.png", "wb") as file:
        file.write(PNG[1])
    source = opened(root)
    assert labelled(source) == {"caf\\udce9/\\udcff.png": "caf\\udce9", "tea/1.png": "tea"}
    assert "1 names are not UTF-8 and are kept with escapes: caf\\udce9/\\udcff.png" in said(source)
    said(source).encode()
    notes = []
    manifest = prepare_data(str(root), tmp_path / "data", Fit(resolution=8), say=notes.append)
    assert (manifest.rows, manifest.classes) == (2, ("caf\\udce9", "tea"))
    (tmp_path / "a.tar").write_bytes(tar_bytes({"caf\udce9/1.png": PNG[0]}))
    assert labelled(opened(tmp_path / "a.tar")) == {"caf\\udce9/1.png": "caf\\udce9"}
