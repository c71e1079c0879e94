"""Tables and references that someone made to do harm: each ends in an error that names it, or in what it holds.

Each call runs in a process with little memory, so that a crash and a flood are seen.
"""

import io
import json
import os
import pickle
import random
import zipfile
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bounded import outcome
from hostile import prepared
from pictures import encoded, picture

from unitgain.data.fit import ImageError
from unitgain.data.sources import SourceOptions, open_source
from unitgain.data.sources.columns import picture_bytes
from unitgain.data.sources.pages import page_sizes
from unitgain.metrics.reference import ReferenceFileError, load_references
from unitgain.trust import Limits


def parquet_of(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return path


@pytest.mark.parametrize("path", ["/etc/passwd", "/dev/zero", "../secret.png", "pipe.png", "link.png", ".", "\0"])
def test_paths_in_tables_stay_below_the_table(tmp_path, path):
    root = tmp_path / "set"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(encoded(picture(0, 8, 8)))
    (root / "inside.png").write_bytes(encoded(picture(1, 8, 8)))
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(root / "pipe.png")
    rows = [{"bytes": None, "path": name} for name in ("inside.png", path)]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = parquet_of(root / "a.parquet", {"image": pa.array(rows, kind)})
    found, (names, left) = outcome(prepared, table, tmp_path)
    assert found == "returned" and names == ["a.parquet/000000000"] and list(left) == ["a.parquet/000000001"]
    found, text = outcome(prepared, saved(tmp_path / "saved", {"image": pa.array(rows[1:], kind)}), tmp_path / "2")
    assert found == "DataError" and "no image is left" in text


def test_sets_of_the_hub_name_no_paths():
    with pytest.raises(OSError, match="no bytes of a picture"):
        picture_bytes({"bytes": None, "path": "/etc/passwd"}, None, Limits())


def saved(folder, columns, **state):
    """A directory as the `datasets` library saves one."""
    folder.mkdir()
    batch = pa.record_batch(columns)
    with pa.OSFile(str(folder / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, batch.schema) as stream:
        stream.write_batch(batch)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]} | state))
    return folder


def test_rows_that_cannot_be_there_are_refused(tmp_path):
    """Ten million rows of nothing in some hundred bytes."""
    path = parquet_of(tmp_path / "a.parquet", {"image": pa.nulls(10**7, pa.binary())})
    assert path.stat().st_size < 50_000
    kind, text = outcome(prepared, path, tmp_path)
    assert kind == "ValueError" and "a.parquet is no whole parquet file: it says that it holds 10,000,000 rows" in text


def test_one_value_that_stands_for_many_rows(tmp_path):
    """A picture of a megabyte in three hundred rows of one group: read a few at a time, and not at once."""
    good = encoded(picture(0, 8, 8))
    good += bytes(2**20)  # after its end
    path = parquet_of(tmp_path / "a.parquet", {"image": pa.array([good] * 300), "label": ["x" * 1000] * 300})
    assert path.stat().st_size < 2**20
    kind, found = outcome(
        lambda: prepared(path, tmp_path, limit=280, limits=Limits(max_item_bytes=10**7)), megabytes=120
    )
    assert kind == "returned" and len(found[0]) == 280


def varint(value):
    parts = [value >> shift & 127 for shift in range(0, value.bit_length(), 7)]
    return bytes([*(part | 128 for part in parts[:-1]), parts[-1]])


def test_a_table_that_lies_about_what_it_takes(tmp_path):
    """A picture of 12 MB that stands for all rows, in a group that says it takes nothing."""
    good = encoded(picture(0, 8, 8)) + bytes(12_000_000)
    path = parquet_of(tmp_path / "a.parquet", {"image": pa.array([good] * 64)}, compression="gzip")
    true = varint(2 * pq.ParquetFile(path).metadata.row_group(0).column(0).total_uncompressed_size)
    path.write_bytes(path.read_bytes().replace(true, b"\x82" + b"\x80" * (len(true) - 2) + b"\0"))
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).total_uncompressed_size == 1
    kind, found = outcome(
        lambda: prepared(path, tmp_path, limit=6, limits=Limits(max_item_bytes=2 * 10**7)), megabytes=120
    )
    assert kind == "returned" and len(found[0]) == 6
    kind, text = outcome(lambda: prepared(path, tmp_path / "2", limits=Limits(max_item_bytes=10**7)))
    assert kind == "DataError" and "no image is left" in text and "a page of column image of a.parquet takes" in text


NO_PAGES = [b"\x15\0\0", b"\0", b"\x15", b"\x15" + b"\xff" * 11, b"\x1c" * 99, b"\x19\xf6" + b"\xff" * 8]


