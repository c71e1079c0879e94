"""`unitgain completion`: what the Tab key offers, asked in a real shell."""

import shutil
import subprocess

import pytest

from unitgain.cli.commands import COMMANDS
from unitgain.cli.completion import options, script


@pytest.fixture(scope="module")
def offered():
    own = script("bash")

    def ask(*words):
        line = " ".join(f"'{word}'" for word in ("unitgain", *words))
        asked = f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _unitgain; echo ${{COMPREPLY[@]}}"
        return subprocess.check_output(["bash", "-c", f"{own}\n{asked}"], text=True).split()

    return ask


def test_first_words(offered):
    assert {name.split()[0] for name in COMMANDS} <= set(offered(""))
    assert offered("sam") == ["sample"]
    assert offered("nothing", "--") == []


def test_second_words(offered):
    assert {"list", "reconstruct", "plot"} <= set(offered("ema", ""))
    assert "reference" in offered("metrics", "")


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("sample", "runs/x", "--ste"), "--steps"),
        (("ema", "reconstruct", "runs/x", "--thr"), "--threads"),
        (("metrics", "reference", "--detec"), "--detectors"),
        (("train", "--data", "x", "--hou"), "--hours"),
        (("train", "digits", "--lr-"), None),
    ],
)
def test_options(offered, words, option):
    assert offered(*words) == ([option] if option else [])


def test_every_command_has_options():
    for name in COMMANDS:
        found = options(name)
        assert "--help" in found, name
        assert all(option.strip("-") for option in found), name


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
def test_zsh_reads_it():
    done = subprocess.run(["zsh", "-fc", f"autoload -U compinit; compinit -u\n{script('zsh')}"], capture_output=True)
    assert done.returncode == 0 and not done.stderr
