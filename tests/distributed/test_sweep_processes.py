"""A sweep shared by two processes finds what one finds."""

from pathlib import Path

from launch import launch

from unitgain.data.digits import digits
from unitgain.draw import DrawSettings
from unitgain.parallel import processes
from unitgain.recipes import DIGITS
from unitgain.sample import Euler
from unitgain.sweep import Judge, Sweep, SweepConfig, sweep, tune
from unitgain.sweep.table import Table
from unitgain.train import TrainConfig, train

SETTINGS = DrawSettings(sampler=Euler(), steps=2)
CONFIG = SweepConfig(lengths=(0.05, 0.1, 0.15), images=64)


def sweep_some(rank: int, run: str, out: str) -> None:
    with processes() as world:
        judge = Judge.open(["fd_pixels"], "digits")
        bench = Sweep(Path(run), judge, Path(out), settings=SETTINGS, world=world)
        results = sweep(bench, CONFIG)
        assert world.gather([result.value for result in results])[-1] == [result.value for result in results]
        found = tune(bench, CONFIG, evaluations=3)
        assert sorted(result.value for result in found) == sorted(result.value for result in results)


def test_a_sweep_does_not_depend_on_the_number_of_processes(tmp_path):
    network = DIGITS.network.replace(model_channels=8, channels_per_head=8)
    recipe = DIGITS.replace(network=network, batch=16, duration=64, snapshot_every=16, rampup=32)
    config = TrainConfig(recipe=recipe, data="digits", tick=64, checkpoint_every=64)
    train(config, tmp_path / "run", digits(), quiet=True, tensorboard=False)
    sweep_some(0, str(tmp_path / "run"), str(tmp_path / "one"))
    launch(sweep_some, 2, str(tmp_path / "run"), str(tmp_path / "two"))
    values = [{key: row["value"] for key, row in Table(tmp_path / name).rows().items()} for name in ("one", "two")]
    assert values[0] == values[1]
    assert len(values[0]) == 3
    assert (tmp_path / "two" / "cells-1.jsonl").exists()
