"""What post-hoc EMA could lose without a word: tensors, files of one name, files of two at once."""

import shutil
import threading

import pytest
import torch
from torch import nn

from unitgain.checkpoint.snapshot import list_snapshots
from unitgain.ema import ExponentialEMA, PowerEMA
from unitgain.ema.names import tracked_names
from unitgain.posthoc import SnapshotStore, reconstruct
from unitgain.posthoc.convert import Source, convert, find_sources
from unitgain.posthoc.targets import parse_lengths


class Cloning(nn.Linear):
    """Its `state_dict` holds copies, as of FSDP1 and of modules that gather what is theirs."""

    def __init__(self, rename: str = ""):
        super().__init__(2, 2)
        self.register_buffer("scale", torch.ones(1))
        self._rename = rename

    def state_dict(self, **options):
        state = super().state_dict(**options)
        return {self._rename + name: one if name == "scale" else one.clone() for name, one in state.items()}


@pytest.mark.parametrize("rename", ["", "inner."])
def test_a_module_whose_state_holds_copies_is_refused_before_anything_is_written(tmp_path, rename):
    with pytest.raises(ValueError, match=r"state_dict.* copies .*weight"):
        SnapshotStore(tmp_path, Cloning(rename), every=1)


def test_a_module_without_a_state_is_refused_and_one_that_leaves_something_out_is_not():
    class Empty(nn.Linear):
        def state_dict(self, **options):
            return {}

    class Partial(nn.Linear):
        def state_dict(self, **options):
            return {"weight": self.weight, "told": torch.ones(3)} if self.bias is None else {"weight": self.weight}

    with pytest.raises(ValueError, match="none of the tensors"):
        tracked_names(Empty(2, 2))
    assert tracked_names(Partial(2, 2)) == {"weight": "weight"}
    assert tracked_names(Partial(2, 2, bias=False)) == {"weight": "weight"}


@pytest.mark.parametrize(
    "emas",
    [
        lambda module: {"emas": module, "track": (0.05, 0.0500000001)},
        lambda module: {"emas": [ExponentialEMA(module, 1_000_001.0), ExponentialEMA(module, 1_000_002.0)]},
    ],
)
def test_lengths_whose_files_have_one_name_are_refused(tmp_path, emas):
    with pytest.raises(ValueError, match="one name"):
        SnapshotStore(tmp_path, every=1, **emas(nn.Linear(2, 2)))


def steps(store, count, dt):
    for _ in range(count):
        t = store.t + dt
        store.update(t, t - store.t)


def test_times_with_fractions_are_given_up_one_by_one_when_a_run_goes_on(tmp_path):
    module = nn.Linear(2, 2)
    store = SnapshotStore(tmp_path, module, every=1, keep=2)
    steps(store, 18, 0.11112)
    assert [one.t for one in list_snapshots(tmp_path)][::2] == pytest.approx([1.00008, 2.00016])
    again = SnapshotStore(tmp_path, module, every=1, keep=2)
    again.load_state_dict(store.state_dict())
    steps(again, 9, 0.11112)
    assert [one.t for one in list_snapshots(tmp_path)][::2] == pytest.approx([2.00016, 3.00024])
    again = SnapshotStore(tmp_path, module, every=1, keep=2)
    again.load_state_dict(store.state_dict())  # from before the last snapshot
    steps(again, 18, 0.11112)
    assert [one.t for one in list_snapshots(tmp_path)][::2] == pytest.approx([3.00024, 4.00032])


def test_a_run_without_its_state_does_not_mix_with_another_that_ended_before(tmp_path):
    module = nn.Linear(2, 2)
    steps(SnapshotStore(tmp_path, module, every=1), 3, 1)
    there = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"choose an empty folder .*load_state_dict.* resumed=True"):
        steps(SnapshotStore(tmp_path, module, every=5), 5, 1)
    assert {path.name for path in tmp_path.iterdir()} == there
    loaded = PowerEMA(module, 0.1)
    loaded.load_state_dict(SnapshotStore(tmp_path, module, every=1, track=[0.1]).emas[0].state_dict() | {"t": 3.0})
    steps(SnapshotStore(tmp_path, [loaded], every=5, resumed=True), 7, 1)
    assert {one.t for one in list_snapshots(tmp_path)} == {1, 2, 3, 5, 10}


