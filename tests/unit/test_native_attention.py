"""Cosine attention in C, against its definition in float64."""

import copy
import math

import pytest
import torch
from conftest import relative_error, trained
from hypothesis import given, settings
from hypothesis import strategies as st

from unitgain.arch import NetworkSpec
from unitgain.infer import prepare
from unitgain.infer.blocks import FoldedAttention
from unitgain.native import attend, can_attend
from unitgain.ops import EPS, magnitude

DTYPES = (torch.float32, torch.bfloat16)


def drawn(n, heads, size, h, w, dtype=torch.float32, seed=0):
    """What a convolution makes of images: heads of loud and of quiet queries, keys and values."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3 * heads, size, h, w, generator=generator)
    x = x * torch.exp(torch.randn(n, 3 * heads, 1, 1, 1, generator=generator))
    return x.flatten(1, 2).to(dtype).contiguous(memory_format=torch.channels_last)


def defined(x, heads, eps):
    """Eqs. 10-11 and 30-34, in float64."""
    tokens = x.double().flatten(2).unflatten(1, (3, heads, -1))  # n, 3, heads, size, tokens
    q, k, v = (tokens / magnitude(tokens, 3, eps)).unbind(1)
    weights = torch.softmax(q.mT @ k / math.sqrt(q.shape[2]), -1)
    return (v @ weights.mT).flatten(1, 2).unflatten(2, x.shape[2:])


def test_the_compiler_that_the_project_asks_for_is_used():
    assert all(can_attend(dtype, 64) for dtype in DTYPES)
    assert not can_attend(torch.float16, 64)


@settings(deadline=None, max_examples=80)
@given(
    n=st.integers(1, 3),
    heads=st.integers(1, 4),
    size=st.integers(1, 140),
    h=st.integers(1, 13),
    w=st.integers(1, 13),
    eps=st.sampled_from([EPS, 0.5]),
    dtype=st.sampled_from(DTYPES),
)
def test_any_size(n, heads, size, h, w, eps, dtype):
    x = drawn(n, heads, size, h, w, dtype, seed=n * heads * size * h * w)
    found, exact = attend(x, heads, eps), defined(x, heads, eps)
    assert found.shape == exact.shape
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert ((found - exact).abs() <= allowed(x, exact, heads, eps)).all()


def allowed(x, exact, heads, eps):
    """The rounding of float32; in bfloat16 that of the result, and of queries, keys, weights and values in products."""
    if x.dtype == torch.float32:
        return 1e-5 * (1 + exact.abs())
    q, k, v = (part / magnitude(part, 3, eps) for part in x.double().flatten(2).unflatten(1, (3, heads, -1)).unbind(1))
    logits = q.norm(dim=2).amax(-1) * k.norm(dim=2).amax(-1) / math.sqrt(q.shape[2])  # at most
    largest = v.abs().amax((2, 3)) * (2 * torch.expm1(2 * 2**-8 * logits) + 2 * 2**-8)
    return 2**-8 * exact.abs() + largest.repeat_interleave(v.shape[2], 1)[:, :, None, None] + 1e-5


@pytest.mark.parametrize(("heads", "resolution"), [(9, 16), (12, 8), (1, 64)])
def test_precision(heads, resolution):
    """At the sizes of EDM2, and over many pixels; bfloat16 costs less than a pass in it for each step would."""
    x = drawn(1, heads, 64, resolution, resolution)
    assert relative_error(attend(x, heads, EPS), defined(x, heads, EPS)) < 3e-6
    x = x.bfloat16()
    assert relative_error(attend(x, heads, EPS), defined(x, heads, EPS)) < 2**-8 * 1.2


@pytest.mark.parametrize("size", [1, 64, 2048])
def test_logits_as_large_as_they_get(size):
    """Queries and keys of one channel alone, along one another and against: logits of the root of `size` exactly."""
    assert can_attend(torch.float32, size)
    x = torch.zeros(1, 3, size, 2, 5)
    x[:, :2, 0] = torch.tensor([1.0, -1.0])[:, None] * torch.arange(1, 6)
    x[:, 2] = drawn(1, 1, size, 2, 5)[:, :size]
    x = x.flatten(1, 2)
    exact = defined(x, 1, 1e-30)
    assert ((attend(x, 1, 1e-30) - exact).abs() <= 1e-5 * (1 + exact.abs())).all()
    assert not can_attend(torch.float32, 4096)


def test_zeros_attend_to_all_alike():
    """Queries and keys without a direction give the mean of the values; and values of zeros stay zeros."""
    x = drawn(1, 2, 16, 4, 4)
    x[:, :64] = 0
    assert not x[:, :32].any()
    mean = defined(x, 2, EPS)
    values = x[:, 64:].unflatten(1, (2, 16))
    values = (values / magnitude(values, 2, EPS)).mean((3, 4), keepdim=True).flatten(1, 2)
    torch.testing.assert_close(mean, values.expand_as(mean).double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(attend(x, 2, EPS), values.expand_as(x[:, :32]), rtol=1e-5, atol=1e-5)
    assert not attend(torch.zeros(1, 96, 4, 4), 2, EPS).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so_where_it_is_read(dtype, value):
    """A query is read for its own pixel, a key or value for all; other heads and images read neither."""
    for part in range(3):
        x = drawn(2, 2, 16, 5, 5, dtype)
        x[0, 32 * part + 3, 1, 2] = value
        found = attend(x, 2, EPS).isnan()
        assert found[0, :16, 1, 2].any()
        assert part == 0 or found[0, :16].flatten(1).all(1).any()
        assert part > 0 or found[0, :16].sum() <= 16
        assert not found[0, 16:].any()
        assert not found[1].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_of_any_bits_stays_one(dtype):
    x = drawn(1, 1, 8, 2, 2, dtype)
    whole = attend(x, 1, EPS)
    for bits in (0x7F800001, 0x7FC00001, 0x7FFFFFFF, -0x00000001):
        for part in range(3):
            broken = x.clone()
            value = torch.tensor([bits if dtype == torch.float32 else bits >> 16 | 1], dtype=torch.int32)
            if dtype == torch.float32:
                broken[0, 8 * part, 0, 0] = value.view(dtype)[0]
            else:
                broken.view(torch.int16)[0, 8 * part, 0, 0] = value.to(torch.int16)[0]
            assert attend(broken, 1, EPS)[0, :, 0, 0].isnan().all()
    assert torch.equal(attend(x, 1, EPS), whole)  # nothing of it is left in memory


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_image_does_not_depend_on_threads_or_neighbours(dtype):
    x = drawn(5, 3, 40, 9, 9, dtype)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = attend(x, 3, EPS)
        for threads in (2, 3, 7):
            torch.set_num_threads(threads)
            assert torch.equal(attend(x, 3, EPS), one)
            assert torch.equal(attend(x[3:4], 3, EPS), one[3:4])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("dtype", "count", "tolerance"), [(torch.float32, 31, 1e-6), (torch.bfloat16, 61, 6e-3)])
def test_more_images_than_are_taken_at_once(dtype, count, tolerance):
    """Their keys and values take 350 or 160 kB each, of 4 MB."""
    x = drawn(count, 6, 64, 10, 10, dtype)
    found = attend(x, 6, EPS)
    assert torch.equal(found, torch.cat([attend(image, 6, EPS) for image in x.split(1)]))
    assert relative_error(found, defined(x, 6, EPS)) < tolerance


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_add_up_to_one(dtype):
    """Where all values are alike so are the results, whatever weights are rounded to."""
    x = drawn(1, 1, 64, 8, 8, dtype)
    x[:, 128:] = torch.where(torch.arange(64) % 2 == 0, 1.0, -1.0).to(dtype)[None, :, None, None]
    assert ((attend(x, 1, 1e-9) - x[:, 128:]).abs() < (1e-6 if dtype == torch.float32 else 2**-8)).all()


def test_any_layout_is_read_and_channels_last_is_written():
    x = drawn(2, 2, 16, 4, 6)
    expected = attend(x, 2, EPS)
    for other in (x.contiguous(), x.mT.contiguous(memory_format=torch.channels_last).mT, x.repeat(2, 1, 1, 1)[::2]):
        wanted = attend(other.contiguous(memory_format=torch.channels_last), 2, EPS)
        assert torch.equal(attend(other, 2, EPS), wanted)
    assert torch.equal(attend(x.contiguous(), 2, EPS), expected)
    assert attend(x.contiguous(), 2, EPS).is_contiguous(memory_format=torch.channels_last)


def test_no_images_and_none_on_other_devices():
    for shape in ((0, 96, 8, 8), (2, 96, 0, 8)):
        assert attend(torch.empty(shape), 2, EPS).shape == (shape[0], 32, *shape[2:])
    with pytest.raises(ValueError, match="on meta, and this network was prepared for CPUs"):
        attend(torch.empty(1, 96, 8, 8, device="meta"), 2, EPS)


SPEC = NetworkSpec(
    resolution=16,
    channels=3,
    label_dim=5,
    model_channels=32,
    channel_mult=(1, 2),
    num_blocks=1,
    attn_resolutions=(16, 8),
    channels_per_head=16,
)


@pytest.mark.parametrize("dtype", DTYPES)
def test_prepared_networks_attend_so(dtype, monkeypatch):
    """No worse than by the libraries, which do it on another machine, or where it was switched off."""
    denoiser = trained(SPEC)
    x, sigma, label = torch.randn(2, 3, 16, 16), torch.rand(2) * 3, torch.arange(2)
    with torch.no_grad():
        exact = denoiser(x, sigma, label)
    prepared = prepare(denoiser, dtype)
    found = prepared(x, sigma, label)
    assert torch.equal(copy.deepcopy(prepared)(x, sigma, label), found)
    calls = []
    monkeypatch.setattr("unitgain.infer.passes.can_attend", lambda *kind: calls.append(kind))
    libraries = prepared(x, sigma, label)
    layers = [module for module in prepared.modules() if isinstance(module, FoldedAttention)]
    assert calls == [(dtype, 16)] * len(layers)
    assert layers
    assert not torch.equal(libraries, found)
    error = relative_error(found, exact)
    assert error < (1e-5 if dtype == torch.float32 else 1e-2)
    assert error < 1.2 * relative_error(libraries, exact) + 1e-6
