"""Averages in loops of one's own: buffers, fewer updates, an average in the model for a while, and from a file."""

import copy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from unitgain.checkpoint.snapshot import Snapshot, list_snapshots
from unitgain.ema import ExponentialEMA, PowerEMA, PowerProfile, sigma_rel_to_gamma
from unitgain.posthoc import SnapshotStore, load_into, reconstruct


class Net(nn.Module):
    """Normalized, tied, with a constant, a buffer that does not persist, and a part that is really called `module`."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.module = nn.Linear(4, 4, bias=False, dtype=dtype)
        self.norm = nn.BatchNorm1d(4)
        self.tied = nn.Linear(4, 4, bias=False, dtype=dtype)
        self.tied.weight = self.module.weight
        self.register_buffer("positions", torch.arange(4.0))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, x):
        return self.tied(self.norm(self.module(x)) + self.positions)


def train(model, store, steps, start=0):
    """Steps of SGD on random data, the same whenever they are taken."""
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for step in range(start + 1, start + steps + 1):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step)) * (1 + 0.1 * step)
        optimizer.zero_grad()
        (model(x) ** 2).mean().backward()
        optimizer.step()
        store.update(step, 1)


def copied(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(model, state):
    return all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_running_statistics_are_averaged_stored_precisely_and_counters_copied(tmp_path):
    model = Net()
    store = SnapshotStore(tmp_path / "run", model, every=2)
    with torch.no_grad():
        model.norm.running_var.fill_(1e6)  # too much for float16
    direct = PowerEMA(model, 0.15)
    for step in range(40):
        train(model, store, 1, start=step)
        direct.update(step + 1, 1)
    (made,) = reconstruct(tmp_path / "run", [0.15], tmp_path / "out")
    (found,) = list_snapshots(tmp_path / "out")
    assert found.tensor("module.weight").dtype == torch.float16
    assert found.tensor("norm.running_var").dtype == torch.float32
    assert sum(one.nbytes for one in list_snapshots(tmp_path / "run")) == 20 * store.snapshot_bytes
    for name in ("norm.running_mean", "norm.running_var"):
        assert not torch.equal(direct.average[name], model.state_dict()[name])
        torch.testing.assert_close(found.tensor(name), direct.average[name], rtol=2e-2, atol=1e-2)
    assert found.tensor("norm.num_batches_tracked") == 40
    assert found.tensor("positions").tolist() == [0, 1, 2, 3]
    load_into(model, made.path)
    torch.testing.assert_close(model.norm.running_var, found.tensor("norm.running_var"))


@pytest.mark.parametrize(("buffers", "warned"), [("statistics", True), ("copy", False), ("average", False)])
def test_a_buffer_that_changes_is_named_once_where_nobody_knows_it(buffers, warned):
    model = nn.Linear(2, 2)
    model.register_buffer("codebook", torch.zeros(3))
    model.register_buffer("frequencies", torch.ones(3))
    model.register_buffer("weight_u", torch.ones(3))
    ema = PowerEMA(model, 0.1, buffers=buffers)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step in range(1, 20):
            model.codebook.add_(1)
            model.weight_u.add_(1)
            ema.update(step, 1)
    assert len(said) == warned
    assert not warned or ("codebook" in str(said[0].message) and "frequencies" not in str(said[0].message))
    assert ("codebook" in ema.average) is (buffers == "average")


def test_an_average_is_in_the_model_for_a_while_and_leaves_no_trace():
    model = Net(torch.bfloat16).to(torch.bfloat16)
    ema = ExponentialEMA(model, 5.0)
    with pytest.raises(ValueError, match="never updated"), ema.switch():
        pass
    with torch.no_grad():
        for step in range(1, 9):
            model.module.weight.add_(torch.randn_like(model.module.weight))
            model.norm.running_mean.add_(1)
            ema.update(step, 1)
    optimizer, before, state = torch.optim.Adam(model.parameters()), copied(model), copy.deepcopy(ema.state_dict())
    with ema.switch() as inside:
        assert inside is model and model.tied.weight is model.module.weight
        assert torch.equal(model.module.weight, ema.average["module.weight"].to(torch.bfloat16))
        assert torch.equal(model.norm.running_mean, ema.average["norm.running_mean"].to(torch.bfloat16))
    assert same(model, before)
    with pytest.raises(ZeroDivisionError), ema.switch():
        model.module.weight.data.fill_(float("nan"))
        model.train()(torch.ones(3, 4, dtype=torch.bfloat16)).sum().backward()
        optimizer.step()
        raise ZeroDivisionError
    assert same(model, before)
    again = PowerEMA(model, 0.1)
    with ema.switch():
        for wrong in (lambda: ema.update(9, 1), lambda: again.update(1, 1), lambda: ema.switch().__enter__()):
            with pytest.raises(ValueError, match="holds an average"):
                wrong()
    assert same(model, before)
    for part in ("average", "buffers"):
        assert all(torch.equal(state[part][name], one) for name, one in ema.state_dict()[part].items())
    ema.update(9, 1)


def test_a_store_switches_to_the_length_that_is_asked_for_and_takes_in_what_is_missing(tmp_path):
    model = Net()
    store = SnapshotStore(tmp_path, model, every=100, update_every=4)
    train(model, store, 6)
    assert store.t == 6 and store.emas[0].t == 4
    before = copied(model)
    with store.switch(0.1):
        assert store.emas[1].t == 6
        assert torch.equal(model.module.weight, store.emas[1].average["module.weight"])
        for wrong in (store.take, lambda: store.take(raw=True), lambda: store.update(7, 1)):
            with pytest.raises(ValueError, match="holds an average"):
                wrong()
    assert same(model, before)
    with (
        pytest.raises(ValueError, match=r"no average of length 0.2 is tracked; there are 0.05, 0.1"),
        store.switch(0.2),
    ):
        pass
    train(model, store, 1, start=6)
    assert store.t == 7


class Impulses(nn.Module):
    """A weight per step: one-hot where the step is. An average of it is the response of the average to each step."""

    def __init__(self, steps):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(steps, dtype=torch.float64))

    @torch.no_grad()
    def at(self, step):
        self.weight.zero_()
        self.weight[step - 1] = 1


@pytest.mark.parametrize(("update_every", "taken"), [(1, range(1, 21)), (4, [4, 8, 10, 14, 18, 20]), (50, [10, 20])])
def test_with_fewer_updates_each_counts_for_the_integral_of_the_profile_since_the_last(tmp_path, update_every, taken):
    """The response to the weights of each step, by direct simulation, against the masses of the stated profile."""
    steps, model = 20, Impulses(20)
    store = SnapshotStore(tmp_path, [PowerEMA(model, 0.12)], every=10, update_every=update_every)
    for step in range(1, steps + 1):
        model.at(step)
        assert store.update(step, 1) is (step % 10 == 0)
    edges = (np.array([0, *taken]) / steps) ** (sigma_rel_to_gamma(0.12) + 1)
    expected = np.zeros(steps)
    expected[np.array(taken) - 1] = np.diff(edges)
    response = store.emas[0].average["weight"].numpy()
    assert response == pytest.approx(expected, abs=1e-15)
    assert store.emas[0].profile_at(store.t) == PowerProfile(20, sigma_rel_to_gamma(0.12))
    assert response.sum() == pytest.approx(1)
    # Up to each update as much weight as the profile has, so what is late is less than the time between two.
    assert np.cumsum(response)[np.array(taken) - 1] == pytest.approx(edges[1:])


def test_a_run_that_is_resumed_between_two_updates_ends_with_the_same_bytes(tmp_path):
    def begin(folder):
        torch.manual_seed(0)
        model = Net()
        return model, SnapshotStore(tmp_path / folder, model, every=10, update_every=4, dtype="float32")

    model, whole = begin("whole")
    train(model, whole, 20)
    model, first = begin("parts")
    train(model, first, 6)
    weights, state = copied(model), copy.deepcopy(first.state_dict())
    model, second = begin("parts")
    model.load_state_dict(weights)
    second.load_state_dict(state)
    assert second.t == 6
    train(model, second, 14, start=6)
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert len(files) == 4
    for name in files:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_trackers_of_ones_own_bring_their_settings(tmp_path):
    model = Net()
    for wrong in ({"track": (0.2,)}, {"buffers": "copy"}, {"device": "cpu"}, {"update_every": 0}):
        with pytest.raises(ValueError, match=r"trackers have theirs|update_every = 0"):
            SnapshotStore(tmp_path, [PowerEMA(model, 0.1)], every=1, **wrong)
    with pytest.raises(ValueError, match="at least one tracker"):
        SnapshotStore(tmp_path, [], every=1)
    store = SnapshotStore(tmp_path, model, every=1, track=(0.03, 0.2), buffers="copy")
    assert [ema.sigma_rel for ema in store.emas] == [0.03, 0.2] and "norm.running_mean" in store.emas[0].buffers
    store.update(1, 1)
    with pytest.raises(ValueError, match="the last one ended at 1"):
        store.update(3, 1)


@pytest.fixture
def average(tmp_path):
    torch.manual_seed(1)
    model = Net()
    train(model, SnapshotStore(tmp_path / "run", model, every=10, dtype="float32"), 10)
    return tmp_path / "run" / "0000000010-0.100.safetensors"


WRAPS = {
    "plain": lambda model: model,
    "compiled": torch.compile,
    "parallel": nn.DataParallel,
    "both": lambda model: torch.compile(nn.DataParallel(model)),
    "averaged": AveragedModel,
    "averaged inside": lambda model: nn.DataParallel(AveragedModel(torch.compile(model))),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_average_goes_into_a_model_whatever_wraps_it(average, wrap, dtype):
    model = Net().to(dtype)
    wrapped = wrap(model)
    inner = model if not hasattr(wrapped, "n_averaged") else wrapped.module
    inner = wrapped.module.module._orig_mod if hasattr(getattr(wrapped, "module", None), "n_averaged") else inner
    inner.scratch.fill_(7)
    load_into(wrapped, average)
    expected = load_file(average)
    assert all(torch.equal(tensor, expected[name].to(tensor.dtype)) for name, tensor in inner.state_dict().items())
    assert inner.scratch.tolist() == [7, 7] and inner.training and inner.tied.weight is inner.module.weight
    assert inner.module.weight.dtype == dtype and inner.module.weight.requires_grad


class Larger(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.head = Net(), nn.Linear(4, 1)


def test_what_does_not_fit_is_told_and_changes_nothing(average, tmp_path):
    def refused(model, message, file=average, **options):
        before = copied(model)
        with pytest.raises(ValueError, match=message) as raised:
            load_into(model, file, **options)
        assert same(model, before)
        assert str(file) in str(raised.value)

    refused(nn.Linear(4, 4), r"does not fit Linear: it lacks: bias, weight; of no use are: .*module.weight")
    refused(Larger(), r"it lacks: head.bias, .* and 5 more; .*it may be of a part of the model, net: load into")
    wider = Net()
    wider.module.weight = wider.tied.weight = nn.Parameter(torch.zeros(4, 5))
    refused(wider, r"tensor module.weight is real \(4, 4\) in the file and real \(4, 5\) in the model")
    counting = Net()
    counting.positions = torch.arange(4)
    refused(counting, r"tensor positions is real \(4,\) in the file and whole \(4,\)")
    with torch.device("meta"):
        meta = Net()
    with pytest.raises(ValueError, match="has no memory yet"):
        load_into(meta, average)

    refused(Net(), r"no name begins with 'x\.': module\.weight, norm\.bias", prefix="x.")
    with pytest.raises(FileNotFoundError, match="is a folder: name one"):
        load_into(Net(), average.parent)

    untied = Net()
    untied.tied = nn.Linear(4, 4, bias=False)
    load_into(untied, average)  # a model that does not tie them has both
    train(untied, SnapshotStore(tmp_path / "untied", untied, every=5), 5)
    refused(Net(), "tied to another one in the model", next((tmp_path / "untied").iterdir()))
    larger = Larger()
    store = SnapshotStore(tmp_path / "larger", larger, every=1)
    store.update(1, 1)
    file = Path(list_snapshots(tmp_path / "larger")[0].path)
    refused(Net(), r'may be of a larger module: load_into\(\.\.\., prefix="net."\)', file)
    model = Net()
    load_into(model, file, prefix="net.")
    assert torch.equal(model.module.weight, Snapshot(file).tensor("net.module.weight").float())
    with torch.no_grad():
        larger.net.norm.running_var.fill_(1e6)
    half = SnapshotStore(tmp_path / "wide", larger.net, every=1)
    half.update(1, 1)
    wide = list_snapshots(tmp_path / "wide")[0].path
    refused(Net().half(), "running_var has values that are not finite in torch.float16", wide)
    with torch.no_grad():
        larger.net.norm.running_var.fill_(-1)
    store.update(2, 1)
    refused(Net(), "variances below 0", list_snapshots(tmp_path / "larger")[-1].path, prefix="net.")
