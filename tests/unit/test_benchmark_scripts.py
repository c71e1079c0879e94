"""Parts of the scripts of benchmarks/; test_benchmarks_small.py runs each of them whole."""

import sys
from pathlib import Path

import pytest
import torch
from conftest import relative_error

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import averages
import initialization
import machine
import training_step
from footprint import footprint
from unitgain.bench.cases import Case
from unitgain.bench.training import sized, training_work
from unitgain.checkpoint.snapshot import list_snapshots
from unitgain.recipes import DIGITS
from unitgain.train import TrainState

pytestmark = pytest.mark.usefixtures("quick_bench")


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


def test_the_networks_whose_steps_are_measured():
    full = training_step.recipes(small=False)["EDM2"].network
    assert (full.resolution, full.model_channels, full.branch) == (32, 64, "s c m s c")


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


def test_under_autocast_the_plain_step_is_off_by_rounding_to_bfloat16(tiny_recipe, monkeypatch):
    recipe = sized(tiny_recipe, 8)
    states = []
    start = TrainState.start
    monkeypatch.setattr(TrainState, "start", lambda *args, **how: states.append(start(*args, **how)) or states[-1])
    works = [training_step.plain_work("plain", recipe, 8, autocast=autocast) for autocast in (False, True)]
    losses = [float(work.run()) for work in works]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    for plain, cast in zip(*(state.modules.parameters() for state in states), strict=True):
        assert cast.dtype == plain.dtype == torch.float32


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
