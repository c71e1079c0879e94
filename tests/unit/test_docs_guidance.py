"""The samplers of docs/guidance.md: its Python runs as it stands, and one of one's own is found everywhere."""

import re
from pathlib import Path

import pytest
import torch

from unitgain.bench.cases import Case
from unitgain.bench.measure import Pace
from unitgain.bench.sampling import sampling
from unitgain.cli.main import read
from unitgain.denoiser import Denoiser
from unitgain.draw import DrawSettings
from unitgain.sample import SAMPLERS, sigma_grid

PAGE = Path(__file__).parents[2] / "docs" / "guidance.md"


@pytest.fixture(scope="module")
def page():
    """The names that the first two blocks of the page leave behind."""
    from unitgain.arch import NetworkSpec

    spec = NetworkSpec(
        resolution=8, channels=1, label_dim=3, model_channels=8, channel_mult=(1, 2), num_blocks=1, channels_per_head=8
    )
    names = {"denoiser": Denoiser(spec).eval().requires_grad_(False), "__name__": "page"}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for block in blocks[:2]:
        exec(compile(block, str(PAGE), "exec"), names)
    return names


@pytest.fixture
def midpoint(page, monkeypatch):
    monkeypatch.setitem(SAMPLERS, "midpoint", page["Midpoint"])
    return page["Midpoint"]


def test_its_pictures_are_those_of_its_tensors(page):
    assert len(page["pictures"]) == 4
    assert page["pixels"].shape == (4, 1, 8, 8)


def test_it_is_of_second_order(midpoint):
    noise, scale = torch.full((1, 1, 1, 1), 1.5, dtype=torch.float64), 0.5
    errors, calls = [], []
    for steps in (64, 128):
        ramp = torch.linspace(80 ** (1 / 7), 0.02 ** (1 / 7), steps + 1, dtype=torch.float64) ** 7
        exact = 1.5 * 80 * ((scale**2 + ramp[-1] ** 2) / (scale**2 + 80**2)) ** 0.5
        denoise = lambda x, sigma: calls.append(1) or scale**2 / (scale**2 + sigma**2) * x  # noqa: E731
        errors.append(float((midpoint()(denoise, noise, ramp) - exact).abs().sum()))
    assert errors[0] / errors[1] > 3.5
    assert len(calls) == midpoint().evaluations(sigma_grid(64)) + midpoint().evaluations(sigma_grid(128))


def test_its_setting_is_an_option_and_in_the_record(midpoint):
    command = read(["sample", "net.safetensors", "--sampler", "midpoint", "--share", "0.6", "--steps", "3"])
    assert command.settings.sampler == midpoint(share=0.6)
    record = command.settings.record("cpu")
    assert (record["sampler"], record["share"], record["steps"]) == ("midpoint", 0.6, 3)
    assert read(["bench", "sample", "digits", "--sampler=midpoint", "--share", "0.7"]).method == midpoint(share=0.7)
    assert DrawSettings(sampler=midpoint()).record("cpu")["share"] == 0.5


def test_its_evaluations_are_known_to_benchmarks(midpoint, tiny_recipe):
    report = sampling([Case(tiny_recipe, "exact")], batch=1, steps=3, sampler=midpoint(), pace=Pace(repeats=1))
    assert report.rows[0].facts["evaluations"] == 6


@pytest.mark.parametrize("command", [["sample"], ["metrics"], ["bench", "sample"]])
def test_a_sampler_that_is_none_gets_a_suggestion(command):
    with pytest.raises(ValueError, match="did you mean 'heun'"):
        read([*command, "x", "--sampler", "hein"])
