"""A folder or an archive of images from someone else, gone on with: nothing outside it is read, written or deleted,
nothing waits for ever, and what its manifest and journals say is taken only where this package could have said it."""

import hashlib
import json
import os
import zipfile

import pytest
import torch

from unitgain.draw.folder import FORMAT, MANIFEST, ImageFolder

ABOUT = {"network": {"name": "a", "sha256": "0"}, "settings": {}}
PIXELS = torch.zeros(1, 8, 8, dtype=torch.uint8)
JOURNAL = ".journal-0.jsonl"


@pytest.fixture
def root(tmp_path):
    folder = ImageFolder(tmp_path / "out", ABOUT)
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
    folder = ImageFolder(root, ABOUT)
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
        (root / JOURNAL).write_text(json.dumps({"about": ABOUT}) + "\n")  # that it may be gone on with
    (root / name).write_text(text)
    assert go_on(root) == ([] if name == MANIFEST else [1])


@pytest.mark.parametrize("line", [b"7", b'"about"', b'["about"]', b'{"about":7}', b'{"seed":1}', b"\xff", b"null"])
def test_lines_that_are_no_rows(root, line):
    (root / JOURNAL).write_bytes(line + b"\n")
    assert go_on(root) == [1]


def test_what_it_says_it_was_made_of(root):
    manifest = json.loads((root / MANIFEST).read_text())
    (root / MANIFEST).write_text(json.dumps({**manifest, "network": 7}))
    with pytest.raises(ValueError, match="drawn otherwise"):
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


def archive_of(path, members, **changes):
    """An archive of these members, and of a manifest that lists the images 1 and 2."""
    images = [{"seed": i, "class": None, "file": f"000000/00000{i}.png", "bytes": 11, "sha256": "0"} for i in (1, 2)]
    with zipfile.ZipFile(path, "w") as file:
        for name in members:
            file.writestr(name, b"other bytes")
        file.writestr(MANIFEST, json.dumps({"format": FORMAT, **ABOUT, "images": images} | changes))
    return path


@pytest.mark.parametrize("name", ["../precious", "/{}", "a/../../precious", "000000/000001.png/x"])
def test_members_of_an_archive_write_and_delete_nothing_outside(tmp_path, precious, name):
    members = [name.format(str(precious)[1:]), "000000/000001.png"]
    assert go_on(archive_of(tmp_path / "out.zip", members)) == [1]
    assert precious.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.zip", "precious"]
    with zipfile.ZipFile(tmp_path / "out.zip") as file:
        assert file.namelist() == ["000000/000001.png", "000000/000002.png", "dataset.json", MANIFEST]


def test_a_damaged_member_is_named(tmp_path):
    path = archive_of(tmp_path / "out.zip", ["000000/000001.png"])
    path.write_bytes(path.read_bytes().replace(b"other bytes", b"OTHER bytes"))
    with pytest.raises(OSError, match=r"damaged at 000000/000001\.png: delete it"):
        go_on(path)


def test_a_manifest_in_an_archive_is_read_up_to_the_limit(tmp_path):
    path = tmp_path / "out.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(MANIFEST, bytes(600_000_000))
    with pytest.raises(FileExistsError, match="no archive that this command wrote"):
        go_on(path)
    assert [each.name for each in tmp_path.iterdir()] == ["out.zip"]
