"""Commands end with the command that continues, and it works as it is printed; `sample RUN` takes the best known."""

import json
import shlex
from pathlib import Path

import pytest
import torch
from explorers import guiding_itself
from pictures import folder_of
from PIL import Image

from unitgain.data.digits import digits
from unitgain.data.fit import Fit
from unitgain.data.prepare import prepare_data
from unitgain.draw import DrawSettings
from unitgain.draw.options import sample_options
from unitgain.recipes import DIGITS
from unitgain.report.known import average_of, best_known, is_run
from unitgain.train import TrainConfig, train
from unitgain.train.config import Evaluation


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs on the digits, hardly trained, in a folder whose name has to be quoted."""
    folder = tmp_path_factory.mktemp("some runs")
    network = DIGITS.network.replace(model_channels=8, channels_per_head=8)
    recipe = DIGITS.replace(network=network, batch=16, duration=128, snapshot_every=64, rampup=32, ema=(0.05, 0.1))
    measured = Evaluation(
        metrics=("fd_pixels",), metrics_every=64, metrics_images=32, reference="digits", ema=0.05, steps=2
    )
    for name, evaluation in (("plain", Evaluation()), ("measured", measured)):
        own = recipe.replace(lr=recipe.lr / (1 + len(evaluation.metrics)))  # or each would be the other
        config = TrainConfig(recipe=own, data="digits", tick=64, checkpoint_every=128, evaluation=evaluation)
        train(config, folder / name, digits(), quiet=True, tensorboard=False)
    return folder


def next_of(output):
    """The words of the command that a command ends with."""
    lines = output.out.splitlines()
    assert lines[-2].startswith("next, ")
    name, *words = shlex.split(lines[-1])
    assert name == "unitgain"
    return words


def test_a_run_that_nothing_is_known_of_is_drawn_with_its_newest_average(trained, tmp_path, call):
    run = trained / "plain"
    assert is_run(run) and not is_run(tmp_path)
    newest = run / "snapshots" / "0000000128-0.100.safetensors"
    assert best_known(run).network == newest
    guided = ("sample", run, "--guidance", 2, "--out", tmp_path / "guided", "--seeds", "0", "--steps", 2)
    call(*guided, "--guide", run.with_name("measured"))
    name = json.loads((tmp_path / "guided" / "manifest.json").read_text())["guide"]["name"]
    assert name == str(run.with_name("measured") / "snapshots" / newest.name)
    assert "guide itself, which is no guidance" in call(*guided, "--guide", run, code=2).err
    output = call("sample", run, "--out", tmp_path / "drawn", "--seeds", "0-3", "--steps", 2, "--class", "3")
    assert "0000000128-0.100.safetensors, the newest average" in output.err
    again = next_of(output)
    assert next_of(call(*again))[0] == "metrics"
    assert (tmp_path / "drawn" / "grid.png").is_file()
    manifest = json.loads((tmp_path / "drawn" / "manifest.json").read_text())
    assert manifest["settings"]["steps"] == 2 and manifest["settings"]["class"] == 3


def test_a_run_that_was_evaluated_is_drawn_with_the_best_of_that(trained):
    run = trained / "measured"
    rows = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    values = {row["nimg"]: row["metrics"]["fd_pixels"] for row in rows if "metrics" in row}
    best = min(values, key=values.get)
    chosen = best_known(run)
    assert len(values) == 2 and chosen.network.name == f"{best:010d}-0.050.safetensors"
    assert chosen.value == values[best]


def test_sweeps_and_searches_end_with_the_best_setting_as_a_command(trained, tmp_path, call, monkeypatch):
    run, guide = trained / "plain", trained / "measured"
    drawing = ("--sampler", "euler", "--steps", 2, "--metric", "fd_pixels,precision", "--reference", "digits")
    cells = ("--lengths", "0.05,0.1", "--guidance", "1,1.5", "--images", 32)
    output = call("sweep", run, "--guide", guide, *drawing, *cells)
    words = next_of(output)
    (picture,) = (run / "sweep").glob("sweep-measured-*-pictures.png")
    drawn = picture.stat().st_mtime_ns
    with Image.open(picture) as image:
        assert min(image.size) > 2 * 2 * 8  # two rows and columns of two by two digits
    assert str(picture) in output.out
    assert call("sweep", run, "--guide", guide, *drawing, *cells).out == output.out
    assert picture.stat().st_mtime_ns == drawn  # nothing has changed
    found = call("tune", run, *drawing, "--lengths", "0.05,0.1", "--images", 32, "--evaluations", 2)
    assert next_of(found)[0] == "sample"
    chosen = best_known(run)
    assert words[:2] == ["sample", str(chosen.network)]
    assert (words[words.index("--guide") + 1] if "--guide" in words else None) == chosen.guide
    assert words[words.index("--sampler") + 1] == "euler" and words[words.index("--steps") + 1] == "2"
    assert "look at" in call(*words, "--seeds", "0-3").out
    known = call("sample", run, "--out", tmp_path / "best", "--seeds", "0-1", "--steps", 2, "--grid").err
    assert "fd_pixels" in known and chosen.network.name in known
    moved = tmp_path / "moved"
    run.rename(moved)
    try:
        assert best_known(moved).network.is_relative_to(moved)  # wherever the run lies now
        for path in (moved / "sweep" / "averages").rglob("*.safetensors"):
            path.rename(path.with_suffix(".gone"))
        assert best_known(moved).network == moved / "snapshots" / "0000000128-0.100.safetensors"
    finally:
        for path in (moved / "sweep" / "averages").rglob("*.gone"):
            path.rename(path.with_suffix(".safetensors"))
        moved.rename(run)


@pytest.mark.parametrize(
    "change",
    [
        {"network": "x"},
        {"network": {"name": "../../../secret.safetensors"}},
        {"network": {"name": 3}},
        {"network": {"name": "a\0/b.safetensors"}},
        {"record": []},
        {"guide": {"name": "org/network"}, "settings": {"guidance": 2}},
        {"guide": {"name": "self"}, "settings": {"guidance": "2"}},
        {"metric": ["fid"]},
    ],
)
def test_rows_of_a_table_that_make_no_sense_are_left_out(trained, tmp_path, change):
    run = tmp_path / "run"
    (run / "sweep" / "averages" / "a").mkdir(parents=True)
    (run / "snapshots").symlink_to(trained / "plain" / "snapshots")
    average = run / "sweep" / "averages" / "a" / "0000000128-0.070.safetensors"
    average.write_bytes(b"")
    row = {"key": "k", "metric": "fid", "value": 1.0, "record": {"images": 10, "higher": False}}
    row |= {"network": {"name": f"elsewhere/a/{average.name}"}, "guide": None, "settings": {"guidance": 1.0}}
    (run / "sweep" / "cells-0.jsonl").write_text(json.dumps(row) + "\n")
    assert best_known(run).network == average
    (run / "sweep" / "cells-0.jsonl").write_text(json.dumps(row | change) + "\n")
    assert best_known(run).value is None


def test_the_best_is_guided_without_what_it_was_measured_without(runs, tmp_path, call):
    run = guiding_itself(runs / "main", tmp_path / "run")
    fast = ("--sampler", "euler", "--steps", 2)
    swept = ("--lengths", 0.1, "--reference", "digits", "--metric", "fd_pixels", "--images", 4)
    call("sweep", run, *swept, *fast, "--guide", "self", "--guidance", 2, "--without", "label")
    call("sample", run, *fast, "--seeds", 0, "--out", tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "manifest.json").read_text())["settings"]
    assert (settings["guidance"], settings["without"]) == (2, ["label"])
    assert "--without" in sample_options(DrawSettings(without=("label",)), "self", 2)
    assert not sample_options(DrawSettings(dtype="auto", without=("label",)))  # of the best that is not guided


def test_a_weight_that_is_named_is_said_and_passed_on(runs, tmp_path, call, monkeypatch):
    run, out = guiding_itself(runs / "main", tmp_path / "run"), tmp_path / "out"
    fast = ("--sampler", "euler", "--steps", 2)
    swept = ("--lengths", 0.1, "--reference", "digits", "--metric", "fd_pixels", "--images", 4)
    call("sweep", run, *swept, *fast, "--guide", "self", "--guidance", 2)
    unguided = call("sample", run, *fast, "--seeds", 0, "--guidance", 1, "--out", out)
    assert "not guided, as you say" in unguided.err
    call(*next_of(unguided))  # which would refuse images that were drawn otherwise
    assert json.loads((out / "manifest.json").read_text())["guide"] is None
    measured = ("metrics", run, *fast, "--seeds", "0-3", "--guidance", 1)
    words = next_of(call(*measured, "--metrics", "fd_pixels", "--reference", "digits"))
    assert words[words.index("--guidance") + 1] == "1"
    stronger = call("sample", run, *fast, "--seeds", 0, "--guide", "self", "--guidance", 3, "--out", tmp_path / "3")
    assert "guided by self, w = 3, as you say" in stronger.err and "w = 2" not in stronger.err


def test_the_best_is_known_by_the_metric_that_counts_most_and_against_the_same_images(tmp_path):
    averages = tmp_path / "sweep" / "averages" / "a"
    averages.mkdir(parents=True)
    rows = []
    for metric, length, value, prints in (
        ("precision@inception", 0.05, 0.9, "new"),
        ("kid@inception", 0.15, 0.1, "old"),
        ("kid@inception", 0.1, 0.3, "new"),
        ("kid@inception", 0.2, 0.4, "new"),
    ):
        (averages / f"0000000128-{length:.3f}.safetensors").write_bytes(b"")
        record = {"images": 10, "higher": metric[0] == "p", "reference": {"name": "data", "fingerprint": prints}}
        row = {"key": str(len(rows)), "metric": metric, "value": value, "record": record, "guide": None}
        rows.append(row | {"network": {"name": f"a/0000000128-{length:.3f}.safetensors"}})
    (tmp_path / "sweep" / "cells-0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = best_known(tmp_path)
    assert (chosen.value, chosen.network.stem) == (0.3, "0000000128-0.100")


def test_a_table_names_no_average_at_the_root_of_the_file_system(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    assert average_of(tmp_path, "a/b.safetensors") == tmp_path / "sweep" / "averages" / "a" / "b.safetensors"
    assert average_of(tmp_path, "/b.safetensors") is None


def test_data_that_are_prepared_say_how_to_train_on_them(tmp_path, call):
    (tmp_path / "some pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (16, 16), (80 * number, 0, 0)).save(tmp_path / "some pictures" / f"{number}.png")
    output = call("data", "prepare", tmp_path / "some pictures", tmp_path / "the data", "--resolution", 8)
    assert next_of(output) == ["train", "--data", str(tmp_path / "the data")]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Some pictures, prepared."""
    folder = tmp_path_factory.mktemp("some data")
    pictures = folder_of(folder / "pictures", classes=("cat", "dog"), each=2)
    prepare_data(str(pictures), folder / "data", Fit(resolution=8))
    return folder / "data"


