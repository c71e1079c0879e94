"""Preconditioning and networks: what holds at initialization, in low precision, and for wrong input."""

import pytest
import torch
from torch import nn

from unitgain.arch import NetworkSpec
from unitgain.arch.block import Block
from unitgain.denoiser import Denoiser, Uncertainty
from unitgain.layers import MPConv
from unitgain.loss import EDMLoss
from unitgain.ops import magnitude

SPECS = [
    NetworkSpec(resolution=8, channels=1, model_channels=16, channel_mult=(1,), num_blocks=1, channels_per_head=16),
    NetworkSpec(
        resolution=24, channels=3, label_dim=5, model_channels=16, channel_mult=(1, 3, 2), channels_per_head=16
    ),
    NetworkSpec(
        resolution=32,
        channels=4,
        label_dim=10,
        model_channels=32,
        channel_mult=(1, 2),
        num_blocks=2,
        attn_resolutions=(16,),
        channels_per_head=32,
        dropout=0.1,
    ),
]


def open_gains(denoiser, value=0.5):
    for parameter in denoiser.parameters():
        if parameter.ndim == 0:
            parameter.data.fill_(value)
    return denoiser


def labels(spec, n):
    return torch.randint(spec.label_dim, (n,)) if spec.label_dim else None


@pytest.mark.parametrize("spec", SPECS)
def test_a_fresh_denoiser_returns_c_skip_x(spec):
    # The output gain starts at 0, so F = 0 and D = c_skip x (Eqs. 4-5).
    denoiser = Denoiser(spec)
    x = torch.randn(3, spec.channels, spec.resolution, spec.resolution)
    sigma = torch.tensor([0.01, 0.5, 20.0])
    c_skip = 0.25 / (sigma**2 + 0.25)
    torch.testing.assert_close(denoiser(x, sigma, labels(spec, 3)), c_skip[:, None, None, None] * x)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_network_input_is_standardized(spec, sigma_data):
    # c_in gives unit magnitude to x of variance sigma^2 + sigma_data^2 (Eq. 7).
    denoiser = Denoiser(spec, sigma_data)
    seen = []
    denoiser.network.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for sigma in (0.002, 0.5, 80.0):
        x = torch.randn(16, spec.channels, spec.resolution, spec.resolution) * (sigma**2 + sigma_data**2) ** 0.5
        denoiser(x, sigma, labels(spec, 16))
        assert seen[-1].square().mean().sqrt().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("spec", SPECS)
def test_activations_keep_their_magnitude_through_the_network(spec):
    denoiser = Denoiser(spec).eval()
    found = {}
    for name, module in denoiser.network.named_modules():
        if isinstance(module, Block):
            module.register_forward_hook(lambda _, args, y, name=name: found.__setitem__(name, y))
    x = torch.randn(8, spec.channels, spec.resolution, spec.resolution)
    denoiser(x, 0.5, labels(spec, 8))
    for name, y in found.items():
        assert 0.5 < magnitude(y, dim=(0, 1, 2, 3)).item() < 2, name
    assert len(found) > 4


def test_channels_last_end_to_end():
    spec = SPECS[2]
    denoiser = open_gains(Denoiser(spec))
    wrong = []

    def check(module, args):
        if module.kernel and not args[0].is_contiguous(memory_format=torch.channels_last):
            wrong.append(module)

    for module in denoiser.modules():
        if isinstance(module, MPConv):
            module.register_forward_pre_hook(check)
    denoiser(torch.randn(2, 4, 32, 32), 1.0, labels(spec, 2))
    assert not wrong


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_low_precision_is_close_and_keeps_the_embedding_in_float32(dtype, tolerance):
    spec = SPECS[2].replace(dropout=0.0)
    denoiser = open_gains(Denoiser(spec)).eval().requires_grad_(False)
    x, label = torch.randn(2, 4, 32, 32), labels(spec, 2)
    exact = denoiser(x, 0.7, label)
    embeddings = []
    denoiser.network.embedding.register_forward_hook(lambda module, args, y: embeddings.append(y.dtype))
    denoiser.dtype = dtype
    low = denoiser(x, 0.7, label)
    assert low.dtype == torch.float32
    assert embeddings == [torch.float32]
    assert ((low - exact).norm() / exact.norm()).item() < tolerance
    assert not torch.equal(low, exact)


def test_autocast_leaves_the_embedding_alone():
    denoiser = open_gains(Denoiser(SPECS[1])).eval()
    embeddings = []
    denoiser.network.embedding.register_forward_hook(lambda module, args, y: embeddings.append(y.dtype))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        denoiser(torch.randn(1, 3, 24, 24), 0.7)
    assert embeddings == [torch.float32]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_training_in_every_precision_gives_float32_gradients(dtype):
    spec = SPECS[2]
    denoiser, uncertainty = open_gains(Denoiser(spec)), Uncertainty(16)
    denoiser.dtype = dtype
    loss = EDMLoss(-0.8, 1.0)
    clean = 0.5 * torch.randn(2, 4, 32, 32)
    loss(denoiser, uncertainty, clean, *loss.draw(clean), labels(spec, 2)).loss.mean().backward()
    for name, parameter in denoiser.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32
        assert torch.isfinite(parameter.grad).all(), name


