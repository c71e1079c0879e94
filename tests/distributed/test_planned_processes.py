"""A plan of several processes: the first decides, all measure at once, and one run comes of it."""

import json
import time
from dataclasses import replace

import pytest
import torch
from launch import launch
from runs import data

from unitgain.cli.main import main
from unitgain.data.fit import Fit
from unitgain.data.prepare import prepare_data
from unitgain.parallel import SharedError
from unitgain.train import plan, train
from unitgain.train.run import load_config

ROOM = 10**9


def _plan_and_train(rank, folder):
    meetings = []

    def measure(recipe, images, device):
        meetings.append([recipe.network.model_channels, images])
        time.sleep(0.05 * rank)
        return 20.0 + 10 * rank

    # What only the first process is told counts.
    found = plan(data(), hours=0.2 if rank == 0 else 9.0, memory=ROOM * (1 + rank), measure=measure)
    report = {"rate": found.images_per_second, "memory": found.memory, "time": found.reasons[1], "measured": meetings}
    (folder / f"{rank}.json").write_text(json.dumps(report))
    assert found.config.recipe.batch == 2 * found.config.microbatch
    brief = replace(found.config, recipe=found.recipe.replace(duration=3 * found.recipe.batch))
    result = train(brief, folder / "run", data(), execution=found.execution, quiet=True, tensorboard=False)
    assert result.finished and load_config(folder / "run").recipe == brief.recipe


def test_all_measure_and_train_what_the_first_plans(tmp_path):
    launch(_plan_and_train, 2, tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and first["rate"] == 50.0 and first["memory"] < ROOM
    assert "50 images/s measured by 2 processes at once" in first["time"] and len(first["measured"]) > 1


def _fail(rank, folder):
    def measure(recipe, images, device):
        if rank == 1:
            raise MemoryError("no room here")
        return 20.0

    with pytest.raises(SharedError, match="measuring the speed failed on rank 1 of 2: MemoryError: no room here"):
        plan(data(), memory=ROOM, measure=measure)
    with pytest.raises(ValueError, match="hours = -1: must be positive"):
        plan(data(), memory=ROOM, hours=-1 if rank == 0 else 1)


def test_what_goes_wrong_in_one_process_is_said_by_all(tmp_path):
    launch(_fail, 2, tmp_path)


def _command(rank, pictures, folder):
    options = ["--width", "8", "--batch", "8", "--duration", "16", "--hours", "0.01", "--device", "cpu"]
    assert not main(["train", "--data", str(pictures), "--out", str(folder), *options, "--no-tensorboard"])


def test_the_command_plans_and_trains_with_several(tmp_path):
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for number in range(4):
        noise = torch.randint(0, 256, (8, 8, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(tmp_path / "pictures" / f"{number}.png")
    prepare_data(str(tmp_path / "pictures"), tmp_path / "data", Fit(resolution=None))
    launch(_command, 2, tmp_path / "data", tmp_path / "run")
    config = load_config(tmp_path / "run")
    assert (config.recipe.batch, config.microbatch, config.recipe.name) == (8, 4, "planned")
    assert (tmp_path / "run" / "snapshots" / "0000000016-raw.safetensors").is_file()