# What is typed, how the command begins with which that ends, and what is added to it to make it short; None: not run.
STEPS = {
    "inspect digits": ("train digits", None),
    "inspect pixels64-mini": ("inspect pixels64-mini --microbatch 8", ""),
    "inspect --configs edm2plus": ("inspect edm2plus-img64-config-a", None),
    "inspect RUN": ("sample RUN --out RUN/drawn-128 --grid", "--steps 2"),
    "inspect RUN/snapshots/LAST": ("sample RUN/snapshots/LAST --out RUN/snapshots/0000000128-0.100", "--steps 2"),
    "watch RUN": ("sample RUN --out RUN/drawn-128 --grid", "--steps 2"),
    "ema list RUN": ("ema error RUN", ""),
    "ema error RUN 0.03:0.2:0.01": ("ema reconstruct RUN 0.0", ""),
    "ema plot RUN 0.1 --out OUT/profiles.svg": ("ema reconstruct RUN 0.1", ""),
    "ema plot RUN 0.001 --out OUT/profiles.svg": ("ema error RUN", ""),
    "ema convert CHECKPOINTS OUT/other": ("ema error OUT/other", ""),
    "data check DATA": ("train --data DATA", None),
    "data show DATA --out OUT/sheet.png": ("train --data DATA", None),
    "data export DATA OUT/data.zip": ("train --data DATA", None),
    "compare MEASURED MEASURED": ("compare MEASURED MEASURED --plot MEASURED/compare.svg", ""),
    "compare MEASURED --plot OUT/compare.svg": ("report MEASURED", "--no-samples"),
    "magnitudes RUN/snapshots/LAST --data digits --samples 8": (
        "magnitudes RUN/snapshots/LAST --data digits --samples 8 --plot RUN/snapshots/magnitudes.svg",
        "",
    ),
    "metrics DATA --reference DATA --metrics fd,kid --detector pixels": ("", None),
    "metrics DATA --reference DATA --metrics fd_pixels,kid@pixels": (
        "metrics reference DATA --out data.npz --detectors pixels --features",
        "",
    ),
    "metrics RUN --reference digits --metrics fd_pixels --seeds 0-9 --steps 2": (
        "sample RUN --steps 2 --out RUN/drawn-measured --grid",
        "",
    ),
    "bench forward digits --batch 2 --repeats 1": ("bench sample digits", None),
    "bench sample digits --batch 2 --repeats 1 --steps 2": ("inspect digits", ""),
    "bench train digits --batch 8 --repeats 1": ("inspect digits --microbatch 8", ""),
}


@pytest.mark.parametrize("typed", STEPS)
def test_a_command_ends_with_one_that_works(trained, prepared, tmp_path, call, monkeypatch, typed):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "step-10.pt")
    places = {"RUN": trained / "plain", "MEASURED": trained / "measured", "DATA": prepared, "OUT": tmp_path}
    places |= {"LAST": "0000000128-0.100.safetensors", "CHECKPOINTS": tmp_path}

    def words_of(text):
        words = text.split()
        for name, place in places.items():
            words = [word.replace(name, str(place)) for word in words]
        return words

    monkeypatch.chdir(tmp_path)
    step, short = STEPS[typed]
    output = call(*words_of(typed))
    if not step:
        assert "next, " not in output.out
        return
    words = next_of(output)
    assert " ".join(words).startswith(" ".join(words_of(step)))
    if short is not None:
        call(*words, *short.split())


def test_data_for_machines_end_with_no_step(trained, prepared, call):
    for words in (("inspect", "digits"), ("ema", "list", trained / "plain"), ("data", "check", prepared)):
        json.loads(call(*words, "--json").out)
