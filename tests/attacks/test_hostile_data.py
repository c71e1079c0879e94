"""Prepared folders that someone made to do harm: each ends in an error that names it, or as it was.

Each call runs in a process with little memory, so that a crash and a flood are seen.
"""

import hashlib
import json
import os
import random

import numpy as np
import pyarrow as pa
import pytest
from bounded import outcome
from hostile import FIT, HUGE, inspect, use
from pictures import encoded, folder_of, picture

from unitgain.data.fit import Fit
from unitgain.data.manifest import DataError
from unitgain.data.prepare import prepare_data
from unitgain.data.prepared import PreparedDataset


@pytest.fixture
def data(tmp_path):
    """A prepared folder of two shards, of images that are not alike."""
    prepare_data(str(folder_of(tmp_path / "pictures", each=4)), tmp_path / "data", FIT, workers=1, shard=8)
    return tmp_path / "data"


def edit(folder, **changes):
    """Change the manifest."""
    path = folder / "unitgain.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def resign(folder):
    """Make sizes and hashes of the manifest those of the files, as whoever made them would."""
    about = json.loads((folder / "unitgain.json").read_text())
    for shard in about["shards"]:
        content = (folder / shard["file"]).read_bytes()
        shard |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit(folder, shards=about["shards"])


def shard_of(folder, columns, index=0, compression=None, batches=1):
    """Write a shard, and its size and hash into the manifest."""
    batch = pa.record_batch(columns)
    path = folder / f"data-{index:05d}.arrow"
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, batch.schema, options=options) as stream:
        for _ in range(batches):
            stream.write_batch(batch)
    resign(folder)


def columns_of(folder, index=0):
    (batch,) = list(pa.ipc.open_stream((folder / f"data-{index:05d}.arrow").read_bytes()))
    return dict(zip(batch.schema.names, batch.columns, strict=True))


def place_of(path, column, buffer):
    """Where a buffer of a column lies in a file, and its length."""
    with pa.memory_map(str(path)) as file:
        start = file.read_buffer().address
        file.seek(0)
        (batch,) = list(pa.ipc.open_stream(file))
        found = batch.column(column).buffers()[buffer]
        return found.address - start, found.size


