"""Trackers equal the integral of their profile; profiles are what the paper says of them."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from unitgain.ema import (
    SIGMA_REL_MAX,
    ExponentialEMA,
    ExponentialProfile,
    PowerEMA,
    PowerProfile,
    gamma_to_sigma_rel,
    sigma_rel_to_gamma,
)


class Weight(nn.Module):
    """One weight that is put anywhere, in any precision, with a buffer beside it."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3, dtype=dtype))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))


def track(tracker, path, dt, t_end):
    module = tracker.module
    for step in range(1, round(t_end / dt) + 1):
        module.w.data.fill_(path(step * dt))
        module.count.fill_(step)
        tracker.update(step * dt, dt)
    return tracker.average["w"][0].item()


# Weights that move along w(t) = (t / T)^k have the power average (gamma + 1) / (gamma + k + 1): the integral of Eq. 1.
# The tracker holds w piecewise constant over a step (C.3), which costs O(dt / T).
@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("k", [0, 1, 2, 5])
def test_power_tracker_is_the_integral_of_its_profile(sigma_rel, k):
    steps, t_end = 2000, 7.0
    tracker = PowerEMA(Weight(), sigma_rel)
    average = track(tracker, lambda t: (t / t_end) ** k, t_end / steps, t_end)
    exact = (tracker.gamma + 1) / (tracker.gamma + k + 1)
    assert average == pytest.approx(exact, abs=2 * max(k, 0.01) / steps)


def test_power_tracker_is_exact_for_its_piecewise_constant_weights():
    steps, dt = 50, 2.0
    tracker = PowerEMA(Weight(), 0.1)
    values = torch.randn(steps).tolist()
    average = track(tracker, lambda t: values[round(t / dt) - 1], dt, steps * dt)
    edges = (np.arange(steps + 1) / steps) ** (tracker.gamma + 1)  # the integral of the profile up to each step
    assert average == pytest.approx(float(np.diff(edges) @ np.array(values)), abs=1e-6)


def test_exponential_tracker_is_the_integral_of_its_profile():
    steps, dt, half_life = 4000, 0.01, 6.0
    module = Weight()
    module.w.data.fill_(2.0)  # the initial state keeps the mass of all that would lie before 0 (C.2)
    tracker = ExponentialEMA(module, half_life)
    t_end = steps * dt
    average = track(tracker, lambda t: t, dt, t_end)
    profile = tracker.profile()
    rate = math.log(2) / half_life
    exact = 2.0 * profile.initial + t_end - (1 - math.exp(-rate * t_end)) / rate
    assert average == pytest.approx(exact, abs=2 * dt)


@pytest.mark.parametrize(
    "profile",
    [PowerProfile.of(3.0, 0.05), PowerProfile.of(3.0, 0.25), PowerProfile(3.0, 0.0), ExponentialProfile(3, 0.4)],
)
def test_profiles_integrate_to_one(profile):
    tau = np.linspace(-1, 4, 500_001)
    mass = np.trapezoid(profile.density(tau), tau) + getattr(profile, "initial", 0.0)
    assert mass == pytest.approx(1, abs=1e-4)
    assert (profile.density(np.array([-0.1, 3.1])) == 0).all()


@pytest.mark.parametrize("sigma_rel", [0.01, 0.05, 0.1, 0.25, 0.288])
def test_sigma_rel_is_the_standard_deviation(sigma_rel):
    profile = PowerProfile.of(1.0, sigma_rel)
    tau = np.linspace(0, 1, 2_000_001)
    density = profile.density(tau)
    mean = np.trapezoid(tau * density, tau)
    assert np.sqrt(np.trapezoid((tau - mean) ** 2 * density, tau)) == pytest.approx(sigma_rel, rel=1e-4)
    assert gamma_to_sigma_rel(sigma_rel_to_gamma(sigma_rel)) == pytest.approx(sigma_rel, rel=1e-9)
    assert profile.sigma_rel == pytest.approx(sigma_rel, rel=1e-9)


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, SIGMA_REL_MAX, 0.5, float("nan")])
def test_unreachable_lengths_are_refused(sigma_rel):
    with pytest.raises(ValueError, match=r"sigma_rel = .* is not in \(0, 0.2887\)"):
        PowerEMA(Weight(), sigma_rel)


def test_initial_weights_count_nothing_and_buffers_are_copied():
    module = Weight()
    module.w.data.fill_(1e6)
    tracker = PowerEMA(module, 0.1)
    assert track(tracker, lambda t: 1.0, 1.0, 3.0) == pytest.approx(1.0, rel=1e-6)
    assert tracker.buffers["count"].item() == 3


def test_low_precision_weights_are_averaged_in_float32():
    # One half plus 2^-12 is not representable in bfloat16, but the average of weights that are must come near it.
    module = Weight(torch.bfloat16)
    tracker = PowerEMA(module, 0.2)
    track(tracker, lambda t: 0.5 if round(t) % 2 else 0.5039, 1.0, 400.0)
    assert tracker.average["w"].dtype == torch.float32
    assert tracker.average["w"][0].item() == pytest.approx(0.502, abs=2e-4)
    assert module.w.dtype == torch.bfloat16


def test_tracker_never_touches_the_model_and_counts_tied_weights_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    tracker = PowerEMA(model, 0.1)
    keys, versions = list(model.state_dict()), [parameter._version for parameter in model.parameters()]
    tracker.update(1.0, 1.0)
    assert list(tracker.average) == ["0.weight"]
    assert list(model.state_dict()) == keys
    assert [parameter._version for parameter in model.parameters()] == versions


@pytest.mark.parametrize(("t", "dt"), [(3.0, 1.0), (1.0, 1.0), (2.0, 2.0), (2.0, 0.0), (1.0, -1.0)])
def test_skipped_and_repeated_updates_are_noticed(t, dt):
    tracker = PowerEMA(Weight(), 0.1)
    tracker.update(1.0, 1.0)
    with pytest.raises(ValueError, match=r"the last one ended at 1\.0"):
        tracker.update(t, dt)


@pytest.mark.parametrize("make", [lambda m: PowerEMA(m, 0.1), lambda m: ExponentialEMA(m, 3.0)])
def test_state_dict_round_trip_goes_on_bit_for_bit(make):
    module = Weight()
    tracker = make(module)
    track(tracker, lambda t: t, 1.0, 5.0)
    other = make(Weight())
    other.load_state_dict(tracker.state_dict())
    for each in (tracker, other):
        each.module.w.data.fill_(9.0)
        each.update(6.0, 1.0)
    assert torch.equal(tracker.average["w"], other.average["w"])
    assert other.t == 6.0
    with pytest.raises(ValueError, match="another module"):
        make(nn.Linear(2, 2)).load_state_dict(tracker.state_dict())
