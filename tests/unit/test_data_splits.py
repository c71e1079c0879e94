"""Rows that say of which split they are, in a column `split`: no kind of source takes some of them unasked."""

import functools
import json
import zipfile

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import encoded, picture, tar_of

from unitgain.data.fit import Fit
from unitgain.data.prepare import prepare_data
from unitgain.data.prepared import PreparedDataset
from unitgain.data.sources import SourceOptions, open_source
from unitgain.evaluate.images import open_images

PICTURES = [encoded(picture(row)) for row in range(4)]
ARRAYS = np.arange(32, dtype=np.float32).reshape(4, 1, 8)
SPLITS = ["train", "test", "train", "val"]
LABELS = ["cat", "dog", "eel", "cat"]


def opened(what, **options):
    return open_source(str(what), what.parent / "scratch", SourceOptions(**options))


def loaded(source):
    """The numbers of the rows that a source has, by what they hold."""
    arrays = [array.tobytes() for array in ARRAYS]
    data = [item.load() for item in source.read()]
    return [PICTURES.index(one) if one in PICTURES else arrays.index(one[-32:]) for one in data]


def write(root, files):
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return root


def rows_of(splits, picture="image"):
    return {picture: PICTURES, "label": LABELS} | ({} if splits is None else {"split": splits})


def csv_of(splits, file="file", label="label"):
    columns = [[file, *(f"{row}.png" for row in range(4))], [label, *LABELS]]
    columns += [] if splits is None else [["Split", *splits]]
    return "".join(",".join(cells) + "\n" for cells in zip(*columns, strict=True))


def json_of(splits):
    rows = [{"file_name": f"{row}.png", "label": LABELS[row]} for row in range(4)]
    rows = [row | ({} if splits is None else {"split": splits[number]}) for number, row in enumerate(rows)]
    return "".join(json.dumps(row) + "\n" for row in rows)


def pictures(table, text):
    return {f"{row}.png": data for row, data in enumerate(PICTURES)} | {table: text.encode()}


def parquet(root, splits):
    pq.write_table(pa.table(rows_of(splits)), root / "a.parquet", row_group_size=3)
    return root / "a.parquet"


def categories(root, splits):
    table = pa.table(rows_of(splits))
    if splits is not None:
        table = table.set_column(2, "split", table.column("split").dictionary_encode())
    pq.write_table(table, root / "a.parquet")
    return root / "a.parquet"


def parquets(root, splits):
    (root / "set").mkdir()
    for part in range(2):
        table = pa.table(rows_of(splits)).slice(2 * part, 2)
        pq.write_table(table, root / "set" / f"train-{part:05d}-of-00002.parquet")  # as the Hub has them
    return root / "set"


def library(splits):
    features = {"image": datasets.Value("binary"), "label": datasets.Value("string")}
    if splits is not None:
        features |= {"split": datasets.ClassLabel(names=sorted(set(splits)))}
    return datasets.Dataset.from_dict(rows_of(splits), features=datasets.Features(features))


def saved(root, splits):
    library(splits).save_to_disk(root / "set")
    return root / "set"


def saved_with_one_split(root, splits):
    datasets.DatasetDict({"train": library(splits)}).save_to_disk(root / "set")
    return root / "set"


def named_parquet(root, splits):
    library(splits).to_parquet(root / "a.parquet")
    return root / "a.parquet"


def folder(root, splits):
    return write(root / "set", pictures("metadata.csv", csv_of(splits, "file_name")))


def folder_of_lines(root, splits):
    return write(root / "set", pictures("metadata.jsonl", json_of(splits)))


def folder_of_captions(root, splits):
    return write(root / "set", pictures("metadata.csv", csv_of(splits, "file_name", "text")))


def folder_of_two_tables(root, splits):
    files = pictures("labels.csv", csv_of(None)) | {"metadata.csv": csv_of(splits, "file_name", "text")}
    return write(root / "set", files)


def zipped(root, splits):
    with zipfile.ZipFile(root / "a.zip", "w") as archive:
        for name, data in pictures("labels.csv", csv_of(splits)).items():
            archive.writestr(name, data)
    return root / "a.zip"


