"""The scripts of benchmarks/ in small: they end, and their tables, verdicts and pictures are those of their figures."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import gpu
import infer
import machine
import quality
import speed
import training_step
from unitgain.bench.cases import open_denoiser, parse_mode
from unitgain.bench.footprint import Footprint
from unitgain.bench.steps import parse_step
from unitgain.checkpoint.snapshot import SnapshotHeader, power_profile, write_snapshot
from unitgain.data.digits import digits
from unitgain.ema import sigma_rel_to_gamma
from unitgain.recipes import DIGITS
from unitgain.serial import to_dict

pytestmark = pytest.mark.usefixtures("quick_bench")


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch):
    sizes = itertools.cycle([1000, 550])  # both networks in turn
    made = lambda name, mode, batch: Footprint(*[next(sizes)] * 3)  # noqa: E731
    monkeypatch.setattr(infer, "footprint", made)
    monkeypatch.setattr(infer, "SMALL", {"EDM2-S": "digits", "EDM2+-S": "digits"})


def test_inference(tmp_path, monkeypatch, capsys):
    small = ["--small", "--repeats", "1", "--batches", "1", "--steps", "2", "--folder"]
    infer.main([*small, str(tmp_path)])
    found = json.loads((tmp_path / "infer.json").read_text())
    rows = {row["name"]: row for row in found["batch 1"]["rows"]}
    assert next(iter(rows)) == "EDM2-S plain"
    assert {"EDM2+-S plain", "EDM2-S float32", "EDM2+-S float32"} <= rows.keys()
    page = (tmp_path / "infer.md").read_text()
    ratio = rows["EDM2-S float32"]["ratio"]
    met = "yes" if ratio >= 1.4 else "no"
    assert f"| EDM2-S float32, batch 1, x plain EDM2-S | >= 1.4 | {ratio:.3g} | {met} |" in page
    for mode in ("fast", "fast+direct"):
        row = f"| EDM2+-S fast batch 1 over EDM2-S {mode} batch 1, memory evaluating | <= 0.6 | 0.55 | yes |"
        assert row in page
    assert "times its 3 evaluations alone" in page
    capsys.readouterr()
    monkeypatch.setattr(infer, "forward", None)  # what is there is not measured again
    infer.main([*small, str(tmp_path)])
    assert "batch 1: measured before" in capsys.readouterr().out
    assert json.loads((tmp_path / "infer.json").read_text()) == found
    with pytest.raises(TypeError):
        infer.main([*small, str(tmp_path), "--fresh"])

    (tmp_path / "page.md").write_text(
        "a\n<!-- results/infer.md Wanted -->\nold\n<!-- end -->\n<!-- results/no.md -->\n<!-- end -->"
    )
    for _ in range(2):  # again changes nothing
        speed.main(["--folder", str(tmp_path), "--page", str(tmp_path / "page.md")])
        page = (tmp_path / "page.md").read_text()
        assert page.startswith("a\n<!-- results/infer.md Wanted -->\n\n| | wanted | measured | met |\n")
        assert page.endswith("<!-- end -->\n<!-- results/no.md -->\n<!-- end -->")
        assert "old" not in page
        assert page.count("preparing EDM2-S float32, s") == 1
        assert "<svg" in (tmp_path / "speed.svg").read_text()
    heights = speed.bars(found)
    assert list(heights) == ["EDM2-S\nbatch 1", "EDM2+-S\nbatch 1"]
    assert heights["EDM2-S\nbatch 1"]["plain"] == 1.0


def test_parts_of_other_settings_are_measured_again(tmp_path):
    calls = []
    parts = {"one": lambda: calls.append(1) or len(calls)}
    how = {"page": lambda found: f"{found['one']}", "folder": tmp_path}
    assert machine.in_parts("x", parts, settings={"a": [1]}, **how)["one"] == 1
    assert machine.in_parts("x", parts, settings={"a": [1]}, **how)["one"] == 1
    assert machine.in_parts("x", parts, settings={"a": [2]}, **how)["one"] == 2
    assert (tmp_path / "x.md").read_text().startswith("2\n\nMeasured by `benchmarks/x.py` on: processor ")
    assert machine.verdict(0.6, 0.6, at_most=True).endswith("| yes")
    assert machine.verdict(1.49, 1.5) == ">= 1.5 | 1.49 | no"


def test_training_steps(tmp_path):
    training_step.main(
        ["--small", "--batch", "2", "--seconds", "0.01", "--modes", "plain", "float32", "--folder", str(tmp_path)]
    )
    found = json.loads((tmp_path / "training_step.json").read_text())
    page = (tmp_path / "training_step.md").read_text()
    for label in ("EDM2", "EDM2+"):
        assert [row["name"] for row in found[label]["rows"]] == [f"{label} plain", f"{label} float32"]
        assert f"| {label} float32, x plain | >= 1.5 | {found[label]['rows'][1]['ratio']:.3g} |" in page
    full = training_step.recipes(small=False)["EDM2"].network
    assert (full.resolution, full.model_channels, full.branch) == (32, 64, "s c m s c")


def test_everything_of_a_gpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "PLAIN", "plain")  # in float32: processors without float16 emulate it slowly
    options = "--small --batch 2 --modes bfloat16 --steps bfloat16 --sampler-steps 2 --seconds 0.01"
    gpu.main([*options.split(), "--folder", str(tmp_path)])
    found = json.loads((tmp_path / "gpu.json").read_text())
    page = (tmp_path / "gpu.md").read_text()
    assert page.startswith("# In small, on a CPU: no claim")
    rows = {row["name"]: row for row in found["evaluations"]["report"]["rows"]}
    assert rows["EDM2-S plain"]["ratio"] == 1.0
    ours = rows["EDM2-S bfloat16"]["ratio"]
    assert f"x plain | {machine.verdict(ours, 2)} |" in page
    share = next(row for row in found["training"]["report"]["rows"] if row["name"] == "EDM2-S bfloat16")["roofline"][
        "share"
    ]
    assert f"| training: EDM2-S bfloat16, share of the peak | {machine.verdict(share, 0.45)} |" in page
    assert page.count("| EDM2+-S bfloat16 |") >= 4  # evaluations and training, with their rooflines
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--small" in capsys.readouterr().err


def test_modes_that_fail_on_tiny_networks_are_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "PLAIN", "plain")
    done = {"bfloat16+kernels": 0, "bfloat16+compile": 1}
    tried = []

    def run(command, **_):
        *_, what, mode, device = command
        tried.append((what, mode, device))
        return subprocess.CompletedProcess(command, done[mode], "", "Traceback\n  RuntimeError: no such thing\n")

    monkeypatch.setattr(gpu.subprocess, "run", run)
    monkeypatch.setattr(gpu, "possible", lambda modes, device: modes)
    measured = []
    report = SimpleNamespace(rows=[])
    for name in ("forward", "sampling", "training"):
        monkeypatch.setattr(gpu, name, lambda cases, **_: measured.append([case.mode for case in cases]) or report)
    monkeypatch.setattr(gpu, "told", lambda report: {"report": {"rows": []}, "text": ""})
    monkeypatch.setattr(gpu, "wanted", lambda found: [])
    options = "--small --modes float32 bfloat16+compile bfloat16+kernels --steps bfloat16+compile"
    gpu.main([*options.split(), "--folder", str(tmp_path)])
    modes = ("bfloat16+compile", "bfloat16+kernels")
    assert tried == [*(("inference", mode, "cpu") for mode in modes), ("training", "bfloat16+compile", "cpu")]
    # Evaluations, samples, which take too long where kernels are interpreted, and training; each of two networks, of
    # which EDM2+ has depthwise convolutions.
    two = ["plain", "float32"] * 2
    assert measured == [[*two, "bfloat16+kernels"], two, ["plain"] * 2]
    assert "inference in bfloat16+compile: RuntimeError: no such thing" in (tmp_path / "gpu.md").read_text()


def test_modes_of_gpus_are_not_for_cpus(monkeypatch, capsys):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert gpu.possible(gpu.MODES, "cuda") == gpu.MODES
    plain = ["float16", "bfloat16", "bfloat16+compile", "bfloat16+compile=reduce-overhead"]
    assert gpu.possible(gpu.MODES, "cpu") == plain
    assert "not on this machine: bfloat16+graph, bfloat16+kernels" in capsys.readouterr().out
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda _: object())
    assert "bfloat16+kernels" in gpu.possible(gpu.MODES, "cpu")
    for mode in gpu.MODES:
        assert parse_mode(mode)
    for step in gpu.STEPS:
        assert parse_step(step)


def test_a_trial_finds_what_is_wrong(monkeypatch):
    gpu.try_mode("inference", "float32", "cpu")
    gpu.try_mode("training", "float32", "cpu")
    monkeypatch.setattr(gpu, "CLOSE", 1e-12)
    with pytest.raises(SystemExit, match="error of D"):
        gpu.try_mode("inference", "float32", "cpu")


def test_quality(tmp_path, monkeypatch):
    def demo(config, out, quiet):
        torch.manual_seed(0)
        encoder = to_dict(digits().encoder)
        profile = power_profile(0.1, sigma_rel_to_gamma(0.1))
        header = SnapshotHeader(
            network=DIGITS.network, sigma_data=0.5, nimg=64, profile=profile, recipe="", encoder=encoder
        )
        write_snapshot(out / "ema" / header.filename(), header, open_denoiser(DIGITS).state_dict(), "float32")
        return {"best_sigma_rel": 0.1}

    monkeypatch.setattr(quality, "run_demo", demo)  # has tests of its own
    quality.main(["--small", "--run", str(tmp_path / "run"), "--folder", str(tmp_path)])
    found = json.loads((tmp_path / "quality.json").read_text())
    rows = {row["mode"]: row for row in found["rows"]}
    assert list(rows) == ["as trained", "float32", "bfloat16", "float16"]
    assert rows["as trained"]["change"] == 0.0
    assert abs(rows["float32"]["change"]) < 1e-3
    assert 0 < rows["float16"]["mean_difference"] < rows["bfloat16"]["mean_difference"]
    assert "| prepared, bfloat16 |" in (tmp_path / "quality.md").read_text()
