"""The estimate against what a fresh process takes; `benchmarks/memory.py` does it for many configurations."""

import sys
from pathlib import Path

import pytest

from unitgain.train.estimate import estimate, process_bytes

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from memory import Case, measured

WITHIN = 0.15


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and knows the allocator of glibc")
def test_memory_is_within_15_percent_of_what_is_measured():
    case = Case("pixels64-mini", 8, 8)
    process = process_bytes()
    found = estimate(case.recipe, microbatch=case.microbatch, process=process)
    assert found.total - process > WITHIN * found.total  # or the process alone would be right
    assert found.total == pytest.approx(measured(case, returned=False), rel=WITHIN)
