"""The committed loss curve; `python benchmarks/loss_curve.py --update "why"` replaces it."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import loss_curve
from arguments import RESULTS


def test_the_loss_curve_is_the_committed_one():
    committed = loss_curve.read(RESULTS)
    found = loss_curve.measure()
    assert not loss_curve.differences(found, committed), f"with torch {found['torch']} on {found['processor']}"
    assert all(sum(curve["loss"][-4:]) < 0.85 * sum(curve["loss"][:4]) for curve in committed)  # of a run that learns
    assert all(curve["torch"] in (RESULTS / loss_curve.LOG).read_text() for curve in committed)


def test_another_number_is_noticed():
    def curve(*loss, torch="1", processor="a"):
        return {"torch": torch, "processor": processor, "loss": list(loss)}

    committed = [curve(2.0, 1.0), curve(2.0, 1.000001, processor="b")]
    assert not loss_curve.differences(committed[0], committed)
    assert not loss_curve.differences(committed[1], committed)
    assert loss_curve.differences(curve(2.0, 1.0000001), committed) == ["step 2: 1.0000001 instead of 1.0"]
    assert loss_curve.differences(curve(2.0, 1.0, processor="b"), committed)
    assert not loss_curve.differences(curve(2.0, 1.000001, processor="c"), committed)
    assert loss_curve.differences(curve(2.0, 1.0001, processor="c"), committed)
    assert not loss_curve.differences(curve(2.0, 1.0001, torch="2"), committed)
    assert loss_curve.differences(curve(2.0, 1.1, torch="2"), committed)
    assert loss_curve.differences(curve(2.0), committed)
