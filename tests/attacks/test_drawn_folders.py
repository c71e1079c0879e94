"""A folder or an archive of images from someone else, gone on with: nothing outside it is read, written or deleted,
nothing waits for ever, and what its manifest and journals say is taken only where this package could have said it."""

import hashlib
import json
import os
import zipfile

import pytest
import torch

from unitgain.draw.archive import unpack
from unitgain.draw.folder import MANIFEST, ImageFolder

MADE = {"network": {"name": "a", "sha256": "0"}, "settings": {}}
PIXELS = torch.zeros(1, 8, 8, dtype=torch.uint8)
JOURNAL = ".journal-0.jsonl"


@pytest.fixture
def root(tmp_path):
    folder = ImageFolder(tmp_path / "out", MADE)
    folder.write(1, None, PIXELS)
    folder.finish()
    return folder.root


@pytest.fixture
def precious(tmp_path):
    path = tmp_path / "precious"
    path.write_bytes(b"precious")
    return path


def go_on(root):
    """As `draw` does; the seeds that were there."""
    folder = ImageFolder(root, MADE)
    folder.check()
    there = sorted(folder.finished())
    for seed in (1, 2):
        if seed not in there:
            folder.write(seed, None, PIXELS)
    assert [entry["seed"] for entry in folder.finish()] == [1, 2]
    return there


def listed(root, **changes):
    """One more entry in the manifest."""
    path = root / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["images"].append({**manifest["images"][0], "seed": 3, **changes})
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("file", ["/dev/zero", "../precious", "000000/../000000/000003.png", "pipe", 3, None, "a\0b"])
def test_an_entry_names_the_file_of_its_seed(root, precious, file):
    os.mkfifo(root / "pipe")
    listed(root, file=file, sha256=hashlib.sha256(precious.read_bytes()).hexdigest())
    assert go_on(root) == [1]


@pytest.mark.parametrize(
    "changes", [{"seed": [1]}, {"seed": "x"}, {"seed": True}, {"seed": -1}, {"class": "\x1b[2J"}, {"more": 1}]
)
def test_entries_that_were_not_written_here(root, changes):
    listed(root, **changes)
    assert go_on(root) == [1]


@pytest.mark.parametrize("text", ["", "7", "[" * 10**5, "9" * 5000, '{"format": "unitgain-images/1", "images": 7}'])
@pytest.mark.parametrize("name", [MANIFEST, JOURNAL])
def test_texts_that_are_none(root, name, text):
    if name == MANIFEST:
        (root / JOURNAL).write_text(json.dumps({"made": MADE}) + "\n")  # that it may be gone on with
    (root / name).write_text(text)
    assert go_on(root) == ([] if name == MANIFEST else [1])


@pytest.mark.parametrize("line", [b"7", b'"made"', b'["made"]', b'{"made":7}', b'{"seed":1}', b"\xff", b"null"])
def test_lines_that_are_no_rows(root, line):
    (root / JOURNAL).write_bytes(line + b"\n")
    assert go_on(root) == [1]


def test_what_it_says_it_was_made_of(root):
    manifest = json.loads((root / MANIFEST).read_text())
    (root / MANIFEST).write_text(json.dumps({**manifest, "network": 7}))
    with pytest.raises(ValueError, match="made otherwise"):
        go_on(root)


@pytest.mark.parametrize("name", [JOURNAL, "000000/000002.png"])
def test_links_are_not_written_through(root, precious, name):
    (root / name).symlink_to(precious)
    try:
        go_on(root)
    except OSError as error:
        assert "out of" in str(error)
    assert precious.read_bytes() == b"precious"


def test_folders_that_are_links_are_not_written_into(root, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (root / "000000/000001.png").unlink()
    (root / "000000").rmdir()
    (root / "000000").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="is a link"):
        go_on(root)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("name", [MANIFEST, JOURNAL, "000000/000001.png", "000000/000002.png"])
def test_pipes_are_not_waited_for(root, name):
    (root / name).unlink(missing_ok=True)
    os.mkfifo(root / name)
    try:
        go_on(root)
    except OSError as error:
        assert "no ordinary file" in str(error) or "not an ordinary file" in str(error)


def archive_of(path, members):
    """An archive, the first byte of each member but the manifest damaged."""
    with zipfile.ZipFile(path, "w") as file:
        for name in members:
            file.writestr(name, b"other bytes")
        file.writestr(MANIFEST, json.dumps({"format": "unitgain-images/1", "images": []}))
        places = [(file.getinfo(name).header_offset, len(name.encode())) for name in members]
    data = bytearray(path.read_bytes())
    for offset, length in places:
        data[offset + 30 + length] ^= 1
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["../precious", "/{}", "a/../../precious", "000000/000001.png/x"])
def test_damaged_members_delete_nothing_outside(tmp_path, precious, name):
    name = name.format(str(precious)[1:])
    parts = tmp_path / "parts"
    unpack(archive_of(tmp_path / "out.zip", [name, "000000/000001.png"]), parts)
    assert precious.read_bytes() == b"precious"
    assert [path.name for path in parts.rglob("*") if path.is_file()] == [MANIFEST]


def test_archives_unpack_up_to_the_limit(tmp_path):
    path = tmp_path / "out.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(MANIFEST, bytes(600_000_000))
    unpack(path, tmp_path / "parts")
    assert not (tmp_path / "parts").exists()
