"""Parity of gamma, beta, learning rates and post-hoc weights with the reference implementation."""

import json

import numpy as np
import pytest
import torch
from conftest import GOLDEN

from unitgain.ema import PowerEMA, PowerProfile, gamma_to_sigma_rel, sigma_rel_to_gamma
from unitgain.posthoc import solve
from unitgain.recipes import DIGITS

RECORDED = json.loads((GOLDEN / "posthoc.json").read_text())


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(float(k), v) for k, v in RECORDED["gamma"].items()])
def test_gamma(sigma_rel, gamma):
    assert sigma_rel_to_gamma(sigma_rel) == pytest.approx(gamma, rel=1e-6)
    assert gamma_to_sigma_rel(gamma) == pytest.approx(sigma_rel, rel=1e-9)


@pytest.mark.parametrize("row", RECORDED["beta"])
def test_beta(row):
    tracker = PowerEMA(torch.nn.Linear(1, 1), row["sigma_rel"])
    assert tracker.beta(row["nimg_next"], row["batch"]) == pytest.approx(row["beta"], rel=1e-6, abs=1e-15)


@pytest.mark.parametrize("row", RECORDED["learning_rate"])
def test_learning_rate(row):
    recipe = DIGITS.replace(
        batch=row["batch"],
        duration=row["batch"],
        snapshot_every=row["batch"],
        lr=row["ref_lr"],
        t_ref=row["ref_batches"],
        rampup=round(row["rampup_Mimg"] * 1e6),
    )
    assert recipe.learning_rate(row["nimg"]) == pytest.approx(row["lr"], rel=1e-6)


@pytest.mark.parametrize("row", RECORDED["reconstruction"])
def test_normalized_weights(row):
    snapshots = [
        PowerProfile.of(t, sigma_rel)
        for t, sigma_rel in zip(row["snapshot_nimg"], row["snapshot_sigma_rel"], strict=True)
    ]
    targets = [PowerProfile.of(row["target_nimg"], sigma_rel) for sigma_rel in row["target_sigma_rel"]]
    weights = solve(snapshots, targets)
    np.testing.assert_allclose(weights.matrix, np.array(row["normalized_weights"]), rtol=0, atol=1e-6)
