"""Small networks of both papers' configs against an independent float64 implementation, made from the papers alone."""

import json

import pytest
import torch
from conftest import GOLDEN, relative_error
from safetensors import safe_open

from unitgain.arch import NetworkSpec
from unitgain.denoiser import Denoiser
from unitgain.infer import prepare
from unitgain.recipes import recipe
from unitgain.serial import from_dict

RECIPES = {
    "a": "edm2-img512-config-a",
    "c": "edm2-img512-config-c",
    "d": "edm2-img512-config-d",
    "f": "edm2-img512-config-f",
    "g": "edm2-img512-config-g",
    "g-star": "edm2plus-img64-config-g-bottleneck",
    "f-star": "edm2plus-img64-config-f-bottleneck",
    "plus-b": "edm2plus-img64-config-b",
}


def network_of(name):
    """The denoiser with the weights of the file, its inputs (images, noise levels, classes), and the output."""
    with safe_open(GOLDEN / "configs_float64.safetensors", framework="pt") as file:
        spec = from_dict(NetworkSpec, json.loads(file.metadata()[name]))
        start = f"{name}.state."
        keys = [key for key in file.keys() if key.startswith(start)]  # noqa: SIM118
        state = {key.removeprefix(start): file.get_tensor(key) for key in keys}
        inputs = [file.get_tensor(f"{name}.{key}") for key in ("x", "sigma", "label")]
        denoised = file.get_tensor(f"{name}.denoised")
    denoiser = Denoiser(spec).eval()
    denoiser.load_state_dict(state)
    return denoiser, inputs, denoised


def test_the_file_holds_these_networks_and_no_others():
    with safe_open(GOLDEN / "configs_float64.safetensors", framework="pt") as file:
        assert set(file.metadata()) == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_the_network_is_that_of_its_config(name):
    spec, full = network_of(name)[0].spec, recipe(RECIPES[name]).network
    for field in ("design", "branch", "decoder_branch", "expansion", "kernel", "res_balance", "clip_act"):
        assert getattr(spec, field) == getattr(full, field), field


@pytest.mark.parametrize("name", RECIPES)
@torch.no_grad()
def test_outputs_for_every_sigma(name):
    denoiser, inputs, denoised = network_of(name)
    found = denoiser(*inputs)
    for row in range(len(found)):
        assert relative_error(found[row].double(), denoised[row]) < 3e-6


@pytest.mark.parametrize("name", RECIPES)
@torch.no_grad()
def test_the_network_in_float64(name):
    """Whose embedding stays in float32, as the attention of A does."""
    denoiser, (x, sigma, label), denoised = network_of(name)
    x, sigma = x.double(), sigma.double()[:, None, None, None]
    variance = sigma**2 + 0.25
    raw = denoiser.network.double()(x / variance.sqrt(), sigma.flatten().log() / 4, denoiser.condition(label, len(x)))
    found = 0.25 / variance * x + 0.5 * sigma / variance.sqrt() * raw
    for row in range(len(found)):
        assert relative_error(found[row], denoised[row]) < 5e-7


@pytest.mark.parametrize("name", RECIPES)
def test_prepared(name):
    denoiser, inputs, denoised = network_of(name)
    found = prepare(denoiser, torch.float32)(*inputs)
    for row in range(len(found)):
        assert relative_error(found[row].double(), denoised[row]) < 1e-5
    low = prepare(denoiser, torch.bfloat16)(*inputs)
    assert relative_error(low.double(), denoised) < 3e-2
