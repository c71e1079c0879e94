"""What people mistype: each is answered with one line that names what was given, and what it says to do works."""

import difflib
import re
import resource
import shlex
import shutil

import pytest
import torch
from official_files import config_of, contents, dumps, random_state
from pictures import folder_of
from servers import server

from unitgain.cli.main import main
from unitgain.lock import hold

__all__ = ["server"]  # a fixture

SHORT = "--duration 64 --snapshot-every 64 --batch 32 --width 16 --quiet --no-tensorboard --device cpu"
RUN = f"train digits --out run {SHORT}"
DRAW = "--steps 2 --device cpu --out right --seeds"
SMALL = config_of(channel_mult=[1], attn_resolutions=[])
OFFICIAL = dumps(contents(random_state(SMALL), SMALL))
ANSWERED = (
    "answered"  # the remedy is a command in the answer, or the name that it asks for in the place of the wrong one
)
MISTAKES = {
    # what is typed: words of the answer, and what is typed then
    "recipez --unmeasured": ("did you mean 'recipes'", ANSWERED),
    "data chek data": ("did you mean 'check'", ANSWERED),
    "inspect digitz": ("'digitz' is no file, no folder and no recipe; did you mean 'digits'", ANSWERED),
    f"train digitz --out right {SHORT}": ("unknown recipe 'digitz'; did you mean 'digits'", ANSWERED),
    f"train digits --data dat --out right {SHORT}": ("unknown data set 'dat'", ANSWERED),
    f"train digits --out pictures {SHORT}": (
        "pictures is not empty: choose another folder",
        f"train digits --out right {SHORT}",
    ),
    f"train digits --classes none --label-dropout 0.1 --out right {SHORT}": (
        "--label-dropout leaves out labels, and --classes none trains without any",
        f"train digits --classes none --out right {SHORT}",
    ),
    f"{RUN} --resume --out right": (
        "--out is given twice, --out run and --out right: leave one out",
        f"{RUN} --resume",
    ),
    f"sample run --sampler euler {DRAW} 0 --sampler heun": (
        "--sampler is given twice",
        f"sample run --sampler euler {DRAW} 0",
    ),
    f"train digits --classes none --label-dim 7 --out right {SHORT}": (
        "--label-dim says how many classes there are, and --classes none trains without any",
        f"train digits --classes none --out right {SHORT}",
    ),
    f"train digits --ema-device nonsense --out right {SHORT}": (
        "--ema-device nonsense: torch knows no such device",
        f"train digits --ema-device cpu --out right {SHORT}",
    ),
    "watch run --once --every 2": ("--every: between looks, and --once looks once", "watch run --once"),
    "report run --no-samples --device cpu --out right.html": (
        "--device: of samples, which --no-samples leaves out",
        "report run --no-samples --out right.html",
    ),
    "train digits --data pictures --out right": ("pictures holds no prepared data", ANSWERED),
    "train --resume --out rum --quiet": ("rum holds no run to resume", ANSWERED),
    "data prepare pictures pictures --resolution 8": (
        "pictures is not empty: choose another folder",
        "data prepare pictures right --resolution 8",
    ),
    "data prepare pictures data --resolution 16 --channels 1": (
        "data holds prepared data made with other settings (fit.resolution: 8 -> 16): use these",
        "data prepare pictures data --resolution 8 --channels 1",
    ),
    "data prepare pictures right --resolution 8 --workers 0": (
        "workers 0: must be at least 1",
        "data prepare pictures right --resolution 8 --workers 1",
    ),
    "data prepare pictres right --resolution 8": ("pictres does not exist", ANSWERED),
    "data prepare notes.txt right --resolution 8": (
        "notes.txt is no source of images: it is text; expected a folder",
        "data prepare pictures right --resolution 8",
    ),
    "data prepare empty right --resolution 8": (
        "empty holds no pictures",
        "data prepare pictures right --resolution 8",
    ),
    "data prepare pictures right --resolution 8 --labels lables.csv": (
        "no file of labels at lables.csv",
        ANSWERED,
    ),
    "data check pictures": ("pictures holds no prepared data", ANSWERED),
    "data check daat": ("daat does not exist; make it with", "data check data"),
    "data show data --out right.txt": ("--out right.txt: must end in .png", "data show data --out right.png"),
    "ema list empty": ("no snapshots (*.safetensors) in empty", "ema list run"),
    "ema list rum": ("no run or folder of snapshots at rum", ANSWERED),
    "ema reconstruct rum 0.1 --out right": ("no run or folder of snapshots at rum", ANSWERED),
    "ema reconstruct run 0.5 --out right": ("0.2886", "ema reconstruct run 0.1 --out right"),
    "ema convert empty right": ("no checkpoints with a time in their name", "ema convert checkpoints right"),
    f"sample run/snapshot/0000000064-0.100.safetensors {DRAW} 0": ("no snapshot at run/snapshot", ANSWERED),
    f"sample run --class sevn {DRAW} 0": ("there is no class 'sevn'", f"sample run --class 7 {DRAW} 0"),
    f"sample run --class 10 {DRAW} 0": ("label 10 is out of range", f"sample run --class 9 {DRAW} 0"),
    f"sample run --guide self --guidance 2 {DRAW} 0": ("cannot guide itself", f"sample run {DRAW} 0"),
    f"sample run {DRAW} 0..3": ("write 7, 1,2,5 or a range as 0-63", f"sample run {DRAW} 0-3"),
    "watch empty": ("empty is not the folder of a run", "watch run"),
    "report rum --no-samples --out right.html": ("rum is not the folder of a run", ANSWERED),
    "report run --no-samples --times 3 --lengths 0.1 --out right.html": (
        "--times, --lengths: of samples, which --no-samples leaves out",
        "report run --no-samples --out right.html",
    ),
    "metrics pictres --metrics fd_pixels --reference pictures": ("no images at pictres: name a folder", ANSWERED),
    "metrics data --metrics fd_pixels --reference right.npz": (
        "no reference at right.npz: make one with",
        "metrics reference data --out right.npz --detectors pixels",
    ),
    "metrics data --metrics fd_pixels": (
        "fd_pixels: --reference",
        "metrics data --metrics fd_pixels --reference data",
    ),
    "metrics data --metrics fd_pixel --reference data": ("unknown metric 'fd_pixel'", ANSWERED),
    "convert netwrk.pkl right.safetensors": ("no file at netwrk.pkl; did you mean network.pkl", ANSWERED),
    f"{RUN} --resume --lr 0.5": ("recipe.lr: 0.02 -> 0.5", f"{RUN} --resume"),
    RUN: ("--resume", f"{RUN} --resume"),
    "sweep run --metric fd_pixels --reference digits --guidance 2 --lengths 0.1 --images 4 --steps 2": (
        "need a guide",
        "sweep run --metric fd_pixels --reference digits --guidance 1 --lengths 0.1 --images 4 --steps 2",
    ),
    f"train pixels32 --data pale --out right {SHORT}": (
        "the network takes (3, 32, 32) (channels, height, width); take that of the data",
        f"train pixels32 --data pale --out right {SHORT} --resolution 8 --channels 1",
    ),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder to work in: pictures, prepared data, a run, checkpoints of another project, and things in the way."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        folder_of(folder / "pictures", classes=("cat", "dog"), each=4)
        pictures = sorted((folder / "pictures").rglob("*.png"))
        rows = [f"{path.relative_to(folder / 'pictures')},{path.parent.name}\n" for path in pictures]
        (folder / "labels.csv").write_text("".join(["file,label\n", *rows]))
        (folder / "notes.txt").write_text("notes")
        (folder / "empty").mkdir()
        (folder / "checkpoints").mkdir()
        (folder / "network.pkl").write_bytes(OFFICIAL)
        torch.save({"weight": torch.zeros(2)}, folder / "checkpoints" / "step-10.pt")
        for name, more in (("data", ()), ("pale", ("--no-labels",))):
            main(["data", "prepare", "pictures", name, "--resolution", "8", "--channels", "1", *more])
        main(RUN.split())
    return folder


@pytest.fixture
def mistake(place, call, monkeypatch):
    """`call` in that folder, of words in one text; what it makes there is `right` something, and is removed before."""
    monkeypatch.chdir(place)

    def clear():
        for path in place.glob("right*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    clear()
    yield lambda text, code=0: call(*shlex.split(text), code=code)
    clear()


def error_of(answer):
    """The one line of an answer that is an error."""
    assert "Traceback" not in answer.err
    (error,) = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    return error


def answered(typed, error):
    """The command that an answer holds, or what was typed with the name that it asks for."""
    meant, command = re.search(r"did you mean (.*)\?$", error), re.search(r"with: unitgain (.*)", error)
    if meant is None:
        return command[1]
    name = meant[1].strip("'")
    words = typed.split()
    wrong = difflib.get_close_matches(name, [word for word in words if word in error.split("; did")[0]], n=1)[0]
    return " ".join(name if word == wrong else word for word in words)


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_answered_in_a_line_and_the_remedy_works(place, mistake, typed):
    words, remedy = MISTAKES[typed]
    error = error_of(mistake(typed, code=2))
    assert words in error
    assert not [*place.glob("right*")]
    mistake(answered(typed, error) if remedy == ANSWERED else remedy)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(mistake):
    typed = f"sample run {DRAW} 0"
    error = error_of(mistake(typed.replace("cpu", "cuda"), code=2))
    assert "use --device cpu" in error
    mistake(typed)


def test_official_networks_by_name(place, mistake, server, monkeypatch):
    monkeypatch.setenv("UNITGAIN_CACHE", str(place / "right-cache"))
    server.files["/edm2/posthoc-reconstructions/edm2-img64-s-1073741-0.075.pkl"] = OFFICIAL
    mirror = f"--mirror {server.url}/edm2"
    draw = f"sample edm2-img64-s-fid {DRAW} 0"
    error = error_of(mistake(draw, code=2))
    fetch = re.search(r"run `unitgain (fetch [^`]*)` first", error)[1]
    typed = f"{fetch.replace('-fid', '-fdi')} {mirror}"
    error = error_of(mistake(typed, code=2))
    assert "unknown preset 'edm2-img64-s-fdi'; did you mean 'edm2-img64-s-fid'" in error
    assert answered(typed, error) == f"{fetch} {mirror}"
    mistake(answered(typed, error))
    mistake(draw)


def test_two_runs_in_one_folder(place, mistake):
    with hold(place / "run"):
        assert "in use by process" in error_of(mistake(f"{RUN} --resume", code=1))
    mistake(f"{RUN} --resume")


@pytest.mark.parametrize("typed", ["ema reconstruct run 0.1 --out right", "data prepare pictures right --resolution 8"])
def test_a_full_disk(place, mistake, typed):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
    try:
        error = error_of(mistake(typed, code=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "no space is left for right" in error
    assert not [path for path in place.glob("right/*") if path.suffix in (".safetensors", ".arrow")]
    mistake(typed)


def test_a_run_resumed_on_data_that_have_changed(place, mistake):
    mistake("data prepare pictures right-data --resolution 8 --channels 1")
    train = f"train digits --data right-data --out right-run {SHORT}"
    mistake(train)
    (place / "right-data").rename(place / "right-before")
    mistake("data prepare pictures right-data --resolution 8 --channels 1 --limit 6")
    error = error_of(mistake(f"{train} --resume", code=2))
    assert "right-data as they were before they changed: put them back, or train on them" in error
    snapshot = "right-run/snapshots/0000000064-0.100.safetensors"
    mistake(f"train --data right-data --out right-new --init {snapshot} {SHORT.replace('--width 16 ', '')}")
    shutil.rmtree(place / "right-data")
    (place / "right-before").rename(place / "right-data")
    mistake(f"{train} --resume")