def tar(root, splits):
    return tar_of(root / "a.tar", pictures("labels.csv", csv_of(splits)))


def samples(root, splits):
    lines = {f"{row}.json": line.encode() for row, line in enumerate(json_of(splits).splitlines())}
    return tar_of(root / "a.tar", {f"{row}.png": data for row, data in enumerate(PICTURES)} | lines)


def shards(root, splits):
    (root / "set").mkdir()
    for part in range(2):
        lines = {f"{row}.json": line.encode() for row, line in enumerate(json_of(splits).splitlines())}
        files = {f"{row}.png": data for row, data in enumerate(PICTURES)} | lines
        chosen = {name: data for name, data in files.items() if int(name[0]) // 2 == part}
        tar_of(root / "set" / f"shard-{part:04d}.tar", chosen)
    return root / "set"


def table(root, splits):
    return write(root, pictures("set.csv", csv_of(splits))) / "set.csv"


def arrays(root, splits):
    np.savez(root / "a.npz", images=ARRAYS, label=np.array(LABELS), **({} if splits is None else {"split": splits}))
    return root / "a.npz"


def hdf5(root, splits):
    h5py = pytest.importorskip("h5py")
    with h5py.File(root / "a.h5", "w") as file:
        file["images"], file["label"] = ARRAYS, [0, 1, 2, 0]
        if splits is not None:
            file["split"] = splits
    return root / "a.h5"


KINDS = [
    *(parquet, categories, named_parquet, parquets, saved, saved_with_one_split, folder, folder_of_lines),
    *(folder_of_captions, folder_of_two_tables, zipped, tar, samples, shards, table, arrays, hdf5),
]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_split_are_taken_alone(tmp_path, kind):
    what = kind(tmp_path, SPLITS)
    with pytest.raises(ValueError, match=r"test \(1 rows\), train \(2 rows\), val \(1 rows\): choose one with --split"):
        opened(what)
    every, train, test = (opened(what, split=split) for split in ("all", "train", "test"))
    assert (loaded(every), loaded(train), loaded(test)) == ([0, 1, 2, 3], [0, 2], [1])
    assert list(train.keys) == [every.keys[0], every.keys[2]]
    assert len({every.fingerprint, train.fingerprint, test.fingerprint}) == 3
    if kind is not folder_of_captions:
        assert [source.classes[label] for source in (train,) for label in source.labels] in (["cat", "eel"], ["0", "2"])
    assert not any("not there" in note for note in train.notes)
    with pytest.raises(ValueError, match=r"no rows of the split 'dev'; it has test, train, val"):
        opened(what, split="dev")


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_one_split_are_taken_unasked(tmp_path, kind):
    what = kind(tmp_path, ["train"] * 4)
    assert (
        loaded(opened(what)) == loaded(opened(what, split="train")) == loaded(opened(what, split="all")) == [0, 1, 2, 3]
    )
    assert opened(what).fingerprint == opened(what, split="all").fingerprint
    with pytest.raises(ValueError, match="no rows of the split 'test'; it has train"):
        opened(what, split="test")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (parquets, saved_with_one_split)])
def test_a_split_of_what_tells_of_none_is_refused(tmp_path, kind):
    what = kind(tmp_path, None)
    assert loaded(opened(what)) == loaded(opened(what, split="all")) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"no (column|folder of the split) '(split|train)'"):
        opened(what, split="train")


@pytest.mark.parametrize("kind", KINDS)
def test_folds_are_chosen_and_not_asked_for(tmp_path, kind):
    what = kind(tmp_path, ["one", "two", "one", "three"])
    assert loaded(opened(what)) == [0, 1, 2, 3]
    if kind is not parquets:
        assert loaded(opened(what, split="one")) == [0, 2]


@pytest.mark.parametrize("kind", [folder, zipped, parquet, samples])
def test_metrics_measure_a_split(tmp_path, kind):
    what = str(kind(tmp_path, SPLITS))
    with pytest.raises(ValueError, match="choose one with --split"):
        open_images(what)
    images = open_images(what, split="train")
    assert (len(images), images.source.formats) == (2, images.source.formats)
    assert sum(images.source.formats.values()) == 2


