"""What is given in Python: numbers and arrays of NumPy, tensors, lists and names of files, and one text for several."""

import json
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch

import unitgain
from unitgain.arch import NetworkSpec
from unitgain.data.encoder import PixelEncoder
from unitgain.denoiser import Denoiser
from unitgain.draw import Animation, DataRows, DrawSettings, FromPicture, Network, write_images, write_path
from unitgain.evaluate.generated import Generated
from unitgain.evaluate.heeded import draw_heeded
from unitgain.guide import Guided, PerClass
from unitgain.sample import StochasticHeun
from unitgain.serial import to_dict
from unitgain.sweep import Judge, Sweep, SweepConfig

SPEC = NetworkSpec(
    resolution=4, channels=1, label_dim=3, model_channels=8, channel_mult=(1,), num_blocks=1, channels_per_head=8
)
FAST = DrawSettings(steps=2)


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    """As users call it, whose types nobody checks."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    denoiser = Denoiser(SPEC).eval().requires_grad_(False)
    denoiser.encoder = to_dict(PixelEncoder())
    return denoiser


@pytest.fixture(scope="module")
def network(denoiser):
    return Network(name="network", denoiser=denoiser, record={"sha256": "0" * 64})


@pytest.mark.parametrize("seeds", [np.arange(3), torch.arange(3), (0, np.int64(1), 2), [2, 0, 1, True, 2, np.uint8(0)]])
def test_images_are_drawn_of_seeds_of_any_kind_each_once(network, tmp_path, monkeypatch, seeds):
    monkeypatch.chdir(tmp_path)
    drawn = write_images(network, None, FAST, seeds, "w")
    assert (drawn.total, drawn.new) == (3, 3)
    assert [one["seed"] for one in json.loads(Path("w/manifest.json").read_text())["images"]] == [0, 1, 2]
    assert Generated(network, None, FAST, np.arange(3)).source.seeds == "0-2"
    assert len(unitgain.sample_images(network.denoiser, seeds, settings=FAST)) == len(seeds)


def test_an_archive_is_one_in_capitals_too(network, tmp_path):
    write_images(network, None, FAST, [0], tmp_path / "s.ZIP", contact_sheet=True)
    assert (tmp_path / "s.ZIP").is_file() and (tmp_path / "s.png").is_file()


def test_ways_of_seeds_of_any_kind(denoiser, tmp_path):
    points = unitgain.interpolate(np.array([1, 2]), 3)
    assert len(unitgain.sample_images(denoiser, points, settings=FAST)) == 3
    assert write_path(denoiser, np.array([1]), str(tmp_path / "path.gif"), FAST, Animation(frames=np.int64(2))) == 2
    with pytest.raises(ValueError, match="no seeds"):
        write_path(denoiser, [], tmp_path / "path.gif", FAST, Animation())


def test_settings_hold_plain_values():
    given = DrawSettings(
        steps=np.int64(2),
        guidance=np.float64(1.5),
        label=np.array([1, 2]),
        interval=np.array([0.5, 2.0]),
        without=["label"],
        sampler=StochasticHeun(S_churn=np.float32(4)),
        vae=Path("folder"),
    )
    assert given == DrawSettings(
        steps=2,
        guidance=1.5,
        label=(1, 2),
        interval=(0.5, 2.0),
        without=("label",),
        sampler=StochasticHeun(S_churn=4.0),
        vae="folder",
    )
    json.dumps(given.record("cpu"))
    assert DrawSettings(label=torch.tensor(2)).label == 2
    swept = SweepConfig(lengths=np.array([0.1, 0.2]), guidance=torch.tensor([1.0, 2.0]), images=np.int64(4))
    assert swept == SweepConfig(lengths=(0.1, 0.2), guidance=(1.0, 2.0), images=4)
    assert type(FromPicture(picture="x", sigma_start=np.float32(2)).sigma_start) is float


def test_conditions_may_be_a_data_set_and_rows_an_array(told):
    assert len(DrawSettings(conditions=told).conditions) == len(told)
    assert DataRows(told, np.array([3, 5])).rows == [3, 5]
    with pytest.raises(ValueError, match="expected the name of data, a data set or DataRows"):
        DrawSettings(conditions=3)
    with pytest.raises(ValueError, match="conditions = '': name data"):
        DrawSettings(conditions="")


def test_conditions_are_exchanged_for_rows_of_an_array(told_denoiser, told):
    expected = draw_heeded(told_denoiser, told, [3, 5], settings=FAST)
    for name, samples in draw_heeded(told_denoiser, told, np.array([3, 5]), settings=FAST).items():
        assert torch.equal(samples, expected[name])
    with pytest.raises(ValueError, match="no condition would be exchanged"):
        draw_heeded(told_denoiser, told, [3, 5], names=[])


def test_weights_of_guidance_may_be_lists(denoiser):
    x, labels = torch.ones(3, 1, 4, 4), torch.tensor([0, 2, 1])
    expected = Guided(denoiser, None, torch.tensor([1.5, 2.0, 3.0]))(x, 1.0, labels)
    for weight in ([1.5, 2.0, 3.0], np.array([1.5, 2.0, 3.0]), PerClass([1.5, 3.0, 2.0])):
        assert torch.equal(Guided(denoiser, None, weight)(x, 1.0, labels), expected)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda network: DrawSettings(without="label"), "without = 'label': expected several"),
        (lambda network: DrawSettings(interval=(1, 2, 3)), r"noise levels \(lo, hi\)"),
        (lambda network: DrawSettings(steps=2.5), "steps = 2.5: expected a whole number"),
        (lambda network: DrawSettings(guidance="2"), "guidance = '2': expected a number"),
        (lambda network: Guided(network.denoiser, None, 2.0, without="label"), "without = 'label': expected several"),
        (lambda network: Guided(network.denoiser, None, 2.0, (1, 2, 3)), r"noise levels \(lo, hi\)"),
        (lambda network: Judge.open("fd_pixels", "digits"), "metrics = 'fd_pixels': expected several"),
        (lambda network: SweepConfig(lengths=0.1), "lengths = 0.1: expected several"),
        (lambda network: SweepConfig(lengths=[0.1], patterns="*", base=0.1), "patterns = '.': expected several"),
        (lambda network: unitgain.interpolate("12"), "seeds = '12': expected several"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(network, make, words):
    with pytest.raises(ValueError, match=words):
        make(network)


def test_a_run_may_be_named_by_a_text_and_is_no_file(runs, tmp_path):
    judge = Judge.open(["fd_pixels"], "digits")
    bench = Sweep(str(runs / "main"), judge, str(tmp_path), settings=FAST)
    assert bench.run == runs / "main" and bench.out == tmp_path
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="is a file, and no run: name the folder"):
        Sweep(file, judge, file / "sweep")
