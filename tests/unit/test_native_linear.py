"""Linear layers in C against float64, in every precision of weights, at sizes that fill no vector."""

import pytest
import torch
from conftest import relative_error, trained
from hypothesis import given, settings
from hypothesis import strategies as st

from unitgain.arch import NetworkSpec
from unitgain.infer import prepare
from unitgain.native import can_multiply, linear

DTYPES = (torch.float32, torch.float16)


def drawn(rows, inputs, outputs, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(rows, inputs, generator=generator), torch.randn(outputs, inputs, generator=generator)
    return x, weight.to(dtype), torch.randn(outputs, generator=generator)


def test_the_compiler_that_the_project_asks_for_is_used():
    assert all(can_multiply(dtype) for dtype in DTYPES)
    assert not can_multiply(torch.bfloat16)


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 11), st.integers(1, 70), st.integers(0, 140), st.sampled_from(DTYPES))
def test_any_size(rows, inputs, outputs, dtype):
    x, weight, bias = drawn(rows, inputs, outputs, dtype, seed=rows * inputs + outputs)
    exact = x.double() @ weight.double().T + bias
    size = x.double().abs() @ weight.double().abs().T + bias.abs()
    found = linear(x, weight, bias)
    assert found.dtype == torch.float32
    assert found.shape == exact.shape
    assert ((found - exact).abs() <= 2**-23 * (3 + inputs / 4) * size).all()


def test_a_row_does_not_depend_on_threads_or_neighbours():
    x, weight, bias = drawn(9, 100, 1000, torch.float16)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = linear(x, weight, bias)
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(linear(x, weight, bias), one)
            assert torch.equal(torch.cat([linear(row, weight, bias) for row in x.split(1)]), one)
            assert torch.equal(linear(x.T.contiguous().T, weight, bias), one)
    finally:
        torch.set_num_threads(before)


def test_what_is_not_finite_stays_where_it_is():
    x, weight, bias = drawn(5, 33, 50)
    x[2, 32] = torch.nan
    weight[7, 0] = torch.inf
    found = linear(x, weight, bias).isfinite()
    expected = torch.ones_like(found)
    expected[2], expected[:, 7] = False, False
    assert torch.equal(found, expected)


def test_what_it_does_not_take_is_refused():
    x, weight, bias = drawn(2, 8, 8)
    with pytest.raises(ValueError, match="on meta"):
        linear(x.to("meta"), weight, bias)
    with pytest.raises(RuntimeError, match="prepare it here"):
        linear(x, weight.bfloat16(), bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_modulations_of_prepared_networks_are_made_so(dtype, monkeypatch):
    """As by libraries, which do it elsewhere."""
    spec = NetworkSpec(
        resolution=8, channels=3, label_dim=5, model_channels=32, channel_mult=(1, 2), num_blocks=1, attn_resolutions=()
    )
    embedding = prepare(trained(spec), dtype).network.embedding
    given = torch.randn(3), torch.arange(3)
    found = torch.cat(embedding(*given), dim=1)
    calls = []
    monkeypatch.setattr("unitgain.infer.embedding.can_multiply", calls.append)
    expected = torch.cat(embedding(*given), dim=1)
    assert calls == [embedding.modulation.dtype]
    assert relative_error(found, expected) < 1e-6
