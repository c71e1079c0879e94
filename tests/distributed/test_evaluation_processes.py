"""Evaluation by two processes: the same images as by one, no trace in the run, and one signal stops it on both."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from launch import launch
from PIL import Image

from unitgain.checkpoint.state import list_checkpoints
from unitgain.data.captions import captioned_grid
from unitgain.draw import DrawSettings, open_network
from unitgain.evaluate.generated import Generated
from unitgain.metrics.detectors import Pixels
from unitgain.metrics.measure import measure
from unitgain.metrics.reference import load_references, save_references
from unitgain.metrics.summary import summarize
from unitgain.parallel import processes
from unitgain.train import Evaluation

IMAGES = 33  # 17 on one process, 16 on the other


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "tiny.npz"
    save_references(path, summarize([runs.data().images], [Pixels()]), "tiny", None)
    return path


def plain():
    return runs.config(recipe=runs.RECIPE.replace(duration=48))


def evaluated(reference: Path):
    return dataclasses.replace(
        plain(),
        evaluation=Evaluation(
            samples_every=24,
            samples=5,
            metrics=("fd_pixels",),
            metrics_every=24,
            metrics_images=IMAGES,
            reference=str(reference),
            steps=2,
            batch=4,
        ),
    )


def stopped(rank: int, folder: str, reference: str) -> None:
    """A signal to rank 1 in the middle of its first measurement; then go on."""
    pictures, seen = Generated.batches, []

    def signalled(self, numbers):
        seen.append(len(numbers))
        if len(seen) == 2 and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        yield from pictures(self, numbers)

    with processes():
        Generated.batches = signalled
        result = runs.run(Path(folder), config=evaluated(Path(reference)), shard=True)
        Generated.batches = pictures
        assert (result.nimg, result.finished, result.signal) == (24, False, "SIGTERM")
        assert len(seen) <= 3  # of five
        if rank == 0:
            assert list_checkpoints(Path(folder) / "checkpoints")[-1].name == "0000000024"
            assert not any("metrics" in row for row in rows(Path(folder)))
        assert runs.run(Path(folder), config=evaluated(Path(reference)), shard=True, resume=True).finished


def rows(folder):
    return [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]


def files(folder):
    return {path.name: path.read_bytes() for path in (folder / "snapshots").iterdir()}


def test_two_processes_evaluate_as_one_and_leave_no_trace(tmp_path, reference):
    jobs = [
        (str(tmp_path / "ddp-without"), {"config": plain()}),
        (str(tmp_path / "ddp-with"), {"config": evaluated(reference)}),
        (str(tmp_path / "fsdp-without"), {"config": plain(), "shard": True}),
    ]
    launch(runs.train_all, 2, jobs)
    launch(stopped, 2, str(tmp_path / "fsdp-with"), str(reference))
    for name in ("ddp", "fsdp"):
        folder = tmp_path / f"{name}-with"
        assert files(folder) == files(tmp_path / f"{name}-without")
        network = open_network(str(folder / "snapshots" / "0000000024-0.050.safetensors"))
        images = Generated(network, None, DrawSettings(steps=2), range(IMAGES))
        record = measure(images.batches(range(IMAGES)), Pixels(), ["fd_pixels"], load_references(reference))[0]
        found = [row for row in rows(folder) if "metrics" in row]
        assert [row["nimg"] for row in found] == [24, 48]
        assert found[0]["metrics"] == {"fd_pixels": pytest.approx(record.value, rel=1e-9)}
        parts = []
        for label in range(3):
            one = Generated(network, None, DrawSettings(steps=2, label=label), [label])
            parts += list(one.batches([0]))
        with Image.open(folder / "samples" / "0000000024.png") as image:
            assert np.array_equal(np.asarray(image), np.asarray(captioned_grid(torch.cat(parts), ["a", "b", "c"], 1)))
