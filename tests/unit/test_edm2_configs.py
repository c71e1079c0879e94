"""What each config promises when it is built and while it trains."""

import math

import pytest
import torch

from unitgain.analysis.magnitude import watch
from unitgain.arch.configs import edm2_configs, edm2plus_configs
from unitgain.denoiser import Denoiser
from unitgain.loss import EDMLoss
from unitgain.ops import magnitude
from unitgain.recipes import recipe
from unitgain.train import Microbatch, TrainState, train_step


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny tensors: threads only wait for each other
    yield
    torch.set_num_threads(threads)


EDM2 = {f"edm2-{name}": spec for name, spec in edm2_configs().items()}
EDM2PLUS = {f"edm2plus-{name}": spec for name, spec in edm2plus_configs().items()}
PRESERVING = {"edm2-g": EDM2["edm2-g"], **EDM2PLUS}


def small(spec, width=32):
    """The config on 32x32 pixels with a sixth of its channels; attention keeps one head per `width` channels."""
    return spec.replace(
        resolution=32,
        label_dim=5,
        model_channels=width * (spec.model_channels // 192),
        channels_per_head=width,
        channel_mult=(1, 2, 2),
        num_blocks=2,
    )


@pytest.mark.parametrize("name", PRESERVING)
def test_magnitudes_at_initialization(name):
    spec = small(PRESERVING[name])
    denoiser = Denoiser(spec).eval()
    x, label = torch.randn(8, spec.channels, 32, 32), torch.arange(8) % 5
    with torch.no_grad(), watch(denoiser) as probe:
        denoiser.network(x, torch.randn(8), denoiser.condition(label, 8))
    buckets = probe.buckets()
    assert list(buckets) == [f"{side} {r}x{r}" for side, rs in (("Enc", (32, 16, 8)), ("Dec", (8, 16, 32))) for r in rs]
    for bucket, values in buckets.items():
        assert 0.5 <= values["activation_mean"] <= 2, bucket
        assert values["weight_mean"] == pytest.approx(1, abs=0.15), bucket


@pytest.mark.parametrize("name", EDM2)
@pytest.mark.parametrize("width", [2, 20, 48])
def test_any_width_runs(name, width):
    spec = small(EDM2[name]).replace(model_channels=width, channels_per_head=width, num_blocks=1)
    assert Denoiser(spec).eval()(torch.randn(1, spec.channels, 32, 32), 1.0).isfinite().all()


@pytest.mark.parametrize("name", ["edm2-a", "edm2-b", *PRESERVING])
def test_denoiser_starts_as_c_skip_x(name):
    spec = small({**EDM2, **EDM2PLUS}[name])
    denoiser = Denoiser(spec).eval()
    x, sigma = torch.randn(3, spec.channels, 32, 32), torch.tensor([0.01, 0.5, 30.0])
    c_skip = 0.25 / (sigma**2 + 0.25)
    with torch.no_grad():
        torch.testing.assert_close(denoiser(x, sigma, torch.arange(3)), c_skip[:, None, None, None] * x)


@pytest.mark.parametrize("name", ["edm2-c", "edm2-d", "edm2-e", "edm2-f"])
def test_configs_without_zero_initialization_do_not(name):
    spec = small(EDM2[name])
    x = torch.randn(2, spec.channels, 32, 32)
    with torch.no_grad():
        denoised = Denoiser(spec).eval()(x, 0.5, torch.arange(2))
    assert torch.isfinite(denoised).all()
    assert not torch.allclose(denoised, 0.5 * x, atol=0.01)


def tiny_recipe_of(name):
    made = recipe(name)
    network = made.network.replace(
        resolution=8,
        channels=1,
        label_dim=3,
        model_channels=8 * (made.network.model_channels // 192),
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(4,),
        channels_per_head=8,
    )
    return made.replace(
        network=network, batch=8, duration=80, snapshot_every=8, rampup=0, loss=EDMLoss(P_mean=-0.8, P_std=1.0)
    )


CONFIGS = [
    *(f"edm2-img512-config-{config}" for config in "abcef"),
    *(f"edm2plus-img64-config-{config}" for config in ("b", "e-k7", "g-bottleneck")),
]


@pytest.mark.parametrize("name", CONFIGS)
def test_trains_a_few_steps(name):
    made = tiny_recipe_of(name)
    state = TrainState.start(made)
    loss = made.loss
    start = {key: value.clone() for key, value in state.modules.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        clean = 0.5 * torch.randn(8, 1, 8, 8, generator=generator)
        sigma, noise = loss.draw(clean, generator)
        report = train_step(state, made, [Microbatch(clean=clean, sigma=sigma, noise=noise, label=torch.arange(8) % 3)])
        assert not report.nonfinite
        assert math.isfinite(report.loss)
    tensors = state.modules.state_dict()
    still = [name for name, parameter in state.modules.named_parameters() if torch.equal(tensors[name], start[name])]
    assert not still
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert len(state.emas) == len(made.ema) + bool(made.ema_half_life)


@pytest.mark.parametrize(("config", "forced"), [("d", False), ("e", True)])
def test_only_forced_normalization_keeps_weights_on_their_sphere(config, forced):
    made = tiny_recipe_of(f"edm2-img512-config-{config}")
    state = TrainState.start(made)
    clean = 0.5 * torch.randn(8, 1, 8, 8)
    for _ in range(2):  # the second one projects what the first has moved
        sigma, noise = EDMLoss(-0.8, 1.0).draw(clean)
        train_step(state, made.replace(lr=0.1), [Microbatch(clean=clean, sigma=sigma, noise=noise, label=None)])
        weight = state.denoiser.network.get_parameter("enc.8x8_block0.conv0.weight").detach().clone()
    moved = magnitude(weight).flatten()
    # One step of Adam of 0.1 away from a sphere of radius 1, at a right angle: sqrt(1 + 0.1^2).
    assert (moved < 1.02).all() == forced


def test_loss_scaling_scales_gradients_and_not_the_reported_loss():
    made = tiny_recipe_of("edm2-img512-config-c").replace(eps=1e-30, lr=1e-3)
    clean, sigma, noise = torch.randn(8, 1, 8, 8), torch.rand(8) + 0.1, torch.randn(8, 1, 8, 8)
    weights, losses = [], []
    for scaling in (1.0, 64.0):  # a power of two changes no mantissa, and Adam divides it out
        torch.manual_seed(3)
        state = TrainState.start(made)
        torch.manual_seed(4)
        report = train_step(
            state, made.replace(loss_scaling=scaling), [Microbatch(clean=clean, sigma=sigma, noise=noise)]
        )
        losses.append(report.loss)
        weights.append(state.denoiser.network.get_parameter("enc.8x8_conv.weight").detach().clone())
    assert losses[0] == losses[1]
    torch.testing.assert_close(*weights)
