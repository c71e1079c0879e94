"""Convolutions that train in faster ways against convolutions of PyTorch in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F

from unitgain.denoiser import Denoiser
from unitgain.layers import MPConv
from unitgain.native.training import can_train
from unitgain.train import convolutions
from unitgain.train.convolutions import BY_CHANNEL, BY_FILTER, BY_LIBRARY, Shape, Ways, convolve, ways
from unitgain.train.passes import fuse_passes
from unitgain.train.weights import FusedConv

needs_c = pytest.mark.skipif(not can_train(torch.zeros(1, 1, 1, 1)), reason="there is no compiler")
pytestmark = needs_c

WAYS = {"filter": BY_FILTER, "channel": BY_CHANNEL, "library": BY_LIBRARY}

# inputs, outputs, kernel, groups, images, sides
PLACES = [
    ("filter", (64, 48, 3, 1, 2, 9, 7)),
    ("filter", (3, 5, 3, 1, 2, 1, 6)),
    ("filter", (33, 20, 3, 1, 1, 4, 4)),
    ("filter", (16, 130, 3, 1, 3, 8, 8)),
    ("filter", (200, 136, 3, 1, 9, 16, 12)),  # tiles of weight gradients in several parts
    ("channel", (7, 7, 3, 7, 2, 5, 6)),
    ("channel", (40, 40, 3, 40, 1, 1, 1)),
    ("channel", (100, 100, 3, 100, 3, 12, 9)),
    ("channel", (33, 33, 5, 33, 2, 4, 8)),
    ("library", (8, 12, 3, 1, 2, 5, 7)),
    ("library", (12, 24, 3, 4, 2, 6, 6)),
    ("library", (4, 8, 1, 1, 2, 3, 3)),
]


def numbers(place, dtype):
    inputs, outputs, kernel, groups, images, h, w = place
    torch.manual_seed(0)
    x = torch.randn(images, inputs, h, w).to(dtype)
    weight = torch.randn(outputs, inputs // groups, kernel, kernel)
    return x, weight, torch.randn(images, outputs, h, w).to(dtype)


def plain(x, weight, gradient, groups):
    """Output and gradients by PyTorch."""
    x, weight = (each.clone().requires_grad_() for each in (x, weight))
    y = F.conv2d(x, weight.to(x.dtype), padding=weight.shape[-1] // 2, groups=groups)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), gradient)]


def trained(x, weight, gradient, groups, way):
    x, weight = (each.clone().requires_grad_() for each in (x, weight))
    y = convolve(x, weight.to(x.dtype), groups, WAYS[way])
    return [y.detach(), *torch.autograd.grad(y, (x, weight), gradient)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("way", "place"), PLACES, ids=str)
def test_every_way_gives_the_convolution_and_its_gradients(way, place, dtype):
    x, weight, gradient = numbers(place, dtype)
    rounded = weight.to(dtype)
    exact = plain(x.double(), rounded.double(), gradient.double(), place[3])
    written = plain(x, rounded.float(), gradient, place[3])
    for found, own, true in zip(trained(x, weight, gradient, place[3], way), written, exact, strict=True):
        assert found.shape == own.shape
        assert found.dtype == own.dtype
        scale = true.norm()
        error, expected = ((each.double() - true).norm() / scale for each in (found, own))
        assert error < max(1.1 * expected, 2e-6)  # filtering loses some of float32, and nothing that bfloat16 has


@pytest.mark.parametrize(("way", "place"), [PLACES[0], PLACES[4], PLACES[7]], ids=str)
def test_threads_change_no_bit(way, place):
    given = numbers(place, torch.float32)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(trained(*given, place[3], way))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *results))


def test_what_is_made_follows_from_shape_and_type():
    shape = Shape(128, 128, (3, 3), 1, 16, (16, 16), torch.float32)
    assert ways(shape) == BY_FILTER
    for change in ({"inputs": 4}, {"images": 1, "sides": (4, 4)}, {"sides": (33, 2), "images": 64}):
        assert ways(shape._replace(**change)) == BY_LIBRARY
    assert ways(shape._replace(outputs=16)) == BY_LIBRARY
    assert ways(shape._replace(outputs=32)) == Ways(BY_LIBRARY.output, *BY_FILTER[1:])
    assert ways(shape._replace(dtype=torch.bfloat16)) == BY_LIBRARY
    assert ways(shape._replace(kernel=(1, 1))) == BY_LIBRARY
    assert ways(shape._replace(groups=4)) == BY_LIBRARY
    assert ways(shape._replace(groups=128)) == BY_LIBRARY
    assert ways(shape._replace(groups=128, dtype=torch.bfloat16)) == BY_CHANNEL
    assert ways(shape._replace(kernel=(5, 5))) == BY_LIBRARY
    assert ways(shape._replace(inputs=16385)) == ways(shape._replace(outputs=16385)) == BY_LIBRARY


def test_networks_train_as_they_are_written(tiny_spec, monkeypatch):
    torch.manual_seed(0)
    made = Denoiser(tiny_spec.replace(model_channels=64, channels_per_head=32))
    monkeypatch.setattr(convolutions, "WORTH", 1)
    filtered = []
    watched = BY_FILTER._replace(of_weight=lambda *given: filtered.append(given) or BY_FILTER.of_weight(*given))
    monkeypatch.setattr(convolutions, "BY_FILTER", watched)
    torch.nn.init.constant_(made.network.out_gain, 0.7)
    x, sigma = torch.randn(2, tiny_spec.channels, *tiny_spec.size), torch.tensor([0.3, 2.0])
    results = []
    for kind in ("float64", "written", "trained"):
        one = copy.deepcopy(made)
        if kind == "float64":
            one.double().dtype = torch.float64
        if kind == "trained":
            fuse_passes(one)
        one(x, sigma).square().sum().backward()
        results.append(
            {name: parameter.grad for name, parameter in one.named_parameters() if parameter.grad is not None}
        )
    assert filtered
    exact, written, found = results
    assert found.keys() == exact.keys()
    total = sum(each.square().sum() for each in exact.values()).sqrt()
    errors = [
        (sum((one[name].double() - true).square().sum() for name, true in exact.items()).sqrt() / total).item()
        for one in (written, found)
    ]
    assert errors[1] < max(1.2 * errors[0], 1e-5)


def test_what_is_frozen_gets_no_gradient():
    x, weight, gradient = numbers(PLACES[0][1], torch.float32)
    weight.requires_grad_()
    convolve(x, weight, 1, BY_FILTER).backward(gradient)
    assert weight.grad is not None
    x.requires_grad_()
    convolve(x, weight.detach(), 1, BY_FILTER).backward(gradient)
    assert x.grad is not None


def test_gradients_of_gradients_are_refused():
    x, weight, gradient = numbers(PLACES[0][1], torch.float32)
    (of_x,) = torch.autograd.grad(
        convolve(x.requires_grad_(), weight, 1, BY_FILTER), x, gradient.requires_grad_(), create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        of_x.sum().backward()


@pytest.mark.parametrize(("kernel", "dtype"), [((), torch.float32), ((3,), torch.float32), ((3, 3), torch.float64)])
def test_other_layers_are_as_they_were(kernel, dtype):
    layer = MPConv(64, 64, kernel).to(dtype)
    x = torch.randn(8, 64, *(16,) * len(kernel), dtype=dtype)
    wanted = layer(x)
    layer.__class__ = FusedConv
    torch.testing.assert_close(layer(x), wanted)
