"""Store, reconstruction and conversion: whole or not there, right or refused."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import relative_error
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

import unitgain
from unitgain.checkpoint.facts import facts_of
from unitgain.checkpoint.snapshot import SnapshotError, list_snapshots
from unitgain.checkpoint.writer import Writer, write_average
from unitgain.cli.main import main
from unitgain.ema import RAW, ExponentialEMA, PowerEMA, describe, file_name
from unitgain.native import can_combine
from unitgain.posthoc import Length, SnapshotStore, Target, estimate, fit_errors, plan, reconstruct, stream
from unitgain.posthoc.convert import convert, find_sources
from unitgain.posthoc.foreign import read_state
from unitgain.posthoc.memory import combine
from unitgain.posthoc.thin import errors, thin

PWRITE = os.pwrite


def network():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(40, 500), nn.BatchNorm1d(500), nn.Linear(500, 3))
    module[1].register_buffer("steps", torch.tensor(0))
    return module


@torch.no_grad()
def walk(module, store, steps, others=()):
    """Weights on a smooth random path."""
    generator = torch.Generator().manual_seed(int(store.t) + 1)
    for _ in range(steps):
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        module[1].running_mean.add_(1.0)
        module[1].steps.add_(1)
        store.update(store.t + 1, 1)
        for other in others:
            other.update(store.t, 1)


@pytest.fixture
def run(tmp_path):
    module = network()
    store = SnapshotStore(tmp_path / "run", module, every=10, dtype="float32")
    walk(module, store, 160)
    return tmp_path / "run"


@pytest.fixture(params=["C", "PyTorch"])
def product(request, monkeypatch):
    """By which of the two the products of a reconstruction are made."""
    if request.param == "PyTorch":
        monkeypatch.setattr(stream, "can_combine", lambda _: False)
    else:
        assert can_combine([torch.float32])


def damage(path, change):
    data = bytearray(path.read_bytes())
    path.write_bytes(change(data))


def test_reconstruction_equals_direct_tracking(tmp_path, product):
    module = network()
    store = SnapshotStore(tmp_path / "run", module, every=5, dtype="float32", shard_bytes=50_000)
    direct = [PowerEMA(module, 0.075), PowerEMA(module, 0.15), ExponentialEMA(module, 25.0)]
    walk(module, store, 200, direct)
    targets = [0.075, Length(gamma=direct[1].gamma), Length(half_life=25.0)]
    done = []
    results = reconstruct(
        tmp_path / "run", targets, tmp_path / "out", dtype="float32", on_progress=lambda *a: done.append(a)
    )
    for ema, result in zip(direct, results, strict=True):
        tensors = load_file(result.path)
        for name, average in ema.average.items():
            assert relative_error(tensors[name], average) < 5e-3
        assert torch.equal(tensors["1.num_batches_tracked"], ema.buffers["1.num_batches_tracked"])  # copied
    total = sum(average.nbytes for average in list_snapshots(tmp_path / "run"))
    assert done[-1][0] == done[-1][1]
    assert 0.95 * total < done[-1][1] <= total  # each byte once, buffers of one snapshot only


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_both_products_give_the_same(tmp_path, monkeypatch, dtype):
    module = network()
    store = SnapshotStore(tmp_path / "run", module, every=10, dtype=dtype)
    walk(module, store, 100)
    fast = reconstruct(tmp_path / "run", [0.07, 0.1, 0.2], tmp_path / "fast", dtype="float32")
    monkeypatch.setattr(stream, "can_combine", lambda _: False)
    plain = reconstruct(tmp_path / "run", [0.07, 0.1, 0.2], tmp_path / "plain", dtype="float32")
    for one, other in zip(fast, plain, strict=True):
        found, expected = load_file(one.path), load_file(other.path)
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-5)


def test_lengths_by_pattern_and_sharded_output(run, tmp_path):
    target = Target(sigma_rel=0.15, overrides={"2.*": Length(sigma_rel=0.07), "2.bias": Length(sigma_rel=0.2)})
    (mixed,) = reconstruct(run, [target], tmp_path / "mixed", dtype="float32", shard_bytes=40_000)
    plain = reconstruct(run, [0.15, 0.07, 0.2], tmp_path / "plain", dtype="float32")
    (average,) = list_snapshots(tmp_path / "mixed")
    assert len(average.paths) > 1 and mixed.path == average.path
    found = {name: tensor for path in average.paths for name, tensor in load_file(path).items()}
    for name, index in (("0.weight", 0), ("2.weight", 1), ("2.bias", 2)):
        torch.testing.assert_close(found[name], load_file(plain[index].path)[name])
    with pytest.raises(ValueError, match="no averaged tensor is named like"):
        plan(run, [Target(sigma_rel=0.1, overrides={"decoder.*": Length(sigma_rel=0.2)})])


def test_averages_may_end_anywhere_up_to_the_last_snapshot(run, tmp_path):
    planned = plan(run, [Target(sigma_rel=0.1, t=80), Target(sigma_rel=0.1, t=85)])
    assert max(source.t for source in planned.sources) <= 90
    assert planned.weights.error[0] < 1e-12 < planned.weights.error[1]
    assert [source.t for source in planned.copied] == [80, 80]
    (result,) = reconstruct(run, [0.1], tmp_path / "out", t=80, dtype=None)
    torch.testing.assert_close(load_file(result.path), load_file(run / "0000000080-0.100.safetensors"))


def test_each_result_has_the_buffers_of_its_own_end(run, tmp_path):
    targets = [Target(sigma_rel=0.1, t=t) for t in (50, 85, 150)]
    written = [load_file(one.path) for one in reconstruct(run, targets, tmp_path / "out")]
    for found in (written, combine(plan(run, targets))):
        assert [tensors["1.steps"].item() for tensors in found] == [50, 80, 150]


def test_raw_weights_and_one_exponential_average(tmp_path):
    module = network()
    ema = ExponentialEMA(module, 8.0)
    direct = PowerEMA(module, 0.12)
    store = SnapshotStore(tmp_path / "run", [ema], every=4, dtype="float32")
    walk(module, store, 200, [direct])
    (result,) = reconstruct(tmp_path / "run", [0.12], tmp_path / "out", dtype="float32")
    assert result.error < 0.08
    assert relative_error(load_file(result.path)["0.weight"], direct.average["0.weight"]) < 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-100], "cut short"),
        (lambda data: data[:6], "no safetensors file"),
        (lambda data: data[:-50] + bytes([data[-50] ^ 1]) + data[-49:], "does not match its checksum"),
        (lambda data: data[:20] + b"\xff" + data[21:], "its header is no JSON"),
    ],
)
def test_damaged_snapshots_are_refused_and_nothing_is_written(run, tmp_path, product, change, message):
    damage(run / "0000000160-0.100.safetensors", change)
    with pytest.raises(SnapshotError, match=message):
        reconstruct(run, [0.1, 0.15], tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_bad_input_each_with_its_own_error(run, tmp_path):
    for target, message in (
        (0.3, "not in \\(0, 0.2886\\)"),
        (0.002, "out of reach"),
        (Target(sigma_rel=0.1, t=161), "cannot end at 161: the snapshots reach from 0 to 160"),
    ):
        with pytest.raises(ValueError, match=message):
            reconstruct(run, [target], tmp_path / "out")
    with pytest.raises(ValueError, match="files of one name"):
        reconstruct(run, [0.1, 0.1000000001], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no snapshots"):
        reconstruct(tmp_path, [0.1], tmp_path / "out")
    twice = run / "0000000160-again.safetensors"
    twice.write_bytes((run / "0000000160-0.100.safetensors").read_bytes())
    with pytest.raises(ValueError, match="same time and length"):
        reconstruct(run, [0.1], tmp_path / "out")
    twice.unlink()
    SnapshotStore(tmp_path / "other", nn.Linear(2, 2), every=1).update(170, 170)
    for path in (tmp_path / "other").iterdir():
        path.rename(run / path.name)
    with pytest.raises(ValueError, match="different networks"):
        reconstruct(run, [0.1], tmp_path / "out")


def test_raw_snapshots_alone_give_the_mean_of_the_weights_they_stand_for(tmp_path):
    """Each raw weight counts for the time until half way to its neighbours, whatever the profile asked for."""
    for t, value in ((100, 1.0), (200, 2.0), (300, 4.0)):
        write_average(tmp_path / "run" / file_name(t, RAW), facts_of(t, RAW, ()), {"w": torch.full((3,), value)})
    planned = plan(tmp_path / "run", [0.2])
    assert [(p.start, p.t) for p in planned.weights.snapshots] == [(0, 150), (150, 250), (250, 300)]
    (made,) = reconstruct(tmp_path / "run", [0.2], tmp_path / "out", dtype="float32")
    weights = planned.weights.matrix[:, 0]
    assert weights.sum() == pytest.approx(1)
    assert (weights > 0).all()
    assert load_file(made.path)["w"].tolist() == pytest.approx([weights @ [1, 2, 4]] * 3)
    gamma = planned.targets[0].profile(300).gamma
    exact = [((b / 300) ** (gamma + 1) - (a / 300) ** (gamma + 1)) for a, b in ((0, 150), (150, 250), (250, 300))]
    assert weights.tolist() == pytest.approx(exact, rel=1e-6)  # the projection on steps is the share of each step


def test_a_missing_shard_is_named(tmp_path):
    module = network()
    store = SnapshotStore(tmp_path, module, every=5, shard_bytes=20_000)
    walk(module, store, 10)
    lost = sorted(tmp_path.glob("*-0.100.00002-of-*"))[-1]
    lost.unlink()
    with pytest.raises(SnapshotError, match=f"shard {lost.stem}".replace(".", r"\.")):
        list_snapshots(tmp_path)


def test_a_store_refuses_times_that_are_there_and_goes_on_when_resumed(tmp_path):
    module = network()
    store = SnapshotStore(tmp_path, module, every=10)
    walk(module, store, 25)
    state = json.loads("null")
    state = {
        "emas": [{k: v.copy() if isinstance(v, dict) else v for k, v in e.items()} for e in store.state_dict()["emas"]]
    }
    state["emas"] = [
        {"t": e["t"], **{part: {n: x.clone() for n, x in e[part].items()} for part in ("average", "buffers")}}
        for e in state["emas"]
    ]
    walk(module, store, 20)
    with pytest.raises(ValueError, match="choose an empty folder"):
        walk(module, SnapshotStore(tmp_path, module, every=10), 10)
    again = SnapshotStore(tmp_path, module, every=10)
    again.load_state_dict(state)
    walk(module, again, 5)
    assert sorted({average.t for average in list_snapshots(tmp_path)}) == [10, 20, 30]


def test_values_that_float16_cannot_hold_are_refused(tmp_path):
    module = network()
    with torch.no_grad():
        module[0].weight.fill_(1e6)
    with pytest.raises(SnapshotError, match=r"0\.weight holds values that are not finite in float16"):
        SnapshotStore(tmp_path, module, every=1).update(1, 1)
    assert not list(tmp_path.glob("*"))


def test_keep_and_budget(tmp_path):
    module = network()
    newest = SnapshotStore(tmp_path / "newest", module, every=1, keep=3)
    walk(module, newest, 8)
    assert sorted({average.t for average in list_snapshots(tmp_path / "newest")}) == [6, 7, 8]
    module = network()
    store = SnapshotStore(tmp_path / "budget", module, every=1, budget=12 * newest.snapshot_bytes)
    predicted = store.estimate(24)
    walk(module, store, 24)
    times = sorted({average.t for average in list_snapshots(tmp_path / "budget")})
    assert times == list(predicted.kept) and len(times) == 12
    size = sum(average.nbytes for average in list_snapshots(tmp_path / "budget"))
    assert size == predicted.total_bytes <= 12 * newest.snapshot_bytes
    last = store.thinnings[-1]
    assert last.t == 24 and all(last.error[length] >= last.error_before[length] for length in last.error)
    assert predicted.error[0.15] == pytest.approx(last.error[0.15])
    with pytest.raises(ValueError, match="fewer than 2"):
        SnapshotStore(tmp_path / "x", module, every=1, budget=10)


def test_thinning_beats_keeping_every_other():
    lengths = (0.05, 0.10)
    from unitgain.ema import PowerProfile

    def at(t):
        return [PowerProfile.of(t, length) for length in lengths]

    times = [float(t) for t in range(1, 41)]
    kept = thin(times, 20, at)
    assert len(kept) == 20 and kept[-1] == 40.0
    assert max(errors(kept, at).values()) < 0.8 * max(errors(times[1::2], at).values())


def test_estimate_of_disk():
    found = estimate(1000, 320.0, 10.0)
    assert (found.snapshots, found.total_bytes) == (32, 32_000)
    assert found.error == found.error_unthinned
    with pytest.raises(ValueError, match="ends before its first snapshot"):
        estimate(1000, 5.0, 10.0)


KILLED = """
import sys, time
from pathlib import Path
from unitgain.posthoc import reconstruct
def slow(done, total):
    print(done, flush=True)
    time.sleep(0.02)