@pytest.mark.parametrize("header", [*NO_PAGES, b"\x1b\0", b"\x18\x7f"])
def test_headers_of_pages(header):
    with pytest.raises(ValueError, match="page"):
        page_sizes(memoryview(b"\x15\0\x15\x10\x15\x04\0ab" + header))
    assert page_sizes(memoryview(b"\x15\0\x15\x10\x15\x04\0ab" * 3)) == (8, 24)


def test_labels_of_megabytes_are_none(tmp_path):
    columns = {"image": [encoded(picture(0, 8, 8))] * 100, "label": ["x" * 2**20] * 100}
    kind, text = outcome(prepared, parquet_of(tmp_path / "a.parquet", columns), tmp_path)
    assert kind == "ValueError" and "a.parquet" in text and "a text of 1,048,576 characters" in text


DESCRIBED = [
    b"[" * 10**5,
    b"[]",
    b'{"info": 1}',
    b'{"info": {"features": [1]}}',
    b"\xff",
    b'{"info": {"features": {}}}',
]
DESCRIBED += [b'{"info": {"features": {"label": %s}}}' % names for names in (b"1", b'{"names": 1}', b'{"names": [1]}')]


@pytest.mark.parametrize("metadata", DESCRIBED)
def test_what_a_table_says_of_its_columns(tmp_path, metadata):
    table = pa.table({"image": [encoded(picture(0, 8, 8))] * 2, "label": [0, 1]})
    pq.write_table(table.replace_schema_metadata({b"huggingface": metadata}), tmp_path / "a.parquet")
    kind, text = outcome(prepared, tmp_path / "a.parquet", tmp_path)
    assert kind == "returned" or (kind == "ValueError" and "a.parquet" in text)


def test_any_byte_of_a_table_may_be_wrong(tmp_path):
    """Whatever byte of a parquet file is changed, its rows come, or an error that names it."""
    columns = {"image": [encoded(picture(seed, 8, 8)) for seed in range(6)], "label": list(range(6))}
    path = parquet_of(tmp_path / "a.parquet", columns, row_group_size=3)

    def all_of_them():
        whole, draw, refused = path.read_bytes(), random.Random(0), 0
        for step in range(150):
            content = bytearray(whole)
            place = draw.randrange(len(whole) - 700, len(whole)) if step % 2 else draw.randrange(len(whole))
            content[place] ^= draw.randrange(1, 256)
            path.write_bytes(content)
            try:
                source = open_source(str(path), tmp_path, SourceOptions())
                assert all(isinstance(read(item), bytes) for item in source.read())
            except ValueError as error:
                assert "a.parquet" in str(error), error
                refused += 1
        return refused

    kind, refused = outcome(all_of_them)
    assert kind == "returned" and refused > 20, refused


def test_a_table_that_was_replaced_is_opened_anew(tmp_path):
    path = tmp_path / "a.parquet"
    for seed in range(2):
        parquet_of(tmp_path / "new", {"image": [encoded(picture(seed, 8, 8))]}).replace(path)
        assert [item.load() for item in open_source(str(path), tmp_path).read()] == [encoded(picture(seed, 8, 8))]


def read(item):
    with suppress(ImageError):
        return item.load()
    return b""


STATES = [{"_data_files": value} for value in (None, 1, [], [1], [{}], [{"filename": 1}])]
STATES += [
    {"_data_files": [{"filename": name}]} for name in ("../x.arrow", "/dev/zero", "x" * 300, "pipe", "none", "a/b")
]
STATES += [{"_indices_data_files": [{"filename": "i.arrow"}]}]


@pytest.mark.parametrize("state", STATES)
def test_states_of_saved_tables(tmp_path, state):
    folder = saved(tmp_path / "a", {"image": [encoded(picture(0, 8, 8))]}, **state)
    (tmp_path / "x.arrow").write_bytes((folder / "data.arrow").read_bytes())
    os.mkfifo(folder / "pipe")
    kind, text = outcome(prepared, folder, tmp_path, seconds=20)
    assert kind == "ValueError" and str(folder) in text


@pytest.mark.parametrize(
    "content", [b"[" * 10**5, b"[]", b"", b"\xff", b'{"splits": 1}', b'{"splits": ["../a"]}', b"{}"]
)
@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json", "dataset_info.json"])
def test_files_beside_saved_tables(tmp_path, name, content):
    folder = saved(tmp_path / "a", {"image": [encoded(picture(0, 8, 8))]})
    (folder / name).write_bytes(content)
    kind, text = outcome(prepared, folder, tmp_path)
    fine = name == "dataset_info.json" and content.startswith(b"{")
    assert kind == "returned" if fine else kind == "ValueError" and str(folder) in text


