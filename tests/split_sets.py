"""Sets whose rows say of which split they are, in a column `split`, in every kind of source."""

import json
import zipfile

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import encoded, picture, tar_of

from unitgain.data.sources import SourceOptions, open_source

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


KINDS = (
    *(parquet, categories, named_parquet, parquets, saved, saved_with_one_split, folder, folder_of_lines),
    *(folder_of_captions, folder_of_two_tables, zipped, tar, samples, shards, table, arrays, hdf5),
)


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


TWO = (two_files, two_saved, two_folders, two_stacks)