reconstruct(sys.argv[1], [0.07, 0.12, 0.2], sys.argv[2], dtype="float32", on_progress=slow)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_at_any_point_it_leaves_nothing_wrong_and_goes_on(run, tmp_path, how):
    (whole,) = [reconstruct(run, [0.07, 0.12, 0.2], tmp_path / "whole", dtype="float32")]
    out = tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": str(Path(unitgain.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(run), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.03)
    process.send_signal(how)
    process.wait()
    for path in out.glob("*.safetensors"):  # what has its name is right
        torch.testing.assert_close(load_file(path), load_file(tmp_path / "whole" / path.name))
    for path in out.glob(".*.partial"):  # unreadable, or killed between the last byte and the name: then right too
        try:
            tensors = load_file(path)
        except SafetensorError:
            continue
        torch.testing.assert_close(tensors, load_file(tmp_path / "whole" / path.name[1 : -len(".partial")]))
    results = reconstruct(run, [0.07, 0.12, 0.2], out, dtype="float32")
    for one, other in zip(results, whole, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()
    assert sorted(path.name for path in out.iterdir()) == sorted(result.path.name for result in results)


def crash(function, number):
    """Run `function` in a process that dies at its operation `number` on files, half way in a write; True if so."""
    child = os.fork()
    if child == 0:
        count = 0

        def dying(operation):
            def wrapped(*args, **kwargs):
                nonlocal count
                count += 1
                if count == number:
                    if operation is PWRITE:  # half of it arrives
                        operation(args[0], args[1][: len(args[1]) // 2], args[2])
                    os._exit(9)
                return operation(*args, **kwargs)

            return wrapped

        for name in ("pwrite", "fsync", "replace", "unlink", "ftruncate", "mkdir"):
            setattr(os, name, dying(getattr(os, name)))
        try:
            function()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


def test_a_reconstruction_that_dies_at_any_operation_leaves_no_wrong_file_and_goes_on(run, tmp_path, monkeypatch):
    monkeypatch.setattr("unitgain.posthoc.output.SYNC_SECONDS", 0.0)  # the journal follows every tensor
    (made,) = reconstruct(run, [0.12], tmp_path / "whole")
    whole = {made.path.name: made.path.read_bytes()}

    def attempt():
        reconstruct(run, [0.12], out, threads=1)

    number = 0
    while number := number + 1:
        out = tmp_path / str(number)
        died = crash(attempt, number)
        for path in out.glob("[!.]*"):
            assert path.read_bytes() == whole[path.name]
        if not died:
            break
        for path in out.glob(".*.partial"):
            if path.read_bytes() != whole[made.path.name]:  # all there but its name
                with pytest.raises(Exception, match="eader"):
                    load_file(path)
        attempt()
        assert {path.name: path.read_bytes() for path in out.iterdir()} == whole
    assert number > 30  # the last attempt was not touched


@pytest.mark.parametrize("shard_bytes", [None, 60_000])
def test_a_store_that_dies_at_any_operation_keeps_what_was_there_and_goes_on(tmp_path, shard_bytes):
    module = network()
    store = SnapshotStore(tmp_path / "run", module, every=1e9, dtype="float32", shard_bytes=shard_bytes)
    walk(module, store, 10)
    store.write()
    walk(module, store, 10)
    before = {path.name: path.read_bytes() for path in store.folder.iterdir()}
    shutil.copytree(store.folder, tmp_path / "copy")
    number, written = 0, None
    while number := number + 1:
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "copy", folder)
        store = SnapshotStore(folder, store.emas, every=1e9, dtype="float32", shard_bytes=shard_bytes, resumed=True)
        died = crash(store.write, number)
        left = {path.name: path.read_bytes() for path in store.folder.glob("[!.]*")}
        assert before.items() <= left.items()
        try:
            assert [average.t for average in list_snapshots(store.folder)][:2] == [10, 10]
        except SnapshotError as error:
            assert "writing may have been cut short" in str(error)
            assert shard_bytes
        if not died:
            break
        store.load_state_dict(store.state_dict())  # as the run that goes on does
        store.write()
        after = {path.name: path.read_bytes() for path in store.folder.iterdir()}
        assert before.items() <= after.items()
        assert len(after) == 2 * len(before)
        assert len(list_snapshots(store.folder)) == 4
        written = written or after
        assert after == written
    assert number > 4


def test_an_interrupted_call_does_only_what_is_left(run, tmp_path):
    read = []

    def stop(done, total):
        read.append((done, total))
        if done > total / 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reconstruct(run, [0.12], tmp_path, threads=1, on_progress=stop)
    left = []
    reconstruct(run, [0.12], tmp_path, on_progress=lambda *a: left.append(a))
    assert left[-1][1] < read[-1][1]


def test_conversion_of_plain_checkpoints(tmp_path):
    source = tmp_path / "checkpoints"
    source.mkdir()
    module = network()
    ema = PowerEMA(module, 0.1)
    direct = PowerEMA(module, 0.16)
    with torch.no_grad():
        for step in range(1, 201):
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            ema.update(step, 1)
            direct.update(step, 1)
            tensors = {f"module.{name}": tensor for name, tensor in ema.tensors().items()}
            if step % 10 == 0 and step % 20:
                torch.save({"step": step, "ema": tensors}, source / f"model-{step}.pt")
            elif step % 10 == 0:
                save_file(tensors, source / f"model-{step}.safetensors")
    main(["ema", "convert", str(source), str(tmp_path / "store"), "--averaged", "sigma_rel=0.1"])
    (result,) = reconstruct(tmp_path / "store", [0.16], tmp_path / "out", dtype="float32")
    assert relative_error(load_file(result.path)["0.weight"], direct.average["0.weight"]) < 0.01
    table = tmp_path / "times.csv"
    table.write_text("file,t\nmodel-20.safetensors,20\nmodel-10.pt,10\n")
    with pytest.raises(ValueError, match="out of order"):
        find_sources(source, table=table)
    table.write_text("file,t\nmodel-20.safetensors,20\nmodel-10.pt,20\n")
    with pytest.raises(ValueError, match="same time"):
        find_sources(source, table=table)
    (source / "best.pt").write_bytes(b"no pickle")
    skipped: list[str] = []
    assert len(find_sources(source, on_skip=skipped.append)) == 20
    assert skipped == ["best.pt"]
    (source / "best.pt").rename(source / "model-300.pt")
    with pytest.raises(ValueError, match=r"model-300\.pt cannot be read: it is damaged"):
        convert(find_sources(source), tmp_path / "second")
    assert [path.name for path in tmp_path.iterdir() if "second" in path.name] == []  # all or nothing


@pytest.mark.parametrize(
    ("paths", "pattern", "times"),
    [
        (["epoch_1_loss_0.11.pt", "epoch_2_loss_0.09.pt"], None, [1, 2]),
        (["epoch=3-step=1200.ckpt", "epoch=4-step=1600.ckpt", "last.ckpt"], None, [1200, 1600]),
        (["model-v2-100.pt", "model-v2-200.pt"], None, [100, 200]),
        (["step_10/model.safetensors", "step_20/model.safetensors", "step_20/optimizer.bin"], None, [10, 20]),
        (
            ["checkpoint-5/unet/a.safetensors", "checkpoint-5/unet_ema/a.safetensors", "best.pt"],
            r"checkpoint-(\d+)/unet_ema/",
            [5],
        ),
        (["ema_1.pt", "model_1.pt", "ema_2.pt", "model_2.pt"], r"ema_(\d+)", [1, 2]),
        (["7/model-00001-of-00002.safetensors", "7/model-00002-of-00002.safetensors"], None, [7]),
        (["7/model.safetensors", "7/pytorch_model.bin"], None, [7]),
    ],
)
def test_times_in_the_names_that_others_give(tmp_path, paths, pattern, times):
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert [source.t for source in find_sources(tmp_path, pattern)] == times


def remedy(capsys, option):
    """An option, with its value, as the error names it."""
    said = " ".join(capsys.readouterr().err.split())
    return shlex.split(re.search(rf"{option} ('[^']*'|\S+)", said)[0])


@pytest.mark.parametrize(
    ("paths", "right"),
    [
        (["model_1.pt", "ema_1.pt", "model_2.pt", "ema_2.pt"], "ema_2.pt"),
        ([f"checkpoint-{t}/{name}/w-0.pt" for t in (500, 1000) for name in ("unet", "unet_ema")], "1000/unet_ema"),
        (["v1/step_10.pt", "v2/step_10.pt", "v1/step_20.pt"], "v1/step_20.pt"),
    ],
)
def test_the_pattern_that_an_error_names_chooses(tmp_path, capsys, paths, right):
    for number, path in enumerate(paths):
        (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
        torch.save({"w": torch.full((1,), float(number))}, tmp_path / "in" / path)
    command = ["ema", "convert", str(tmp_path / "in"), str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        main(command)
    main([*command, *remedy(capsys, "--pattern")])
    last = list_snapshots(tmp_path / "out")[-1]
    (number,) = (number for number, path in enumerate(paths) if right in path)
    assert last.tensor("w").item() == number
    assert "does not match them" in " ".join(capsys.readouterr().out.split())  # these have times


def test_two_networks_of_one_time_are_never_mixed(tmp_path, capsys):
    both = {"online_model.w": torch.zeros(1), "ema_model.w": torch.ones(1), "step": torch.tensor(3)}
    torch.save(both, tmp_path / "both_2.pt")
    with pytest.raises(ValueError, match=r"more than one network.*--prefix ema_model\."):
        read_state(tmp_path / "both_2.pt")
    assert read_state(tmp_path / "both_2.pt", prefix="ema_model.")["w"].item() == 1
    torch.save({"model": {"w": torch.zeros(1)}, "ema": {"w": torch.ones(1)}}, tmp_path / "nested_3.pt")
    torch.save({"state": {"model": {"w": torch.zeros(1)}, "ema": {"w": torch.ones(1)}}}, tmp_path / "deeper_4.pt")
    for name, key in (("nested_3", "model"), ("deeper_4", "state.model")):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.pt").rename(tmp_path / name / f"{name}.pt")
        command = ["ema", "convert", str(tmp_path / name), str(tmp_path / f"{name}.out")]
        with pytest.raises(SystemExit):
            main(command)
        option = remedy(capsys, "--key")
        assert option == ["--key", key]
        main([*command, *option])


def test_complex_weights_alone_are_weights(tmp_path):
    (tmp_path / "in").mkdir()
    torch.save({"w": torch.tensor([1 + 2j])}, tmp_path / "in" / "step_1.pt")
    convert(find_sources(tmp_path / "in"), tmp_path / "out")
    assert list_snapshots(tmp_path / "out")[0].tensor("w").item() == 1 + 2j
    torch.save({"w": torch.tensor([1])}, tmp_path / "in" / "step_1.pt")
    with pytest.raises(ValueError, match="no tensors of real or complex numbers"):
        convert(find_sources(tmp_path / "in"), tmp_path / "none")


def test_numbers_of_numpy_are_read_and_code_is_not(tmp_path):
    state = {"state_dict": {"module.w": torch.ones(2), "module._orig_mod.b": torch.ones(1)}, "loss": np.float64(0.5)}
    torch.save(state | {"best": np.int64(3)}, tmp_path / "a1.pt")
    assert read_state(tmp_path / "a1.pt").keys() == {"w", "b"}
    arrays = {"history": np.arange(3.0), "shape": np.array([[1, 2]])}
    state["state_dict"]["mean"] = np.ones(2, np.float32)
    torch.save(state | arrays, tmp_path / "a3.pt")
    with pytest.warns(UserWarning, match="left out: history, shape"):
        assert read_state(tmp_path / "a3.pt").keys() == {"w", "b"}
    with pytest.warns(UserWarning, match="left out: mean"):
        read_state(tmp_path / "a3.pt", "state_dict")
    torch.save(state | {"names": np.array(["x", None], dtype=object)}, tmp_path / "a4.pt")
    with pytest.raises(ValueError, match=r"holds numpy\S* beside tensors"):
        read_state(tmp_path / "a4.pt")
    torch.save(state | {"where": tmp_path}, tmp_path / "a2.pt")
    with pytest.raises(ValueError, match=r"holds pathlib\S* beside tensors") as raised:
        read_state(tmp_path / "a2.pt")
    assert "weights_only" not in str(raised.value)


def test_commands(run, tmp_path, capsys):
    main(["ema", "list", str(run), "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 32 and rows[-1]["t"] == 160
    main(["ema", "error", str(run), "0.06,0.2", "--json", "--plot", str(tmp_path / "e.png")])
    found = json.loads(capsys.readouterr().out)
    assert [row["error"] for row in found] == plan(run, [0.06, 0.2]).weights.error.tolist()
    main(["ema", "plot", str(run), "0.06,0.2", "--out", str(tmp_path / "p.svg")])
    assert (tmp_path / "p.svg").read_text().count("<path") > 32 and (tmp_path / "e.png").stat().st_size > 5000
    main(["ema", "reconstruct", str(run), "0.06,half_life=20", "--override", "2.*=0.2"])
    assert len(list_snapshots(run / "ema")) == 2
    for wrong in (["ema", "plot", str(run), "0.1", "--out", "p.txt"], ["ema", "reconstruct", str(run), "0.5"]):
        with pytest.raises(SystemExit) as exit_:
            main(wrong)
        assert exit_.value.code == 2


def test_errors_of_lengths_are_told_without_a_warning_within_reach_or_not(run, recwarn):
    near, far, ends_early = fit_errors(run, [0.1, 0.001]), fit_errors(run, [0.001]), fit_errors(run, [0.1], t=80)
    assert near[0] < 0.05 and near[1] == far[0] > 0.5 and ends_early != near[:1]
    assert not recwarn.list
    with pytest.raises(ValueError, match="cannot end at"):
        fit_errors(run, [0.1], t=1e6)


def test_names_of_files():
    described = describe(PowerEMA(nn.Linear(1, 1), 0.05).profile_at(2.5))
    assert file_name(2.5, described) == "0000000002.500-0.050.safetensors"
    assert file_name(7.0, RAW) == "0000000007-raw.safetensors"


def test_the_last_of_many_writes_opens_no_more_than_the_first(tmp_path, monkeypatch):
    module = nn.Linear(2, 2)
    store = SnapshotStore(tmp_path, module, every=1)
    touched: list[int] = []
    for name in ("open", "stat", "scandir"):
        monkeypatch.setattr(os, name, counting(getattr(os, name), touched))
    opened = []
    for step in range(1, 65):
        touched.clear()
        store.update(step, 1)
        opened.append(len(touched))
    assert len(list(tmp_path.iterdir())) == 128
    assert 0 < opened[-1] <= opened[1] <= opened[0]


def counting(function, calls):
    def counted(*args, **kwargs):
        calls.append(1)
        return function(*args, **kwargs)

    return counted


def test_a_damaged_snapshot_does_not_stop_a_run_that_goes_on(tmp_path):
    module = network()
    walk(module, first := SnapshotStore(tmp_path, module, every=10), 10)
    damage(next(tmp_path.glob("*-0.050*")), lambda data: data[:100])
    again = SnapshotStore(tmp_path, first.emas, every=10, resumed=True)
    walk(module, again, 10)
    assert len(list(tmp_path.glob("0000000020-*"))) == 2


class Odd(nn.Module):
    """Tied weights, complex ones, a buffer that does not persist, and a part that is really called `module`."""

    def __init__(self):
        super().__init__()
        self.module = nn.Linear(3, 3, bias=False)
        self.tied = nn.Linear(3, 3, bias=False)
        self.tied.weight = self.module.weight
        self.waves = nn.Parameter(torch.randn(4, dtype=torch.complex64))
        self.register_buffer("scratch", torch.zeros(5), persistent=False)
        self.register_buffer("count", torch.tensor(3))

    def forward(self, x):
        return self.tied(self.module(x)).sum() + self.waves.abs().sum()


WRAPS = {
    "plain": lambda module: module,
    "compiled": torch.compile,
    "parallel": nn.DataParallel,
    "both": lambda module: torch.compile(nn.DataParallel(module)),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_stored_names_are_those_of_the_plain_module(tmp_path, wrap, product):
    torch.manual_seed(0)
    plain = Odd()
    store = SnapshotStore(tmp_path / "run", wrap(plain), every=1, dtype="float32")
    direct = PowerEMA(plain, 0.08)
    for step in range(1, 33):
        with torch.no_grad():
            for parameter in plain.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        store.update(step, 1)
        direct.update(step, 1)
    (made,) = reconstruct(tmp_path / "run", [0.08], tmp_path / "out", dtype=None)
    fresh = Odd()
    fresh.load_state_dict(load_file(made.path), strict=True)
    assert relative_error(fresh.module.weight, direct.average["module.weight"]) < 1e-2
    assert relative_error(fresh.waves.detach().imag, direct.average["waves"].imag) < 1e-2
    assert fresh.count == 3
    size = sum(average.nbytes for average in list_snapshots(tmp_path / "run"))
    assert size == 32 * store.snapshot_bytes


def test_the_command_adds_lengths_to_those_that_are_there(run, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"

    def command(lengths, *more):
        main(["ema", "reconstruct", str(run), lengths, "--out", str(out), *more])
        return capsys.readouterr().out

    def refused(lengths, *more):
        with pytest.raises(SystemExit):
            command(lengths, *more)
        return " ".join(capsys.readouterr().err.split())

    said = command("0.12,0.2")
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert command("0.12,0.2") == said  # it was killed after its last rename, say
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == times
    written = []
    monkeypatch.setattr("unitgain.posthoc.output.Writer.finish", noted(Writer.finish, written))
    command("0.2,0.25")
    assert [path.name for path in written] == ["0000000160-0.250.safetensors"]
    assert times.items() < {path.name: path.stat().st_mtime_ns for path in out.iterdir()}.items()
    command("0.1", "--shard-gb", "0.00004")
    assert len(command("0.1", "--shard-gb", "0.00004").split(".safetensors")) == 2 and len(written) == 4
    assert "0.120.safetensors is there, of other snapshots or made with other options" in refused(
        "0.12", "--dtype", "float32"
    )
    (out / "0000000160-0.120").mkdir()  # images, where `sample` is told to put them
    (out / "notes.txt").touch()
    assert "0.130.safetensors" in command("0.13")
    (out / "model.safetensors").touch()
    assert "model.safetensors was not reconstructed: choose another folder" in refused("0.14")
    out = run  # the snapshots themselves
    assert "holds the snapshots that averages are made of: choose another folder" in refused("0.13")
    out = run / "file"
    out.touch()
    assert "is a file: choose another folder" in refused("0.13")
    assert len(list_snapshots(run)) == 32


def noted(finish, paths):
    def wrapped(self, path, sums):
        paths.append(path)
        return finish(self, path, sums)

    return wrapped


def test_a_trained_run_keeps_to_its_budget_and_is_reconstructed_in_c(tmp_path, monkeypatch):
    weights = sum(parameter.numel() for parameter in unitgain.create("digits").parameters())
    settings = ["--batch", "32", "--duration", "160", "--snapshot-every", "32", "--quiet"]
    budget = str(4 * 3.5 * weights / 1e9)  # pairs in two bytes, three and a bit of them
    main(["train", "digits", "--out", str(tmp_path / "run"), "--snapshot-budget", budget, *settings])
    there = list_snapshots(tmp_path / "run")
    assert len({snapshot.t for snapshot in there}) == 3 and there[-1].t == 160
    assert {snapshot.kind for snapshot in there} == {"power", "raw"}
    made = []
    combine = stream._combine
    monkeypatch.setattr(stream, "_combine", lambda job, *rest: made.append(job.name) or combine(job, *rest))
    reconstruct(tmp_path / "run", [0.12], tmp_path / "out", threads=1)
    assert set(made) == {name for name in there[0].names if there[0].averaged(name)}
    assert unitgain.load(next((tmp_path / "out").iterdir())).label_dropout == 0


def test_responses_need_no_run(tmp_path, call):
    path = tmp_path / "responses.svg"
    call("ema", "responses", "0.05,0.25", "--out", path)
    text = path.read_text()
    assert "gamma = 16.97" in text  # as in Fig. 24
    assert "gamma = 0.72" in text
    call("ema", "responses", "0.3", "--out", path, code=2)
    assert path.read_text() == text
