"""Parts written in C against the same in PyTorch."""

import ctypes
import os
import shutil
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from unitgain.native import NATIVE, Combination, Depthwise, Sum, build, can_combine, can_pass
from unitgain.native.bind import Array, Binding
from unitgain.ops import resample

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def combine(sources, weights, first=0, dtype=torch.float32):
    """Results `[R, N]` of `Combination`, for one-dimensional tensors from value number `first` on, and what it says."""
    out = torch.full((len(weights), sources[0].numel()), torch.nan, dtype=dtype)
    combination = Combination(weights, [source.dtype for source in sources], dtype)
    return out, *combination([source.data_ptr() for source in sources], out, first, sums=True)


def test_the_compiler_that_the_project_asks_for_is_used():
    assert can_combine(DTYPES)
    assert not can_combine([torch.float16, torch.float64])


@settings(deadline=None, max_examples=60)
@given(
    width=st.integers(0, 1500),
    count=st.integers(1, 9),
    results=st.integers(0, 19),
    seed=st.integers(0, 2**31),
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=10, max_size=10),
)
def test_combination_of_any_sizes_and_types(width, count, results, seed, dtypes):
    generator = torch.Generator().manual_seed(seed)
    sources = [torch.randn(width, generator=generator).to(dtype) for dtype in dtypes[:count]]
    weights = torch.randn(results, count, generator=generator)
    out, sums, out_sums, finite = combine(sources, weights)
    rounded, _, rounded_sums, _ = combine(sources, weights, dtype=dtypes[9])
    assert finite and torch.equal(rounded, out.to(dtypes[9]))
    assert out_sums == [weighted_sum(row) for row in out]
    assert rounded_sums == [weighted_sum(row) for row in rounded]
    exact = weights.double() @ torch.stack([source.double() for source in sources])
    scale = weights.double().abs() @ torch.stack([source.double().abs() for source in sources])
    assert ((out.double() - exact).abs() <= count * 2**-23 * scale).all()
    for source, found in zip(sources, sums, strict=True):
        assert found == weighted_sum(source)


