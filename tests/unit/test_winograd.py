"""3x3 convolutions by Winograd's filtering, against their definition in float64."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from conftest import relative_error, trained
from hypothesis import given, settings
from hypothesis import strategies as st

from unitgain.arch import NetworkSpec
from unitgain.denoiser import Denoiser
from unitgain.infer import prepare
from unitgain.infer.fused import FilteredConv, pays_to_filter
from unitgain.native import Sum, Winograd, can_filter, winograd
from unitgain.ops import resample

# Relative error of a convolution: a bit more than float32's own, and than what 15 bits of each of two factors leave.
TOLERANCE = {(2, False): 1e-6, (4, False): 3e-6, (2, True): 6e-4, (4, True): 2e-3}
KINDS = [kind for kind in TOLERANCE if can_filter(integers=kind[1])]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return normal(*shape, seed=seed).contiguous(memory_format=torch.channels_last)


def test_the_compiler_that_the_project_asks_for_is_used():
    assert can_filter(integers=False)


@pytest.mark.skipif(not KINDS, reason="there is no compiler")
@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 13), st.integers(1, 13)),
    out=st.integers(1, 140),
    kind=st.sampled_from(KINDS or [None]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    modulated=st.booleans(),
    silu=st.booleans(),
    summed=st.sampled_from(["not", "whole", "halved"]),
    upsample=st.booleans(),
)
def test_any_size(shape, out, kind, dtype, modulated, silu, summed, upsample):
    dtype = torch.float32 if dtype == torch.float16 and not kind[1] else dtype
    x, weight = images(*shape).to(dtype), normal(out, shape[1], 3, 3, seed=1)
    size = [2 * side for side in shape[2:]] if upsample else shape[2:]
    halved = summed == "halved" and not any(side % 2 for side in size)
    scale = normal(shape[0], out, seed=2) if modulated else None
    main = None
    if summed != "not":
        main = images(shape[0], out, *(side // 2 if halved else side for side in size), seed=3).to(dtype)

    def convolved(dtype):
        after = None if main is None else Sum(main, 0.7, 4.0, dtype)
        return Winograd(weight, *kind)(x, dtype, scale, silu, after, upsample)

    found = convolved(torch.float32)
    sums = F.conv2d((resample(x, "up") if upsample else x).double(), weight.double(), padding=1)
    exact = sums if scale is None else sums * scale.double()[:, :, None, None]
    exact = F.silu(exact) if silu else exact
    if main is not None:
        exact = (exact + 0.7 * (resample(main, "up") if halved else main).double()).clamp(-4, 4)
    assert found.is_contiguous(memory_format=torch.channels_last)
    # an error of the sums, as large as their own magnitude makes it, passes through factors of at most these
    through = (1.1 if silu else 1.0) * (1.0 if scale is None else scale.double().norm() / scale.numel() ** 0.5)
    bound = 3 * TOLERANCE[kind] * through * (9 * shape[1]) ** 0.5 * exact.numel() ** 0.5
    assert (found - exact).norm() <= bound
    for low in (torch.bfloat16, torch.float16) if kind[1] else (torch.bfloat16,):
        rounded = convolved(low)
        assert rounded.dtype == low
        if silu:  # is made to 1e-4 where it is rounded anyway
            activated = F.silu(sums if scale is None else sums * scale.double()[:, :, None, None]).abs()
            near = 1e-4 * activated + torch.finfo(low).eps / 2 * found.abs() + 1e-7
            assert ((rounded.double() - found).abs() <= 1.01 * near).all()
        else:
            assert torch.equal(rounded, found.to(low))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [64, 768])
def test_precision(kind, channels):
    """Of normal numbers; and far better than bfloat16 where products are those of integers."""
    x, weight = images(1, channels, 16, 16), normal(64, channels, 3, 3, seed=1)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    error = relative_error(Winograd(weight, *kind)(x, torch.float32), exact)
    assert error < TOLERANCE[kind]
    if kind[1]:
        rounded = F.conv2d(x.bfloat16().double(), weight.bfloat16().double(), padding=1)
        assert error < 0.8 * relative_error(rounded, exact)


@pytest.mark.parametrize("kind", KINDS)
def test_sums_do_not_overflow(kind):
    """Where a tile is a multiple of the weights, the most that Cauchy and Schwarz allow; and for one channel alone."""
    for channels, spread in ((1, 0.0), (512, 0.0), (512, 1.0)):
        factor = 1e4 * (1 + spread * normal(channels).abs())
        x = (torch.ones(1, channels, 8, 8) * factor[:, None, None]).contiguous(memory_format=torch.channels_last)
        weight = torch.ones(1, channels, 3, 3) * factor[:, None, None]
        exact = F.conv2d(x.double(), weight.double(), padding=1)
        summing = 2**-24 * channels  # of numbers of one sign, in float32
        assert relative_error(Winograd(weight, *kind)(x, torch.float32), exact) < TOLERANCE[kind] + summing


@pytest.mark.parametrize("kind", KINDS)
def test_scales_of_channels_and_images_do_not_matter(kind):
    """Rows and columns are scaled each by itself: a loud image or output costs its neighbours no precision."""
    x = images(2, 32, 8, 8) * torch.tensor([1e-6, 1e6])[:, None, None, None]
    weight = normal(4, 32, 3, 3, seed=1) * torch.tensor([1e-5, 1.0, 1e5, 0.0])[:, None, None, None]
    found, exact = Winograd(weight, *kind)(x, torch.float32), F.conv2d(x.double(), weight.double(), padding=1)
    for image in range(2):
        for channel in range(3):
            assert relative_error(found[image, channel], exact[image, channel]) < 2 * TOLERANCE[kind]
        assert not found[image, 3].any()


@pytest.mark.parametrize("kind", KINDS)
def test_channels_may_be_loud_where_they_are_hardly_read(kind):
    """As trained weights and features may be: what counts is how much of the output a channel makes."""
    loud = torch.exp(1.5 * normal(384, seed=2))[:, None, None]
    loud[5] = 0
    x, weight = images(1, 384, 16, 16) * loud, normal(32, 384, 3, 3, seed=1) / loud.clamp_min(1e-3)
    weight[:, 6] = 0
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    assert relative_error(Winograd(weight, *kind)(x, torch.float32), exact) < TOLERANCE[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_stays_so_where_it_is(kind):
    for value in (torch.nan, torch.inf):
        x = images(1, 16, 16, 16)
        x[0, 3, 2, 2] = value
        found = Winograd(normal(8, 16, 3, 3), *kind)(x, torch.float32)
        assert not found[0, :, 1:4, 1:4].isfinite().any()
        assert found[0, :, 8:, 8:].isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_does_not_depend_on_threads_or_neighbours(kind):
    x, convolve = images(5, 40, 24, 20), Winograd(normal(200, 40, 3, 3), *kind)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = convolve(x, torch.float32)
        for threads in (2, 3, 7):
            torch.set_num_threads(threads)
            assert torch.equal(convolve(x, torch.float32), one)
            assert torch.equal(convolve(x[3:4], torch.float32), one[3:4])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
def test_what_c_would_fail_at_is_refused(kind):
    with pytest.raises(AssertionError):
        Winograd(torch.empty(4, 0, 3, 3), *kind)
    with pytest.raises(AssertionError):
        Winograd(normal(4, 3, 3, 3), *kind)(images(2, 3, 8, 8), torch.float32, torch.ones(2, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_no_images_and_none_on_other_devices(kind):
    convolve = Winograd(normal(4, 3, 3, 3), *kind)
    for shape in ((0, 3, 8, 8), (2, 3, 0, 8)):
        assert convolve(torch.empty(shape), torch.float32).shape == (shape[0], 4, *shape[2:])
    with pytest.raises(ValueError, match="on meta, and this network was prepared for CPUs"):
        convolve(torch.empty(1, 3, 8, 8, device="meta"), torch.float32)


WIDE = {
    "resolution": 16,
    "channels": 3,
    "label_dim": 5,
    "model_channels": 32,
    "channel_mult": (1, 2),
    "num_blocks": 1,
    "attn_resolutions": (8,),
    "channels_per_head": 32,
}


def wide(**changes: object) -> Denoiser:
    """A network whose 3x3 convolutions are filtered."""
    return trained(NetworkSpec(**(WIDE | changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"branch": "m s c m s c"},
        {"branch": "s c s m c"},
        {"branch": "s c m s"},
        {"branch": "c m m s c c"},
        {"res_balance": 0.0},
        {"clip_act": 0.5},
        {"concat_balance": 0.3},
        {"resolution": 32, "attn_resolutions": (32, 16)},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_filtered_networks_give_the_same(changes, dtype):
    denoiser = wide(**changes)
    side = denoiser.spec.resolution
    x, sigma, label = normal(2, 3, side, side), torch.rand(2) * 3, torch.arange(2)
    with torch.no_grad():
        exact = denoiser(x, sigma, label)
    found = prepare(denoiser, dtype)
    plain = prepare(denoiser, dtype, winograd=False)
    assert not any(isinstance(module, FilteredConv) for module in plain.modules())
    kinds = {module.convolve.tile for module in found.modules() if isinstance(module, FilteredConv)}
    assert bool(kinds) == pays_to_filter(dtype)
    error = relative_error(found(x, sigma, label), exact)
    assert error < (1e-5 if dtype == torch.float32 else 1e-2)
    if dtype == torch.bfloat16:
        assert error < 1.2 * relative_error(plain(x, sigma, label), exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_copies_stand_alone(dtype):
    """Through a deep copy and through a file, after the original is gone; and many threads may use one."""
    found = prepare(wide(), dtype)
    x = normal(2, 3, 16, 16)
    expected = found(x, 1.0)
    copies = [copy.deepcopy(found), pickle.loads(pickle.dumps(found))]
    del found
    for one in copies:
        assert torch.equal(one(x, 1.0), expected)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(made, expected) for made in pool.map(lambda _: copies[0](x, 1.0), range(12)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_settings_of_torch_do_not_matter(dtype):
    denoiser, x = wide(), normal(2, 3, 16, 16)
    found = prepare(denoiser, dtype)
    expected = found(x, 1.0, torch.arange(2))
    for low in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=low):
            assert torch.equal(found(x, 1.0, torch.arange(2)), expected)
    weight, image = normal(70, 33, 3, 3), images(1, 33, 8, 8)
    for kind in KINDS:
        exact = F.conv2d(image.double(), weight.double(), padding=1)
        try:
            torch.set_default_dtype(torch.float16)
            with torch.device("meta"):
                convolve = Winograd(weight, *kind)
                made = convolve(image, torch.float32)
        finally:
            torch.set_default_dtype(torch.float32)
        assert relative_error(made, exact) < TOLERANCE[kind]


@pytest.mark.skipif(not KINDS, reason="there is no compiler")
def test_a_layout_for_another_processor_is_refused(monkeypatch):
    convolve = Winograd(normal(4, 3, 3, 3), *KINDS[0])
    monkeypatch.setitem(convolve._layout, "block", 7)
    with pytest.raises(RuntimeError, match="for another processor"):
        convolve(images(1, 3, 8, 8), torch.float32)
    monkeypatch.undo()
    monkeypatch.setattr(winograd._winograd, "library", None)
    with pytest.raises(RuntimeError, match="prepare it here"):
        convolve(images(1, 3, 8, 8), torch.float32)


def test_weights_take_as_many_bytes_as_said():
    """(m + 2)^2 numbers of 2 or 4 bytes for 9, of outputs rounded up to a block."""
    for tile, integers in KINDS:
        layer = Winograd(normal(128, 64, 3, 3), tile, integers)
        held = sum(value.nbytes for value in vars(layer).values() if isinstance(value, torch.Tensor))
        assert held == pytest.approx((tile + 2) ** 2 * 128 * 64 * (2 if integers else 4), rel=0.05)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind[0] == 4])
def test_what_a_loud_pixel_costs_its_neighbours(kind):
    """The one thing that large tiles are worse at than what they stand for, as the documentation says."""
    x, weight = images(1, 128, 16, 16), normal(64, 128, 3, 3, seed=1)
    x[:, :, 5, 5] *= 100
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    found = Winograd(weight, *kind)(x, torch.float32)
    dark = (slice(None), slice(None), 7, slice(4, 8))  # of the same tile, but beyond its reach
    assert TOLERANCE[kind] < relative_error(found[dark], exact[dark]) < (3e-2 if kind[1] else 1e-4)


def test_processors_that_multiply_bfloat16_faster_keep_to_the_definition(monkeypatch):
    fused = import_module("unitgain.infer.fused")
    monkeypatch.setattr(fused, "can_filter", lambda integers: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert fused.pays_to_filter(torch.float32)
    assert fused.pays_to_filter(torch.bfloat16)
    assert not fused.pays_to_filter(torch.float16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert fused.pays_to_filter(torch.float32)
    assert not fused.pays_to_filter(torch.bfloat16)
    monkeypatch.setattr(fused, "can_filter", lambda integers: not integers)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not fused.pays_to_filter(torch.bfloat16)
