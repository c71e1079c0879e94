"""Evaluation while training: it shows what the snapshots draw, and leaves no trace in the run."""

import gc
import json
import os
import signal
import weakref
from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image

from unitgain.checkpoint.state import list_checkpoints
from unitgain.data.captions import captioned_grid
from unitgain.draw import DrawSettings, open_network
from unitgain.draw.decode import decoder
from unitgain.evaluate.generated import Generated
from unitgain.metrics.detectors import Pixels
from unitgain.metrics.measure import measure
from unitgain.metrics.reference import load_references, save_references
from unitgain.metrics.summary import summarize
from unitgain.metrics.weights import open_detector
from unitgain.parallel import World
from unitgain.sample import generate
from unitgain.train import Evaluation, TrainConfig, train
from unitgain.train import evaluation as module
from unitgain.train.evaluation import turns
from unitgain.train.rows import read_stats
from unitgain.train.run import load_config, save_config
from unitgain.train.speed import MACHINE


def refer(path, images, *detectors, rows=False):
    """A reference of these images."""
    names = [detector.info.name for detector in detectors] if rows else []
    save_references(path, summarize([images], detectors, rows=names), "real", None)
    return str(path)


@pytest.fixture
def reference(tmp_path, tiny_data):
    return refer(tmp_path / "tiny.npz", tiny_data.images, Pixels(), rows=True)


def noisy(images):
    """A detector of a user's that draws from torch's own generator."""
    torch.rand(7)
    return images.float().flatten(1)[:, :5]


@pytest.fixture
def evaluation(reference):
    return Evaluation(
        samples_every=24,
        samples=7,
        metrics=("fd_pixels", "precision@pixels"),
        metrics_every=24,
        metrics_images=20,
        reference=reference,
        steps=3,
        batch=4,
    )


def config(tiny_recipe, evaluation=None, **changes):
    recipe = tiny_recipe.replace(duration=48, network=tiny_recipe.network.replace(dropout=0.1))
    values = {"recipe": recipe, "data": "tiny", "tick": 16, "checkpoint_every": 16, "snapshot_dtype": "float32"}
    return TrainConfig(**values, evaluation=evaluation or Evaluation(), **changes)


def run(config, folder, data, **options):
    return train(config, folder, data, quiet=True, tensorboard=False, **options)


def snapshots(folder):
    return {path.name: path.read_bytes() for path in (folder / "snapshots").iterdir()}


def rows(folder, metrics=False):
    kept = [row for row in read_stats(folder) if ("metrics" in row) == metrics and "grid" not in row]
    return [{key: value for key, value in row.items() if key not in MACHINE} for row in kept]


def test_a_run_is_the_same_bit_for_bit_with_and_without(tmp_path, tiny_recipe, tiny_data, evaluation):
    run(config(tiny_recipe), tmp_path / "without", tiny_data)
    noise = f"{__name__}:noisy"
    path = refer(tmp_path / "own.npz", tiny_data.images, open_detector(noise), Pixels())
    names = (f"fd@{noise}", "fd_pixels")
    own = Evaluation(
        metrics=names, metrics_every=16, metrics_images=16, steps=2, reference=path, samples_every=8, samples=2
    )
    for name, settings in (("with", evaluation), ("own", own)):
        run(config(tiny_recipe, settings), tmp_path / name, tiny_data)
        assert snapshots(tmp_path / name) == snapshots(tmp_path / "without")
        assert rows(tmp_path / name) == rows(tmp_path / "without")
    assert [row["nimg"] for row in rows(tmp_path / "own", metrics=True)] == list(range(16, 49, 16))
    names = [path.name for path in sorted((tmp_path / "with" / "samples").iterdir())]
    assert names == [f"{nimg:010d}.png" for nimg in (24, 48)]