def test_a_file_of_labels_tells_of_splits(tmp_path):
    root = write(tmp_path / "set", pictures("readme.txt", ""))
    write(tmp_path, {"labels.csv": csv_of(SPLITS)})
    with pytest.raises(ValueError, match=r"train \(2 rows\)"):
        opened(root, labels=tmp_path / "labels.csv")
    source = opened(root, labels=tmp_path / "labels.csv", split="train")
    assert (loaded(source), source.classes, source.notes[-1]) == (
        [0, 2],
        ("cat", "eel"),
        "2 pictures are of other splits and were left out: 1.png, 3.png",
    )


def test_pictures_without_a_row_are_of_no_split(tmp_path):
    write(tmp_path / "set", pictures("metadata.csv", "file_name,split\n0.png,train\n1.png,test\n2.png,\n"))
    with pytest.raises(ValueError, match=r"none \(2 rows\), test \(1 rows\), train \(1 rows\)"):
        opened(tmp_path / "set")
    assert loaded(opened(tmp_path / "set", split="train")) == [0]


def test_rows_of_pictures_that_are_left_out_are_not_said_to_name_none(tmp_path):
    lines = "".join(f"{split}/{row}.png,{row},x\n" for split in ("train", "test") for row in range(2))
    files = {f"{split}/{row}.png": PICTURES[row] for split in ("train", "test") for row in range(2)}
    root = write(tmp_path / "set", files | {"labels.csv": "file,age,label\n" + lines + "gone.png,1,x\n"})
    (left, labels, conditions) = opened(root, split="train", conditions=("age",)).notes
    assert "2 pictures are of other splits" in left
    assert (labels, conditions) == tuple(
        f"1 {what} of {root}/labels.csv name pictures that are not there" for what in ("labels", "rows")
    )


def test_a_table_that_tells_of_splits_and_names_no_picture_is_refused(tmp_path):
    root = write(tmp_path / "set", pictures("metadata.csv", csv_of(SPLITS, "file_name").replace(".png", ".jpg")))
    with pytest.raises(ValueError, match=r"names none of the pictures.*--split all"):
        opened(root, no_labels=True)
    assert loaded(opened(root, no_labels=True, split="all")) == [0, 1, 2, 3]


def test_a_class_called_train_is_no_split(tmp_path):
    files = {f"{name}/{split}.png": PICTURES[row] for row, (name, split) in enumerate(map(str.split, NAMED))}
    lines = "".join(f"{name},{name.partition('/')[2][:-4]}\n" for name in files)
    root = write(tmp_path / "set", files | {"metadata.csv": "file_name,split\n" + lines})
    source = opened(root, split="train")
    assert (list(source.keys), source.classes) == (["bus/train.png", "train/train.png"], ("bus", "train"))


NAMED = ("bus test", "bus train", "train test", "train train")


def two_files(root, first, second):
    (root / "set").mkdir()
    for name, splits in (("train", first), ("val", second)):
        pq.write_table(pa.table(rows_of(splits)), root / "set" / f"{name}.parquet")
    return root / "set"


def two_saved(root, first, second):
    datasets.DatasetDict({"train": library(first), "val": library(second)}).save_to_disk(root / "set")
    return root / "set"


def two_folders(root, first, second):
    for name, splits in (("train", first), ("val", second)):
        write(root / "set" / name, pictures("metadata.csv", csv_of(splits, "file_name")))
    return root / "set"


def two_stacks(root, first, second):
    (root / "set").mkdir()
    for name, splits in (("train", first), ("val", second)):
        np.savez(root / "set" / f"{name}.npz", images=ARRAYS, split=splits)
    return root / "set"


@pytest.mark.parametrize("kind", [two_files, two_saved, two_folders, two_stacks])
def test_where_names_choose_rows_of_other_splits_are_left_out(tmp_path, kind):
    what = kind(tmp_path, SPLITS, ["validation", "validation", "b", "c"])
    open_one = functools.partial(opened, what, stacked=kind is two_stacks)
    if kind is not two_saved:
        with pytest.raises(ValueError, match="choose one with --split"):
            open_one()
    assert loaded(open_one(split="train")) == [0, 2]
    assert loaded(open_one(split="val")) == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", [two_files, two_saved, two_folders, two_stacks])
