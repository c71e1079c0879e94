"""The rate of matrix products: of the right size, quick, and without side effects."""

import time

import pytest
import torch

from unitgain.analysis import peak
from unitgain.analysis.peak import matrix_peak


@pytest.fixture(autouse=True)
def forget():
    peak._best.clear()


def test_it_is_the_rate_of_a_product_and_kept():
    before = torch.get_rng_state()
    start = time.perf_counter()
    rate = matrix_peak("cpu", torch.float32, seconds=0.05)
    took = time.perf_counter() - start
    assert torch.equal(torch.get_rng_state(), before)
    matrix = torch.randn(512, 512)
    own = 512**3 / min(peak.product_seconds(matrix) for _ in range(5))
    assert 0.2 * own < rate < 10 * own  # of a machine that does other things too
    start = time.perf_counter()
    assert matrix_peak(torch.device("cpu"), torch.float32, seconds=0.05) == rate
    assert time.perf_counter() - start < took / 2


def test_the_best_product_counts_and_slow_ones_end_it(monkeypatch):
    seconds = {256: 1e-3, 512: 4e-3, 1024: 0.5}
    monkeypatch.setattr(peak, "product_seconds", lambda matrix: seconds[len(matrix)])
    clock = iter([0.0, 0.01, 0.02, 0.03, 1.0, 1.0, 1.0])
    monkeypatch.setattr(peak.time, "perf_counter", lambda: next(clock))
    assert matrix_peak("cpu", torch.float32, seconds=0.2) == 512**3 / 4e-3  # 2048 would have taken 4 s


def test_what_a_busy_machine_reached_is_measured_again(monkeypatch):
    took = 4e-3
    monkeypatch.setattr(peak, "product_seconds", lambda matrix: took)
    busy = matrix_peak("cpu", torch.float32, seconds=0.01)
    took = 1e-3
    assert matrix_peak("cpu", torch.float32, seconds=0.01) == busy
    assert matrix_peak("cpu", torch.float32, seconds=0.01, again=True) == pytest.approx(4 * busy)
    took = 8e-3
    assert matrix_peak("cpu", torch.float32, seconds=0.01, again=True) == pytest.approx(4 * busy)  # the best stays


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="seconds = 0"):
        matrix_peak("cpu", torch.float32, seconds=0)
    with pytest.raises(ValueError, match=r"torch\.int64: must be a floating-point type"):
        matrix_peak("cpu", torch.int64)
