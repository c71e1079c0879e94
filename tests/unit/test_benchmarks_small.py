"""Every script of benchmarks/ in small: it comes to its end, and writes where it is told and nowhere else."""

import argparse
import contextlib
import importlib
import io
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmark_results import CHECKS, ROWS, WITHOUT_TABLE, numbers, rows
from official_files import write_checkout

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import arguments
import infer
import preparing
import quality
from unitgain.bench.cases import open_denoiser
from unitgain.checkpoint.snapshot import SnapshotHeader, power_profile, write_snapshot
from unitgain.data.digits import digits
from unitgain.ema import sigma_rel_to_gamma
from unitgain.recipes import DIGITS
from unitgain.serial import to_dict

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if 'if __name__ == "__main__"' in path.read_text())
PRINT = ("busy", "reference", "start")  # and write nothing
OF_OTHERS = ("footprint", "pillow_archive")  # which other scripts start, with arguments of their own
# They take a second copy of the library, or compile: the type checker of the tests takes neither.
APART = ("dimensions", "training_compile", "training_step")
REAL = ("kept_memory", "robustness")  # whose processes change the system's settings for themselves


@pytest.fixture(autouse=True)
def _children_here(monkeypatch, quick_bench):
    """Scripts that a script starts run in this process: a new one takes seconds to begin."""
    start = subprocess.run

    def run(command, **how):
        script = Path(command[1])
        if script.parent != BENCHMARKS or script.stem in REAL:
            return start(command, **how)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            importlib.import_module(script.stem).main([str(word) for word in command[2:]])
        return subprocess.CompletedProcess(command, 0, out.getvalue(), "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(infer, "SMALL", {"EDM2-S": "digits", "EDM2+-S": "digits"})
    monkeypatch.setattr(preparing, "OURS", preparing.SCRIPT)  # the command itself has tests of its own
    monkeypatch.setattr(quality, "run_demo", demo)  # likewise


def demo(config, out, quiet):
    torch.manual_seed(0)
    profile, encoder = power_profile(0.1, sigma_rel_to_gamma(0.1)), to_dict(digits().encoder)
    header = SnapshotHeader(
        network=DIGITS.network, sigma_data=0.5, nimg=64, profile=profile, recipe="", encoder=encoder
    )
    write_snapshot(out / header.filename(), header, open_denoiser(DIGITS).state_dict(), "float32")
    return {"best_sigma_rel": 0.1, "network": str(out / header.filename())}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script(name, tmp_path, capsys, request):
    before, folder = committed(), tmp_path / "results"
    folder.mkdir()
    words = [*inputs(name, folder, tmp_path, request)]
    if name not in OF_OTHERS:
        words += ["--small"] if name in PRINT else ["--small", "--folder", folder]
    capsys.readouterr()
    run(name, [str(word) for word in words])
    printed = capsys.readouterr().out
    assert committed() == before
    if name not in (*PRINT, *OF_OTHERS, *WITHOUT_TABLE):
        found = json.loads((folder / f"{name}.json").read_text())
        assert "machine" in found and all(map(math.isfinite, numbers(found)))
        printed = (folder / f"{name}.md").read_text()
        assert f"Measured by `benchmarks/{name}.py` on: processor " in printed
    if name not in (*OF_OTHERS, *WITHOUT_TABLE):
        first = [row[0] for row in rows(printed)]
        assert first and all(any(map(str.isdigit, "".join(row[1:]))) for row in rows(printed))
        assert name not in ROWS or first == ROWS[name]
    if name in CHECKS:
        CHECKS[name](folder, printed)


def test_small_runs_never_write_where_whole_ones_do():
    assert arguments.parse(argparse.ArgumentParser(), []).folder == BENCHMARKS / "results"
    assert BENCHMARKS not in arguments.parse(argparse.ArgumentParser(), ["--small"]).folder.parents


def committed():
    """When each file was written that scripts write to where they are not told otherwise."""
    folders = (BENCHMARKS / "results", ROOT / "docs", ROOT / "src" / "unitgain" / "analysis")
    files = [
        path for folder in folders for path in folder.rglob("*") if path.suffix in (".json", ".md", ".svg", ".csv")
    ]
    return {path: path.stat().st_mtime_ns for path in files}


def inputs(name, folder, tmp_path, request):
    """What a script has to be told besides."""
    if name == "speed":
        shutil.copy(BENCHMARKS / "results" / "infer.json", folder)
    if name == "pillow_archive":
        preparing.write_photographs(tmp_path / "photographs", 2)
    given = {
        "dimensions": ["--peer", ROOT, "--commit", "abc", "--networks", "EDM2"],
        "footprint": [json.dumps({"network": "digits", "mode": "float32", "batch": 2, "device": "cpu", "threads": 1})],
        "loss_curve": ["--update", "tried"],
        "pillow_archive": [tmp_path / "photographs", folder / "x.zip", 8],
        "quality": ["--run", tmp_path / "run"],
        "robustness": ["--write"],
        "torture": ["--seed", 8],
        "training_peer": ["--peer", ROOT],
        "training_step": ["--peer", ROOT, "--modes", "plain", "autocast", "float32"],
    }
    if name in ("explorer", "samplers"):
        run = request.getfixturevalue("runs") / "main"
        return ["--run", run, "--work", tmp_path] if name == "explorer" else [run]
    if name == "reference":
        return [write_checkout(tmp_path / "edm2"), "digits"]
    return given.get(name, [])


def run(name, words):
    """The script, here or in a process of its own."""
    if name in APART:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        command = [sys.executable, "-W", "ignore", str(BENCHMARKS / f"{name}.py"), *words]
        subprocess.run(command, check=True, env=environment, capture_output=True, timeout=600)
    else:
        assert not importlib.import_module(name).main(words)
