"""Trackers: against the definition of an average, for every kind of module, and their guards."""

import copy

import numpy as np
import pytest
import torch
from conftest import relative_error
from torch import nn

from unitgain.ema import DensityProfile, ExponentialEMA, PowerEMA, PowerProfile, UniformProfile


def small(dtype=torch.float32):
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).to(dtype)


@torch.no_grad()
def shake(module):
    for parameter in module.parameters():
        parameter.add_(torch.randn_like(parameter))


@pytest.mark.parametrize("make", [lambda m: PowerEMA(m, 0.1), lambda m: ExponentialEMA(m, 7.0)])
@pytest.mark.parametrize("dt", [1, 0.37])
def test_average_is_the_integral_of_the_profile_over_piecewise_constant_weights(make, dt):
    """Eq. 113: theta_hat is the sum over steps of theta times the mass of the profile on the step."""
    module = small(torch.float64)
    ema = make(module)
    history = [module[0].weight.detach().clone()]
    for step in range(30):
        shake(module)
        history.append(module[0].weight.detach().clone())
        ema.update((step + 1) * dt, dt)
    profile = ema.profile_at(ema.t)
    if isinstance(ema, PowerEMA):
        edges = (np.arange(31) / 30) ** (profile.gamma + 1)
        initial = 0.0
    else:
        edges = 2 ** ((np.arange(31) - 30) * dt / profile.half_life)
        initial = profile.initial
    masses = [initial, *np.diff(edges)]
    assert sum(masses) == pytest.approx(1)
    expected = sum(mass * theta for mass, theta in zip(masses, history, strict=True))
    assert relative_error(ema.tensors()["0.weight"], expected) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_parameters_accumulate_in_float32(dtype):
    """In the parameters' own precision, steps of 1e-3 of the way would round away to nothing."""
    module = nn.Linear(64, 64).to(dtype)
    ema = ExponentialEMA(module, 1000.0)
    reference = nn.Linear(64, 64, dtype=torch.float64)
    start = module.weight.detach().double()
    with torch.no_grad():
        module.weight.add_(0.25)
        reference.weight.copy_(module.weight)
    for step in range(200):
        ema.update(step + 1, 1)
    expected = start + (reference.weight.detach() - start) * (1 - 2 ** (-200 / 1000))
    assert ema.average["weight"].dtype == torch.float32
    assert relative_error(ema.average["weight"].double(), expected) < 1e-5


def test_buffers_are_copied_or_averaged_as_asked():
    module = small()
    copied, averaged = PowerEMA(module, 0.1, buffers="copy"), PowerEMA(module, 0.1, buffers="average")
    for step in range(5):
        module[1].running_mean.fill_(float(step))
        module[1].num_batches_tracked.fill_(step)
        copied.update(step + 1, 1)
        averaged.update(step + 1, 1)
    assert copied.buffers["1.running_mean"].tolist() == [4.0] * 4
    assert "1.running_mean" in averaged.average
    assert 3 < averaged.average["1.running_mean"][0] < 4
    assert averaged.buffers["1.num_batches_tracked"] == 4


def test_tied_weights_count_once_and_the_module_does_not_see_the_tracker():
    module = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    module["b"].weight = module["a"].weight
    before, state = copy.deepcopy(module.state_dict()), set(module.state_dict())
    ema = PowerEMA(module, 0.1)
    assert set(ema.average) == {"a.weight", "a.bias", "b.bias"}
    ema.update(1, 1)
    assert set(module.state_dict()) == state
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in before.items())


def test_state_round_trip_continues_bit_for_bit():
    torch.manual_seed(5)
    module = small()
    one = PowerEMA(module, 0.05)
    for step in range(4):
        shake(module)
        one.update(step + 1, 1)
    other = PowerEMA(module, 0.05)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    shake(module)
    for ema in (one, other):
        ema.update(5, 1)
    assert all(torch.equal(a, other.tensors()[name]) for name, a in one.tensors().items())
    with pytest.raises(ValueError, match="belongs to another module"):
        PowerEMA(nn.Linear(2, 2), 0.05).load_state_dict(one.state_dict())


def test_updates_behind_the_computation_equal_updates_in_place():
    """The path of `device="cpu"` for a module elsewhere: staging copies, then a thread; run here on one device."""
    module = small()
    plain, behind = PowerEMA(module, 0.1), PowerEMA(module, 0.1, device="cpu")
    for step in range(10):
        shake(module)
        plain.update(step + 1, 1)
        averaged, copied = behind._sources()
        behind._update_elsewhere(averaged, copied, 1 - behind.beta(step + 1, 1))
        behind.t = float(step + 1)
        with torch.no_grad():  # the module moves on at once; what was staged must not
            module[0].weight.mul_(1.0)
    assert all(torch.equal(tensor, behind.tensors()[name]) for name, tensor in plain.tensors().items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_averages_on_the_cpu_of_a_module_on_the_gpu():
    module = small().cuda()
    there, here = PowerEMA(module, 0.1), PowerEMA(module, 0.1, device="cpu")
    for step in range(20):
        shake(module)
        there.update(step + 1, 1)
        here.update(step + 1, 1)
    for name, tensor in here.tensors().items():
        assert tensor.device.type == "cpu"
        torch.testing.assert_close(tensor, there.tensors()[name].cpu())


def test_skipped_and_repeated_updates_are_refused():
    ema = PowerEMA(small(), 0.1)
    ema.update(10, 10)
    for t, dt in ((30, 10), (10, 10), (20, 0), (20, -10)):
        with pytest.raises(ValueError, match="the last one ended at 10"):
            ema.update(t, dt)
    ema.update(20, 10)


def test_a_forgotten_update_is_told():
    module = small()
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    ema = PowerEMA(module, 0.1)
    ema.guard(optimizer)
    optimizer.step()
    ema.update(1, 1)
    optimizer.step()
    with pytest.raises(RuntimeError, match="2 optimizer steps since the last EMA update"):
        optimizer.step()
    fresh = PowerEMA(module, 0.1)
    with pytest.raises(ValueError, match="never updated"):
        fresh.tensors()


def test_modules_that_cannot_be_tracked_or_change_are_refused():
    with pytest.raises(ValueError, match="no floating parameters"):
        PowerEMA(nn.ReLU(), 0.1)
    with torch.device("meta"):
        meta = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="meta device"):
        PowerEMA(meta, 0.1)
    module = small()
    ema = PowerEMA(module, 0.1)
    module.append(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"has changed since its EMA was made, in 3\.bias"):
        ema.update(1, 1)


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 0.2887, 0.5, float("nan")])
def test_lengths_out_of_range(sigma_rel):
    with pytest.raises(ValueError, match="sigma_rel"):
        PowerEMA(small(), sigma_rel)


def test_profiles_that_make_no_sense():
    for make in (
        lambda: PowerProfile(0.0, 1.0),
        lambda: PowerProfile(1.0, -0.1),
        lambda: UniformProfile(2.0, 1.0),
        lambda: ExponentialEMA(small(), 0.0),
        lambda: DensityProfile(1.0, lambda tau: tau[:1]).density(np.linspace(0.1, 1, 3)),
    ):
        with pytest.raises(ValueError, match=r"needs|must"):
            make()
