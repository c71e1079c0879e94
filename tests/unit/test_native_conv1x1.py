"""1x1 convolutions in pairs of bfloat16, against float64, at sizes that fill no vector."""

import copy
import os
import pickle

import pytest
import torch
import torch.nn.functional as F
from conftest import relative_error, trained
from hypothesis import given, settings
from hypothesis import strategies as st

from unitgain.arch.configs import edm2_configs, edm2plus_configs
from unitgain.infer import prepare
from unitgain.infer.fused import FusedBottleneck, FusedPointwise, pays_to_convolve
from unitgain.native import Conv1x1, Sum, build, can_convolve_pairs, can_pass
from unitgain.native import conv1x1 as module
from unitgain.native.bind import Binding

needed = pytest.mark.skipif(not can_convolve_pairs(), reason="this processor has no AVX-512 BF16")
LOW = (torch.bfloat16, torch.float16)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(*shape, seed=0):
    return normal(*shape, seed=seed).bfloat16().contiguous(memory_format=torch.channels_last)


def exact(x, weight):
    return F.conv2d(x.double(), weight.bfloat16().double())


@pytest.mark.skipif(not can_pass(torch.float32), reason="there is no compiler, or it is not wanted")
def test_it_is_there_where_the_processor_has_it():
    has = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    if has is None:
        pytest.skip("this torch does not say what the processor has")
    assert has() or not can_convolve_pairs()
    if "-march=native" in build.FLAGS and "CC" not in os.environ:
        assert can_convolve_pairs() == has()
    assert not pays_to_convolve(torch.float32)


@needed
@settings(deadline=None, max_examples=80)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 60), st.integers(1, 12), st.integers(1, 12)),
    out=st.integers(1, 200),
    silu=st.booleans(),
    main=st.sampled_from([None, torch.float32, *LOW]),
)
def test_any_size(shape, out, silu, main):
    n, pairs, h, w = shape
    x, weight = images(n, 2 * pairs, h, w), normal(out, 2 * pairs, 1, 1, seed=1)
    other = None if main is None else images(n, out, h, w, seed=2).to(main)
    convolve = Conv1x1(weight)
    after = lambda dtype: None if other is None else Sum(other, 0.7, 4.0, dtype)  # noqa: E731
    found = convolve(x, torch.float32, silu, after(torch.float32))
    wanted = exact(x, weight)
    wanted = F.silu(wanted) if silu else wanted
    size = F.conv2d(x.double().abs(), weight.bfloat16().double().abs()) + 1
    if other is not None:
        wanted, size = (wanted + 0.7 * other.double()).clamp(-4, 4), size + other.double().abs()
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert ((found - wanted).abs() <= 2**-23 * (3 + pairs / 2) * size).all()
    for low in LOW:
        rounded = convolve(x, low, silu, after(low))
        assert rounded.dtype == low
        if silu:  # is made to 1e-4 where it is rounded anyway
            before = F.silu(exact(x, weight)).abs()
            near = 2**-23 * (3 + pairs / 2) * size + 1e-4 * before + torch.finfo(low).eps / 2 * wanted.abs() + 1e-7
            assert ((rounded - wanted).abs() <= near).all()
        else:
            assert torch.equal(rounded, found.to(low))


@needed
@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 14), st.integers(1, 14)),
    between=st.integers(1, 150),
    out=st.integers(1, 150),
    silu=st.booleans(),
)
def test_one_after_the_other_is_the_same_as_both_at_once(shape, between, out, silu):
    n, pairs, h, w = shape
    x = images(n, 2 * pairs, h, w)
    expand = Conv1x1(normal(2 * between, 2 * pairs, 1, 1, seed=1))
    project = Conv1x1(normal(out, 2 * between, 1, 1, seed=2))
    for dtype in (torch.float32, *LOW):
        assert torch.equal(expand.then(project, x, dtype, silu), project(expand(x, silu=silu), dtype))


@needed
def test_a_silu_that_is_rounded_afterwards_is_made_to_1e_4():
    """Also where its exponential is beyond float32, and of what is not finite."""
    x = torch.cat([torch.linspace(-200, 200, 4001), torch.logspace(-30, 30, 601), -torch.logspace(-30, 30, 601)])
    x = torch.stack([x.bfloat16(), torch.zeros(len(x), dtype=torch.bfloat16)])[None, :, None]
    convolve = Conv1x1(torch.eye(2)[:, :, None, None])
    torch.testing.assert_close(convolve(x, silu=True).double(), F.silu(x.double()), rtol=2**-8 + 1e-4, atol=1e-30)
    small = x[..., (x[0, 0, 0].abs() < 60000) & (x[0, 0, 0].abs() > 1e-2)]
    found = convolve(small, torch.float16, silu=True).double()
    torch.testing.assert_close(found, F.silu(small.double()), rtol=2**-11 + 1e-4, atol=2**-24)
    nan = torch.full((1, 2, 1, 3), torch.nan, dtype=torch.bfloat16)
    assert convolve(nan, silu=True).isnan().all()
    infinite = torch.tensor([torch.inf, -torch.inf]).bfloat16().reshape(1, 1, 1, 2).repeat(1, 2, 1, 1)
    found = Conv1x1(torch.ones(1, 2, 1, 1))(infinite, silu=True).flatten()
    assert found[0] == torch.inf
    assert found[1].isnan()  # as F.silu


