"""What people mistype: each is answered with one line that names what was given, and what it says to do works."""

import re
import shlex

import pytest
import torch
from pictures import folder_of

from unitgain.train.lock import FolderLock

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


TRAIN = ("train", "digits", "--quiet", "--no-tensorboard", "--device", "cpu")
OF_RUNS = {
    ("sample", "run", "--class", "sevn", "--out", "out"): ("there is no class 'sevn'", ("--class", "7")),
    ("sample", "run", "--class", "10", "--out", "out"): ("class", ("--class", "9")),
    ("sample", "run", "--guide", "self", "--guidance", "2", "--out", "out"): ("cannot guide itself", ()),
    ("sample", "run", "--seeds", "0..3", "--out", "out"): ("write 7, 1,2,5 or a range as 0-63", ("--seeds", "0-3")),
    ("ema", "reconstruct", "run", "0.5"): ("0.2886", None),
    (*TRAIN, "--out", "run", "--resume", "--lr", "0.5"): ("recipe.lr", None),
    (*TRAIN, "--out", "run"): ("--resume", None),
    ("sweep", "run", "--metric", "fd_pixels", "--reference", "digits", "--guidance", "2"): ("need a guide", None),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from unitgain.cli.main import main

    folder = tmp_path_factory.mktemp("trained")
    main([*TRAIN, "--out", str(folder / "run"), "--duration", "128", "--snapshot-every", "64"])
    return folder


@pytest.mark.parametrize("typed", OF_RUNS, ids=" ".join)
def test_a_mistake_about_a_run(call, run, monkeypatch, typed):
    monkeypatch.chdir(run)
    words, options = OF_RUNS[typed]
    answer = call(*typed, code=2).err
    (error,) = [line for line in answer.splitlines() if line.startswith("error: ")]
    assert words in error
    assert not (run / "out").exists()
    if options is not None:
        call(
            "sample",
            "run",
            "--steps",
            "2",
            "--device",
            "cpu",
            "--out",
            f"right{hash(typed)}",
            *options,
            "--seeds",
            "0-1",
        )


def test_a_device_that_is_not_there(call, run, monkeypatch):
    monkeypatch.chdir(run)
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert "--device" in call("sample", "run", "--device", "cuda", "--out", "out", code=2).err


def test_two_runs_in_one_folder(call, run, monkeypatch):
    monkeypatch.chdir(run)
    with FolderLock(run / "run"):
        assert "in use by process" in call(*TRAIN, "--out", "run", "--resume", code=1).err


def test_grey_data_for_a_recipe_in_colour(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "pictures", classes=("cat", "dog"), each=2)
    call(*PREPARE, "data", "--resolution", 8, "--channels", 1)
    error = call("train", "pixels32", "--data", "data", "--out", "run", code=2).err
    assert "--resolution" in error or "channels" in error
    assert not (tmp_path / "run").exists()
