"""What TensorBoard and W&B are told; W&B is a stub at the border of the library."""

import dataclasses
import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from unitgain.train import train
from unitgain.train.boards import WANDB, WandB, boards, scalars
from unitgain.train.config import TrainConfig
from unitgain.train.log import StatsLog, TrainProgress


class FakeRun:
    def __init__(self, **options):
        self.options, self.logged, self.finished = options, [], False
        self.broken = False

    def log(self, values, step):
        if self.broken:
            raise BrokenPipeError("the service is gone")
        self.logged.append((step, values))

    def finish(self):
        if self.broken:
            raise BrokenPipeError("the service is gone")
        self.finished = True


class RefusalError(Exception):
    pass


@pytest.fixture
def wandb(monkeypatch):
    runs = []

    def init(**options):
        if options["project"] == "closed":
            raise RefusalError("No API key configured.")
        runs.append(FakeRun(**options))
        return runs[-1]

    stub = ModuleType("wandb")
    stub.__dict__.update(init=init, Settings=lambda **options: options, errors=SimpleNamespace(Error=RefusalError))
    monkeypatch.setitem(sys.modules, "wandb", stub)
    return runs


def test_every_number_of_a_line_has_a_name():
    row = {
        "nimg": 64,
        "loss": 0.5,
        "lr": 0.01,
        "parts": {"Enc 8x8": {"gradient": 0.1, "weight": 1.0, "update": None}},
        "noise_levels": {
            "ln_sigma": [-1.0, 1.0],
            "error": [0.2, None],
            "loss": [0.1, 0.3],
            "images": [3, 0],
            "u": None,
        },
    }
    assert scalars(row) == {
        "train/loss": 0.5,
        "train/lr": 0.01,
        "gradient/Enc 8x8": 0.1,
        "weight/Enc 8x8": 1.0,
        "noise_level_error/00 ln_sigma=-1.00": 0.2,
        "noise_level_loss/00 ln_sigma=-1.00": 0.1,
        "noise_level_loss/01 ln_sigma=+1.00": 0.3,
    }
    assert scalars({"nimg": 1, "loss": None, "nonfinite": {"a": 2, "b": 3}}) == {"train/nonfinite_values": 5}
    assert scalars({"nimg": 1, "metrics": {"fid": 3.0}}) == {"metrics/fid": 3.0}
    assert scalars({"nimg": 1, "magnitudes": {"Enc 8x8": {"weight_max": 1.0}}}) == {
        "magnitudes/weight_max/Enc 8x8": 1.0
    }


def test_a_resumed_run_is_the_same_run_of_wandb(tmp_path, tiny_recipe, tiny_data, wandb):
    config = TrainConfig(recipe=tiny_recipe.replace(duration=48), data="tiny", tick=16, checkpoint_every=24)
    how = {"quiet": True, "tensorboard": False, "wandb": "mine"}
    train(config, tmp_path / "a", tiny_data, **how)
    longer = TrainConfig(recipe=tiny_recipe, data="tiny", tick=16, checkpoint_every=24)
    train(longer, tmp_path / "a", tiny_data, resume=True, **how)
    first, second = wandb
    assert first.options["id"] == second.options["id"] == json.loads((tmp_path / "a" / WANDB).read_text())["id"]
    assert first.options["resume"] == "allow"
    assert first.options["config"]["recipe"]["lr"] == 0.01
    assert [step for step, _ in first.logged + second.logged] == [16, 32, 48, 64, 80, 96]
    assert all(values["nimg"] == step and values["train/loss"] > 0 for step, values in first.logged)
    assert first.finished and second.finished
    train(config, tmp_path / "b", tiny_data, **how)
    assert wandb[2].options["id"] != first.options["id"]


