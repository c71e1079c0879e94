"""The scripts of benchmarks/ in small: they end, and their tables, verdicts and pictures are those of their figures."""

import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import relative_error
from PIL import Image

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import averages
import batch_norm
import gradients
import infer
import initialization
import layouts
import loading
import machine
import preparing
import quality
import snapshots
import speed
import training_step
from footprint import Footprint, footprint
from unitgain.bench.cases import Case, open_denoiser
from unitgain.bench.training import sized, training_work
from unitgain.checkpoint.snapshot import SnapshotHeader, list_snapshots, power_profile, write_snapshot
from unitgain.data.digits import digits
from unitgain.data.prepared import PreparedDataset
from unitgain.ema import sigma_rel_to_gamma
from unitgain.recipes import DIGITS
from unitgain.serial import to_dict
from unitgain.train import TrainState

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
    assert f"| {rows['EDM2-S float32']['ratio']:.2f} |" in page
    assert "times its 3 evaluations alone" in page
    capsys.readouterr()
    monkeypatch.setattr(infer, "forward", None)  # what is there is not measured again
    infer.main([*small, str(tmp_path)])
    assert "batch 1: measured before" in capsys.readouterr().out
    assert json.loads((tmp_path / "infer.json").read_text()) == found
    with pytest.raises(TypeError):
        infer.main([*small, str(tmp_path), "--fresh"])

    speed.main(["--folder", str(tmp_path)])
    assert "<svg" in (tmp_path / "speed.svg").read_text()
    heights = speed.bars(found)
    assert list(heights) == ["EDM2-S\nbatch 1", "EDM2+-S\nbatch 1"]
    assert heights["EDM2-S\nbatch 1"]["plain"] == 1.0


def test_before_and_after(tmp_path):
    """This checkout beside itself, in a process where types are not checked, which are each library's own."""
    root = Path(__file__).parents[2]
    small = ["--small", "--turns", "2", "--batch", "1", "--networks", "EDM2", "--commit", "abc"]
    command = [sys.executable, root / "benchmarks" / "dimensions.py", "--peer", root, *small, "--folder", tmp_path]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(root / "src")}, timeout=600)
    found = json.loads((tmp_path / "dimensions.json").read_text())["found"]
    assert list(found) == ["EDM2 training", "EDM2 drawing"]
    for one in found.values():
        assert one["quartiles"][0] <= one["ratio"] <= one["quartiles"][1] and min(one["now"], one["before"]) > 0
    page = (tmp_path / "dimensions.md").read_text()
    assert "Before is commit abc" in page and f"{found['EDM2 drawing']['ratio']:.2f} |" in page


def test_layouts(tmp_path):
    layouts.main(["--small", "--folder", str(tmp_path)])
    rows = json.loads((tmp_path / "layouts.json").read_text())["rows"]
    assert [(row["network"], row["job"]) for row in rows] == [
        (label, job) for label in ("EDM2", "EDM2+") for job in ("training", "drawing")
    ]
    assert f"| {rows[-1]['ratio']:.2f} |" in (tmp_path / "layouts.md").read_text()


def test_compiling_in_training(tmp_path):
    """In a process where types are not checked, which is not compiled."""
    root = Path(__file__).parents[2]
    small = ["--small", "--networks", "digits", "--modes", "float32", "--batch", "2", "--steps", "2"]
    command = [sys.executable, root / "benchmarks" / "training_compile.py", *small, "--folder", tmp_path]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(root / "src")}, timeout=600)
    (row,) = json.loads((tmp_path / "training_compile.json").read_text())["rows"]
    assert row["cost"] > 0 and min(row["ms"], row["compiled"]) > 0
    assert f"| {row['ms'] / row['compiled']:.2f} |" in (tmp_path / "training_compile.md").read_text()


def test_snapshots(tmp_path):
    snapshots.main(["--tensors", "4", "--times", "12", "--folder", str(tmp_path), "--work", str(tmp_path)])
    found = json.loads((tmp_path / "snapshots.json").read_text())
    assert len(found["first"]) == len(found["last"]) == snapshots.COUNTED
    assert (
        f"| {statistics.median(row['clock'] for row in found['first']):.1f} |"
        in (tmp_path / "snapshots.md").read_text()
    )
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md"}


