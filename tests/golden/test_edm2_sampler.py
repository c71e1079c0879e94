"""Parity of seeds and sampler with the reference implementation."""

import pytest
import torch
from conftest import Golden, relative_error

from unitgain.checkpoint.nvidia import DEFAULTS, from_state
from unitgain.sample import SampleGenerators, heun, sigma_grid

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def golden():
    return Golden("edm2_sampler")


@pytest.fixture(scope="module")
def denoise(golden):
    config = {key: value for key, value in golden.config.items() if key in DEFAULTS}
    denoiser, _ = from_state(golden.under("net."), config)
    denoiser.requires_grad_(False).eval()
    return lambda x, sigma: denoiser(x, sigma, golden["class_index"])


def test_noise_and_class_per_seed_are_bit_exact(golden):
    generators = SampleGenerators(golden.config["seeds"])
    assert torch.equal(generators.randn((4, 16, 16)), golden["noise"])
    assert torch.equal(generators.randint(10), golden["class_index"])


def test_deterministic_trajectory(golden, denoise):
    images = heun(denoise, golden["noise"], sigma_grid(golden.config["num_steps"]))
    assert relative_error(images, golden["plain"]) < TOLERANCE


def test_churned_trajectory(golden, denoise):
    recorded = iter([golden[f"churn_noise.{i}"] for i in range(golden.config["num_steps"])])
    settings = {name: golden.config[name] for name in ("S_churn", "S_min", "S_max", "S_noise")}
    sigmas = sigma_grid(golden.config["num_steps"])
    images = heun(denoise, golden["noise"], sigmas, randn=lambda: next(recorded), **settings)
    assert relative_error(images, golden["churned"]) < TOLERANCE