def test_it_shows_what_the_snapshot_of_that_moment_draws(tmp_path, tiny_recipe, tiny_data, evaluation):
    evaluation = Evaluation(**{**vars(evaluation), "ema": 0.1})
    run(config(tiny_recipe, evaluation), tmp_path / "run", tiny_data)
    network = open_network(str(tmp_path / "run" / "snapshots" / "0000000024-0.100.safetensors"))
    settings = DrawSettings(steps=3)
    # Three classes and seven samples asked for: two of each, a row per class.
    labels = [0, 0, 1, 1, 2, 2]
    decode = decoder(network.encoder, 1)
    parts = [decode(images) for _, _, images in generate(network.denoiser, range(6), settings.sigmas(), label=labels)]
    expected = np.asarray(captioned_grid(torch.cat(parts), ["a", "a", "b", "b", "c", "c"], 2))
    with Image.open(tmp_path / "run" / "samples" / "0000000024.png") as image:
        assert np.array_equal(np.asarray(image), expected)
    images = Generated(network, None, settings, range(20))
    references = load_references(tmp_path / "tiny.npz")
    found = measure(images.batches(range(20)), Pixels(), ["fd_pixels", "precision@pixels"], references)
    row = rows(tmp_path / "run", metrics=True)[0]
    assert row["nimg"] == 24
    assert row["metrics"] == pytest.approx({"fd_pixels": found[0].value, "precision@pixels": found[1].value})
    about = {"ema": 0.1, "images": 20, "steps": 3, "dtype": "float32"}
    assert row["evaluation"].items() >= {**about, "metrics": ["fd_pixels", "precision@pixels"]}.items()


def test_a_stopped_run_makes_up_for_what_was_cut_short(tmp_path, tiny_recipe, tiny_data, evaluation, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(config(tiny_recipe, evaluation), whole, tiny_data)
    seen = []
    pictures = Generated.batches

    def signalled(self, numbers):
        seen.append(len(numbers))
        if len(seen) == 3:  # in the first measurement, at 24 images
            os.kill(os.getpid(), signal.SIGTERM)
        yield from pictures(self, numbers)

    monkeypatch.setattr(Generated, "batches", signalled)
    result = run(config(tiny_recipe, evaluation), parts, tiny_data)
    assert (result.nimg, result.finished, result.signal) == (24, False, "SIGTERM")
    assert len(seen) == 3  # of five: the rest was not drawn
    assert [path.name for path in list_checkpoints(parts / "checkpoints")][-1] == "0000000024"
    assert not rows(parts, metrics=True)
    assert run(config(tiny_recipe, evaluation), parts, tiny_data, resume=True).finished
    assert snapshots(parts) == snapshots(whole)
    assert rows(parts, metrics=True) == rows(whole, metrics=True)
    for path in (whole / "samples").iterdir():
        assert (parts / "samples" / path.name).read_bytes() == path.read_bytes()


def test_settings_may_change_and_a_finished_run_can_be_evaluated(tmp_path, tiny_recipe, tiny_data, evaluation):
    run(config(tiny_recipe), tmp_path / "run", tiny_data)
    before = snapshots(tmp_path / "run")
    assert run(config(tiny_recipe, evaluation), tmp_path / "run", tiny_data, resume=True).nimg == 48
    assert snapshots(tmp_path / "run") == before
    assert [path.name for path in (tmp_path / "run" / "samples").iterdir()] == ["0000000048.png"]
    (row,) = rows(tmp_path / "run", metrics=True)
    assert row["nimg"] == 48
    grid = (tmp_path / "run" / "samples" / "0000000048.png").read_bytes()
    assert run(config(tiny_recipe, evaluation), tmp_path / "run", tiny_data, resume=True).finished
    assert len(rows(tmp_path / "run", metrics=True)) == 1  # it is there already
    more = replace(evaluation, samples=3, metrics_images=30)
    run(config(tiny_recipe, more), tmp_path / "run", tiny_data, resume=True)
    assert [row["evaluation"]["images"] for row in rows(tmp_path / "run", metrics=True)] == [20, 30]
    assert (tmp_path / "run" / "samples" / "0000000048.png").read_bytes() != grid
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["evaluation"]["metrics"] == ["fd_pixels", "precision@pixels"]


def test_no_memory_and_no_change_is_left_behind(tmp_path, tiny_recipe, tiny_data, evaluation, monkeypatch):
    made = []
    prepare = module.prepare

    def kept(*args):
        found = prepare(*args)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(module, "prepare", kept)
    run(config(tiny_recipe, evaluation), tmp_path / "run", tiny_data)
    gc.collect()
    assert len(made) == 2
    assert not any(reference() for reference in made)


def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path, tiny_recipe, tiny_data, evaluation):
    refer(tmp_path / "other.npz", tiny_data.images, Pixels(100.0, 50.0))
    refer(tmp_path / "small.npz", tiny_data.images[:, :, :4, :4], Pixels(), rows=True)
    wrong = [
        ({"reference": str(tmp_path / "none.npz")}, FileNotFoundError, "no reference at"),
        ({"reference": None}, ValueError, "--metrics-reference in training"),
        (
            {"reference": str(tmp_path / "small.npz")},
            ValueError,
            "16 features of pixels, .*images have 64",
        ),
        ({"metrics": ("fid",)}, ValueError, "fid needs a reference in the features of inception; given: pixels"),
        ({"metrics": ("is",), "inception": "none.pt", "reference": None}, FileNotFoundError, "none.pt"),
        ({"metrics": ("is@pixels",), "reference": None}, ValueError, "names no classes"),
        ({"metrics": ("is",)}, ValueError, "a reference, and is compare with none"),
        ({"reference": str(tmp_path / "other.npz")}, ValueError, "features of single images"),
        ({"ema": 0.07}, ValueError, r"--evaluate-ema 0.07: the recipe tiny keeps averages of lengths 0.05, 0.1"),
    ]
    nothing = {"metrics": (), "metrics_every": None, "samples_every": 0, "samples": None}
    wrong.append((nothing, ValueError, r"evaluation.reference = '.*': nothing is drawn or measured"))
    for changes, error, text in wrong:
        settings = Evaluation(**{**vars(evaluation), **changes})
        with pytest.raises(error, match=text):
            run(config(tiny_recipe, settings), tmp_path / "run", tiny_data)
    assert not (tmp_path / "run").exists()
    for changes, text in (
        ({"steps": 1}, "evaluation.steps = 1: must be at least 2"),
        ({"metrics": ()}, "name the metrics"),
        ({"metrics": ("fud",)}, "unknown metric 'fud'"),
        ({"samples_every": -1}, "evaluation.samples_every = -1: must be at least 0"),
    ):
        with pytest.raises(ValueError, match=text):
            Evaluation(**{**vars(evaluation), **changes})


