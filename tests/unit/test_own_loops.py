"""Post-hoc EMA in loops as people write them: what goes on from a checkpoint, what changes midway, odd tensors."""

import io
import math

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn

import unitgain
from unitgain.checkpoint.facts import SnapshotError
from unitgain.checkpoint.snapshot import Snapshot, list_snapshots
from unitgain.ema import ExponentialEMA, PowerEMA
from unitgain.hooks import lightning as lightning_hook
from unitgain.posthoc import SnapshotStore, load_into, reconstruct
from unitgain.posthoc.convert import Source, convert, find_sources
from unitgain.posthoc.foreign import read_state


@pytest.fixture
def as_users(monkeypatch):
    """Types are not checked, as outside of tests."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def constant(value=1.0):
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, value)
    return module


def steps(store, count, dt=1.0):
    for _ in range(count):
        t = store.t + dt
        store.update(t, t - store.t)


def times(folder):
    return sorted({one.t for one in list_snapshots(folder)})


# Going on


@pytest.mark.parametrize("by", ["state", "resumed"])
def test_nothing_is_left_of_a_training_that_was_given_up(tmp_path, by):
    """Snapshots after the checkpoint, and before the first one after it, were averages of other weights."""
    module = constant()
    store = SnapshotStore(tmp_path / "run", module, every=10, dtype="float32")
    steps(store, 105)
    saved = store.state_dict() | {"emas": [ema.state_dict() for ema in store.emas]}
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    nn.init.constant_(module.weight, 9.0)
    steps(store, 55)
    assert times(tmp_path / "run")[-1] == 160
    module = constant()
    saved = torch.load(io.BytesIO(buffer.getvalue()))
    if by == "state":
        store = SnapshotStore(tmp_path / "run", module, every=50, dtype="float32")
        store.load_state_dict(saved)
    else:
        emas = [PowerEMA(module, length) for length in (0.05, 0.10)]
        for ema, own in zip(emas, saved["emas"], strict=True):
            ema.load_state_dict(own)
        store = SnapshotStore(tmp_path / "run", emas, every=50, dtype="float32", resumed=True)
    steps(store, 45)
    assert times(tmp_path / "run") == [*range(10, 101, 10), 150]
    (result,) = reconstruct(tmp_path / "run", 0.2, tmp_path / "out", dtype="float32")
    assert Snapshot(result.path).tensor("weight").item() == pytest.approx(1.0, abs=1e-6)


def test_trackers_without_their_state_delete_nothing(tmp_path):
    module = constant()
    steps(SnapshotStore(tmp_path, module, every=10), 50)
    again = SnapshotStore(tmp_path, module, every=10, resumed=True)
    with pytest.raises(ValueError, match="of this one without its state"):
        steps(again, 1)
    assert times(tmp_path) == [10, 20, 30, 40, 50]


def test_a_folder_of_another_run_is_told_at_the_first_step(tmp_path):
    steps(SnapshotStore(tmp_path, constant(), every=10), 10)
    with pytest.raises(ValueError, match="of another run"):
        steps(SnapshotStore(tmp_path, constant(), every=1000), 1)


@pytest.mark.parametrize(
    "other",
    [
        lambda module: {"emas": module, "track": (0.1, 0.05)},
        lambda module: {"emas": module, "track": (0.05, 0.25)},
        lambda module: {"emas": [PowerEMA(module, 0.05), ExponentialEMA(module, 100.0)]},
    ],
)
def test_the_state_of_other_lengths_is_refused_and_changes_nothing(tmp_path, other):
    module = constant()
    store = SnapshotStore(tmp_path / "a", module, every=10, track=(0.05, 0.10))
    steps(store, 5)
    store = SnapshotStore(tmp_path / "b", every=10, **other(module)), store.state_dict()
    with pytest.raises(ValueError, match="this EMA state is of"):
        store[0].load_state_dict(store[1])
    assert store[0].t == 0 and all(ema.t == 0 for ema in store[0].emas)


def test_states_from_before_lengths_were_told_are_taken(tmp_path):
    module = constant()
    store = SnapshotStore(tmp_path, module, every=10)
    steps(store, 5)
    old = [{key: value for key, value in ema.items() if key != "profile"} for ema in store.state_dict()["emas"]]
    again = SnapshotStore(tmp_path, module, every=10)
    again.load_state_dict({"emas": old})
    assert again.t == 5


def test_what_is_no_state_is_refused(tmp_path, as_users):
    module = constant()
    store = SnapshotStore(tmp_path, module, every=10)
    with pytest.raises(ValueError, match="no state of a store"):
        store.load_state_dict(module.state_dict())
    with pytest.raises(ValueError, match="no state of an EMA"):
        store.emas[0].load_state_dict(module.state_dict())
    with pytest.raises(ValueError, match="module or trackers"):
        SnapshotStore(tmp_path, module.state_dict(), every=1)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("then", [torch.compile, nn.DataParallel, lambda module: module])
@pytest.mark.parametrize("now", [torch.compile, nn.DataParallel, lambda module: module])
def test_a_state_goes_on_under_other_wrappers(tmp_path, then, now):
    first = SnapshotStore(tmp_path, then(constant(2.0)), every=10)
    steps(first, 5)
    again = SnapshotStore(tmp_path, now(constant(3.0)), every=10)
    again.load_state_dict(first.state_dict())
    assert [tensor.item() for tensor in again.emas[0].average.values()] == [2.0]


def test_times_of_numpy_can_be_saved(tmp_path, as_users):
    store = SnapshotStore(tmp_path, constant(), every=100, update_every=4)
    for t in np.arange(1, 7):
        store.update(t, np.int64(1))
    torch.save(store.state_dict(), tmp_path / "state.pt")
    again = SnapshotStore(tmp_path / "again", constant(), every=100, update_every=4)
    again.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert again.t == 6


def test_a_step_that_is_refused_can_be_tried_again(tmp_path):
    module = constant()
    store = SnapshotStore(tmp_path, module, every=100)
    steps(store, 1)
    kept, module.weight = module.weight, nn.Parameter(torch.ones(2, 2))
    with pytest.raises(ValueError, match="has changed"):
        store.update(2, 1)
    module.weight = kept
    store.update(2, 1)
    assert store.t == store.emas[0].t == 2


def test_the_end_is_stored_once(tmp_path):
    store = SnapshotStore(tmp_path, constant(), every=10)
    store.close()
    assert not list(tmp_path.iterdir())
    steps(store, 10)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    store.close()
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    steps(store, 5)
    store.close()
    assert times(tmp_path) == [10, 15]


# Tensors


def test_a_tensor_that_takes_another_shape_is_told():
    module = nn.Embedding(3, 2)
    ema = PowerEMA(module, 0.1)
    ema.update(1, 1)
    before = ema.average["weight"].clone()
    for rows in (1, 4):
        module.weight = nn.Parameter(torch.full((rows, 2), 7.0))
        with pytest.raises(ValueError, match="has changed since its EMA was made, in weight"):
            ema.update(2, 1)
    assert torch.equal(ema.average["weight"], before)


class Cached(nn.Linear):
    """A cache that grows with the longest sequence, as of rotary positions."""

    def __init__(self):
        super().__init__(2, 2)
        self.register_buffer("cache", torch.zeros(1), persistent=False)

    def grow(self, size):
        self.cache = torch.arange(float(size))


def test_buffers_that_do_not_persist_may_grow_and_are_left_as_they_are(tmp_path):
    module = Cached()
    store = SnapshotStore(tmp_path, module, every=2)
    steps(store, 1)
    module.grow(5)
    steps(store, 1)
    with store.switch():
        assert torch.equal(module.cache, torch.arange(5.0))
        module.cache.add_(1)
    assert torch.equal(module.cache, torch.arange(5.0))
    assert "cache" not in store.emas[0].buffers and "cache" not in Snapshot(next(tmp_path.glob("*.safetensors"))).names
    state = store.state_dict()
    state["emas"][0]["buffers"]["cache"] = torch.zeros(9)  # as states of before have it
    SnapshotStore(tmp_path, Cached(), every=2).load_state_dict(state)


class Masked(nn.Linear):
    """Buffers of transformers, and one of nothing."""

    def __init__(self):
        super().__init__(2, 2)
        self.register_buffer("mask", torch.full((2, 2), -math.inf).triu(1))
        self.register_buffer("none", torch.zeros(0))
        self.register_buffer("count", torch.zeros(0, dtype=torch.int64))


def test_masks_and_empty_buffers_are_stored_reconstructed_and_loaded(tmp_path):
    module = Masked()
    store = SnapshotStore(tmp_path / "run", module, every=2, dtype="float32")
    steps(store, 40)
    (result,) = reconstruct(tmp_path / "run", [0.1], tmp_path / "out", dtype="float32")
    other = Masked()
    other.mask.zero_()
    load_into(other, result.path)
    assert torch.equal(other.mask, module.mask) and other.none.shape == (0,)
    torch.testing.assert_close(other.weight, module.weight)
    with torch.no_grad():
        module.weight[0, 0] = math.inf
    with pytest.raises(SnapshotError, match="tensor weight holds values that are not finite"):
        steps(store, 2)


def test_a_patterns_length_of_what_is_copied_is_refused(tmp_path):
    from unitgain.posthoc.targets import Length, Target

    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    steps(SnapshotStore(tmp_path / "run", module, every=2), 40)
    target = Target(sigma_rel=0.1, overrides={"1.num_batches_tracked": Length(sigma_rel=0.05)})
    with pytest.raises(ValueError, match="no averaged tensor"):
        reconstruct(tmp_path / "run", [target], tmp_path / "out")


# What is told at once


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metadata": {"lr": 0.1}}, "'lr' is 0.1, write it as text"),
        ({"keep": "last"}, "keep = 'last'"),
        ({"keep": None}, "keep = None"),
        ({"keep": 2.5}, "keep = 2.5"),
        ({"lengths": (0.5,)}, "sigma_rel = 0.5"),
        ({"every": math.inf}, "every = inf"),
        ({"update_every": math.nan}, "update_every = nan"),
        ({"update_every": 2.5}, "update_every = 2.5"),
    ],
)
def test_options_that_cannot_be_are_told_before_training(tmp_path, as_users, options, words):
    with pytest.raises(ValueError) as caught:
        SnapshotStore(tmp_path, constant(), **{"every": 10, **options})
    assert words in str(caught.value)


def test_tensors_that_no_file_holds_are_told_before_training(tmp_path):
    module = constant()
    module.register_buffer("wide", torch.zeros(1, dtype=torch.complex128))
    with pytest.raises(ValueError, match=r"tensor wide has dtype torch\.complex128"):
        SnapshotStore(tmp_path, module, every=1)


def test_a_half_life_of_numpy_is_a_number(tmp_path, as_users):
    store = SnapshotStore(tmp_path, [ExponentialEMA(constant(), np.int64(5))], every=2)
    steps(store, 2)
    assert list_snapshots(tmp_path)[0].facts["profile"] == {"kind": "exponential", "half_life": 5}


def test_one_length_may_be_given_as_a_number(tmp_path):
    steps(SnapshotStore(tmp_path / "run", constant(), every=2, track=0.1), 40)
    assert len(reconstruct(tmp_path / "run", 0.1, tmp_path / "out")) == 1


def test_averages_are_not_written_among_what_they_are_made_of(tmp_path):
    steps(SnapshotStore(tmp_path / "run" / "snapshots", constant(), every=2), 40)
    for run, out in (("run", "run/snapshots"), ("run/snapshots", "run/snapshots")):
        with pytest.raises(FileExistsError, match="holds the snapshots"):
            reconstruct(tmp_path / run, [0.2], tmp_path / out)
    assert len(reconstruct(tmp_path / "run", [0.2], tmp_path / "run" / "ema")) == 1


def test_hooks_know_the_names_of_a_store(tmp_path):
    hook = lightning_hook.PostHocEMA(tmp_path, every=1, track=(0.08,), lengths=(0.1,))
    store = hook._open(constant())
    assert [ema.sigma_rel for ema in store.emas] == [0.08] and store.lengths == (0.1,)


# Checkpoints of others


def saved(folder, *names, **tensors):
    folder.mkdir(exist_ok=True)
    for name in names:
        torch.save({"weight": torch.ones(2), **tensors}, folder / name)
    return folder


def test_steps_and_epochs_do_not_mix(tmp_path):
    folder = saved(tmp_path / "a", "model_epoch_1.pt", "model_epoch_2.pt", "model_step_1000.pt")
    with pytest.raises(ValueError, match=r"tells a step and .* an epoch"):
        find_sources(folder)
    assert [one.t for one in find_sources(folder, r"epoch_(\d+)")] == [1, 2]
    both = saved(tmp_path / "b", "epoch=1-step=10.pt", "epoch=2-step=20.pt")
    assert [one.t for one in find_sources(both)] == [10, 20]


def test_a_name_with_optimal_in_it_is_no_optimizer(tmp_path):
    folder = saved(tmp_path / "a", "optimal_step_100.pt", "optimizer_step_100.pt", "step_200.pt")
    assert [one.t for one in find_sources(folder)] == [100, 200]


def test_options_that_do_nothing_are_refused(tmp_path):
    folder = saved(tmp_path / "a", "step_1.pt")
    (tmp_path / "times.csv").write_text("file,t\nstep_1.pt,5\n")
    with pytest.raises(ValueError, match="give one of them"):
        find_sources(folder, r"(\d+)", tmp_path / "times.csv")
    with pytest.raises(ValueError, match=r"no name begins with 'net\.'"):
        read_state(folder / "step_1.pt", strip="net.")


def test_small_variances_stay_in_converted_snapshots(tmp_path):
    folder = saved(tmp_path / "a", "step_1.pt", **{"bn.running_var": torch.full((2,), 1e-9)})
    (path,) = convert([Source(folder / "step_1.pt", 1)], tmp_path / "out", dtype="float16")
    with Snapshot(path) as snapshot:
        assert snapshot.tensor("bn.running_var").dtype == torch.float32
        assert snapshot.tensor("weight").dtype == torch.float16


def test_what_is_here_is_asked_for_no_revision(tmp_path):
    (path,) = convert([Source(saved(tmp_path / "a", "step_1.pt") / "step_1.pt", 1)], tmp_path / "out")
    for what, options in ((path, {"revision": "main"}), (path, {"file": "other.safetensors"})):
        with pytest.raises(ValueError, match="is on this machine"):
            unitgain.load(what, **options)
    with pytest.raises(ValueError, match="dtype of its own"):
        unitgain.save_pretrained(path, tmp_path / "model", dtype="bfloat16")
