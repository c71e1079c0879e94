"""Temporary files and folders of processes that were killed."""

import os

import pytest

from unitgain import files


def test_what_is_no_number_of_a_process_ends_no_command(tmp_path):
    names = [f".x.{files._machine()}.{process}.tmp" for process in ("²", "9" * 30, "", "-1", str(os.getpid()))]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / f".x.{files._machine()}.{2**22 + 1}.tmp").touch()  # more than Linux gives
    files.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_a_folder_is_staged_over_what_a_process_of_the_same_number_left(tmp_path):
    with pytest.raises(SystemExit), files.staged(tmp_path / "out") as partial:
        left = partial
        raise SystemExit
    left.mkdir()
    (left / "old").touch()
    with files.staged(tmp_path / "out") as partial:
        assert partial == left
        (partial / "new").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]