IDLE = [
    ({"steps": 8, "vae": "here"}, r"evaluation.steps = 8, evaluation.vae = 'here': nothing is drawn or measured; give"),
    ({"dinov2": "here"}, r"evaluation.dinov2 = 'here': nothing is drawn or measured"),
    ({"metrics_images": 64, "samples": 4, "steps": 2}, "evaluation.metrics_images = 64: nothing is measured; name"),
    ({"metrics": ("is",), "metrics_every": 0}, "nothing is measured; give another --metrics-every"),
    ({"samples": 4, "samples_every": 0}, "evaluation.samples = 4: nothing is drawn; give another --samples-every"),
]


@pytest.mark.parametrize(("said", "words"), IDLE)
def test_what_is_said_of_an_evaluation_that_is_none_is_refused(tmp_path, tiny_recipe, tiny_data, said, words):
    idle = config(tiny_recipe, Evaluation(**said))
    with pytest.raises(ValueError, match=words):
        run(idle, tmp_path / "run", tiny_data)
    assert not (tmp_path / "run").exists()
    run(config(tiny_recipe), tmp_path / "run", tiny_data)
    with pytest.raises(ValueError, match=words):
        run(idle, tmp_path / "run", tiny_data, resume=True)
    save_config(replace(load_config(tmp_path / "run"), evaluation=idle.evaluation), tmp_path / "run")
    assert run(idle, tmp_path / "run", tiny_data, resume=True).finished  # a run that began so goes on


def test_a_text_alone_is_not_taken_apart(tiny_recipe, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # which would refuse it before
    with pytest.raises(ValueError, match="metrics = 'fid': expected several"):
        Evaluation(metrics="fid")
    with pytest.raises(ValueError, match="conditions = 'style': expected several"):
        TrainConfig(recipe=tiny_recipe, conditions="style")


def test_the_folder_may_be_text(tmp_path, tiny_recipe, tiny_data):
    assert run(config(tiny_recipe), str(tmp_path / "run"), tiny_data).finished
    assert load_config(tmp_path / "run").tick == 16


def test_a_run_may_stop_measuring(tmp_path, tiny_recipe, tiny_data, evaluation):
    run(config(tiny_recipe, evaluation), tmp_path / "run", tiny_data)
    quiet = replace(evaluation, metrics_every=0, samples_every=0)
    assert run(config(tiny_recipe, quiet), tmp_path / "run", tiny_data, resume=True).finished


def test_all_processes_take_as_many_turns():
    for total in (1, 4, 9, 16):
        for size in (1, 2, 3):
            worlds = [World(rank, size) for rank in range(size)]
            found = [[list(turn) for turn in turns(world, total, 2, lambda: False)] for world in worlds]
            assert len({len(turns) for turns in found}) == 1
            assert sorted(number for turns in found for turn in turns for number in turn) == list(range(total))