def test_rows_that_are_not_what_their_files_are_called_are_refused(tmp_path, kind):
    what = kind(tmp_path, ["test"] * 4, ["val"] * 4)
    with pytest.raises(ValueError, match="no rows of the split 'train'; it has test"):
        opened(what, stacked=kind is two_stacks, split="train")


def test_a_directory_with_splits_takes_train_and_says_what_it_leaves_out(tmp_path):
    source = opened(two_saved(tmp_path, SPLITS, SPLITS))
    assert (loaded(source), source.notes[-1]) == ([0, 2], "2 rows say that they are of other splits and were left out")


def test_shards_without_splits_in_their_names_hold_folders_of_them(tmp_path):
    (tmp_path / "set").mkdir()
    for part in range(2):
        files = {f"{split}/{part}.png": PICTURES[2 * part + row] for row, split in enumerate(("train", "test"))}
        tar_of(tmp_path / "set" / f"shard-{part:04d}.tar", files)
    with pytest.raises(ValueError, match="choose one with --split"):
        opened(tmp_path / "set")
    assert loaded(opened(tmp_path / "set", split="train")) == [0, 2]


def test_files_of_which_some_tell_of_splits(tmp_path):
    (tmp_path / "set").mkdir()
    for name, splits in (("a", None), ("b", SPLITS)):
        pq.write_table(pa.table(rows_of(splits)), tmp_path / "set" / f"{name}.parquet")
    with pytest.raises(ValueError, match=r"none \(4 rows\), test \(1 rows\)"):
        opened(tmp_path / "set")
    assert list(opened(tmp_path / "set", split="test").keys) == ["b.parquet/000000005"]


@pytest.mark.parametrize("values", [[["train"], ["test"], [], []], [0.1, 0.2, 0.3, 0.4], [{"a": 1}] * 4])
def test_a_column_that_is_neither_text_nor_numbers_tells_of_no_split(tmp_path, values):
    assert loaded(opened(parquet(tmp_path, values))) == [0, 1, 2, 3]


def test_prepared_data_have_no_column_of_splits(tmp_path):
    prepare_data(
        str(folder(tmp_path, SPLITS)), tmp_path / "data", Fit(resolution=None), options=SourceOptions(split="train")
    )
    assert len(PreparedDataset(tmp_path / "data")) == 2
    assert len(opened(tmp_path / "data")) == 2


@pytest.mark.parametrize("features", [True, False])
def test_a_stream_leaves_rows_of_other_splits_out(tmp_path, features):
    """A local folder stands for a repository, whose README names its splits, or does not."""
    (tmp_path / "set").mkdir()
    library(SPLITS).to_parquet(tmp_path / "set" / "train-00000-of-00001.parquet")
    about = [{"name": "image", "dtype": "binary"}, {"name": "label", "dtype": "string"}]
    about += [{"name": "split", "dtype": {"class_label": {"names": {"0": "test", "1": "train", "2": "val"}}}}]
    about = {"dataset_info": {"features": about, "splits": [{"name": "train", "num_bytes": 1, "num_examples": 4}]}}
    if features:
        (tmp_path / "set" / "README.md").write_text(f"---\n{json.dumps(about)}\n---\n")

    def stream(**options):
        return open_source(f"hub:{tmp_path / 'set'}", tmp_path, SourceOptions(classes=("cat", "dog", "eel"), **options))

    source = stream()
    assert (loaded(source), source.length) == ([0, 2], None)
    assert source.notes == (
        "rows are left out that say in the column 'split' that they are of another split than 'train'",
    )
    assert loaded(stream(split="train")) == [0, 2]
    if features:
        assert (loaded(stream(split="test")), loaded(stream(split="all"))) == ([1], [0, 1, 2, 3])
        assert len({stream(split=split).fingerprint for split in ("train", "test", "all")}) == 3
        with pytest.raises(ValueError, match=r"has no rows: .* another split than 'dev'"):
            loaded(stream(split="dev"))
