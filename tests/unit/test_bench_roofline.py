"""Counts by hand, and floors by arithmetic."""

import pytest
import torch
import torch.nn.functional as F

from unitgain.analysis.cost import network_cost
from unitgain.bench.roofline import Counter, Counts, forward_counts, memory_bandwidth, roofline, step_counts
from unitgain.recipe import trained_parameters


def count(run):
    with torch.no_grad(), Counter() as counter:
        run()
    return counter.counts()


def test_a_convolution_and_what_follows_it():
    x, weight = torch.empty(2, 3, 8, 8, device="meta"), torch.empty(5, 3, 3, 3, device="meta")
    found = count(lambda: F.silu(F.conv2d(x, weight, padding=1)).view(2, -1))
    products, out = 2 * 5 * 64 * 27, 2 * 5 * 64
    moved = 4 * (x.numel() + weight.numel() + out)
    assert (found.multiply_adds, found.bytes) == (products, moved)
    assert found.operations == products + 3 * out
    assert found.bytes_unfused == moved + 4 * 2 * out  # silu reads and writes; a view moves nothing
    assert found.layers == ((products, moved),)


def test_low_precision_moves_half():
    a, b = (torch.empty(4, 4, device="meta", dtype=torch.bfloat16) for _ in range(2))
    assert count(lambda: a @ b).bytes == 2 * 3 * 16
    one_row = torch.empty(1, 4, device="meta").expand(4, 4)  # what is repeated is read once
    assert count(lambda: one_row @ one_row.clone()).bytes == 4 * (4 + 16 + 16)


def test_operations_are_those_of_the_papers(tiny_spec):
    one, four = (forward_counts(tiny_spec, batch, torch.float32) for batch in (1, 4))
    assert one.operations == network_cost(tiny_spec).flops
    assert 0.5 * one.operations < one.multiply_adds < one.operations
    assert four.multiply_adds == 4 * one.multiply_adds
    assert one.bytes < four.bytes < 4 * one.bytes  # weights are read once
    assert forward_counts(tiny_spec, 1, torch.bfloat16).bytes < one.bytes


def test_a_step_is_three_passes_and_the_optimizer(tiny_recipe):
    spec, parameters = tiny_recipe.network, trained_parameters(tiny_recipe)
    whole = step_counts(spec, 8, 8, torch.float32, parameters, 2)
    parts = step_counts(spec, 8, 2, torch.float32, parameters, 2)
    one = forward_counts(spec, 8, torch.float32)
    assert whole.multiply_adds == parts.multiply_adds == 3 * one.multiply_adds
    assert whole.bytes == 3 * one.bytes + 4 * parameters * (6 + 5)
    assert parts.bytes > whole.bytes  # weights are read by each part


def test_floors():
    counts = Counts(operations=130, multiply_adds=120, bytes=60, bytes_unfused=90, layers=((100, 10), (20, 50)))
    found = roofline(counts, peak=10.0, bandwidth=4.0, seconds=40.0)
    assert found.floor == 15.0  # the bytes; products take 12
    assert found.floor_by_layer == 10.0 + 12.5
    assert found.achieved == 3.0
    assert found.share == pytest.approx(0.3)
    assert counts.times(3).multiply_adds == 360
    assert counts.times(3).layers == ((300, 30), (60, 150))
    assert roofline(counts.times(3), 10.0, 4.0, 40.0).floor == 45.0
    assert counts.and_then(counts).bytes_unfused == 180


def test_bandwidth_is_a_rate():
    small, again = memory_bandwidth("cpu", 0.01, 2**22), memory_bandwidth("cpu", 0.01, 2**22)
    assert small == again > 1e8  # measured once, and more than 100 MB/s