@needed
@pytest.mark.parametrize(("side", "count"), [(3, 1), (8, 2), (20, 5), (33, 3)])
def test_an_image_does_not_depend_on_threads_or_neighbours(side, count):
    """Whether weights or pixels are shared out, and whatever the panels."""
    x = images(count, 64, side, side)
    expand, project = Conv1x1(normal(600, 64, 1, 1, seed=1)), Conv1x1(normal(70, 600, 1, 1, seed=2))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one, both = expand(x), expand.then(project, x, silu=True)
        for threads in (1, 2, 3, 16):
            torch.set_num_threads(threads)
            assert torch.equal(expand(x), one)
            assert torch.equal(expand.then(project, x, silu=True), both)
            assert torch.equal(torch.cat([expand(image) for image in x.split(1)]), one)
            assert torch.equal(torch.cat([expand.then(project, image, silu=True) for image in x.split(1)]), both)
    finally:
        torch.set_num_threads(before)


@needed
@pytest.mark.parametrize(("between", "side"), [(1500, 20), (5000, 24), (5000, 3)])
def test_panels_shrink_with_what_is_between(between, side):
    """256 KB of it hold 87 pixels of 1500 channels, and fewer than the 64 that are taken of 5000."""
    x = images(2, 32, side, side)
    expand, project = Conv1x1(normal(between, 32, 1, 1, seed=1)), Conv1x1(normal(70, between, 1, 1, seed=2))
    assert torch.equal(expand.then(project, x, silu=True), project(expand(x, silu=True)))


@needed
def test_what_follows_does_not_depend_on_how_many_pixels_there_are():
    x, convolve = images(1, 64, 1, 13), Conv1x1(normal(100, 64, 1, 1))
    main = images(1, 100, 1, 13, seed=1).half()
    for dtype in (torch.float32, *LOW):
        whole = convolve(x, silu=True, after=Sum(main, 0.3, 1.0, dtype))
        for first in range(13):
            for last in range(first + 1, 14):
                after = Sum(main[..., first:last], 0.3, 1.0, dtype)
                found = convolve(x[..., first:last], silu=True, after=after)
                assert torch.equal(found, whole[..., first:last])


@needed
def test_copies_compute_alike_and_other_machines_are_told(monkeypatch):
    x, convolve = images(2, 64, 5, 5), Conv1x1(normal(100, 64, 1, 1))
    for other in (copy.deepcopy(convolve), pickle.loads(pickle.dumps(convolve))):
        assert other._weights.data_ptr() != convolve._weights.data_ptr()
        assert torch.equal(other(x), convolve(x))
    convolve._block = 32
    with pytest.raises(RuntimeError, match="prepared for another processor"):
        convolve(x)
    monkeypatch.setattr(module._conv1x1, "library", None)
    with pytest.raises(RuntimeError, match="prepared for another processor"):
        other(x)


@needed
def test_images_elsewhere_are_refused():
    convolve = Conv1x1(normal(4, 4, 1, 1))
    with pytest.raises(ValueError, match="images are on meta"):
        convolve(torch.empty(1, 4, 2, 2, dtype=torch.bfloat16, device="meta"))
    main = torch.empty(1, 4, 2, 2, device="meta")
    with pytest.raises(ValueError, match="images are on meta"):
        convolve(images(1, 4, 2, 2), after=Sum(main, 1.0, 1.0, torch.float32))


SIZES = {
    "resolution": 64,
    "channels": 3,
    "label_dim": 5,
    "model_channels": 64,
    "channel_mult": (1, 2, 2, 3),
    "num_blocks": 1,
    "attn_resolutions": (16, 8),
    "channels_per_head": 32,
}
NETWORKS = {"EDM2": edm2_configs()["g"], "EDM2+": edm2plus_configs()["g-bottleneck"]}


@pytest.mark.parametrize("name", NETWORKS)
def test_prepared_networks_convolve_so(name, monkeypatch):
    """No worse than by the libraries, and an image is the same to the bit whatever comes with it."""
    denoiser = trained(NETWORKS[name].replace(**SIZES))
    prepared = prepare(denoiser, torch.bfloat16)
    kinds = {type(module) for module in prepared.modules()}
    assert (FusedPointwise in kinds) == pays_to_convolve(torch.bfloat16)
    assert (FusedBottleneck in kinds) == (FusedPointwise in kinds and name == "EDM2+")
    if FusedPointwise not in kinds:
        return  # the libraries do it all, slowly on some processors
    x, sigma, label = normal(11, 3, 64, 64), normal(11).exp(), torch.arange(11) % 5
    found = prepared(x, sigma, label)
    alone = [prepared(x[i : i + 1], sigma[i : i + 1], label[i : i + 1]) for i in range(11)]
    assert torch.equal(torch.cat(alone), found)
    assert torch.equal(copy.deepcopy(prepared)(x, sigma, label), found)
    with torch.no_grad():
        error = relative_error(found, denoiser(x, sigma, label))
    assert error < 1e-2
    monkeypatch.setattr("unitgain.infer.passes.pays_to_convolve", lambda dtype: False)
    libraries = prepare(denoiser, torch.bfloat16)
    assert not any(isinstance(module, FusedPointwise) for module in libraries.modules())
    with torch.no_grad():
        assert error < 1.1 * relative_error(libraries(x, sigma, label), denoiser(x, sigma, label))


def test_processors_with_amx_leave_it_to_libraries(monkeypatch):
    monkeypatch.setattr("unitgain.infer.fused.can_convolve_pairs", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert pays_to_convolve(torch.bfloat16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert not pays_to_convolve(torch.bfloat16)


def test_it_can_be_switched_off(monkeypatch):
    monkeypatch.setenv(build.NATIVE, "0")
    build.library.cache_clear()
    monkeypatch.setattr(module, "_conv1x1", Binding("conv1x1", module._conv1x1.functions, module._conv1x1.structs))
    try:
        assert not can_convolve_pairs()
        assert not pays_to_convolve(torch.bfloat16)
    finally:
        monkeypatch.undo()
        build.library.cache_clear()