def test_times_that_files_cannot_tell_apart_are_refused(tmp_path):
    store = SnapshotStore(tmp_path, nn.Linear(2, 2), every=0.0002)
    with pytest.raises(ValueError, match="thousandths"):
        steps(store, 1, 0.0002)
    store = SnapshotStore(tmp_path, nn.Linear(2, 2), every=0.0008)
    with pytest.raises(ValueError, match="thousandths"):
        steps(store, 9, 0.0008)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert before
    torch.save({"weight": torch.ones(2)}, tmp_path / "one.pt")
    with pytest.raises(ValueError, match="one name"):
        convert([Source(tmp_path / "one.pt", 1.0001), Source(tmp_path / "one.pt", 1.0002)], tmp_path / "converted")
    assert all(path.read_bytes() == data for path, data in before.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\ufefffile,t\none.pt,10\n", None),
        ("file,t\none.pt\n", "needs a file and its time"),
        ("file,t\none.pt,nan\n", "is no time"),
        ("file,t\none.pt,inf\n", "is no time"),
        ("", "it has nothing"),
        ("name,t\none.pt,1\n", "it has name, t"),
    ],
)
def test_tables_of_times(tmp_path, text, message):
    torch.save({"weight": torch.ones(2)}, tmp_path / "one.pt")
    (tmp_path / "times.csv").write_text(text, encoding="utf-8")
    if message is None:
        assert [one.t for one in find_sources(tmp_path, table=tmp_path / "times.csv")] == [10]
        return
    with pytest.raises(ValueError, match=message):
        find_sources(tmp_path, table=tmp_path / "times.csv")


@pytest.mark.parametrize("text", ["0.1:inf:0.1", "0:0.2:1e-9", "nan:0.2:0.1"])
def test_ranges_without_end_are_refused(text):
    with pytest.raises(ValueError, match=text):
        parse_lengths(text)


def test_buffers_that_a_block_replaces_are_there_again_after_it():
    module = nn.Sequential(nn.BatchNorm1d(2))
    ema = PowerEMA(module, 0.1)
    ema.update(1, 1)
    mean, before = module[0].running_mean, module[0].running_mean.clone()
    with ema.switch():
        module[0].running_mean = torch.full((2,), 7.0)
    assert module[0].running_mean is mean and torch.equal(mean, before)


def test_stored_averages_are_never_replaced_by_reconstructions(tmp_path):
    store = SnapshotStore(tmp_path, nn.Linear(2, 2), every=1, dtype="float32")
    steps(store, 8, 1)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match="another folder"):
        reconstruct(tmp_path, [0.05, 0.07], tmp_path)
    copy = shutil.copytree(tmp_path, tmp_path / "copy")
    with pytest.raises(FileExistsError, match=r"0000000008-0\.050\.safetensors .*another folder"):
        reconstruct(tmp_path, [0.05, 0.07], copy)
    shutil.rmtree(copy)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}
    for _ in range(2):
        reconstruct(tmp_path, [0.05, 0.07], tmp_path / "ema", dtype="float32")
    reconstruct(tmp_path, [0.05], tmp_path / "ema")
    assert {path: path.read_bytes() for path in before} == before


def test_two_calls_into_one_folder_wait_for_each_other(tmp_path):
    module = nn.Linear(2, 2)
    steps(SnapshotStore(tmp_path, module, every=1), 20, 1)
    alone = {
        path.name: path.read_bytes() for path in (one.path for one in reconstruct(tmp_path, [0.07], tmp_path / "a"))
    }
    began, others = threading.Event(), []

    def other():
        others.extend(reconstruct(tmp_path, [0.07], tmp_path / "b"))
        began.set()

    thread = threading.Thread(target=other)

    def slow(done, total):
        if not thread.ident:
            thread.start()
            assert not began.wait(1)

    (made,) = reconstruct(tmp_path, [0.07], tmp_path / "b", on_progress=slow)
    thread.join()
    assert others == [made]
    assert {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()} == alone
