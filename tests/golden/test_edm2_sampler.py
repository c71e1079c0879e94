"""Parity of seeds and sampler with the reference implementation."""

import pytest
import torch
from conftest import Golden, relative_error

from unitgain.checkpoint.nvidia import DEFAULTS, from_state
from unitgain.guide import Guided
from unitgain.sample import SampleGenerators, StochasticHeun, heun, sigma_grid

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def golden():
    return Golden("edm2_sampler")


def opened(golden, prefix, **changes):
    config = {key: value for key, value in golden.config.items() if key in DEFAULTS} | changes
    denoiser, _ = from_state(golden.under(prefix), config)
    return denoiser.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def network(golden):
    return opened(golden, "net.")


@pytest.fixture(scope="module")
def denoise(golden, network):
    return lambda x, sigma: network(x, sigma, golden["class_index"])


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
    images = StochasticHeun(**settings)(denoise, golden["noise"], sigmas, lambda: next(recorded))
    assert relative_error(images, golden["churned"]) < TOLERANCE


def test_guided_trajectory(golden, network):
    config = golden.config
    changes = {"label_dim": config["guide_label_dim"], "model_channels": config["guide_model_channels"]}
    guided = Guided(network, opened(golden, "guide.", **changes), config["guidance"])
    images = heun(
        lambda x, sigma: guided(x, sigma, golden["class_index"]), golden["noise"], sigma_grid(config["num_steps"])
    )
    assert relative_error(images, golden["guided"]) < TOLERANCE
    assert relative_error(golden["plain"], golden["guided"]) > 100 * TOLERANCE  # the guide does have a say
