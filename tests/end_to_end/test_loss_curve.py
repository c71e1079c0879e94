"""The committed loss curve; `python benchmarks/loss_curve.py --update "why"` replaces it."""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import loss_curve


def test_the_loss_curve_is_the_committed_one():
    committed = json.loads(loss_curve.CURVE.read_text())
    found = loss_curve.measure()
    assert not loss_curve.differences(found, committed), f"with torch {found['torch']}"
    assert sum(committed["loss"][-4:]) < 0.85 * sum(committed["loss"][:4])  # of a run that learns
    assert committed["torch"] in loss_curve.LOG.read_text()


def test_any_other_number_is_noticed():
    curve = {"torch": "1", "loss": [2.0, 1.0]}
    assert not loss_curve.differences(curve, curve)
    assert loss_curve.differences({"torch": "1", "loss": [2.0, 1.0000001]}, curve) == [
        "step 2: 1.0000001 instead of 1.0"
    ]
    assert not loss_curve.differences({"torch": "2", "loss": [2.0, 1.0000001]}, curve)
    assert loss_curve.differences({"torch": "2", "loss": [2.0, 1.1]}, curve)
    assert loss_curve.differences({"torch": "1", "loss": [2.0]}, curve)
