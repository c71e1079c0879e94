"""CUDA graphs: the logic of their buffers on a stand-in that runs anew what it recorded; the real thing on a GPU."""

import copy
import pickle
from importlib import import_module

import pytest
import torch
from conftest import relative_error

from unitgain.denoiser import Denoiser
from unitgain.infer import Prepared, prepare
from unitgain.infer.graphs import Graphs
from unitgain.sample import generate, sigma_grid

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class StandIn:
    """Records by remembering the function; as a graph does, it writes each result to the same place."""

    def __init__(self):
        self.recorded, self.repeated, self.memory = 0, 0, []

    def __call__(self, evaluate, device, memory):
        self.recorded += 1
        self.memory.append(memory)
        result = torch.full_like(evaluate(), torch.nan)  # a recording does not compute

        def repeat():
            self.repeated += 1
            result.copy_(evaluate())

        return repeat, result, memory or object()


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch):
    """No weights in layouts of this processor, which cannot be copied."""
    module = import_module("unitgain.infer.prepare")
    monkeypatch.setattr(module, "can_pack", lambda _: False)
    monkeypatch.setattr(module, "can_convolve_depthwise", lambda _: False)


@pytest.fixture
def denoiser(tiny_spec):
    denoiser = Denoiser(tiny_spec).eval()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            if not parameter.ndim:
                parameter.fill_(0.3)
    return denoiser


@pytest.fixture
def stand_in():
    return StandIn()


@pytest.fixture
def graphed(denoiser, stand_in):
    prepared = prepare(denoiser, torch.float32)
    return Prepared(denoiser, prepared.network, torch.float32, graphs=Graphs(stand_in))


def images(batch=2):
    return torch.randn(batch, 1, 8, 8)


def test_each_call_gets_what_it_was_given(denoiser, graphed, stand_in):
    plain = prepare(denoiser, torch.float32)
    results = []
    for sigma, label in (
        (torch.tensor([0.3, 2.0]), torch.tensor([0, 2])),
        (torch.tensor([1.0, 0.1]), torch.tensor([1, 0])),
        (0.7, torch.tensor([2, 2])),
        (torch.tensor(0.9), torch.tensor([0, 1])),
        (3, torch.tensor([1, 1])),
    ):
        x = images()
        results.append((graphed(x, sigma, label), plain(x, sigma, label)))
    for found, expected in results:  # looked at last: a later call must not write over an earlier result
        assert torch.equal(found, expected)
    assert (stand_in.recorded, stand_in.repeated) == (1, 5)


def test_one_recording_per_shape_and_kind_of_label_in_the_same_memory(denoiser, graphed, stand_in):
    plain = prepare(denoiser, torch.float32)
    for batch in (2, 1, 2):
        for label in (None, torch.arange(batch), torch.rand(batch, 3)):
            x = images(batch)
            assert torch.equal(graphed(x, 0.5, label), plain(x, 0.5, label))
    assert (stand_in.recorded, stand_in.repeated) == (6, 9)
    first, *later = stand_in.memory
    assert first is None
    assert later[0] is not None
    assert all(memory is later[0] for memory in later)


def test_the_recording_goes_that_was_not_needed_for_longest(denoiser, stand_in):
    prepared = prepare(denoiser, torch.float32)
    graphed = Prepared(denoiser, prepared.network, torch.float32, graphs=Graphs(stand_in, most=2))
    for batch, recorded in ((1, 1), (2, 2), (1, 2), (3, 3), (1, 3), (2, 4)):
        graphed(images(batch), 0.5)
        assert stand_in.recorded == recorded
        assert len(graphed.graphs.recordings) <= 2


def test_inference_mode_and_what_comes_after_it(denoiser, graphed):
    plain = prepare(denoiser, torch.float32)
    with torch.inference_mode():
        inside = images()
        assert torch.equal(graphed(inside, 0.5), plain(inside, 0.5))
    x = images().requires_grad_()
    found = graphed(x, 0.5)
    assert torch.equal(found, plain(x, 0.5))
    assert not found.requires_grad


def test_bad_inputs_are_refused_before_anything_is_recorded(graphed, stand_in):
    for given, message in (
        ((torch.randn(2, 3, 8, 8), 0.5), "x has shape"),
        ((images(), torch.rand(3)), "sigma has shape"),
        ((images(), 0.5, torch.tensor([0, 3])), "classes 0 to 2"),
        ((images(), 0.5, torch.tensor([0])), "one class per image"),
    ):
        with pytest.raises(ValueError, match=message):
            graphed(*given)
    assert stand_in.recorded == 0
    graphed(images(), 0.5, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="classes 0 to 2"):
        graphed(images(), 0.5, torch.tensor([0, 3]))


def test_weights_that_move_and_copies_are_recorded_anew(graphed, stand_in):
    x = images()
    expected = graphed(x, 0.5)
    graphed.to(torch.float64).to(torch.float32)
    assert not graphed.graphs.recordings
    assert relative_error(graphed(x, 0.5), expected) < 1e-6
    for other in (copy.deepcopy(graphed), pickle.loads(pickle.dumps(graphed))):
        assert not other.graphs.recordings
        assert torch.equal(other(x, 0.5), graphed(x, 0.5))
    assert len(graphed.graphs.recordings) == 1


def test_samples_are_those_of_the_same_network_without_graphs(denoiser, graphed, stand_in):
    sigmas = sigma_grid(3, 0.1, 5.0)
    for batch in (2, 5):
        (expected,) = [made for *_, made in generate(prepare(denoiser, torch.float32), range(5), sigmas, batch=5)]
        found = torch.cat([made for *_, made in generate(graphed, range(5), sigmas, batch=batch)])
        assert relative_error(found, expected) < 1e-6
    assert stand_in.recorded == 1  # every evaluation holds as many images


def test_a_warm_up_records(graphed, stand_in):
    assert graphed.warm_up(3) is graphed
    graphed(images(3), 0.1, torch.tensor([0, 1, 2]))
    assert (stand_in.recorded, stand_in.repeated) == (1, 2)


def test_where_graphs_cannot_be_an_error_says_why(denoiser):
    with pytest.raises(ValueError, match="records CUDA graphs, and this network is on cpu"):
        prepare(denoiser, graph=True)
    with pytest.raises(ValueError, match="exclude each other: compile='reduce-overhead'"):
        prepare(denoiser, compile=True, graph=True)


@needs_gpu
@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_real_graphs_give_the_same(denoiser, dtype, kernels):
    if kernels:
        pytest.importorskip("triton")
    denoiser = denoiser.cuda()
    plain = prepare(denoiser, dtype, kernels=kernels)
    graphed = prepare(denoiser, dtype, kernels=kernels, graph=True).warm_up(2)
    results = []
    for batch in (2, 1, 3, 2):
        for label in (None, torch.arange(batch).cuda(), torch.rand(batch, 3).cuda()):
            x, sigma = images(batch).cuda(), torch.rand(batch).cuda() + 0.1
            results.append((graphed(x, sigma, label), plain(x, sigma, label)))
            results.append((graphed(x, 0.5, label), plain(x, 0.5, label)))
    graphed.cpu().cuda()
    x = images().cuda()
    results.append((graphed(x, 0.5), plain(x, 0.5)))
    for found, expected in results:
        assert relative_error(found, expected) < 1e-5
