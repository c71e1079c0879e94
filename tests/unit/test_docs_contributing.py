"""The pages for contributors: what they add works, what they name is there, and the picture is that of its script."""

import importlib
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import folder_of

from unitgain.cli.commands import COMMANDS, Command
from unitgain.data import Fit, open_data, prepare_data

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "contributing"
EXTENDING = (PAGES / "extending.md").read_text(encoding="utf-8")
PICTURE = runpy.run_path(str(ROOT / "docs" / "pictures" / "architecture.py"))


def blocks(mark):
    return re.findall(rf"^```python{mark}\n(.*?)^```", EXTENDING, flags=re.MULTILINE | re.DOTALL)


def idx(pixels):
    sides = b"".join(side.to_bytes(4, "big") for side in pixels.shape)
    return b"\0\0\x08\x03" + sides + pixels.tobytes()


@pytest.fixture
def source(tmp_path, monkeypatch):
    """The names of the example of a source, run in a folder where its file is."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    Path("images.idx").write_bytes(idx(pixels))
    names = {"__name__": "page"}
    monkeypatch.setitem(sys.modules, "page", type(sys)("page"))
    for block in blocks(""):
        exec(compile(block, "extending.md", "exec"), names)
    return names | {"expected": pixels}


def test_a_source_of_ones_own_is_prepared(source):
    stored, _ = open_data("data").rows(np.arange(5))
    assert np.array_equal(stored[:, 0].numpy(), source["expected"])


def test_a_source_of_ones_own_is_told_from_one_that_has_changed(source):
    fit = Fit(resolution=8, channels=1)
    prepare_data(source["Idx"].open(Path("images.idx")), Path("data"), fit)  # it is there
    Path("images.idx").write_bytes(idx(source["expected"][::-1].copy()))
    with pytest.raises(ValueError, match="source_fingerprint"):
        prepare_data(source["Idx"].open(Path("images.idx")), Path("data"), fit)


def test_a_source_of_ones_own_is_cut_short(source):
    Path("images.idx").write_bytes(Path("images.idx").read_bytes()[:-1])
    with pytest.raises(ValueError, match="cut short"):
        source["Idx"].open(Path("images.idx"))


def test_options_of_a_source_that_is_there_are_refused(source):
    from unitgain.data import SourceOptions

    with pytest.raises(ValueError, match=r"images\.idx is one already"):
        prepare_data(source["Idx"].open(Path("images.idx")), Path("more"), Fit(resolution=8), options=SourceOptions())
    assert not Path("more").exists()


def test_a_command_of_ones_own(tmp_path, monkeypatch, call):
    (module,), (entry,) = blocks(' title="count.py"'), blocks(' title="commands.py"')
    (tmp_path / "count.py").write_text(module)
    monkeypatch.setattr("unitgain.cli.__path__", [*importlib.import_module("unitgain.cli").__path__, str(tmp_path)])
    monkeypatch.setitem(COMMANDS, "data count", None)  # put back afterwards
    exec(entry, {"COMMANDS": COMMANDS, "Command": Command})
    folder_of(tmp_path / "pictures", classes=("cat", "dog"), each=3)
    prepare_data(str(tmp_path / "pictures"), tmp_path / "data", Fit(resolution=8))
    said = call("data", "count", tmp_path / "data").out
    assert re.search(r"^ +3 cat\n +3 dog\n", said, re.MULTILINE) and f"unitgain train --data {tmp_path}/data" in said
    assert "cat" not in call("data", "count", tmp_path / "data", "--least", "4").out
    assert "Leave out classes with fewer images." in call("data", "count", "--help").out
    sys.modules.pop("unitgain.cli.count", None)


def test_the_picture_is_that_of_its_script_and_names_what_is_there():
    assert PICTURE["PICTURE"].read_text(encoding="utf-8") == PICTURE["draw"]()
    for box in PICTURE["BOXES"].values():
        for name in box.files.split():
            there = ROOT / "src" / "unitgain" / name
            assert there.is_dir() or there.with_suffix(".py").is_file(), name


@pytest.mark.parametrize("page", ["architecture", "extending"])
def test_the_files_that_the_pages_name_are_there(page):
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    names = re.findall(r"`((?:[a-z_]+/)+[a-z_0-9]+(?:\.py)?)`", text)
    assert names
    for name in names:
        for root in (ROOT / "src" / "unitgain", ROOT):
            if (root / name).exists() or (root / f"{name}.py").exists():
                break
        else:
            pytest.fail(f"{page}.md names {name}, which is not there")
