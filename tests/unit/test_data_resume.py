"""What an interrupted job goes on with is what it began with: the same rows, files and settings, or an error."""

import json
import zipfile

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import encoded, picture, tar_of

from unitgain.data.fit import Fit
from unitgain.data.prepare import BrokenPictureError, prepare_data
from unitgain.data.prepared import PreparedDataset
from unitgain.data.settings import OnError
from unitgain.data.sources import SourceOptions
from unitgain.trust import Limits

FIT = Fit(resolution=8)
PICTURES = {f"{number}.png": encoded(picture(number, 8, 8)) for number in range(8)}
OTHERS = {name: encoded(picture(99, 8, 8)) for name in PICTURES}


class Interrupted(Exception):
    pass


def make(what, folder, options=None, after=None, on_error: OnError = "fail"):
    """Prepare two pictures per shard; with `after`, be interrupted when so many are done."""

    def stop(done, _):
        if after is not None and done >= after:
            raise Interrupted

    return prepare_data(
        str(what),
        folder,
        FIT,
        options=options,
        on_error=on_error,
        workers=1,
        shard=2,
        on_progress=stop,
    )


def interrupt(what, folder, options=None, **further):
    with pytest.raises(Interrupted):
        make(what, folder, options, after=5, **further)
    assert len(list(folder.glob("*.arrow"))) == 2


def write(root, files):
    root.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (root / name).write_bytes(data)
    return root


def splits(root, first, last):
    """A file of labels that says which pictures are for training: those from number `first` up to `last`."""
    rows = (f"{number}.png,1,{'train' if first <= number < last else 'val'}\n" for number in range(8))
    (root / "labels.csv").write_text("file,label,split\n" + "".join(rows))


def archive(root, pack):
    root.mkdir()
    splits(root, 0, 6)
    return pack(root), SourceOptions(labels=root / "labels.csv", split="train"), lambda: splits(root, 2, 8)


def zipped(root):
    def pack(root):
        with zipfile.ZipFile(root / "set.zip", "w") as file:
            for name, data in PICTURES.items():
                file.writestr(name, data)
        return root / "set.zip"

    return archive(root, pack)


def tarred(root):
    return archive(root, lambda root: tar_of(root / "set.tar", PICTURES))


def values_of_a_table(root):
    write(root, PICTURES)
    write(root / "small", PICTURES)
    (root / "set.csv").write_text("file,small\n" + "".join(f"{name},small/{name}\n" for name in PICTURES))
    return (
        root / "set.csv",
        SourceOptions(conditions=("small",)),
        lambda: write(root / "small", {"1.png": OTHERS["1.png"]}),
    )


def parquet_of(columns):
    def source(root):
        write(root, PICTURES)
        pq.write_table(pa.table(columns), root / "set.parquet")
        options = SourceOptions(conditions=("small",) if "small" in columns else None)
        return root / "set.parquet", options, lambda: write(root, {"1.png": OTHERS["1.png"]})

    return source


def saved(root):
    write(root, PICTURES)
    datasets.Dataset.from_dict({"image": list(PICTURES)}).save_to_disk(root / "set")
    write(root / "set", PICTURES)
    return root / "set", SourceOptions(), lambda: write(root / "set", {"1.png": OTHERS["1.png"]})


