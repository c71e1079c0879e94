"""Every source gives the same pictures, labels and names, or says why not."""

import io
import json
import re
import shutil
import tarfile
import zipfile

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import encoded, folder_of, picture

from unitgain.data.fit import ImageError
from unitgain.data.sources import SourceOptions, open_source

CLASSES = ("cat", "dog", "eel")
FILES = {
    f"{name}/{index}.png": encoded(picture(10 * i + index)) for i, name in enumerate(CLASSES) for index in range(3)
}


def items(source):
    return [(item.load(), item.label) for item in source.read()]


def expected(labels=None):
    return [(data, index // 3 if labels is None else labels[index]) for index, data in enumerate(FILES.values())]


def write_folder(root):
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(path, files=FILES, labels=None, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        if labels is not None:
            archive.writestr("dataset.json", json.dumps({"labels": labels or None}))
    return path


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def opened(what, tmp_path, **options):
    return open_source(str(what), tmp_path / "scratch", SourceOptions(**options))


def test_a_folder(tmp_path):
    root = write_folder(tmp_path / "a")
    (root / "notes.txt").write_text("x")
    (root / ".DS_Store").write_text("x")
    source = opened(root, tmp_path)
    assert items(source) == expected()
    assert (source.classes, source.keys) == (CLASSES, list(FILES))
    assert source.notes == ("1 files are no pictures and were left out: notes.txt",)
    assert opened(root, tmp_path).fingerprint == source.fingerprint
    assert items(opened(root, tmp_path, limit=4)) == expected()[:4]
    plain = opened(root, tmp_path, no_labels=True)
    assert items(plain) == [(data, None) for data in FILES.values()]
    assert plain.classes is None
    (root / "cat" / "0.png").write_bytes(b"changed")
    assert opened(root, tmp_path).fingerprint != source.fingerprint


def test_folders_named_by_numbers_are_in_their_order(tmp_path):
    root = folder_of(tmp_path / "a", classes=("10", "9", "2"), each=1)
    source = opened(root, tmp_path)
    assert source.classes == ("2", "9", "10")
    assert dict(zip(source.keys, source.labels.tolist(), strict=True)) == {"10/0.png": 2, "2/0.png": 0, "9/0.png": 1}


def test_folders_around_all_are_passed_over(tmp_path):
    write_folder(tmp_path / "a" / "train" / "images")
    assert opened(tmp_path / "a", tmp_path).classes == CLASSES


def test_labels_from_files(tmp_path):
    root = write_folder(tmp_path / "a")
    labels = [8 - index for index in range(9)]
    (root / "dataset.json").write_text(json.dumps({"labels": list(zip(FILES, labels, strict=True))}))
    source = opened(root, tmp_path)
    assert items(source) == expected(labels)
    assert source.classes == tuple(map(str, range(9)))
    assert source.notes == ()
    table = tmp_path / "table.csv"
    table.write_text("filename,weight,class\n" + "".join(f"{name},1,{'ab'[i % 2]}\n" for i, name in enumerate(FILES)))
    source = opened(root, tmp_path, labels=table)
    assert items(source) == expected([i % 2 for i in range(9)])
    assert source.classes == ("a", "b")
    table.write_text("file,label\n" + "".join(f"{name},{i % 2}\n" for i, name in enumerate(FILES)) + "gone.png,1\n")
    source = opened(root, tmp_path, labels=table, classes=("no", "yes"))
    assert source.classes == ("no", "yes")
    assert "1 labels of" in source.notes[0]
    (root / "dataset.json").write_text('{"labels": null}')
    assert opened(root, tmp_path).classes is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "needs a header with a column of files"),
        ("file,label\ncat/0.png,\n", "line 2: file or label is missing"),
        ("file,label\nother.png,1\n", "names none of the pictures"),
        ("file,label\ncat/0.png,1\n", "8 of 9 pictures have no label, the first is cat/1.png"),
        ("file,label\n" + "".join(f"{name},-1\n" for name in FILES), "has label -1, but classes are numbered"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, text, words):
    root = write_folder(tmp_path / "a")
    (root / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        opened(root, tmp_path)


def test_labels_of_another_form_are_refused(tmp_path):
    root = write_folder(tmp_path / "a")
    for text in ("{}", "[1]", "nonsense", '{"labels": [["cat/0.png", [0.5, 0.5]]]}'):
        (root / "dataset.json").write_text(text)
        with pytest.raises(ValueError, match=r"dataset\.json"):
            opened(root, tmp_path)


def test_pictures_beside_folders_are_refused(tmp_path):
    root = write_folder(tmp_path / "a")
    (root / "stray.png").write_bytes(FILES["cat/0.png"])
    with pytest.raises(ValueError, match=r"9 pictures lie in folders.* 1 lie beside them .stray.png"):
        opened(root, tmp_path)
    assert len(opened(root, tmp_path, no_labels=True)) == 10


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip(tmp_path, compression):
    source = opened(write_zip(tmp_path / "a.zip", compression=compression), tmp_path)
    assert items(source) == expected()
    assert source.classes == CLASSES


def test_a_zip_of_the_official_kind(tmp_path):
    labels = [[name, index % 4] for index, name in enumerate(FILES)]
    source = opened(write_zip(tmp_path / "a.zip", labels=labels), tmp_path)
    assert items(source) == expected([index % 4 for index in range(9)])
    assert source.classes == ("0", "1", "2", "3")
    assert opened(write_zip(tmp_path / "b.zip", labels=[]), tmp_path).classes is None


def test_tars(tmp_path):
    source = opened(write_tar(tmp_path / "a.tar", FILES), tmp_path)
    assert items(source) == expected()
    assert source.classes == CLASSES
    for kind in ("gz", "bz2", "xz"):
        packed = opened(write_tar(tmp_path / f"a.tar.{kind}", FILES, f"w:{kind}"), tmp_path)
        assert items(packed) == expected()


def test_webdataset_shards(tmp_path):
    root = tmp_path / "shards"
    root.mkdir()
    data = list(FILES.values())
    for shard in range(3):
        files = {}
        for index in range(3):
            files |= {
                f"{index:06d}.jpg": data[3 * shard + index],
                f"{index:06d}.cls": str((shard + index) % 3).encode(),
            }
        write_tar(root / f"train-{shard:04d}.tar", files)
    source = opened(root, tmp_path)
    assert items(source) == expected([0, 1, 2, 1, 2, 0, 2, 0, 1])
    assert source.keys[3] == "train-0001.tar/000000.jpg"
    described = {"1.png": data[0], "1.json": b'{"caption": "a", "label": "zebra"}', "2.png": data[1]}
    with pytest.raises(ValueError, match="1 of 2 pictures have no label"):
        opened(write_tar(tmp_path / "b.tar", described), tmp_path)
    described["2.json"] = b'{"label": "ape"}'
    assert opened(write_tar(tmp_path / "c.tar", described), tmp_path).classes == ("ape", "zebra")


def table(labels):
    return {"image": [{"bytes": data, "path": None} for data in FILES.values()], "label": labels}


def saved_features():
    return datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})


def test_parquet(tmp_path):
    numbers = [index // 3 for index in range(9)]
    rows = datasets.Dataset.from_dict(table(numbers), features=saved_features())
    rows.to_parquet(tmp_path / "a.parquet")
    source = opened(tmp_path / "a.parquet", tmp_path)
    assert items(source) == expected()
    assert source.classes == CLASSES
    (tmp_path / "many").mkdir()
    plain = pa.table({"jpg": list(FILES.values()), "category": [CLASSES[index] for index in numbers]})
    for part in range(3):
        pq.write_table(plain.slice(3 * part, 3), tmp_path / "many" / f"{part}.parquet", row_group_size=2)
    source = opened(tmp_path / "many", tmp_path)
    assert items(source) == expected()
    assert source.classes == CLASSES
    with pytest.raises(ValueError, match=r"no column 'x'.*; its columns are jpg, category"):
        opened(tmp_path / "many", tmp_path, image_column="x")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="no column of encoded pictures; its columns are a"):
        opened(tmp_path / "b.parquet", tmp_path)


def test_labels_of_parquet_may_be_categories(tmp_path):
    """As pandas writes them."""
    numbers = [index // 3 for index in range(9)]
    names = pa.array([CLASSES[index] for index in numbers]).dictionary_encode()
    for part in range(3):
        rows = {"image": list(FILES.values())[3 * part :][:3], "label": names[3 * part :][:3]}
        pq.write_table(pa.table(rows), tmp_path / f"{part}.parquet")
    source = opened(tmp_path, tmp_path)
    assert items(source) == expected()
    assert source.classes == CLASSES


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"label": [["dog"]]}, "1.parquet: the labels in 'label' are list"),
        ({"label": [1.5]}, "1.parquet: the labels in 'label' are double"),
        ({"kind": ["dog"]}, "1.parquet has no column 'label', which files before it have"),
        ({"label": ["dog"], "image": None}, "1.parquet has no column 'image'"),
    ],
)
def test_files_of_a_parquet_set_have_the_columns_of_the_first(tmp_path, second, words):
    picture = next(iter(FILES.values()))
    pq.write_table(pa.table({"image": [picture], "label": ["dog"]}), tmp_path / "0.parquet")
    rows = {"image": [picture], **second}
    pq.write_table(pa.table({name: value for name, value in rows.items() if value is not None}), tmp_path / "1.parquet")
    with pytest.raises(ValueError, match=re.escape(words)):
        opened(tmp_path, tmp_path)


