"""Data that someone made to do harm: every source and every prepared folder ends in an error that names it.

Each call runs in a process with little memory, so that a crash and a flood are seen.
"""

import bz2
import gzip
import hashlib
import json
import lzma
import os
import random
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bounded import outcome
from pictures import encoded, folder_of, picture
from PIL import Image

from unitgain.data.check import check
from unitgain.data.fit import Fit
from unitgain.data.manifest import DataError, read_manifest
from unitgain.data.prepare import prepare
from unitgain.data.prepared import PreparedDataset
from unitgain.data.sources import SourceOptions
from unitgain.evaluate.images import open_images
from unitgain.trust import Limits

FIT = Fit(resolution=8)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width, height, colour=2):
    """A PNG of black pixels, of which only the first rows are there: memory for all is taken before that is noticed."""
    bands = {0: 1, 2: 3, 6: 4}[colour]
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    rows = zlib.compress(bytes(20 * (1 + bands * width)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


HUGE = bomb(13300, 13300)  # 177 megapixels


@pytest.fixture
def data(tmp_path):
    """A prepared folder of two shards, of images that are not alike."""
    prepare(str(folder_of(tmp_path / "pictures", each=4)), tmp_path / "data", FIT, workers=1, shard=8)
    return tmp_path / "data"


def use(folder):
    """Open a folder and read every row."""
    dataset = PreparedDataset(folder)
    dataset.rows(np.arange(len(dataset)))
    return [dataset.key(row) for row in range(len(dataset))]


def inspect(folder):
    return check(folder, workers=1).healthy


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
    prepare(str(tmp_path / "pictures"), tmp_path / "data", Fit(resolution=None), workers=1)
    data = tmp_path / "data"
    assert outcome(use, data)[0] == "returned"
    columns = columns_of(data)
    short = [*columns["latent"].to_pylist()[:3], bytes(124)]
    shard_of(data, columns | {"latent": pa.array(short)})
    assert outcome(use, data)[0] == "DataError"
    edit(data, channels=10**9)
    assert outcome(use, data)[0] == "DataError"


# Sources


def prepared(source, tmp_path, on_error="skip", **options):
    """The names of the pictures that could be used, and why others could not."""
    folder = tmp_path / "prepared"
    prepare(str(source), folder, FIT, options=SourceOptions(**options), on_error=on_error, workers=1)
    left = (folder / "skipped.jsonl").read_text().splitlines() if (folder / "skipped.jsonl").exists() else []
    return use(folder), {row["key"]: row["error"] for row in map(json.loads, left)}


def npy(shape, kind="|u1"):
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def text_bomb(mebibytes):
    """A picture with compressed text."""
    good = encoded(picture(0, 8, 8))
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(mebibytes << 20), 9))
    return good[:33] + text * 4 + good[33:]


def icon(inner):
    """An icon of 16x16 that holds a PNG of another size."""
    return struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22) + inner


def gif(width, height):
    """A canvas of 8x8, whose first frame is larger."""
    head = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + bytes(6)
    return head + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00;"


def test_pictures_that_take_too_much_are_left_out(tmp_path):
    root = folder_of(tmp_path / "pictures", classes=("a",), each=2) / "a"
    small = encoded(picture(0, 8, 8))
    hostile = {
        "array.npy": npy("(3, 100000, 100000)"),
        "latents.npy": npy("(8, 30000, 30000)", "<f4"),
        "deep.npy": npy("(" * 5000),
        "icon.ico": icon(HUGE),
        "frame.gif": gif(60000, 60000),
        "huge.png": HUGE,
        "palette.png": bomb(20000, 20000, 0),
        "text.png": text_bomb(80),
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) run\n",
        "header.bmp": b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 30000, 30000, 1, 24, 0, 0, 0, 0, 0, 0),
        "header.ppm": b"P6 60000 60000 255\n",
        "header.qoi": b"qoif" + struct.pack(">II", 60000, 60000) + b"\x03\0",
        "header.tga": struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, 60000, 60000, 24, 0),
        "header.webp": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff\x3f\0\xff\x3f\0",
        "empty.png": b"",
    }
    for name, content in hostile.items():
        (root / name).write_bytes(content)
    os.mkfifo(root / "pipe.png")
    (root / "zero.png").symlink_to("/dev/zero")
    (root / "nowhere.png").symlink_to("nowhere")
    with open(root / "sparse.png", "wb") as file:
        file.truncate(2**40)
    (root / "good.png").write_bytes(small)
    kind, found = outcome(prepared, root.parent, tmp_path)
    assert kind == "returned", found
    names, left = found
    assert sorted(names) == ["a/0.png", "a/1.png", "a/good.png"]
    assert left.keys() == {f"a/{name}" for name in (*hostile, "pipe.png", "zero.png", "nowhere.png", "sparse.png")}
    assert "its 13300x13300 pixels takes 530,670,000 bytes" in left["a/huge.png"]
    assert "--max-item-bytes" in left["a/icon.ico"] and "--max-item-bytes" in left["a/sparse.png"]
    assert "no ordinary file" in left["a/pipe.png"] or "not an ordinary file" in left["a/pipe.png"]