NAMES, BYTES = list(PICTURES), list(PICTURES.values())
STRUCTS = [{"bytes": None, "path": name} for name in NAMES]
SOURCES = {
    "splits of a zip archive": zipped,
    "splits of a tar archive": tarred,
    "values of a table": values_of_a_table,
    "pictures of a parquet file": parquet_of({"image": NAMES}),
    "pictures of a parquet file in structs": parquet_of({"image": STRUCTS}),
    "values of a parquet file": parquet_of({"image": BYTES, "small": NAMES}),
    "pictures of a directory of datasets": saved,
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_of_which_other_rows_or_files_count_now_is_refused(tmp_path, name):
    what, options, change = SOURCES[name](tmp_path / "source")
    interrupt(what, tmp_path / "data", options)
    make(what, tmp_path / "finished", options)
    make(what, tmp_path / "finished", options)  # nothing left to do
    change()
    for folder in ("data", "finished"):
        with pytest.raises(ValueError, match=r"other settings .*source_rows: other pictures are chosen, or have other"):
            make(what, tmp_path / folder, options)
    assert make(what, tmp_path / "anew", options).rows == (6 if "splits" in name else 8)


def test_pictures_that_a_table_holds_are_not_looked_for_beside_it(tmp_path):
    source = parquet_of({"image": [{"bytes": data, "path": name} for name, data in PICTURES.items()]})
    what, options, change = source(tmp_path / "source")
    make(what, tmp_path / "data", options)
    change()
    make(what, tmp_path / "data", options)


def forget(path, *names):
    """Make a file of settings one of before these were known."""
    about = json.loads(path.read_text())
    settings = about.get("settings", about)
    for name in names:
        del settings[name]
    path.write_text(json.dumps(about))


NEW = ("source_rows", "max_item_bytes")


def test_data_of_before_go_on(tmp_path):
    what = write(tmp_path / "pictures", PICTURES)
    interrupt(what, tmp_path / "data")
    forget(tmp_path / "data" / ".unfinished" / "settings.json", *NEW)
    manifest = make(what, tmp_path / "data")
    assert manifest.rows == 8
    forget(tmp_path / "data" / "unitgain.json", *NEW)
    assert make(what, tmp_path / "data").fingerprint == manifest.fingerprint
    assert len(PreparedDataset(tmp_path / "data")) == 8


def with_gaps(root):
    """A table in which every other row has no age."""
    write(root, PICTURES)
    rows = (f"{name},{'' if number % 2 else number}\n" for number, name in enumerate(PICTURES))
    (root / "set.csv").write_text("file,age\n" + "".join(rows))
    return root / "set.csv"


def of_two_sizes(root):
    """Pictures of which every other one takes more than 500 bytes."""
    return write(root, {name: encoded(picture(1, 8 if number % 2 else 16, 8)) for number, name in enumerate(PICTURES)})


AGES, MISSING = SourceOptions(conditions=("age",)), SourceOptions(conditions=("age",), allow_missing=True)
FEW, MANY = (SourceOptions(limits=Limits(max_item_bytes=most)) for most in (300, 1000))
SKIPPING = ((with_gaps, AGES, MISSING, "allow_missing"), (of_two_sizes, FEW, MANY, "max_item_bytes"))


@pytest.mark.parametrize(("source", "narrow", "wide", "setting"), SKIPPING)
def test_rows_that_were_left_out_are_left_out_to_the_end(tmp_path, source, narrow, wide, setting):
    what = source(tmp_path / "source")
    interrupt(what, tmp_path / "data", options=narrow, on_error="skip")
    with pytest.raises(ValueError, match=rf"holds an unfinished job with other settings \({setting}: "):
        make(what, tmp_path / "data", wide, on_error="skip")
    assert make(what, tmp_path / "data", narrow, on_error="skip").skipped == 4
    with pytest.raises(ValueError, match=rf"made with other settings \({setting}: "):
        make(what, tmp_path / "data", wide, on_error="skip")
    forget(tmp_path / "data" / "unitgain.json", setting)
    assert make(what, tmp_path / "data", narrow, on_error="skip").skipped == 4  # as of before it was a setting


def test_where_nothing_was_left_out_more_may_be_taken(tmp_path):
    what = write(tmp_path / "pictures", PICTURES)
    interrupt(what, tmp_path / "data", options=FEW, on_error="skip")
    assert make(what, tmp_path / "data", MANY).rows == 8
    assert make(what, tmp_path / "data", FEW).rows == 8  # which are all there are
    interrupt(what, tmp_path / "begun", options=MANY, on_error="skip")
    with pytest.raises(ValueError, match="max_item_bytes: 1000 -> 300"):
        make(what, tmp_path / "begun", FEW, on_error="skip")


def test_what_was_left_out_is_an_error_where_it_is_to_be_one(tmp_path):
    what = write(tmp_path / "pictures", {**PICTURES, "1.png": b"broken"})
    interrupt(what, tmp_path / "data", on_error="skip")
    with pytest.raises(BrokenPictureError, match=r"1\.png cannot be decoded.*was left out.*--on-error skip, or delete"):
        make(what, tmp_path / "data")
    assert make(what, tmp_path / "data", on_error="skip").skipped == 1
    assert make(what, tmp_path / "data").skipped == 1  # finished, as it was asked for