def weighted_sum(source):
    """Words of 64 bits, those of page k of 4 KiB 2 k + 1 times, modulo 2^64."""
    raw = bytes(source.view(torch.uint8).numpy())
    raw += bytes(-len(raw) % 8)
    words = (int.from_bytes(raw[i : i + 8], "little") * (2 * (i // 4096) + 1) for i in range(0, len(raw), 8))
    return sum(words) % 2**64


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_of_parts_add_up_to_that_of_the_whole(dtype):
    source = torch.randn(10_000).to(dtype)
    total = 0
    for first in (0, 4096, 8192):
        _, (part,), of_results, _ = combine([source[first : first + 4096]], torch.ones(1, 1), first, dtype)
        assert of_results == [part]
        total += part
    assert total % 2**64 == weighted_sum(source)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_number_of_16_bits_is_converted_exactly(dtype):
    """65,536 of them in blocks, and again one by one, which is the end of a run."""
    numbers = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    expected = numbers.float()
    out, *_ = combine([numbers], torch.ones(1, 1))
    single = torch.cat([combine([number], torch.ones(1, 1))[0][0] for number in numbers[::7].split(1)])
    for found, wanted in ((out[0], expected), (single, expected[::7])):
        assert torch.equal(found.isnan(), wanted.isnan())
        assert torch.equal(found.nan_to_num(nan=0.0), wanted.nan_to_num(nan=0.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_results_are_rounded_as_torch_rounds_and_what_is_not_finite_is_said(dtype):
    """Every float of 16 leading bits and a few that follow, in blocks and one by one."""
    bits = torch.arange(0, 2**32, 2**13 - 1).to(torch.int32)  # wraps, so that all signs and exponents are there
    numbers = torch.cat([bits.view(torch.float32), torch.tensor([65519.9, 65520.0, 2**-25, 2**-24 * 1.5, -0.0])])
    expected = numbers.to(dtype)
    out, *_, finite = combine([numbers], torch.ones(1, 1), dtype=dtype)
    assert torch.equal(out[0].isnan(), expected.isnan())
    assert torch.equal(out[0].nan_to_num(nan=0.0), expected.nan_to_num(nan=0.0)) and not finite
    for number, wanted in zip(numbers[-300:], expected[-300:], strict=True):
        single, *_, finite = combine([number[None]], torch.ones(1, 1), dtype=dtype)
        assert torch.equal(single[0, 0], wanted) or (single.isnan().all() and wanted.isnan())
        assert finite == bool(wanted.isfinite())


def test_only_what_was_asked_for_is_written():
    memory = torch.full((5, 600), -1.0)
    source = torch.ones(600, dtype=torch.float16)
    Combination(torch.ones(3, 1), [torch.float16], torch.float32)([source.data_ptr()], memory[1:4], 0, sums=False)
    assert (memory[1:4] == 1).all()
    assert (memory[[0, 4]] == -1).all()


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 12), st.integers(1, 12)),
    kernel=st.sampled_from([1, 3, 5, 7]),
    silu=st.booleans(),
    modulated=st.sampled_from(["not", "before", "after"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_depthwise_of_any_size(shape, kernel, silu, modulated, dtype):
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator).to(dtype).contiguous(memory_format=torch.channels_last) * 3
    weight = torch.randn(shape[1], 1, kernel, kernel, generator=generator)
    scale = torch.randn(shape[:2], generator=generator) if modulated != "not" else None
    found = Depthwise(weight, silu, after=modulated == "after")(x, scale)
    factors = 1 if scale is None else scale.double()[:, :, None, None]
    exact = x.double() * (1 if modulated == "after" else factors)
    exact = (F.silu(exact) if silu else exact) * (factors if modulated == "after" else 1)
    exact = F.conv2d(exact, weight.double(), padding=kernel // 2, groups=shape[1])
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    rounding = 2**-8 if dtype == torch.bfloat16 else 1e-6  # of the result; of the sum it is made of
    assert ((found - exact).abs() <= rounding * exact.abs() + 2e-6 * kernel**2 * exact.abs().max()).all()


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 6), st.integers(1, 6)),
    kernel=st.sampled_from([1, 3, 5]),
    halved=st.booleans(),
    kinds=st.tuples(*[st.sampled_from(DTYPES if can_pass(torch.float16) else [torch.float32, torch.bfloat16])] * 3),
)
def test_depthwise_with_a_sum_after_it(shape, kernel, halved, kinds):
    """Of images of all types; `main` as large, or its pixels doubled."""
    n, c, h, w = shape
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(n, c, 2 * h, 2 * w, generator=generator).to(kinds[0])
    small = (h, w) if halved else (2 * h, 2 * w)
    main = torch.randn(n, c, *small, generator=generator).to(kinds[2])
    weight, scale = torch.randn(c, 1, kernel, kernel, generator=generator), torch.randn(n, c, generator=generator)
    convolve = Depthwise(weight, silu=False)
    found = convolve(x, scale, after=Sum(main, 0.7, 3.0, kinds[1]))
    branch = x.double() * scale.double()[:, :, None, None]
    branch = F.conv2d(branch, weight.double(), padding=kernel // 2, groups=c)
    exact = (branch + 0.7 * (resample(main, "up") if halved else main).double()).clamp(-3, 3)
    assert found.dtype == kinds[1]
    assert found.is_contiguous(memory_format=torch.channels_last)
    rounding = {torch.float32: 1e-6, torch.float16: 2**-11, torch.bfloat16: 2**-8}[kinds[1]]
    assert ((found - exact).abs() <= rounding * exact.abs() + 2e-6 * kernel**2 * branch.abs().max() + 1e-6).all()
    assert torch.equal(found, convolve(x, scale, after=Sum(main, 0.7, 3.0, torch.float32)).to(kinds[1]))


def test_silu_of_every_size_of_number():
    """From numbers whose exponential float32 cannot hold to ones that vanish beside 1; and what is not finite stays."""
    x = torch.cat([torch.linspace(-200, 200, 4001), torch.logspace(-30, 5, 301), -torch.logspace(-30, 5, 301)])
    activate = Depthwise(torch.ones(1, 1, 1, 1), silu=True)
    torch.testing.assert_close(
        activate(x.reshape(1, 1, 1, -1)).flatten().double(), F.silu(x.double()), rtol=5e-7, atol=1e-30
    )
    odd = torch.tensor([torch.inf, -torch.inf, torch.nan]).reshape(1, 1, 1, 3)
    for dtype in (torch.float32, torch.bfloat16):
        assert not activate(odd.to(dtype)).isfinite().any()


def test_depthwise_does_not_depend_on_the_number_of_threads_or_images():
    x = torch.randn(5, 40, 16, 16).contiguous(memory_format=torch.channels_last)
    convolve = Depthwise(torch.randn(40, 1, 3, 3), silu=True)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = convolve(x)
        torch.set_num_threads(4)
        assert torch.equal(convolve(x), one)
        assert torch.equal(convolve(x[3:4]), one[3:4])
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not can_pass(torch.float32), reason="there is no compiler")
def test_what_c_and_python_lay_out_differently_is_refused():
    """Before anything is called."""
    with pytest.raises(RuntimeError, match=rf"struct join has \d+ bytes in pointwise\.c, {ctypes.sizeof(Array)} in Py"):
        _ = Binding("pointwise", {}, {"join": Array}).library
    bound = Binding("pointwise", {"join": (None, ctypes.c_void_p)}, {"array": Array})
    assert bound.library.unitgain_join.argtypes == [ctypes.c_void_p]
    assert bound.need(halves=bound.constant("halves")) is bound.library
    with pytest.raises(RuntimeError, match="prepare it here"):
        bound.need(halves=7)


def test_without_a_compiler_nothing_fails_unless_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", str(tmp_path / "none"))
    monkeypatch.setenv("UNITGAIN_CACHE", str(tmp_path))
    build.library.cache_clear()
    try:
        assert build.library("combine") is None
        build.library.cache_clear()
        monkeypatch.setenv(NATIVE, "1")
        with pytest.raises(RuntimeError, match=rf"combine\.c cannot be used: .*none.*{NATIVE}=0"):
            build.library("combine")
    finally:
        build.library.cache_clear()


def test_what_the_compiler_says_is_passed_on(tmp_path, monkeypatch):
    broken = tmp_path / "cc"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho unknown processor >&2\nexit 1\n')
    broken.chmod(0o755)
    for name, value in (("CC", str(broken)), ("UNITGAIN_CACHE", str(tmp_path)), (NATIVE, "1")):
        monkeypatch.setenv(name, value)
    build.library.cache_clear()
    try:
        with pytest.raises(RuntimeError, match="unknown processor"):
            build.library("combine")
        assert not list(tmp_path.glob("native/*"))
    finally:
        build.library.cache_clear()


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache of its own, with one library, and how to open it anew; the path of the library and what opened it."""
    if shutil.which("cc") is None:
        pytest.skip("no compiler")
    monkeypatch.setenv("UNITGAIN_CACHE", str(tmp_path))
    monkeypatch.setenv(NATIVE, "1")
    build.library.cache_clear()
    assert build.library("pointwise") is not None
    yield tmp_path / "native"
    build.library.cache_clear()


def reopen():
    build.library.cache_clear()
    return build.library("pointwise")


def test_the_cache_is_private_and_what_is_loaded_is_whole(own_cache):
    (path,) = own_cache.iterdir()
    assert own_cache.stat().st_mode & 0o777 == 0o700 and path.stat().st_mode & 0o077 == 0
    whole, made = path.read_bytes(), path.stat().st_mtime_ns
    assert reopen() and path.stat().st_mtime_ns == made
    for damage in (whole[:4096], whole[:-1], whole[:2000] + b"\0" + whole[2001:], b"", whole + b"\0"):
        path.unlink()  # the process has the old one mapped
        path.write_bytes(damage)
        path.chmod(0o600)
        assert reopen()  # compiled again: a cut one would end the process when it is first called
        assert [found.read_bytes() for found in own_cache.iterdir()] == [whole]
    path.chmod(0o622)
    own_cache.chmod(0o777)
    assert reopen()
    assert own_cache.stat().st_mode & 0o777 == 0o700 and path.stat().st_mode & 0o077 == 0


def test_folders_and_libraries_of_others_are_not_used(own_cache, monkeypatch):
    monkeypatch.setattr(build, "_user", lambda: os.geteuid() + 1)
    with pytest.raises(RuntimeError, match="not a folder of this user"):
        reopen()
    monkeypatch.undo()
    elsewhere = own_cache.rename(own_cache.with_name("elsewhere"))
    own_cache.symlink_to(elsewhere)
    monkeypatch.setenv("UNITGAIN_CACHE", str(own_cache.parent))
    monkeypatch.setenv(NATIVE, "1")
    with pytest.raises(RuntimeError, match="not a folder of this user"):
        reopen()
    monkeypatch.setenv(NATIVE, "")
    assert reopen() is None


def test_a_compiler_that_cannot_be_parsed_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", 'gcc "')
    monkeypatch.setenv("UNITGAIN_CACHE", str(tmp_path))
    build.library.cache_clear()
    try:
        assert build.library("pointwise") is None
        build.library.cache_clear()
        monkeypatch.setenv(NATIVE, "1")
        with pytest.raises(RuntimeError, match="CC='gcc \"' is no command: No closing quotation"):
            build.library("pointwise")
        if shutil.which("cc"):
            monkeypatch.setenv("CC", "  ")
            assert build.library("pointwise") is not None
    finally:
        build.library.cache_clear()


def test_it_can_be_switched_off():
    code = "import torch; from unitgain.native import can_combine; print(can_combine([torch.float16]))"
    for value, expected in (("0", "False"), ("1", "True")):
        made = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, NATIVE: value}, capture_output=True, text=True
        )
        assert made.stdout.strip() == expected, made.stderr
