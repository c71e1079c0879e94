"""What people mistype: each is answered with one line that names what was given, and what it says to do works."""

import re
import shlex

import pytest
from pictures import folder_of

PREPARE = ("data", "prepare", "pictures")
MISTAKES = {
    # what is typed: words of the answer, and what works then; {} for the command that the answer has itself
    ("recipez",): ("did you mean 'recipes'", ("recipes",)),
    ("data", "chek", "data"): ("did you mean 'check'", ("data", "check", "data")),
    ("inspect", "digitz"): (
        "'digitz' is no file, no folder and no recipe; did you mean 'digits'",
        ("inspect", "digits"),
    ),
    ("train", "digitz", "--out", "run"): ("unknown recipe 'digitz'; did you mean 'digits'", None),
    ("train", "digits", "--data", "dta", "--out", "run"): ("unknown data set 'dta'", None),
    ("train", "digits", "--out", "pictures"): ("pictures is not empty: choose another folder", None),
    ("train", "digits", "--data", "pictures", "--out", "run"): ("pictures holds no prepared data", {}),
    ("train", "--resume", "--out", "empty"): ("empty holds no run to resume", None),
    (*PREPARE, "pictures", "--resolution", "8"): (
        "pictures is not empty: choose another folder",
        (*PREPARE, "other", "--resolution", "8"),
    ),
    (*PREPARE, "data", "--resolution", "16"): (
        "data holds prepared data made with other settings (fit.resolution: 8 -> 16): use these",
        (*PREPARE, "data", "--resolution", "8"),
    ),
    (*PREPARE, "out", "--workers", "0"): ("workers 0: must be at least 1", (*PREPARE, "out", "--workers", "1")),
    ("data", "prepare", "pictres", "out"): ("pictres does not exist", None),
    ("data", "prepare", "notes.txt", "out"): ("notes.txt is no source of images: it is text; expected a folder", None),
    ("data", "prepare", "empty", "out"): ("empty holds no pictures", None),
    ("data", "prepare", "pictures", "out", "--labels", "nowhere.csv"): ("no file of labels at nowhere.csv", None),
    ("data", "check", "pictures"): ("pictures holds no prepared data", {}),
    ("data", "show", "data", "--out", "sheet.txt"): (
        "--out sheet.txt: must end in .png",
        ("data", "show", "data", "--out", "sheet.png"),
    ),
    ("ema", "list", "empty"): ("no snapshots (*.safetensors) in empty", None),
    ("ema", "list", "nowhere"): ("no run or folder of snapshots at nowhere", None),
    ("sample", "nowhere.safetensors", "--out", "out"): ("no snapshot at nowhere.safetensors", None),
    ("watch", "empty"): ("empty is not the folder of a run", None),
    ("report", "nowhere"): ("nowhere is not the folder of a run", None),
    ("metrics", "nowhere", "--reference", "digits"): ("no images at nowhere: name a folder, a zip archive", None),
    ("metrics", "pictures", "--reference", "nowhere.npz"): ("no reference at nowhere.npz: make one with", None),
    ("metrics", "pictures"): ("fid: --reference", None),
    ("convert", "nowhere.pkl", "net.safetensors"): ("no file at nowhere.pkl", None),
    ("fetch", "edm3-xs"): ("unknown preset 'edm3-xs'; known: edm2-", None),
    ("ema", "reconstruct", "nowhere", "0.1"): ("no run or folder of snapshots at nowhere", None),
    ("ema", "convert", "empty", "out"): ("no checkpoints with a time in their name", None),
    ("metrics", "pictures", "--metrics", "fdi"): ("unknown metric 'fdi'", None),
}


@pytest.mark.parametrize("typed", MISTAKES, ids=" ".join)
def test_a_mistake_is_answered_in_a_line_and_the_remedy_works(call, tmp_path, monkeypatch, typed):
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "pictures", classes=("cat", "dog"), each=2)
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "empty").mkdir()
    call(*PREPARE, "data", "--resolution", 8)
    words, remedy = MISTAKES[typed]
    answer = call(*typed, code=2).err
    (error,) = [line for line in answer.splitlines() if not line.startswith("training with")]
    assert error.startswith("error: ") and words in error
    assert not (tmp_path / "run").exists() and not (tmp_path / "out").exists()
    if remedy == {}:
        remedy = shlex.split(re.search(r"with: unitgain (.*)", error)[1])
    if remedy is not None:
        call(*remedy)
