"""Rows that say of which split they are, in a column `split`: no kind of source takes some of them unasked."""

import functools
import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import tar_of
from split_sets import (
    ARRAYS,
    KINDS,
    PICTURES,
    SPLITS,
    TWO,
    arrays,
    csv_of,
    folder,
    folder_of_captions,
    folder_of_two_tables,
    hdf5,
    library,
    loaded,
    opened,
    parquet,
    parquets,
    pictures,
    rows_of,
    samples,
    saved,
    saved_with_one_split,
    table,
    tar,
    two_saved,
    two_stacks,
    write,
    zipped,
)

from unitgain.data.fit import Fit
from unitgain.data.prepare import prepare_data
from unitgain.data.prepared import PreparedDataset
from unitgain.data.sources import SourceOptions, open_source
from unitgain.evaluate.images import open_images


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_split_are_taken_alone(tmp_path, kind):
    what = kind(tmp_path, SPLITS)
    with pytest.raises(ValueError, match=r"test \(1 rows\), train \(2 rows\), val \(1 rows\): choose one with --split"):
        opened(what)
    every, train, test = (opened(what, split=split) for split in ("all", "train", "test"))
    assert (loaded(every), loaded(train), loaded(test)) == ([0, 1, 2, 3], [0, 2], [1])
    assert list(train.keys) == [every.keys[0], every.keys[2]]
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


@pytest.mark.parametrize("kind", TWO)
def test_where_names_choose_rows_of_other_splits_are_left_out(tmp_path, kind):
    what = kind(tmp_path, SPLITS, ["validation", "validation", "b", "c"])
    open_one = functools.partial(opened, what, stacked=kind is two_stacks)
    if kind is not two_saved:
        with pytest.raises(ValueError, match="choose one with --split"):
            open_one()
    assert loaded(open_one(split="train")) == [0, 2]
    assert loaded(open_one(split="val")) == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", TWO)
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


LISTS = [["train"], ["test"], [], []]


@pytest.mark.parametrize("values", [LISTS, [0.1, 0.2, 0.3, 0.4], [{"a": 1}] * 4])
def test_a_column_that_is_neither_text_nor_numbers_tells_of_no_split(tmp_path, values):
    path = parquet(tmp_path, values)
    datasets.Dataset.from_dict(rows_of(values)).save_to_disk(tmp_path / "set")
    for what, name in ((path, path.name), (tmp_path / "set", "set")):
        source = opened(what)
        assert loaded(source) == [0, 1, 2, 3]
        assert source.notes == (
            f"1 files have a column 'split' that cannot be read or holds no names, and tell of no splits: {name}",
        )
        with pytest.raises(ValueError, match=r"column 'split'.*(double|list|struct).*text or whole numbers"):
            opened(what, split="train")
    path = path.rename(path.with_name("train.parquet"))
    for options in ({}, {"split": "train"}):
        assert (loaded(opened(path, **options)), len(opened(path, **options).notes)) == ([0, 1, 2, 3], 1)


@pytest.mark.parametrize("values", [[0.1, 0.2, 0.3, 0.4], [[1, 2]] * 4, ["train"] * 3])
def test_an_array_that_is_no_text_nor_a_number_per_row_tells_of_no_split(tmp_path, values):
    path = arrays(tmp_path, values)
    source = opened(path)
    assert (loaded(source), len(source.notes)) == ([0, 1, 2, 3], 1)
    with pytest.raises(ValueError, match="'split' of splits that cannot be read"):
        opened(path, split="train")
    path = path.rename(path.with_name("train.npz"))
    assert loaded(opened(path, split="train")) == [0, 1, 2, 3]


def test_a_column_of_a_stream_that_holds_no_names_is_noted(tmp_path):
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict(rows_of(LISTS)).to_parquet(tmp_path / "set" / "train-00000-of-00001.parquet")
    source = open_source(f"hub:{tmp_path / 'set'}", tmp_path, SourceOptions(no_labels=True))
    assert (loaded(source), len(source.notes)) == ([0, 1, 2, 3], 1)


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
        with pytest.raises(ValueError, match=r"has no rows: .* another split than 'dev'"):
            loaded(stream(split="dev"))


def test_a_file_whose_name_is_no_word_for_a_split_may_hold_several(tmp_path):
    (tmp_path / "set").mkdir()
    for name, splits in (("fold1", SPLITS), ("fold2", ["fold2", "fold1", None, "fold2"])):
        pq.write_table(pa.table(rows_of(splits)), tmp_path / "set" / f"{name}.parquet")
    with pytest.raises(ValueError, match=r"test \(1 rows\), train \(2 rows\), val \(1 rows\): choose one with --split"):
        opened(tmp_path / "set", split="fold1")
    assert loaded(opened(tmp_path / "set", split="fold2")) == [0, 2, 3]


def test_a_directory_whose_split_is_no_word_for_one_may_hold_several(tmp_path):
    datasets.DatasetDict({"full": library(SPLITS)}).save_to_disk(tmp_path / "set")
    for options in ({}, {"split": "full"}):
        with pytest.raises(ValueError, match="choose one with --split"):
            opened(tmp_path / "set", **options)
    assert (
        loaded(opened(tmp_path / "set", split="train"))
        == loaded(opened(tmp_path / "set" / "full", split="train"))
        == [0, 2]
    )