def test_parts_of_other_settings_are_measured_again(tmp_path):
    calls = []
    parts = {"one": lambda: calls.append(1) or len(calls)}
    how = {"page": lambda found: f"{found['one']}", "folder": tmp_path}
    assert machine.in_parts("x", parts, settings={"a": [1]}, **how)["one"] == 1
    assert machine.in_parts("x", parts, settings={"a": [1]}, **how)["one"] == 1
    assert machine.in_parts("x", parts, settings={"a": [2]}, **how)["one"] == 2
    assert (tmp_path / "x.md").read_text().startswith("2\n\nMeasured by `benchmarks/x.py` on: processor ")


def test_magnitudes_at_initialization():
    row = initialization.measure(DIGITS.network)
    assert row["off"] == 0  # the output's gain starts at 0
    assert 0.5 < row["smallest"] <= row["Dec 8x8"] <= row["largest"] < 1.5


def test_training_steps(tmp_path):
    training_step.main(
        ["--small", "--batch", "2", "--seconds", "0.01", "--modes", "plain", "float32", "--folder", str(tmp_path)]
    )
    found = json.loads((tmp_path / "training_step.json").read_text())
    page = (tmp_path / "training_step.md").read_text()
    for label in ("EDM2", "EDM2+", "pixels64-mini"):
        assert [row["name"] for row in found[label]["rows"]] == [f"{label} plain", f"{label} float32"]
        assert f"| {label} float32 |" in page
    full = training_step.recipes(small=False)["EDM2"].network
    assert (full.resolution, full.model_channels, full.branch) == (32, 64, "s c m s c")


def test_a_training_step_of_another_checkout(tmp_path):
    """In a process of its own: the type checker of the tests takes no second copy of the library."""
    root = Path(__file__).parents[2]
    options = ["--small", "--batch", "2", "--seconds", "0.01", "--modes", "float32", "--networks", "EDM2"]
    script = [sys.executable, str(root / "benchmarks" / "training_step.py"), "--folder", str(tmp_path)]
    subprocess.run([*script, *options, "--peer", str(root)], check=True, capture_output=True)
    found = json.loads((tmp_path / "training_step.json").read_text())
    assert [row["name"] for row in found["EDM2"]["rows"]] == ["EDM2 float32", "EDM2 float32 of the peer"]


def test_the_plain_step_is_our_step_written_out(tiny_recipe, monkeypatch):
    recipe, device = sized(tiny_recipe, 8), torch.device("cpu")
    states = []
    start = TrainState.start
    monkeypatch.setattr(TrainState, "start", lambda *args, **how: states.append(start(*args, **how)) or states[-1])
    for work in (
        training_step.plain_work("plain", recipe, 8),
        training_work(Case(recipe, "float32+microbatch=8"), 8, device),
    ):
        for _ in range(2):
            work.run()
    plain, ours = states
    assert plain.nimg == ours.nimg == 24
    assert ours.normalize_once
    assert not plain.normalize_once
    for name, tensor in ours.modules.state_dict().items():
        assert relative_error(plain.modules.state_dict()[name], tensor) < 1e-4, name
    for one, other in zip(plain.emas, ours.emas, strict=True):
        assert one.t == other.t
        assert all(relative_error(one.tensors()[name], tensor) < 1e-4 for name, tensor in other.tensors().items())