def test_the_limits_can_be_raised_and_lowered(tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    Image.new("RGB", (20, 14)).save(root / "0.png")
    assert prepared(root, tmp_path / "1", limits=Limits(item=840))[1] == {}
    kind, text = outcome(lambda: prepared(root, tmp_path / "2", "fail", limits=Limits(item=839)))
    assert kind == "BrokenPictureError" and "takes 840 bytes, over the limit of 839" in text
    assert outcome(measured, root, 839)[0] == "ImageError"
    assert outcome(measured, root, 840) == ["returned", [1, 3, 14, 20]]


def measured(source, item):
    images = open_images(str(source), Limits(item=item))
    return list(next(images.batches(range(len(images)))).shape)


def test_pillows_own_limit_does_not_count(tmp_path, monkeypatch):
    """With little memory the limit of Pillow is made small instead of the picture large."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    root = folder_of(tmp_path / "pictures", classes=("a",), each=1, width=20, height=14)
    assert outcome(prepared, root, tmp_path) == ["returned", [["a/0.png"], {}]]
    assert Image.MAX_IMAGE_PIXELS == 10


def zip_of(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_of_archives_are_unpacked_up_to_the_limit(tmp_path, method):
    good, flood = encoded(picture(0, 8, 8)), bytes(2**24)
    path = zip_of(tmp_path / "a.zip", {"a/good.png": good, "a/flood.png": flood}, method)
    kind, found = outcome(lambda: prepared(path, tmp_path, limits=Limits(item=2**20, ratio=10**7)))
    assert kind == "returned" and found[0] == ["a/good.png"]
    assert "takes 16,777,216 bytes, over the limit" in found[1]["a/flood.png"]
    kind, text = outcome(lambda: prepared(path, tmp_path / "2", limits=Limits(item=2**20, ratio=9)))
    assert kind == "LimitError" and "a.zip, unpacked, takes 16,77" in text and "--max-ratio" in text


def test_archives_are_unpacked_up_to_the_limit(tmp_path):
    for suffix, opener in ((".tar.gz", gzip.open), (".tar.bz2", bz2.open), (".tar.xz", lzma.open)):
        path = tmp_path / f"a{suffix}"
        with opener(path, "wb") as file:
            file.write(bytes(2**23))
        kind, text = outcome(lambda path=path: prepared(path, tmp_path / "1", limits=Limits(item=2**20, ratio=10)))
        assert kind == "LimitError" and f"a{suffix}, unpacked, takes" in text
    assert not list(tmp_path.rglob("*.tar"))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_of_archives_are_short(tmp_path, kind):
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 2**32
    with open(tmp_path / "a.tar", "wb") as file:
        file.write(header.tobuf())
        file.truncate(2**32 + 2**20)
    found, text = outcome(prepared, tmp_path / "a.tar", tmp_path)
    assert found == "ValueError" and "a.tar is no whole tar archive: a header of" in text


LABELS = [b"[" * 10**6, b'{"labels": ' + b"[" * 10**5, b'{"labels": 3}', b"[]", b'{"labels": [[[]]]}', b"\xff"]
LABELS += [b'{"labels": [["a/0.png", ' + b"9" * 5000 + b"]]}", b'{"labels": [["a/0.png", 1e400]]}']


@pytest.mark.parametrize("content", LABELS)
@pytest.mark.parametrize("name", ["dataset.json", "metadata.jsonl", "labels.csv"])
def test_files_of_labels_end_in_one_kind_of_error(tmp_path, content, name):
    root = folder_of(tmp_path / "pictures", classes=("a",), each=1)
    (root / name).write_bytes(content)
    kind, text = outcome(prepared, root, tmp_path)
    assert kind == "returned" or (kind == "ValueError" and name in text)


def test_a_label_does_not_decide_how_many_classes_are_named(tmp_path):
    root = folder_of(tmp_path / "pictures", classes=("a",), each=2)
    (root / "labels.csv").write_text("file,label\na/0.png,2024000123\na/1.png,1000000000\n")
    assert outcome(prepared, root, tmp_path)[0] == "returned"
    assert read_manifest(tmp_path / "prepared").classes == ("1000000000", "2024000123")


# Tables


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


def saved(folder, columns, **state):
    """A directory as the `datasets` library saves one."""
    folder.mkdir()
    batch = pa.record_batch(columns)
    with pa.OSFile(str(folder / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, batch.schema) as stream:
        stream.write_batch(batch)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]} | state))
    return folder
