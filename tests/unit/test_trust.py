import io
import os
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from unitgain.npz import read_npy
from unitgain.text import csv_cell, printable
from unitgain.trust import (
    LimitError,
    Limits,
    check_size,
    open_regular,
    parse_json,
    plain_name,
    read_member,
    read_regular,
)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", "c:x", "a\nb", "a\x1b[2Jb", "a\0b", "x" * 256, 3, None]
)
def test_a_path_is_no_plain_name(name):
    with pytest.raises(ValueError, match="plain name"):
        plain_name(name)


def test_plain_names_pass():
    assert plain_name("data-00000.arrow") == "data-00000.arrow"
    assert plain_name(".metadata") == ".metadata"
    assert plain_name("é 2.png") == "é 2.png"


def test_what_is_shown_has_no_control_characters():
    shown = printable("a\x1b[31m\x9b2J\u202egnp\ud800\x07 é\n\t日本")
    assert shown == "a\\x1b[31m\\x9b2J\\u202egnp\\ud800\\x07 é\n\t日本"


def test_formulas_become_text():
    assert csv_cell("=1+1") == "'=1+1"
    assert csv_cell("@x") == "'@x"
    assert csv_cell("plain") == "plain"
    assert csv_cell(-1.5) == -1.5


def test_pipes_and_devices_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match=r"not an ordinary file|[Dd]irectory"):
            open_regular(path)


def test_links_out_of_a_folder_are_refused(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_bytes(b"s")
    (root / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="leads out of"):
        open_regular(root / "link", below=root)
    with pytest.raises(OSError, match="leads out of"):
        open_regular(root / ".." / "secret", below=root)
    (root / "own").write_bytes(b"o")
    with open_regular(root / "own", below=root) as file:
        assert file.read() == b"o"


def test_a_limit_names_what_and_how_to_raise_it():
    check_size("x.png", 10, 10, "--limit")
    with pytest.raises(LimitError, match=r"x\.png takes 11 bytes, over the limit of 10: .*--limit"):
        check_size("x.png", 11, 10, "--limit")
    with pytest.raises(ValueError, match="item"):
        Limits(max_item_bytes=0)


def test_a_file_is_read_up_to_the_limit(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_regular(tmp_path / "a", Limits(max_item_bytes=5)) == b"12345"
    with pytest.raises(LimitError, match=r"5 bytes, over the limit of 4.*--max-item-bytes"):
        read_regular(tmp_path / "a", Limits(max_item_bytes=4))
    with pytest.raises(LimitError, match="over the limit"):
        read_regular(Path("/proc/self/maps"), Limits(max_item_bytes=9))  # says that it is empty
    with pytest.raises(OSError, match="leads out of"):
        read_regular(tmp_path / "a", Limits(), below=tmp_path / "b")


METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", [0, 1, 3_000_000])
def test_members_of_archives_come_back(tmp_path, method, length):
    data = random.Random(0).randbytes(length)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("x", data)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert read_member(archive, "x", Limits(max_item_bytes=3_100_000)) == data
        if length > 1:
            with pytest.raises(LimitError, match="x takes"):
                read_member(archive, "x", Limits(max_item_bytes=1000))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("says", [10, 999_999, 1_000_001])
def test_members_that_lie_about_their_length_are_refused(tmp_path, method, says):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("x", bytes(1_000_000))
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.getinfo("x").file_size = says
        with pytest.raises(zipfile.BadZipFile):
            read_member(archive, "x", Limits())


@pytest.mark.parametrize(
    "array",
    [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3)), np.array(3), np.array("text")],
)
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_arrays_come_back(array, version):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version)
    found = read_npy(buffer.getvalue())
    assert found.dtype == array.dtype and np.array_equal(found, array)


def npy(header):
    text = f"{header}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY\x09\x00",
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (4000000000,)}"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (0,)}"),
        npy("{'descr': '|V0', 'fortran_order': False, 'shape': (4000000000,)}"),
        npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': (0, {10**30})}}"),
        npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**62}, 4)}}") + bytes(8),
        npy("(" * 4000),
        npy("1" * 9000),
        npy("{'descr': [('a', 'O')], 'fortran_order': False, 'shape': ()}") + bytes(8),
    ],
)
def test_headers_of_arrays_are_not_believed(data):
    with pytest.raises(ValueError, match="header"):
        read_npy(data)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", "[" * 100_000, '{"a":' * 100_000, "1" * 5000])
def test_json_that_cannot_be_read_is_named(data):
    with pytest.raises(ValueError, match=r"labels.json is no JSON"):
        parse_json(data, "labels.json")


def test_json_comes_back():
    assert parse_json(b'{"a": [1, null]}', "x") == {"a": [1, None]}