def test_a_directory_of_datasets(tmp_path):
    numbers = [index // 3 for index in range(9)]
    rows = datasets.Dataset.from_dict(table(numbers), features=saved_features())
    rows.save_to_disk(tmp_path / "a")
    source = opened(tmp_path / "a", tmp_path)
    assert items(source) == expected()
    assert source.classes == CLASSES
    datasets.DatasetDict({"train": rows, "test": rows.select([4])}).save_to_disk(tmp_path / "b")
    assert len(opened(tmp_path / "b", tmp_path)) == 9
    assert items(opened(tmp_path / "b", tmp_path, split="test")) == expected()[4:5]
    with pytest.raises(ValueError, match="has the splits train, test: choose one"):
        opened(tmp_path / "b", tmp_path, split="valid")


def test_files_of_a_directory_of_datasets_have_the_types_of_the_first(tmp_path):
    pictures = [{"bytes": data, "path": None} for data in FILES.values()][:2]
    for name, label in (("a", [0, 1]), ("b", [[0], [1]])):
        datasets.Dataset.from_dict({"image": pictures, "label": label}).save_to_disk(tmp_path / name)
    state = json.loads((tmp_path / "a" / "state.json").read_text())
    other = json.loads((tmp_path / "b" / "state.json").read_text())["_data_files"][0]["filename"]
    shutil.copy(tmp_path / "b" / other, tmp_path / "a" / "other.arrow")
    state["_data_files"].append({"filename": "other.arrow"})
    (tmp_path / "a" / "state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match=r"other\.arrow is damaged: columns image, label are of other types"):
        opened(tmp_path / "a", tmp_path)


def test_a_stream_of_the_hub(tmp_path):
    """A local folder stands for a repository; the library reads both alike."""
    rows = datasets.Dataset.from_dict(table([index // 3 for index in range(9)]), features=saved_features())
    (tmp_path / "set").mkdir()
    rows.to_parquet(tmp_path / "set" / "train-00000-of-00001.parquet")
    source = opened(f"hub:{tmp_path / 'set'}", tmp_path)
    assert items(source) == expected()
    assert source.classes == CLASSES
    assert [item.key for item in source.read(7)] == ["train/000000007", "train/000000008"]
    assert items(opened(f"hub:{tmp_path / 'set'}", tmp_path, limit=2)) == expected()[:2]
    plain = pa.table({"image": list(FILES.values()), "label": [CLASSES[index // 3] for index in range(9)]})
    (tmp_path / "text").mkdir()
    pq.write_table(plain, tmp_path / "text" / "train.parquet")
    with pytest.raises(ValueError, match="a stream cannot number them before it ends: give --classes"):
        opened(f"hub:{tmp_path / 'text'}", tmp_path)
    assert items(opened(f"hub:{tmp_path / 'text'}", tmp_path, classes=CLASSES)) == expected()


def test_what_cannot_be_read_is_an_item_all_the_same(tmp_path):
    root = write_folder(tmp_path / "a")
    source = opened(root, tmp_path)
    (root / "dog" / "1.png").unlink()
    for index, item in enumerate(source.read()):
        if index == 4:
            with pytest.raises(ImageError, match="cannot be read"):
                item.load()
        else:
            assert item.load() == FILES[item.key]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.zip", b"PK\3\4 and no more", "no whole zip archive"),
        ("a.tar", b"x" * 2000, "no whole tar archive"),
        ("a.tar.gz", b"\x1f\x8b\x08 and no more", "cannot be unpacked"),
        ("a.parquet", b"PAR1 and no more", "no whole parquet file"),
        ("a.bin", b"what is this\0", "is no source of images: expected a folder"),
        ("a.txt", b"what is this", "is no source of images: it is text; expected a folder"),
        ("a.jpeg", b"<!DOCTYPE html><html>404</html>", "is no source of images: it is an HTML page"),
        ("a.zip.lfs", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        opened(tmp_path / name, tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="hub:org/name"):
        opened(tmp_path / "nowhere", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        opened(tmp_path / "empty", tmp_path)
    with pytest.raises(ValueError, match="at least 1 image"):
        opened(tmp_path / "empty", tmp_path, limit=0)


def test_labels_that_are_far_apart_are_numbered(tmp_path):
    """Labels as numbers are taken as they are, unless that would name very many classes for nothing."""
    root = write_folder(tmp_path / "a")
    names = [str(path.relative_to(root)) for path in sorted(root.rglob("*.png"))]
    values = [2024000123, 7, 10**30]
    rows = [[name, values[index % 3]] for index, name in enumerate(names)]
    (root / "dataset.json").write_text(json.dumps({"labels": rows}))
    source = opened(root, tmp_path)
    assert source.classes == ("7", "2024000123", str(10**30))
    assert source.labels.tolist() == [[1, 0, 2][index % 3] for index in range(len(names))]
    assert any(f"far apart, 7 to {10**30}: the 3 that are there" in note for note in source.notes)
    (root / "dataset.json").write_text(json.dumps({"labels": [[name, 99_999] for name in names]}))
    assert len(opened(root, tmp_path).classes) == 100_000
    (root / "dataset.json").write_text(
        json.dumps({"labels": [[name, -index * 10**9] for index, name in enumerate(names)]})
    )
    with pytest.raises(ValueError, match="has label -1000000000, but classes"):
        opened(root, tmp_path)


def test_stacked_files_of_one_name_have_keys_of_their_own(tmp_path):
    for name in ("p/a", "q/a", "q/b"):
        path = tmp_path / "set" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.zeros((1, 3, 8, 8), np.uint8))
    source = open_source(str(tmp_path / "set"), tmp_path, SourceOptions(stacked=True))
    assert [item.key for item in source.read()] == [f"{name}.npy/000000000" for name in ("p/a", "q/a", "b")]