def flips(folder, column, count, signed):
    """The errors after each of `count` bits in the offsets of a column is flipped."""
    path = folder / "data-00000.arrow"
    whole = path.read_bytes()
    place, _ = place_of(path, column, 1)
    length, draw, found = 9 * 4, random.Random(column), []
    for bit in draw.sample(range(8 * length), count):
        content = bytearray(whole)
        content[place + bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        if signed:
            resign(folder)
        for call in (use, inspect):
            try:
                found.append(str(call(folder)))
            except DataError:
                found.append("refused")
    return found


@pytest.mark.parametrize("signed", [False, True])
def test_offsets_with_a_bit_flipped_are_refused(data, signed):
    kind, found = outcome(flips, data, "image", 50, signed)
    assert kind == "returned"
    assert found[::2] == ["refused"] * 50
    assert set(found[1::2]) <= {"refused", "False"}


@pytest.mark.parametrize("signed", [False, True])
def test_offsets_of_names_with_a_bit_flipped_do_no_harm(data, signed):
    kind, found = outcome(flips, data, "key", 50, signed)
    assert kind == "returned"
    assert "refused" in found


def test_any_byte_of_a_shard_may_be_wrong(data):
    """Whatever byte is changed, nothing but DataError comes of it, and `check` sees it."""

    def all_of_them():
        path = data / "data-00000.arrow"
        whole, draw, seen = path.read_bytes(), random.Random(0), []
        for place in draw.sample(range(len(whole)), 100):
            content = bytearray(whole)
            content[place] ^= draw.randrange(1, 256)
            path.write_bytes(content)
            for call in (use, inspect):
                try:
                    result = call(data)
                    seen.append(result if call is inspect else "opened")
                except DataError:
                    seen.append("refused")
        return seen

    kind, seen = outcome(all_of_them)
    assert kind == "returned"
    assert True not in seen


HOSTILE = [None, True, -1, 0, 10**9, 2**63, 10**400, 1e308, float("nan"), "", "x", "../x", "\x1b[2J", [], [[]], {}]
HOSTILE += [[None], [-1], [10**30], ["x"] * 3, {"x": 1}, [{"file": 1}], [[[[]]]]]


def fields(value, path=()):
    """The places of all values in JSON."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from fields(item, (*path, key))


def test_no_value_of_a_manifest_is_believed(data):
    """Any of its values replaced by any other: it opens as it was, or not at all."""
    whole = (data / "unitgain.json").read_text()
    keys = PreparedDataset(data).key(11)

    def all_of_them():
        for path in fields(json.loads(whole)):
            for value in HOSTILE if path[:2] != ("shards", 1) else ():  # as the first
                about = json.loads(whole)
                there = about
                for key in path[:-1]:
                    there = there[key]
                if path:
                    there[path[-1]] = value
                (data / "unitgain.json").write_text(json.dumps(about if path else value))
                try:
                    assert PreparedDataset(data).key(11) == keys, path
                except DataError as error:
                    assert str(data) in str(error), error

    assert outcome(all_of_them) == ["returned", None]


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"[" * 10**6, b'{"a":' * 10**5, b"9" * 10**5, b"\xff\xfe", b'"\\ud800"']
)
def test_manifests_that_are_none(data, content):
    (data / "unitgain.json").write_bytes(content)
    for call in (use, inspect):
        kind, text = outcome(call, data)
        assert (kind == "DataError" and "unitgain.json is damaged" in text) or "format" in text


@pytest.mark.parametrize("name", ["../x.arrow", "/etc/passwd", "a/b.arrow", "", "..", "data-00000.arrow\0"])
def test_shards_lie_beside_their_manifest(data, name):
    (data.parent / "x.arrow").write_bytes((data / "data-00000.arrow").read_bytes())
    about = json.loads((data / "unitgain.json").read_text())
    about["shards"][0]["file"] = name
    edit(data, shards=about["shards"])
    for call in (use, inspect):
        kind, text = outcome(call, data)
        assert kind == "DataError" and "is not the plain name of a file" in text


def test_a_pipe_is_no_shard(data):
    (data / "data-00000.arrow").unlink()
    os.mkfifo(data / "data-00000.arrow")
    for call in (use, inspect):
        assert outcome(call, data, seconds=20)[0] == "DataError"


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_packed_shards_are_not_unpacked(data, codec):
    columns = {"image": [bytes(2**27)], "label": [0], "key": ["a"]}
    shard_of(data, columns, compression=codec)
    about = json.loads((data / "unitgain.json").read_text())
    about["shards"][0] |= {"rows": 1, "values": 64}
    edit(data, rows=5, shards=about["shards"])
    kind, text = outcome(use, data, megabytes=100)
    assert kind == "DataError" and "no plain record batch" in text


@pytest.mark.parametrize(
    "change",
    [
        {"image": pa.array(["text"] * 8)},
        {"image": pa.array([b"x"] * 8, pa.large_binary())},
        {"image": pa.array([None] * 8, pa.binary())},
        {"image": pa.array([[1]] * 8)},
        {"label": pa.array([0] * 8, pa.int32())},
        {"label": pa.array([None] * 8, pa.int64())},
        {"label": pa.array([3] * 8)},
        {"label": pa.array([-1] * 8)},
        {"key": pa.array([b"x"] * 8)},
        {"key": pa.array(["x"] * 8).dictionary_encode()},
        {"key": None},
        {"image": pa.nulls(8)},
    ],
)
def test_columns_are_what_the_manifest_says(data, change):
    columns = {name: column for name, column in (columns_of(data) | change).items() if column is not None}
    shard_of(data, columns)
    for call in (use, inspect):
        kind, text = outcome(call, data)
        assert kind == "DataError" and "data-00000.arrow" in text


def test_rows_are_as_many_as_the_manifest_says(data):
    columns = columns_of(data)
    for content, batches in (({name: column[:7] for name, column in columns.items()}, 1), (columns, 2), (columns, 0)):
        shard_of(data, content, batches=batches)
        kind, text = outcome(use, data)
        assert kind == "DataError" and "data-00000.arrow does not hold 8 rows" in text


@pytest.mark.parametrize(
    "row",
    [
        HUGE,
        encoded(picture(0, 9, 8)),
        encoded(picture(0, 8, 8, 1)),
        encoded(picture(0, 8, 8).convert("RGBA")),
        encoded(picture(0, 8, 8), "JPEG"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n",
        b"",
    ],
)
def test_rows_are_pictures_of_the_size_that_the_manifest_says(data, row):
    columns = columns_of(data)
    shard_of(data, columns | {"image": pa.array([row, *columns["image"].to_pylist()[1:]])})
    kind, text = outcome(use, data, megabytes=200)
    assert kind == "DataError" and "row 0 (cat/0.png) cannot be decoded" in text
    assert outcome(inspect, data, megabytes=200) == ["returned", False]


def test_latents_are_as_long_as_the_manifest_says(tmp_path):
    (tmp_path / "pictures").mkdir()
    for index in range(4):
        np.save(tmp_path / "pictures" / f"{index}.npy", np.full((8, 2, 2), index, np.float32))
    prepare_data(str(tmp_path / "pictures"), tmp_path / "data", Fit(resolution=None), workers=1)
    data = tmp_path / "data"
    assert outcome(use, data)[0] == "returned"
    columns = columns_of(data)
    short = [*columns["latent"].to_pylist()[:3], bytes(124)]
    shard_of(data, columns | {"latent": pa.array(short)})
    assert outcome(use, data)[0] == "DataError"
    edit(data, channels=10**9)
    assert outcome(use, data)[0] == "DataError"