@pytest.mark.parametrize("splits", [SPLITS, ["train", "b", "train", "train"]])
def test_a_stream_whose_name_is_no_word_for_a_split_ends_at_the_second(tmp_path, splits):
    (tmp_path / "set").mkdir()
    library(splits).to_parquet(tmp_path / "set" / "a.parquet")
    about = {"configs": [{"config_name": "default", "data_files": [{"split": "full", "path": "a.parquet"}]}]}
    about["dataset_info"] = {"splits": [{"name": "full", "num_bytes": 1, "num_examples": 4}]}
    (tmp_path / "set" / "README.md").write_text(f"---\n{json.dumps(about)}\n---\n")
    stream = functools.partial(open_source, f"hub:{tmp_path / 'set'}", tmp_path)
    source = stream(SourceOptions(no_labels=True))
    assert source.notes == ()
    if splits is SPLITS:
        with pytest.raises(ValueError, match=r"^hub:.*set \(full\) has rows of the splits train, test: choose .*all$"):
            loaded(source)
        assert loaded(stream(SourceOptions(no_labels=True, split="train"))) == [0, 2]
    else:
        assert (loaded(source), source.length) == ([0, 1, 2, 3], 4)
    assert loaded(stream(SourceOptions(no_labels=True, split="all"))) == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", [parquets, saved_with_one_split])
def test_a_split_that_names_do_not_have_is_refused_with_those_that_they_have(tmp_path, kind):
    with pytest.raises(ValueError, match="has no split 'test'; it has train: choose one of these with --split"):
        opened(kind(tmp_path, None), split="test")


@pytest.mark.parametrize("kind", [parquet, table, arrays, saved])
def test_rows_that_are_left_out_are_counted(tmp_path, kind):
    assert opened(kind(tmp_path, SPLITS), split="train").notes == (
        "2 rows say that they are of other splits and were left out",
    )


def test_tables_that_are_read_for_splits_alone_may_be_damaged(tmp_path):
    latin = write(tmp_path / "a", pictures("metadata.csv", "") | {"metadata.csv": b"file_name,text\n0.png,\xe9"})
    assert opened(latin, no_labels=True).notes == ("1 files cannot be read, and tell of no splits: metadata.csv",)
    lines = write(tmp_path / "b", pictures("labels.csv", csv_of(None)) | {"metadata.jsonl": "[]\n"})
    assert opened(lines).notes == ("1 files cannot be read, and tell of no splits: metadata.jsonl",)
    for root, options in ((latin, {"no_labels": True}), (lines, {})):
        with pytest.raises(ValueError, match=r"no text in UTF-8|expected an object per picture"):
            opened(root, split="train", **options)


def test_arrays_and_texts_that_cannot_be_splits_tell_of_none(tmp_path):
    np.savez(tmp_path / "a.npz", images=ARRAYS, split=np.array([{"of": 1}] * 4))
    pq.write_table(pa.table(rows_of(["train", "test", "x" * 5000, "val"])), tmp_path / "a.parquet")
    for name in ("a.npz", "a.parquet"):
        (note,) = opened(tmp_path / name, no_labels=True).notes
        assert note.startswith("1 files have a column 'split'") and note.endswith(f"tell of no splits: {name}")
        with pytest.raises(ValueError, match=r"objects are not read|a text of 5,000 characters") as caught:
            opened(tmp_path / name, split="train")
        assert "no whole parquet" not in str(caught.value)


def test_a_table_that_tells_of_splits_is_not_said_to_be_unused(tmp_path):
    root = folder_of_two_tables(tmp_path, SPLITS)
    assert opened(root, split="train").notes == ("2 pictures are of other splits and were left out: 1.png, 3.png",)


def test_a_column_of_identifiers_is_not_listed_whole(tmp_path):
    rows = "".join(f"{row}.png,{row:04d}\n" for row in range(500)) + "a.png,train\n"
    path = write(tmp_path, {"a.csv": "file,split\n" + rows}) / "a.csv"
    with pytest.raises(ValueError, match=r"it has train, 0000, .*, 0008, \.\.\.$"):
        opened(path, split="test")


def test_lists_in_hdf5_tell_of_no_splits(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(hdf5(tmp_path, None), "a") as file:
        file.create_dataset("split", (4,), h5py.vlen_dtype(np.int64))
    assert "tell of no splits: a.h5" in opened(tmp_path / "a.h5").notes[0]
    with pytest.raises(ValueError, match="'split' of splits that cannot be read"):
        opened(tmp_path / "a.h5", split="train")


@pytest.mark.parametrize("kind", [parquet, table, arrays, tar])
def test_the_name_of_a_file_that_is_given_tells_as_in_a_folder(tmp_path, kind):
    path = kind(tmp_path, None)
    path = path.rename(path.with_stem("cats-train-0"))
    assert loaded(opened(path)) == loaded(opened(path, split="train")) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="split 'test'; it has train"):
        opened(path, split="test")


def test_a_folder_of_one_split_alone_has_no_other(tmp_path):
    root = write(tmp_path / "set", {"train/cat/0.png": PICTURES[0], "train/dog/1.png": PICTURES[1]})
    with pytest.raises(ValueError, match="no folder of the split 'test'; it has train"):
        opened(root, split="test")