def test_any_byte_of_a_saved_table_may_be_wrong(tmp_path):
    columns = {"image": [encoded(picture(seed, 8, 8)) for seed in range(6)], "label": list(range(6))}
    folder = saved(tmp_path / "a", columns)
    path = folder / "data.arrow"

    def all_of_them():
        whole, draw, refused = path.read_bytes(), random.Random(0), 0
        for step in range(200):
            content = bytearray(whole)
            content[draw.randrange(900 if step % 2 else len(whole))] ^= draw.randrange(1, 256)
            path.write_bytes(content)
            try:
                source = open_source(str(folder), tmp_path, SourceOptions())
                list(map(read, source.read()))
            except ValueError as error:
                assert str(folder) in str(error), error
                refused += 1
        return refused

    kind, refused = outcome(all_of_them)
    assert kind == "returned" and refused > 20, refused


# References


def reference(path):
    return sorted(load_references(path))


def statistics(size=4):
    return {"mu": np.zeros(size), "sigma": np.eye(size)}


def archived(path, method=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def npy_of(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_references_are_unpacked_up_to_a_limit(tmp_path):
    """Two megabytes that unpack to 2.5 GB, and a header that promises 30."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("sigma.npy", "w", force_zip64=True) as member:
            for _ in range(65):
                member.write(bytes(2**23))
        archive.writestr("mu.npy", npy_of(np.zeros(4)))
    kind, text = outcome(reference, tmp_path / "a.npz")
    assert kind == "ReferenceFileError" and "takes 545,259,6" in text and "unpacked, over" in text
    header = (
        b"\x93NUMPY\x01\x00\x46\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (60000, 60000), }".ljust(69)
    )
    archived(tmp_path / "b.npz", mu=npy_of(np.zeros(4)), sigma=header + b"\n")
    kind, text = outcome(reference, tmp_path / "b.npz")
    assert kind == "ReferenceFileError" and "header promises float64 (60000, 60000)" in text


ABOUT = {"format": "unitgain-reference/1", "name": "x", "fingerprint": None}


@pytest.mark.parametrize("detectors", [None, 1, [], ["x"], {"x": 1}, {"x": {}}, {"x": {"n": 1, "detector": 1}}])
@pytest.mark.parametrize("rest", [{}, {"fingerprint": 1}, {"name": []}, {"format": []}])
def test_what_a_reference_says_of_itself(tmp_path, detectors, rest):
    text = json.dumps(ABOUT | {"detectors": detectors} | rest)
    archived(tmp_path / "a.npz", about=npy_of(np.array(text)), **{"x/mean": npy_of(np.zeros(2))})
    kind, message = outcome(reference, tmp_path / "a.npz")
    assert (kind, message) == ("returned", []) or (kind == "ReferenceFileError" and "a.npz" in message)


@pytest.mark.parametrize(
    "members",
    [
        {"about": npy_of(np.array("[" * 10**5))},
        {"about": npy_of(np.zeros(3))},
        {"about": b""},
        {"mu": npy_of(np.array(["a"] * 4)), "sigma": npy_of(np.eye(4))},
        {"mu": npy_of(np.zeros(4)), "sigma": npy_of(np.eye(3))},
        {"mu": npy_of(np.full(4, np.nan)), "sigma": npy_of(np.eye(4))},
        {"mu": npy_of(np.zeros(4, complex)), "sigma": npy_of(np.eye(4))},
        {"mu": npy_of(np.zeros(4)), "sigma": npy_of(np.eye(4) * 1e308)},
        {"mu": npy_of(np.full(4, np.longdouble("1e4000"))), "sigma": npy_of(np.eye(4))},
        {"mu": npy_of(np.zeros(4)), "sigma": npy_of(-np.eye(4))},
        {"mu": npy_of(np.zeros(4)), "sigma": npy_of(np.tri(4))},
        {"mu": npy_of(np.zeros(4))},
        {"mu": pickle.dumps(print), "sigma": npy_of(np.eye(4))},
    ],
)
def test_references_that_are_none(tmp_path, members):
    kind, text = outcome(reference, archived(tmp_path / "a.npz", **members))
    assert kind == "ReferenceFileError" and "a.npz" in text


def test_any_byte_of_a_reference_may_be_wrong(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **statistics())

    def all_of_them():
        whole, draw, refused = path.read_bytes(), random.Random(0), 0
        for _ in range(300):
            content = bytearray(whole)
            content[draw.randrange(len(whole))] ^= draw.randrange(1, 256)
            path.write_bytes(content)
            try:
                reference(path)
            except ReferenceFileError as error:
                assert "a.npz" in str(error)
                refused += 1
        return refused

    kind, refused = outcome(all_of_them)
    assert kind == "returned" and refused > 100, refused
