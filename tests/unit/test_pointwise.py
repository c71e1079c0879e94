"""Passes over pixels in C: joins with pixel norm and activation, and sums, against float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from unitgain.native import Sum, add, can_pass, convert, join, pointwise
from unitgain.ops import magnitude, resample

FLOATS = [torch.float32, torch.bfloat16, torch.float16]
TYPES = [dtype for dtype in FLOATS if can_pass(dtype)]
SMALLEST = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}  # relative errors of rounding


def images(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3
    return made.to(dtype).contiguous(memory_format=torch.channels_last)


def assert_rounded(found: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype, silu: bool = False) -> None:
    """To the precision of its type, and one of float32 relative to the largest numbers: sums cancel.

    What was activated has 1e-4 more if it has 16 bits.
    """
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        found.double(),
        exact,
        rtol=SMALLEST[dtype] + (1e-4 if silu and dtype != torch.float32 else 0),
        atol=2e-6 * max(exact.abs().max().item(), 1),
    )


def test_the_compiler_that_the_project_asks_for_is_used():
    assert can_pass(torch.float32)
    assert can_pass(torch.bfloat16)


@pytest.mark.skipif(not TYPES, reason="there is no compiler")
@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 9), st.integers(1, 9)),
    more=st.integers(0, 50),
    types=st.tuples(*[st.sampled_from(TYPES or [None])] * 4),
    eps=st.sampled_from([None, 1e-4, 0.5]),
    silu=st.booleans(),
    shares=st.sampled_from([(1.0, 1.0), (0.6, -1.7)]),
)
def test_joins_of_any_size(shape, more, types, eps, silu, shares):
    x = images(*shape, dtype=types[0])
    skip = images(shape[0], more, *shape[2:], dtype=types[1], seed=1) if more else None
    before = (x.clone(), skip if skip is None else skip.clone())
    main, branch = join(x, skip, shares=shares, eps=eps, main=types[2], branch=types[3], silu=silu)
    exact = x.double() * shares[0]
    exact = exact if skip is None else torch.cat([exact, skip.double() * shares[1]], 1)
    exact = exact if eps is None else exact / magnitude(exact, 1, eps)
    assert main is not None
    assert branch is not None
    assert_rounded(main, exact, types[2])
    assert_rounded(branch, F.silu(exact) if silu else exact, types[3], silu)
    assert torch.equal(before[0], x)
    assert skip is None or torch.equal(before[1], skip)
    assert join(x, skip, main=types[2])[1] is None
    assert join(x, skip, branch=types[3])[0] is None


@pytest.mark.skipif(not TYPES, reason="there is no compiler")
@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 5), st.integers(1, 5)),
    types=st.tuples(*[st.sampled_from(TYPES or [None])] * 3),
    upsample=st.booleans(),
    limit=st.sampled_from([1.0, float("inf")]),
)
def test_sums_of_any_size(shape, types, upsample, limit):
    main = images(*shape, dtype=types[0])
    size = [2 * side for side in shape[2:]] if upsample else shape[2:]
    branch = images(*shape[:2], *size, dtype=types[1], seed=1)
    found = add(branch, Sum(main, 1.9, limit, types[2]), 0.3)
    main = resample(main, "up") if upsample else main
    assert_rounded(found, (0.3 * branch.double() + 1.9 * main.double()).clamp(-limit, limit), types[2])


@pytest.mark.skipif(torch.float16 not in TYPES, reason="this processor has no float16")
def test_what_float16_cannot_hold():
    """Beyond its range is its end; what is not a number stays none; small numbers are rounded to its subnormal ones."""
    x = torch.tensor([1e6, -1e6, 65519.0, torch.inf, -torch.inf, torch.nan, 1e-7, 3e-8, -0.0]).reshape(1, -1, 1, 1)
    found = join(x, branch=torch.float16)[1]
    assert found is not None
    expected = torch.tensor([65504.0, -65504.0, 65504.0, 65504.0, -65504.0, torch.nan, 1e-7, 3e-8, -0.0]).half()
    torch.testing.assert_close(found.flatten(), expected, rtol=0, atol=0, equal_nan=True)


def test_pixels_do_not_depend_on_threads_or_neighbours():
    x, skip = images(4, 37, 12, 12, dtype=torch.float32), images(4, 27, 12, 12, dtype=torch.bfloat16, seed=1)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        try:
            results.append(join(x, skip, eps=1e-4, main=torch.float32, branch=torch.bfloat16, silu=True))
        finally:
            torch.set_num_threads(threads)
    for found in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], found, strict=True))
    alone = join(x[2:3], skip[2:3], eps=1e-4, main=torch.float32, branch=torch.bfloat16, silu=True)
    assert all(torch.equal(a[2:3], b) for a, b in zip(results[0], alone, strict=True))


def test_zeros_and_what_is_not_finite():
    x = torch.zeros(1, 20, 2, 2)
    assert not join(x, eps=1e-4, main=torch.float32)[0].any()
    x[0, 3, 0, 0] = torch.nan
    whole = join(x, eps=1e-4, main=torch.float32)[0]
    assert whole[0, :, 0, 0].isnan().all()
    assert not whole[0, :, 1:].any()
    assert add(x, Sum(x, 1.0, 1.0, torch.float32))[0, 3, 0, 0].isnan()


def test_machines_that_cannot_pass_are_told_to_prepare_anew(monkeypatch):
    """A network may come from another machine, where there was a compiler, or float16."""
    x = images(1, 4, 2, 2, dtype=torch.float32)
    monkeypatch.setitem(pointwise._pointwise._constants, "halves", 0)
    assert join(x, branch=torch.float32)[1] is not None
    for call in (lambda: join(x, branch=torch.float16), lambda: add(x, Sum(x.half(), 1.0, 1.0, torch.float32))):
        with pytest.raises(RuntimeError, match="prepare it here"):
            call()


def test_other_devices_are_refused():
    x = torch.empty(1, 4, 2, 2, device="meta")
    with pytest.raises(ValueError, match="images are on meta"):
        join(x, main=torch.float32)
    with pytest.raises(ValueError, match="images are on meta"):
        add(torch.empty(1, 4, 2, 2), Sum(x, 1.0, 1.0, torch.float32))


@pytest.mark.parametrize("to", TYPES)
@pytest.mark.parametrize("dtype", TYPES)
def test_conversion_is_that_of_torch(dtype, to):
    x = images(2, 37, 5, 3, dtype=dtype)
    assert torch.equal(convert(x, to), x.to(to))
    assert (convert(x, to) is x) == (to == dtype)
