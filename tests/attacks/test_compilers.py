"""Compilers that do not end, in any way, and places for what they make: the command goes on without C, and says so."""

import os
import subprocess
import time

import pytest

from unitgain.files import cache_folder
from unitgain.native import build


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Make a compiler of a shell script, the one that is asked."""

    def make(script):
        path = tmp_path / os.fsdecode(b"c\xff")
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o700)
        monkeypatch.setenv("CC", f"'{path}'")
        monkeypatch.setattr(build, "_endless", set())
        build.library.cache_clear()

    monkeypatch.setenv("UNITGAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(build.NATIVE, "")
    monkeypatch.setattr(build, "SECONDS", 3)
    yield make
    build.library.cache_clear()


ONLY_LATER = 'case "$1" in --version) echo 1; exit;; esac; '


@pytest.mark.parametrize("before", ["", ONLY_LATER])
def test_a_compiler_that_does_not_end_is_ended_once_and_a_note_says_so(compiler, tmp_path, capsys, before):
    compiler(f"{before}echo $$ >> {tmp_path}/pids; sleep 300 & echo $! >> {tmp_path}/pids; wait")
    began = time.monotonic()
    assert build.library("combine") is None and build.library("pointwise") is None
    assert time.monotonic() - began < 60
    said = capsys.readouterr().err
    assert said.count("took over 3 s: going on without C") == 1 and said.isascii()
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 2
    for pid in pids:
        state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True).stdout.strip()
        assert state[:1] in ("", "Z")


def test_a_compiler_that_leaves_a_program_behind_is_not_waited_for(compiler, capsys):
    compiler("sleep 300 &")
    assert build.library("combine") is None
    assert "took over 3 s" in capsys.readouterr().err


@pytest.mark.parametrize("before", ["", ONLY_LATER])
def test_a_compiler_that_prints_without_end(compiler, monkeypatch, before):
    monkeypatch.setattr(build, "SECONDS", 60)
    monkeypatch.setenv(build.NATIVE, "1")
    compiler(f"{before}yes")
    with pytest.raises(RuntimeError, match="prints more than 1,048,576 characters"):
        build.library("combine")


def test_what_a_compiler_says_is_cut(compiler, monkeypatch):
    monkeypatch.setenv(build.NATIVE, "1")
    compiler("yes | head -c 500000 >&2; echo the end; exit 1")
    with pytest.raises(RuntimeError, match="the end") as caught:
        build.library("combine")
    assert len(str(caught.value)) < 3000


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    for name in ("UNITGAIN_CACHE", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative\n")
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(FileNotFoundError, match="choose a place with UNITGAIN_CACHE"):
        cache_folder()
