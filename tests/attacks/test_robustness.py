"""Mutated files of every kind that is read, a few of each; `benchmarks/robustness.py` tries many."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import robustness

SHORT = ("reference (.npz)", "header of a snapshot, sealed", "tensors of a checkpoint", "stats.jsonl of a run")
SHORT += ("stacked arrays with conditions (.npz)", "table with conditions (.jsonl)")
SHORT += ("conditions beside pictures (tar)", "shard of arrays with conditions, sealed")


@pytest.mark.parametrize("name", SHORT)
def test_mutated_files_end_in_what_is_documented(name):
    result = robustness.fuzz(name, seed=1, mutations=40)
    assert not result["failures"]
    assert result["opened"] + result["refused"] == 40


def test_failures_are_seen():
    """The limits, kills and payloads that are to be 0 are counted when they occur."""
    result = robustness.fuzz("what is wrong", seed=0, mutations=5)
    assert [result[kind] for kind in ("executed", "killed", "limit", "other", "opened")] == [1, 1, 1, 1, 1]