@pytest.mark.parametrize(
    ("wandb_project", "budget", "words"),
    [("closed", None, "No API key configured"), (None, -1, "a budget of -1 bytes holds fewer than 2 snapshots")],
)
def test_what_is_refused_leaves_the_folder_to_the_next_run(
    tmp_path, tiny_recipe, tiny_data, wandb, wandb_project, budget, words
):
    config = TrainConfig(recipe=tiny_recipe.replace(duration=16), data="tiny")
    bad = dataclasses.replace(config, snapshot_budget=budget, tick=8)
    with pytest.raises(ValueError, match=words):
        train(bad, tmp_path, tiny_data, quiet=True, wandb=wandb_project)
    assert not [*tmp_path.iterdir()]
    train(config, tmp_path, tiny_data, quiet=True, tensorboard=False)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match=words):
        train(bad, tmp_path, tiny_data, quiet=True, wandb=wandb_project, resume=True)
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_resumed_run_remembers_its_project(tmp_path, wandb, capsys, monkeypatch):
    boards(tmp_path, 0, {}, tensorboard=False, wandb="mine")
    assert len(boards(tmp_path, 0, {}, tensorboard=False, wandb=None)) == 1
    assert [one.options["project"] for one in wandb] == ["mine", "mine"]
    assert wandb[0].options["id"] == wandb[1].options["id"]
    (tmp_path / "wandb.json").write_text("{")
    assert boards(tmp_path, 0, {}, tensorboard=False, wandb=None) == []
    assert "wandb.json is damaged: delete it" in capsys.readouterr().err
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "wandb", None)
        assert boards(tmp_path, 0, {}, tensorboard=False, wandb=None) == []
    assert "goes on without it" in capsys.readouterr().err
    (tmp_path / "wandb.json").unlink()
    assert boards(tmp_path, 0, {}, tensorboard=False, wandb=None) == []


def test_a_failing_wandb_does_not_end_the_run(tmp_path, wandb, capsys):
    board = WandB(tmp_path, "mine", {})
    log = StatsLog(tmp_path, 0, [board])
    wandb[0].broken = True
    for nimg in (1, 2):
        log.write({"nimg": nimg, "loss": 1.0})
    log.close()
    assert capsys.readouterr().err.count("W&B failed, the run goes on without it: the service is gone") == 1
    assert len((tmp_path / "stats.jsonl").read_text().splitlines()) == 2


def test_a_wandb_that_fails_at_the_end_does_not_end_the_run_in_an_error(tmp_path, wandb, capsys):
    log = StatsLog(tmp_path, 0, [WandB(tmp_path, "mine", {})])
    log.write({"nimg": 1, "loss": 1.0})
    wandb[0].broken = True
    log.close()
    assert "W&B failed, the run goes on without it: the service is gone" in capsys.readouterr().err


def test_what_wandb_refuses_is_said_at_the_start(tmp_path, wandb, monkeypatch):
    with pytest.raises(
        ValueError, match=r"No API key configured\. Log in with: wandb login; or set WANDB_MODE=offline"
    ):
        WandB(tmp_path / "a", "closed", {})
    WandB(tmp_path / "b", "mine", {})
    with pytest.raises(ValueError, match=r"--wandb yours: the run is already in the project mine"):
        WandB(tmp_path / "b", "yours", {})
    (tmp_path / "b" / WANDB).write_text("{")
    with pytest.raises(ValueError, match=r"wandb.json is damaged: delete it"):
        WandB(tmp_path / "b", "mine", {})
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"unitgain\[track\]"):
        boards(tmp_path / "c", 0, {}, tensorboard=False, wandb="mine")


def test_tensorboard_gets_the_scalars(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = StatsLog(tmp_path, 0, boards(tmp_path, 0, {}, tensorboard=True, wandb=None))
    log.write({"nimg": 8, "loss": 0.25, "parts": {"output": {"gradient": 0.5}}})
    log.close()
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Scalars("train/loss")[0].value == 0.25
    assert events.Scalars("gradient/output")[0].step == 8


@pytest.mark.parametrize("checkpoint", [0, 20])
def test_tensorboard_hides_what_is_written_again_after_a_resume_and_no_more(tmp_path, checkpoint):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for start, points in ((0, [0, 10, 20, 30, 40]), (checkpoint, [checkpoint + 10, checkpoint + 20])):
        log = StatsLog(tmp_path, start, boards(tmp_path, start, {}, tensorboard=True, wandb=None))
        for nimg in points:
            log.write({"nimg": nimg, "loss": 0.5})
        log.close()
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [*range(0, checkpoint + 30, 10)]


def test_lines_of_progress_say_the_share_of_the_peak_and_a_long_wait(capsys):
    row = {"nimg": 64, "loss": 0.5, "lr": 0.01, "images_per_second": 16.0, "peak_share": 0.42, "data_wait_share": 0.12}
    with TrainProgress(64, 0) as progress:
        progress.tick(row)
    assert "lr 1.00e-02  42 % of peak  waits 12 % for data  ETA" in capsys.readouterr().err
    with TrainProgress(64, 0) as progress:
        progress.tick({**row, "data_wait_share": 0.01})
    assert "42 % of peak  ETA" in capsys.readouterr().err
