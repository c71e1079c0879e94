"""The arithmetic of scaling, and that docs/scaling.md is what benchmarks/scaling.py writes."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import scaling
from unitgain.analysis.scaling import Shapes, padded, state_bytes, traffic, working_bytes

SHAPES = Shapes(blocks=((torch.Size([10, 3]), torch.Size([])), (torch.Size([4, 5]),)), rest=(torch.Size([1, 6]),))


def test_the_page_is_what_the_script_writes():
    text = scaling.PAGE.read_text()
    for gpus in (8, 1024):
        assert scaling.row("edm2-img512-s", gpus) in text


def test_rows_are_filled_up_and_scalars_stay_whole():
    assert padded(SHAPES.all, 1) == 30 + 20 + 6
    assert padded(SHAPES.all, 4) == 12 * 3 + 4 * 5 + 4 * 6
    assert state_bytes(SHAPES, 4, shard=True, averages=2) == 4 * 6 * (9 + 5 + 6 + 1)
    assert state_bytes(SHAPES, 4, shard=False, averages=2) == 4 * 6 * 57
    assert working_bytes(SHAPES, shard=True) == 4 * (2 * 6 + 4 * 31)


def test_a_ring_sends_a_sum_twice():
    ddp = traffic(SHAPES, 4, shard=False)
    assert ddp.sent(4) == pytest.approx(2 * 3 / 4 * 4 * 57)
    once, twice = (traffic(SHAPES, 2, shard=True, passes=passes) for passes in (1, 2))
    assert twice.gathered == 2 * once.gathered == 2 * 4 * (2 * (30 + 20) + 2 * 6)
    assert twice.scattered == once.scattered