def test_quality(tmp_path, monkeypatch):
    def demo(config, out, quiet):
        torch.manual_seed(0)
        encoder = to_dict(digits().encoder)
        profile = power_profile(0.1, sigma_rel_to_gamma(0.1))
        header = SnapshotHeader(
            network=DIGITS.network, sigma_data=0.5, nimg=64, profile=profile, recipe="", encoder=encoder
        )
        write_snapshot(out / header.filename(), header, open_denoiser(DIGITS).state_dict(), "float32")
        return {"best_sigma_rel": 0.1, "network": str(out / header.filename())}

    monkeypatch.setattr(quality, "run_demo", demo)  # has tests of its own
    quality.main(["--small", "--run", str(tmp_path / "run"), "--folder", str(tmp_path)])
    found = json.loads((tmp_path / "quality.json").read_text())
    rows = {row["mode"]: row for row in found["rows"]}
    assert list(rows) == ["as trained", "float32", "bfloat16", "float16"]
    assert rows["as trained"]["change"] == 0.0
    assert abs(rows["float32"]["change"]) < 1e-3
    assert 0 < rows["float16"]["mean_difference"] < rows["bfloat16"]["mean_difference"]
    assert "| prepared, bfloat16 |" in (tmp_path / "quality.md").read_text()


def test_memory_in_a_process_of_its_own():
    found = footprint("digits", "float32", batch=64)
    assert found.process > 5e7
    assert 1e6 < found.evaluating < found.process
    assert found.opening < found.process
    with pytest.raises(RuntimeError, match="measuring the memory of nothing:float32 failed"):
        footprint("nothing", "float32")
    with pytest.raises(ValueError, match="cannot read the mode"):
        footprint("digits", "quick")


def test_averages_and_what_reading_them_takes(tmp_path):
    averages.write_snapshots(tmp_path, 4, 1e5)
    files = list_snapshots(tmp_path)
    assert {file.nbytes for file in files} == {2 * 100_000}
    averages.read_and_convert(files)
    averages.read_and_convert_in_chunks(files)
    averages.combine(tmp_path, [0.05, 0.1])()
    assert sum(torch.Size(shape).numel() for shape in averages.shapes(20e6).values()) == 20_000_000


def test_batch_normalization(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_norm, "SETTINGS", ((8, 0.01),))
    monkeypatch.setattr(batch_norm, "LENGTHS", (0.1, 0.2))
    batch_norm.main(["--seeds", "2", "--folder", str(tmp_path)])
    (found,) = json.loads((tmp_path / "batch_norm.json").read_text())["settings"]
    mean = sum(run["statistics"][1] for run in found["runs"]) / 2
    (row,) = [line for line in (tmp_path / "batch_norm.md").read_text().splitlines() if line.startswith("| 0.2 |")]
    assert f"| {mean:.3f} (" in row and row.count("|") == 5


def test_the_loader_and_a_memory_map(tmp_path):
    mapped = loading.write_latents(tmp_path, 8)
    loading.copying(mapped, 4, 2)()
    loading.loading(PreparedDataset(tmp_path / "latents"), 4, 2, 2)()


def test_preparing(tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "OURS", preparing.SCRIPT)  # the command itself takes seconds to start
    monkeypatch.setattr(preparing, "write_photographs", lambda folder, count: folder_of(folder, count))
    found = preparing.measure_commands(tmp_path, [2, 3], 8, 2, {"peer": preparing.SCRIPT})
    assert [row["ratio"] for row in (found["2"]["unitgain data prepare"], found["3"]["unitgain data prepare"])] == [
        1,
        1,
    ]
    assert found["3"]["peer"]["least"] <= found["3"]["peer"]["ratio"] <= found["3"]["peer"]["most"]
    assert f"| 3 | peer | {found['3']['peer']['seconds']:.1f} |" in preparing.markdown(found, 8, 2)
    assert not list(tmp_path.glob("out*"))


def folder_of(folder, count):
    folder.mkdir()
    for index in range(count):
        Image.new("RGB", (20, 12)).save(folder / f"{index:06d}.jpg")


def test_convolutions_of_training(tmp_path):
    gradients.main(["--small", "--rounds", "1", "--folder", str(tmp_path)])
    found = json.loads((tmp_path / "gradients.json").read_text())
    parts = [part for name, part in found.items() if name != "machine"]
    assert len(parts) == 2 * len(training_step.recipes(small=True))
    rows = [row for part in parts for row in part["rows"]]
    assert any("groups" in row["layer"] for row in rows)
    assert all(value > 0 for row in rows for value in row["seconds"].values())
    assert all(f"| {row['layer']} | {row['count']} |" in (tmp_path / "gradients.md").read_text() for row in rows)
