import os
from pathlib import Path

import pytest

from unitgain.trust import LimitError, Limits, check_size, csv_cell, open_regular, plain_name, printable


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
        Limits(item=0)