def test_dropout_acts_in_training_only():
    spec = SPECS[2]
    denoiser = open_gains(Denoiser(spec))
    assert (
        sum(isinstance(module, nn.Dropout) for module in denoiser.modules())
        == len(list(denoiser.network.enc)) + len(list(denoiser.network.dec)) - 1
    )
    x = torch.randn(1, 4, 32, 32)
    assert not torch.equal(denoiser(x, 1.0), denoiser(x, 1.0))
    denoiser.eval()
    assert torch.equal(denoiser(x, 1.0), denoiser(x, 1.0))


def test_label_forms_agree_and_the_label_matters():
    spec = SPECS[2].replace(dropout=0.0)
    denoiser = open_gains(Denoiser(spec)).eval()
    x, label = torch.randn(3, 4, 32, 32), torch.tensor([0, 9, 4])
    by_index = denoiser(x, 1.0, label)
    assert torch.equal(by_index, denoiser(x, torch.ones(3), nn.functional.one_hot(label, 10).float()))
    assert not torch.allclose(by_index, denoiser(x, 1.0))
    assert torch.equal(denoiser(x, 1.0), denoiser(x, 1.0, torch.zeros(3, 10)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (lambda: (torch.randn(2, 3, 32, 32), 1.0), r"x has shape \(2, 3, 32, 32\), expected \[N, 4, 32, 32\]"),
        (lambda: (torch.randn(2, 4, 32), 1.0), r"x has shape \(2, 4, 32\), expected \[N, 4, 32, 32\]"),
        (lambda: (torch.randn(2, 4, 0, 32), 1.0), r"x has shape \(2, 4, 0, 32\)"),
        (lambda: (torch.randn(2, 4, 32, 32), torch.ones(3)), r"sigma has shape \(3,\)"),
        (lambda: (torch.randn(2, 4, 32, 32), 0.0), "sigma is 0.0: noise levels are positive"),
        (lambda: (torch.randn(2, 4, 32, 32), float("nan")), "sigma is nan"),
        (lambda: (torch.randn(2, 4, 32, 32), 1.0, torch.tensor([0, 10])), "label 10 is out of range: .* 0 to 9"),
        (lambda: (torch.randn(2, 4, 32, 32), 1.0, torch.tensor([-1, 0])), "label -1 is out of range"),
        (lambda: (torch.randn(2, 4, 32, 32), 1.0, torch.tensor([1])), r"label has shape \(1,\)"),
        (lambda: (torch.randn(2, 4, 32, 32), 1.0, torch.zeros(2, 9)), r"label has shape \(2, 9\)"),
    ],
)
def test_denoiser_says_what_does_not_fit(arguments, words):
    with pytest.raises(ValueError, match=words):
        Denoiser(SPECS[2])(*arguments())


def test_unconditional_network_refuses_labels():
    with pytest.raises(ValueError, match="unconditional"):
        Denoiser(SPECS[0])(torch.randn(1, 1, 8, 8), 1.0, torch.tensor([0]))


def test_any_size_runs():
    denoiser = Denoiser(SPECS[2])
    for size in ((16, 48), (31, 7)):
        assert denoiser(torch.randn(1, 4, *size), 1.0).shape == (1, 4, *size)


def test_loss_is_one_at_initialization_for_every_noise_level():
    # lambda makes it so for data of standard deviation sigma_data (below Eq. 16), with u = 0.
    denoiser, uncertainty = Denoiser(SPECS[2]), Uncertainty()
    uncertainty.linear.weight.data.zero_()
    loss = EDMLoss(0.0, 1.0)
    clean = 0.5 * torch.randn(64, 4, 32, 32)
    for sigma in (0.02, 0.5, 10.0):
        value = loss(denoiser, uncertainty, clean, torch.full((64,), sigma), torch.randn_like(clean))
        assert value.loss.mean().item() == pytest.approx(1, abs=0.03)
        assert torch.allclose(value.error, value.loss.flatten(1).mean(1))  # u = 0


def test_loss_is_least_where_the_uncertainty_is_the_log_of_the_raw_loss():
    # Eqs. 22-26: for a fixed raw loss the optimum of exp(-u) L + u is u = ln L.
    raw = torch.tensor(0.37)
    u = torch.linspace(-4, 3, 7001)
    assert u[(raw * (-u).exp() + u).argmin()].item() == pytest.approx(raw.log().item(), abs=2e-3)


def test_noise_levels_are_log_normal():
    loss = EDMLoss(P_mean=-0.4, P_std=1.2)
    sigma, noise = loss.draw(torch.zeros(20_000, 1, 1, 1), torch.Generator().manual_seed(3))
    assert sigma.log().mean().item() == pytest.approx(-0.4, abs=0.03)
    assert sigma.log().std().item() == pytest.approx(1.2, abs=0.03)
    assert noise.std().item() == pytest.approx(1, abs=0.03)
