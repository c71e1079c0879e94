"""Layers keep unit magnitude; projection puts weights on their sphere and changes nothing that is computed."""

import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from unitgain.layers import CosineAttention, MPConv, MPFourier, effective_weight, normalized_once, project_weights
from unitgain.ops import magnitude

TOLERANCE = 0.05


def rms(x):
    return x.double().square().mean().sqrt().item()


def interior(x, margin):
    """Pixels whose receptive field lies inside: zero padding dims the border."""
    for dim in range(2, x.ndim):
        x = x.narrow(dim, margin, x.shape[dim] - 2 * margin)
    return x


CONVOLUTIONS = [
    (32, 64, (), 1),
    (400, 16, (), 1),
    (16, 64, (3,), 1),
    (16, 64, (5,), 4),
    (16, 32, (1, 1), 1),
    (8, 64, (3, 3), 1),
    (32, 64, (3, 3), 8),
    (48, 48, (3, 3), 48),
    (24, 24, (7, 7), 24),
    (8, 32, (3, 3, 3), 1),
    (16, 32, (3, 3, 3), 16),
    (4, 6, (1, 3, 5), 2),
]


@pytest.mark.parametrize(("c_in", "c_out", "kernel", "groups"), CONVOLUTIONS)
def test_convolution_keeps_unit_magnitude(c_in, c_out, kernel, groups):
    layer = MPConv(c_in, c_out, kernel, groups)
    side = {0: (), 1: (600,), 2: (40, 40), 3: (16, 16, 16)}[len(kernel)]
    x = torch.randn(400 if not kernel else 16, c_in, *side)
    y = layer(x)
    assert y.shape == (len(x), c_out, *side)
    assert rms(interior(y, max(kernel, default=0) // 2)) == pytest.approx(1, abs=TOLERANCE)


@pytest.mark.parametrize("scale", [0.01, 1.0, 50.0])
def test_output_does_not_depend_on_the_scale_of_the_weight(scale):
    layer = MPConv(16, 32, (3, 3))
    x = torch.randn(2, 16, 8, 8)
    before = layer(x)
    layer.weight.data *= scale
    torch.testing.assert_close(layer(x), before, rtol=0, atol=2e-4 / min(scale, 1) * 5)


def test_gradient_is_perpendicular_to_the_weight():
    # Eq. 59, up to the eps of Eq. 47.
    layer = MPConv(16, 8, (3, 3))
    layer(torch.randn(4, 16, 8, 8)).pow(3).sum().backward()
    weight, gradient = layer.weight.detach().flatten(1), layer.weight.grad.flatten(1)
    cosine = nn.functional.cosine_similarity(weight, gradient)
    assert cosine.abs().max() < 2e-3


class Twice(nn.Module):
    """Two layers, one of them used twice and with a gain, and one that nothing uses."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.idle = MPConv(4, 4, (3, 3)), MPConv(4, 2), MPConv(4, 4)
        self.gain = nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        x = self.one(torch.relu(self.one(x, gain=self.gain)))
        return self.two(x.mean((2, 3)))


def test_weights_normalized_once_give_the_same_gradients():
    torch.manual_seed(0)
    module = Twice().double()
    parts = torch.randn(3, 5, 4, 6, 6, dtype=torch.float64)
    gradients = []
    for how in (nullcontext, lambda: normalized_once(module)):
        module.zero_grad()
        with how():
            outputs = [module(part) for part in parts]
            for output in outputs:
                output.pow(2).sum().backward()
        gradients.append([p.grad.clone() for p in module.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) == 3
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=0)
    with pytest.raises(RuntimeError, match="stop"), normalized_once(module):
        raise RuntimeError("stop")
    assert all(layer.normalized is None for layer in (module.one, module.two, module.idle))


def test_effective_weight_has_rows_of_norm_gain():
    weight = torch.randn(6, 5, 3, 3)
    rows = effective_weight(weight, gain=0.7).flatten(1).norm(dim=1)
    torch.testing.assert_close(rows, torch.full((6,), 0.7), rtol=1e-3, atol=0)


def test_gain_scales_the_output_and_low_precision_stays_low():
    layer = MPConv(8, 8, (3, 3))
    x = torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(layer(x, gain=2.5), 2.5 * layer(x))
    assert layer(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 4), "positive"),
        ((4, 4, (2, 2)), "odd"),
        ((4, 4, (3, 3, 3, 3)), "up to three"),
        ((4, 6, (3, 3), 4), "divide"),
        ((4, 4, (), 2), "linear"),
    ],
)
def test_convolution_refuses_nonsense(arguments, words):
    with pytest.raises(ValueError, match=words):
        MPConv(*arguments)


def test_fourier_features_have_unit_magnitude_at_any_input():
    features = MPFourier(20_000)(torch.tensor([-3.0, 0.0, 0.1, 2.0]))
    assert features.shape == (4, 20_000)
    assert magnitude(features).flatten().tolist() == pytest.approx([1.0] * 4, abs=TOLERANCE)
    assert not list(MPFourier(4).parameters())


@pytest.mark.parametrize(("channels", "per_head", "size"), [(64, 64, 8), (64, 16, 8), (96, 32, 4), (32, 32, 1)])
def test_attention_branch_has_the_magnitude_of_an_average(channels, per_head, size):
    # Values have unit magnitude; softmax averages them, so the branch is at most that, and the sum at most 1.
    layer = CosineAttention(channels, per_head)
    x = torch.randn(64, channels, size, size)
    y = layer(x)
    assert y.shape == x.shape
    main_alone = 0.7 / math.sqrt(0.7**2 + 0.3**2)
    assert main_alone - TOLERANCE < rms(y) < 1 + TOLERANCE


def test_attention_of_equal_tokens_keeps_unit_magnitude():
    # All tokens equal: the average of the values is the value, and the branch keeps its magnitude.
    x = torch.randn(512, 64, 1, 1).expand(-1, -1, 4, 4)
    assert rms(CosineAttention(64, 32)(x)) == pytest.approx(1, abs=TOLERANCE)


def test_attention_ignores_the_lengths_of_queries_and_keys_and_the_order_of_pixels():
    layer = CosineAttention(32, 16)
    x = torch.randn(2, 32, 4, 4)
    order = torch.randperm(16)
    shuffled = layer(x.flatten(2)[:, :, order].unflatten(2, (4, 4)))
    torch.testing.assert_close(layer(x).flatten(2)[:, :, order], shuffled.flatten(2), rtol=1e-4, atol=1e-5)
    before = layer(x)
    layer.qkv.weight.data[:64] *= 7.0
    torch.testing.assert_close(layer(x), before, rtol=1e-3, atol=1e-3)


def test_attention_heads_must_divide():
    with pytest.raises(ValueError, match="channels_per_head=48 must divide the 64"):
        CosineAttention(64, 48)


def test_projection_is_on_the_sphere_idempotent_and_invisible():
    model = nn.Sequential(MPConv(8, 16, (3, 3)), nn.Linear(4, 4), MPConv(16, 4, (3, 3), groups=4))
    for parameter in model.parameters():
        parameter.data *= 3.0
    linear = model[1].weight.detach().clone()
    x = torch.randn(2, 8, 6, 6)
    before = model[0](x)
    project_weights(model)
    for layer in (model[0], model[2]):
        fan_in = layer.weight[0].numel()
        norms = layer.weight.detach().flatten(1).norm(dim=1)
        torch.testing.assert_close(norms, torch.full_like(norms, math.sqrt(fan_in)), rtol=2e-4, atol=0)
    torch.testing.assert_close(model[0](x), before, rtol=0, atol=1e-3)
    torch.testing.assert_close(model[1].weight, linear)  # other layers are not ours to touch
    again = [parameter.detach().clone() for parameter in model.parameters()]
    project_weights(model)
    for parameter, kept in zip(model.parameters(), again, strict=True):
        torch.testing.assert_close(parameter.detach(), kept, rtol=3e-4, atol=0)


def test_forward_never_writes_weights():
    layer = MPConv(4, 4, (3, 3)).train()
    version = layer.weight._version
    layer(torch.randn(1, 4, 4, 4)).sum().backward()
    assert layer.weight._version == version
