"""Sources that someone made to do harm: what cannot be used is left out, and the rest is there.

Each call runs in a process with little memory, so that a crash and a flood are seen.
"""

import bz2
import functools
import gzip
import io
import json
import lzma
import os
import random
import struct
import subprocess
import tarfile
import zipfile
import zlib

import pytest
from bounded import outcome
from hostile import FIT, HUGE, bomb, chunk, prepared
from pictures import encoded, folder_of, picture
from PIL import Image

from unitgain.data.manifest import read_manifest
from unitgain.data.prepare import fit_item
from unitgain.data.sources import Item, SourceOptions, open_source
from unitgain.evaluate.images import open_images
from unitgain.trust import Limits


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
    assert left.keys() == {f"a/{name}" for name in (*hostile, "pipe.png", "nowhere.png", "sparse.png")}
    assert "its 13300x13300 pixels takes 530,670,000 bytes" in left["a/huge.png"]
    assert "--max-item-bytes" in left["a/icon.ico"] and "--max-item-bytes" in left["a/sparse.png"]
    assert "no ordinary file" in left["a/pipe.png"] or "not an ordinary file" in left["a/pipe.png"]


def test_the_limits_can_be_raised_and_lowered(tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    Image.new("RGB", (20, 14)).save(root / "0.png")
    assert prepared(root, tmp_path / "1", limits=Limits(max_item_bytes=840))[1] == {}
    kind, text = outcome(lambda: prepared(root, tmp_path / "2", "fail", limits=Limits(max_item_bytes=839)))
    assert kind == "BrokenPictureError" and "takes 840 bytes, over the limit of 839" in text
    assert outcome(measured, root, 839)[0] == "ImageError"
    assert outcome(measured, root, 840) == ["returned", [1, 3, 14, 20]]


def measured(source, item):
    images = open_images(str(source), Limits(max_item_bytes=item))
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
    kind, found = outcome(lambda: prepared(path, tmp_path, limits=Limits(max_item_bytes=2**20, max_ratio=10**7)))
    assert kind == "returned" and found[0] == ["a/good.png"]
    assert "takes 16,777,216 bytes, over the limit" in found[1]["a/flood.png"]
    kind, text = outcome(lambda: prepared(path, tmp_path / "2", limits=Limits(max_item_bytes=2**20, max_ratio=9)))
    assert kind == "LimitError" and "a.zip, unpacked, takes 16,77" in text and "--max-ratio" in text


def test_archives_are_unpacked_up_to_the_limit(tmp_path):
    for suffix, opener in ((".tar.gz", gzip.open), (".tar.bz2", bz2.open), (".tar.xz", lzma.open)):
        path = tmp_path / f"a{suffix}"
        with opener(path, "wb") as file:
            file.write(bytes(2**23))
        kind, text = outcome(
            lambda path=path: prepared(path, tmp_path / "1", limits=Limits(max_item_bytes=2**20, max_ratio=10))
        )
        assert kind == "LimitError" and f"a{suffix}, unpacked, takes" in text
    assert not list(tmp_path.rglob("*.tar"))


def test_names_of_members_lead_nowhere(tmp_path):
    """Each folder that a name leads through is kept; a name of 40 KB would take 400 MB."""
    good = encoded(picture(0, 8, 8))
    names = {"deep": "d/" * 20_000 + "x.png", "long": "d" * 60_000 + "/x.png", "lines": "a/x\n\x1b[2J"}
    path = zip_of(tmp_path / "a.zip", {"a/good.png": good, **dict.fromkeys(names.values(), good)})
    with zipfile.ZipFile(path, "a") as archive:
        nameless = zipfile.ZipInfo("x")
        nameless.filename = "\0x.png"  # which ends at the zero
        archive.writestr(nameless, good)
    kind, listed = outcome(lambda: _listed(path), megabytes=100)
    assert kind == "returned", listed
    keys, notes = listed
    assert keys == ["a/good.png"]
    assert notes[0].startswith("2 files have names longer or deeper than paths are, and were left out: d/d/")
    assert all(len(note) < 600 and note.isprintable() for note in notes)


def test_folders_without_end_are_not_followed(tmp_path):
    root = folder_of(tmp_path / "pictures", classes=("a",), each=1)
    here = os.open(root, os.O_RDONLY)
    for _ in range(1200):  # past the longest path, and more than Python calls itself
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    kind, listed = outcome(_listed, root)
    subprocess.run(["rm", "-r", root / "d"], check=True)  # more than what deletes folders of tests calls itself
    assert kind == "returned", listed
    assert listed[0] == ["a/0.png"] and listed[1][0].startswith("1 folders lie deeper than paths are")
    assert ": d/d/d/" in listed[1][0]


def test_folders_as_deep_as_may_be_are_complete(tmp_path):
    root = folder_of(tmp_path / "pictures", classes=("a",), each=1)
    (root / "/".join("d" * 100)).mkdir(parents=True)
    assert not any("deeper" in note for note in _listed(root)[1])


@pytest.mark.parametrize("name", ["pipe.csv", "zero.csv"])
def test_labels_are_an_ordinary_file(tmp_path, name):
    root = folder_of(tmp_path / "pictures", classes=("a",), each=1)
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    kind, text = outcome(lambda: prepared(root, tmp_path, labels=tmp_path / name))
    assert kind == "OSError" and f"{name} is not an ordinary file" in text


def _listed(path):
    source = open_source(str(path), path.parent)
    return list(source.keys), source.notes


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


def archive_of(path, kind):
    """Four pictures with their labels, in an archive of this kind."""
    files = {f"{index % 2}/{index}.png": encoded(picture(index, 8, 8)) for index in range(4)}
    labels = json.dumps({"labels": [[name, index] for index, name in enumerate(files)]}).encode()
    if kind in METHODS:
        return zip_of(path, files | {"dataset.json": labels}, METHODS[kind])
    with tarfile.open(path, f"w:{kind}") as archive:
        for name, content in (files | {f"{name[:-3]}cls": b"7" for name in files}).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


METHODS = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}
METHODS |= {"bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}


@pytest.mark.parametrize("kind", ["stored", "deflated", "bzip2", "lzma", "", "gz", "bz2", "xz"])
def test_any_byte_of_an_archive_may_be_wrong(tmp_path, kind):
    path = archive_of(tmp_path / "a.zip" if kind in METHODS else tmp_path / f"a.tar{'.' * bool(kind)}{kind}", kind)

    def all_of_them():
        whole, draw, refused = path.read_bytes(), random.Random(0), 0
        for step in range(80):
            content = bytearray(whole)
            for _ in range(1 + step % 3):
                content[draw.randrange(len(whole))] ^= draw.randrange(1, 256)
            path.write_bytes(content)
            try:
                source = open_source(str(path), tmp_path / "scratch", SourceOptions())
                rows = [fit_item(item, FIT, source.options.limits) for item in source.read()]
                assert all(row.data or row.error for row in rows)
            except ValueError as error:
                assert path.name in str(error), repr(error)
                refused += 1
        return refused

    found, refused = outcome(all_of_them)
    assert found == "returned", refused
    assert refused > 3


def test_any_byte_of_a_picture_may_be_wrong():
    """A decoder may fail in its own way, and nothing else."""
    images = [picture(0, 40, 30), picture(1, 40, 30).convert("P"), picture(2, 40, 30).convert("RGBA")]
    kinds = [("PNG", 0), ("PNG", 1), ("PNG", 2), ("JPEG", 0), ("WEBP", 2), ("GIF", 1), ("BMP", 0), ("TIFF", 0)]
    kinds += [("PPM", 0), ("TGA", 2), ("ICO", 2), ("JPEG2000", 0), ("QOI", 0)]

    def all_of_them():
        draw = random.Random(0)
        for kind, image in kinds:
            whole = encoded(images[image], kind)
            for step in range(60):
                content = bytearray(whole)
                reach = len(whole) if step % 2 else min(len(whole), 128)
                for _ in range(1 + step % 3):
                    content[draw.randrange(reach)] ^= draw.randrange(1, 256)
                row = fit_item(Item("x", functools.partial(bytes, content)), FIT, Limits(max_item_bytes=10**7))
                assert row.data or row.error

    assert outcome(all_of_them) == ["returned", None]


def test_a_header_before_a_header_before_a_header(tmp_path):
    """Python's reader of tar archives calls itself for each."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for _ in range(3000):
            member = tarfile.TarInfo("././@LongLink")
            member.type, member.size = tarfile.GNUTYPE_LONGNAME, 10
            archive.addfile(member, io.BytesIO(b"a" * 10))
    with pytest.raises(ValueError, match=r"a\.tar is no whole tar archive"):
        open_source(str(path), tmp_path)
