"""Training runs from the outside: stop, resume, damage, wrong settings. On a tiny network."""

import errno
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, replace

import pytest
import torch

import unitgain
from unitgain import files
from unitgain.checkpoint.snapshot import Snapshot
from unitgain.checkpoint.state import CheckpointError, list_checkpoints
from unitgain.cli.main import main
from unitgain.data.dataset import ArrayDataset
from unitgain.infer import fastest_precision
from unitgain.loss import EDMLoss
from unitgain.posthoc import reconstruct
from unitgain.report.history import read_history
from unitgain.train import Microbatch, Observer, TrainConfig, TrainState, train, train_step
from unitgain.train.errors import TrainingError
from unitgain.train.rows import read_stats
from unitgain.train.run import load_config
from unitgain.train.speed import MACHINE


@pytest.fixture
def config(tiny_recipe):
    return TrainConfig(recipe=tiny_recipe, data="tiny", tick=16, checkpoint_every=32, snapshot_dtype="float32")


def run(config, folder, data, **options):
    return train(config, folder, data, quiet=True, tensorboard=False, **options)


def snapshots(folder):
    return {path.name: path.read_bytes() for path in (folder / "snapshots").iterdir()}


def rows(folder):
    kept = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in MACHINE} for row in kept]


@dataclass(frozen=True, kw_only=True, eq=False)
class Interrupted(ArrayDataset):
    """Sends a signal to the process in the middle of the batch that begins at `at` images."""

    at: int
    number: int = signal.SIGTERM

    def rows(self, indices, out=None):
        object.__setattr__(self, "at", self.at - len(indices))
        if self.at < 0:
            object.__setattr__(self, "at", 10**9)
            os.kill(os.getpid(), self.number)
        return super().rows(indices, out)


def interrupted(data, at, number=signal.SIGTERM):
    return Interrupted(
        name=data.name, images=data.images, labels=data.labels, classes=data.classes, at=at, number=number
    )


class Dying(Interrupted):
    """Fails instead."""

    def rows(self, indices, out=None):
        if self.at < len(indices):
            raise OSError("the disk is gone")
        return super().rows(indices, out)


def test_a_run_leaves_what_it_promises(tmp_path, config, tiny_data):
    result = run(config, tmp_path, tiny_data)
    assert (result.nimg, result.finished, result.signal) == (96, True, None)
    lengths = ("0.050", "0.100")
    names = {f"{nimg:010d}-{length}.safetensors" for nimg in (24, 48, 72, 96) for length in lengths}
    assert set(snapshots(tmp_path)) == names | {"0000000096-raw.safetensors"}
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["0000000064", "0000000096"]
    assert [row["nimg"] for row in rows(tmp_path)] == [16, 32, 48, 64, 80, 96]
    assert json.loads((tmp_path / "config.json").read_text())["recipe"]["lr"] == 0.01
    with Snapshot(tmp_path / "snapshots" / "0000000096-0.100.safetensors") as snapshot:
        assert snapshot.header.nimg == 96
        assert snapshot.header.classes == ("a", "b", "c")
        assert snapshot.header.recipe == "tiny"
    images = unitgain.load(tmp_path / "snapshots" / "0000000096-0.100.safetensors")(torch.randn(1, 1, 8, 8), 1.0)
    assert torch.isfinite(images).all()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, config, tiny_data, number, dropout):
    recipe = config.recipe.replace(network=config.recipe.network.replace(dropout=dropout))
    config = TrainConfig(recipe=recipe, data="tiny", tick=16, checkpoint_every=32, microbatch=4)
    run(config, tmp_path / "whole", tiny_data)
    stopped_at = 0
    where = sorted(random.Random(number + dropout).sample(range(1, 90), 2))
    result = run(config, tmp_path / "parts", interrupted(tiny_data, where[0], number))
    while not result.finished:
        assert result.signal == signal.Signals(number).name
        assert stopped_at <= result.nimg < 96  # a first step is given up
        stopped_at = result.nimg
        later = interrupted(tiny_data, max(where[1] - stopped_at, 1), number) if len(where) > 1 else tiny_data
        where = where[:1]
        result = run(config, tmp_path / "parts", later, resume=True)
    assert stopped_at
    assert snapshots(tmp_path / "parts") == snapshots(tmp_path / "whole")
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_a_signal_before_the_first_step_leaves_a_checkpoint_too(tmp_path, config, tiny_data, monkeypatch):
    from unitgain.train import loop

    def signalled(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return check(*arguments)

    check = loop.check_data
    monkeypatch.setattr(loop, "check_data", signalled)
    assert run(config, tmp_path / "parts", tiny_data).nimg == 0
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "parts" / "checkpoints").iterdir()] == ["0000000000"]
    assert run(config, tmp_path / "parts", tiny_data, resume=True).finished
    run(config, tmp_path / "whole", tiny_data)
    assert snapshots(tmp_path / "parts") == snapshots(tmp_path / "whole")


def test_a_shorter_duration_than_what_is_done_is_refused(tmp_path, config, tiny_data, tiny_recipe):
    run(config, tmp_path, tiny_data)
    shorter = replace(config, recipe=tiny_recipe.replace(duration=48))
    with pytest.raises(ValueError, match="is at 96 images"):
        run(shorter, tmp_path, tiny_data, resume=True)


def test_same_seed_same_files_other_seed_other_weights(tmp_path, config, tiny_data):
    for name, settings in (("a", config), ("b", config), ("c", replace(config, seed=1))):
        torch.rand(random.randrange(1, 9))  # the state of the global generator does not matter
        run(settings, tmp_path / name, tiny_data)
    assert snapshots(tmp_path / "a") == snapshots(tmp_path / "b")
    ours, theirs = snapshots(tmp_path / "a"), snapshots(tmp_path / "c")
    assert all(ours[name] != theirs[name] for name in ours)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_every_precision_trains(tmp_path, tiny_recipe, tiny_data, precision, capsys, monkeypatch):
    config = TrainConfig(recipe=tiny_recipe.replace(precision=precision), data="tiny", tick=96, checkpoint_every=48)
    assert train(config, tmp_path, interrupted(tiny_data, 20), tensorboard=False).signal == "SIGTERM"
    said = capsys.readouterr().err
    best = fastest_precision("cpu")  # of a processor; float16 is for GPUs
    taken = best if precision == "float16" else precision
    assert load_config(tmp_path).recipe.precision == taken
    assert (f"trained in {taken}" in said) == (precision == "float16")
    monkeypatch.setattr("unitgain.train.fitting.fastest_precision", lambda device: "float32")  # on another machine
    assert run(config, tmp_path, tiny_data, resume=True).finished
    assert rows(tmp_path)[-1]["nonfinite_steps"] == 0


def test_unconditional_training_on_labelled_data(tmp_path, tiny_recipe, tiny_data):
    recipe = tiny_recipe.replace(network=tiny_recipe.network.replace(label_dim=0))
    config = TrainConfig(recipe=recipe, data="tiny", tick=96, checkpoint_every=96)
    assert run(config, tmp_path, tiny_data).finished
    with Snapshot(tmp_path / "snapshots" / "0000000096-0.050.safetensors") as snapshot:
        assert snapshot.header.classes is None


def test_resume_with_other_settings_names_the_fields(tmp_path, config, tiny_data, tiny_recipe):
    run(config, tmp_path, interrupted(tiny_data, 20))
    network = tiny_recipe.network.replace(num_blocks=2)
    changed = replace(config, recipe=tiny_recipe.replace(lr=0.02, network=network), seed=4)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError) as caught:
        run(changed, tmp_path, tiny_data, resume=True)
    for field in ("recipe.network.num_blocks: 1 -> 2", "recipe.lr: 0.01 -> 0.02", "seed: 0 -> 4"):
        assert field in str(caught.value)
    assert (tmp_path / "config.json").read_bytes() == before


def test_an_edited_config_is_noticed(tmp_path, config, tiny_data, tiny_recipe):
    run(config, tmp_path, interrupted(tiny_data, 20))
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"lr": 0.01', '"lr": 0.5'))
    edited = replace(config, recipe=tiny_recipe.replace(lr=0.5))
    with pytest.raises(ValueError, match=r"checkpoints/0000000024.*recipe.lr: 0.01 -> 0.5"):
        run(edited, tmp_path, tiny_data, resume=True)


def test_a_longer_duration_goes_on_with_the_same_run(tmp_path, config, tiny_data, tiny_recipe):
    longer = replace(config, recipe=tiny_recipe.replace(duration=144))
    run(config, tmp_path / "grown", tiny_data)
    assert run(longer, tmp_path / "grown", tiny_data, resume=True).nimg == 144
    run(longer, tmp_path / "whole", tiny_data)
    whole, grown = snapshots(tmp_path / "whole"), snapshots(tmp_path / "grown")
    assert all(grown[name] == whole[name] for name in whole)


def test_a_folder_in_use_is_not_touched(tmp_path, config, tiny_data):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty: choose another folder"):
        run(config, tmp_path, tiny_data)
    with pytest.raises(FileExistsError, match="is not empty"):
        run(config, tmp_path, tiny_data, resume=True)  # no run in it to resume either
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_damaged_checkpoints_are_skipped_loudly(tmp_path, config, tiny_data, capsys):
    run(config, tmp_path / "whole", tiny_data)
    run(config, tmp_path / "hurt", interrupted(tiny_data, 70))
    newest = sorted((tmp_path / "hurt" / "checkpoints").iterdir())[-1]
    state = newest / "00000.safetensors"
    damaged = bytearray(state.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    state.write_bytes(damaged)
    assert run(config, tmp_path / "hurt", tiny_data, resume=True).finished
    assert "WARNING: skipping a damaged checkpoint" in capsys.readouterr().err
    assert newest.with_name(f"{newest.name}.damaged").exists()
    assert snapshots(tmp_path / "hurt") == snapshots(tmp_path / "whole")
    for folder in (tmp_path / "hurt" / "checkpoints").glob("[0-9]" * 10):
        (folder / "manifest.json").unlink()
    for _ in range(2):  # those set aside the first time are traces the second time
        with pytest.raises(CheckpointError, match=r"3 damaged ones .*72\.damaged.* of 96 images; nothing"):
            run(config, tmp_path / "hurt", tiny_data, resume=True)
    assert snapshots(tmp_path / "hurt") == snapshots(tmp_path / "whole")


def test_a_run_without_its_checkpoints_does_not_start_over(tmp_path, config, tiny_data):
    folder = tmp_path / "a run"
    run(config, folder, interrupted(tiny_data, 70))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    before = {path: data for path, data in before.items() if "checkpoints" not in path.parts}
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(CheckpointError, match="of 72 images; nothing was overwritten") as caught:
        run(config, folder, tiny_data, resume=True)
    assert {path: path.read_bytes() for path in before} == before
    command = re.search(r"first: (mv .*?)\. To start", str(caught.value))[1]
    assert f"--init '{folder}/snapshots/" in str(caught.value)
    subprocess.run(shlex.split(command), check=True)
    assert run(config, folder, tiny_data, resume=True).finished


def test_snapshots_without_a_checkpoint_are_not_written_over(tmp_path, config, tiny_data):
    """As in a copy of a run without its checkpoints and hidden files, however few images it was trained on."""
    run(replace(config, checkpoint_every=10_000), tmp_path, interrupted(tiny_data, 70))
    shutil.rmtree(tmp_path / "checkpoints")
    before = snapshots(tmp_path)
    assert before
    with pytest.raises(CheckpointError, match="of 72 images; nothing was overwritten"):
        run(replace(config, checkpoint_every=10_000), tmp_path, tiny_data, resume=True)
    assert snapshots(tmp_path) == before


def test_a_run_that_died_before_its_first_checkpoint_begins_again(tmp_path, config, tiny_data, capsys):
    """What a job does that the queue starts again: nothing is lost that does not come again, byte for byte."""
    run(config, tmp_path / "whole", tiny_data)
    dying = Dying(name="tiny", images=tiny_data.images, labels=tiny_data.labels, classes=tiny_data.classes, at=16)
    with pytest.raises(OSError, match="the disk is gone"):
        run(replace(config, workers=0), tmp_path / "dead", dying)
    (first,) = list_checkpoints(tmp_path / "dead" / "checkpoints")
    assert read_stats(tmp_path / "dead") and first.name == "0000000000"
    shutil.copytree(tmp_path / "dead", tmp_path / "lost")
    assert run(config, tmp_path / "dead", tiny_data, resume=True).finished
    assert "before its first checkpoint: it begins again" in capsys.readouterr().err
    assert snapshots(tmp_path / "dead") == snapshots(tmp_path / "whole")
    shutil.rmtree(tmp_path / "lost" / "checkpoints")  # statistics alone are traces too
    with pytest.raises(CheckpointError, match="of 16 images; nothing was overwritten"):
        run(config, tmp_path / "lost", tiny_data, resume=True)
    (tmp_path / "lost" / "stats.jsonl").unlink()
    grid = tmp_path / "lost" / "samples" / "0000000016.png"
    grid.parent.mkdir()
    grid.write_bytes(b"")
    with pytest.raises(CheckpointError, match="of 16 images; nothing was overwritten"):
        run(config, tmp_path / "lost", tiny_data, resume=True)
    grid.rename(grid.with_name("0000000000.png"))  # of weights that it began with
    (grid.parent / "mine.png").write_bytes(b"")  # nothing was trained, as far as anything tells
    assert run(config, tmp_path / "lost", tiny_data, resume=True).finished


def test_settings_are_the_same_bytes_after_a_resume(tmp_path, config, tiny_data):
    whole = replace(config, recipe=config.recipe.replace(t_ref=300))  # as a library user may write it
    run(whole, tmp_path, interrupted(tiny_data, 40))
    before = (tmp_path / "config.json").read_bytes()
    run(load_config(tmp_path), tmp_path, tiny_data, resume=True)
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_full_disk_stops_the_run_and_the_last_checkpoint_resumes_it(tmp_path, config, tiny_data, monkeypatch, capsys):
    run(config, tmp_path / "whole", tiny_data)
    calls = []
    replace = os.replace

    def full(source, target):
        calls.append(target)
        if "0000000072" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="No space left on device"):
        run(config, tmp_path / "full", tiny_data)
    monkeypatch.undo()
    names = [path.name for path in (tmp_path / "full" / "snapshots").iterdir()]
    assert not any("0000000072" in name or name.endswith(".tmp") for name in names)
    assert "No space left on device" in read_history(tmp_path / "full").reason
    main(["watch", str(tmp_path / "full"), "--once"])
    assert "Stopped by: " in capsys.readouterr().out
    assert run(config, tmp_path / "full", tiny_data, resume=True).finished
    assert snapshots(tmp_path / "full") == snapshots(tmp_path / "whole")
    assert read_history(tmp_path / "full").reason is None
    assert read_stats(tmp_path / "full")[-1].keys() == read_stats(tmp_path / "whole")[-1].keys()


class Watch(Observer):
    """Says when so many images have been seen."""

    def __init__(self, run, nimg, event):
        self.run, self.nimg, self.event = run, nimg, event

    def report(self, report):
        if self.run.state.nimg >= self.nimg:
            self.event.set()


def test_training_goes_on_while_snapshots_are_written_one_at_a_time(tmp_path, config, tiny_data, monkeypatch):
    run(config, tmp_path / "whole", tiny_data)
    came, names, replace, under_way = threading.Event(), [], os.replace, threading.Lock()

    def slow(source, target):
        if "snapshots" not in str(target):
            return replace(source, target)
        assert under_way.acquire(blocking=False)
        names.append(os.path.basename(target))
        assert came.wait(100)  # the first is on its way until two steps later
        replace(source, target)
        under_way.release()

    monkeypatch.setattr(files.os, "replace", slow)
    run(config, tmp_path / "slow", tiny_data, observe=lambda run: [Watch(run, 40, came)])
    assert names == sorted(names) and len(names) == 9
    assert snapshots(tmp_path / "slow") == snapshots(tmp_path / "whole")


def test_data_must_fit_the_network(tmp_path, config, tiny_data):
    larger = ArrayDataset(name="larger", images=torch.zeros(4, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(
        ValueError, match=r"images are \(3, 8, 8\), the network takes \(1, 8, 8\).*--resolution 8x8 --channels 3"
    ):
        run(config, tmp_path, larger)
    unlabelled = ArrayDataset(name="plain", images=tiny_data.images)
    with pytest.raises(ValueError, match=r"0 classes, .* label_dim=3; use that of the data, or label_dim=0"):
        run(config, tmp_path, unlabelled)
    assert not list(tmp_path.iterdir())


def test_microbatches_are_a_split_of_the_batch(tiny_recipe):
    images, label = 0.5 * torch.randn(8, 1, 8, 8), torch.randint(3, (8,))
    sigma, noise = EDMLoss(-0.8, 1.0).draw(images)
    states = []
    for parts, once in ((1, False), (2, False), (4, False), (4, True)):
        torch.manual_seed(3)
        state = TrainState.start(tiny_recipe, normalize_once=once)
        state.nimg = 100  # past the first step, whose learning rate is 0
        for ema in state.emas:
            ema.t = 100.0
        chunks = zip(*(tensor.chunk(parts) for tensor in (images, sigma, noise, label)), strict=True)
        micro = [Microbatch(clean=c, sigma=s, noise=n, label=i) for c, s, n, i in chunks]
        states.append((train_step(state, tiny_recipe, micro).loss, state))
    for loss, state in states[1:]:
        assert loss == pytest.approx(states[0][0], rel=1e-6)
        for one, two in zip(state.modules.parameters(), states[0][1].modules.parameters(), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("blind", [False, True])
def test_nonfinite_gradients_are_counted_and_replaced(tiny_recipe, blind):
    """Also without looking before the end of the step, as on a GPU."""
    state = TrainState.start(tiny_recipe)
    images = 0.5 * torch.randn(8, 1, 8, 8)
    sigma, noise = EDMLoss(-0.8, 1.0).draw(images)
    healthy = Microbatch(clean=images, sigma=sigma, noise=noise.clone())
    noise[0, 0, 0, 0] = float("inf")
    report = train_step(state, tiny_recipe, [Microbatch(clean=images, sigma=sigma, noise=noise)], blind=blind)
    assert report.nonfinite["denoiser.network.out_gain"] == 1
    assert all(torch.isfinite(parameter).all() for parameter in state.modules.parameters())
    assert not train_step(state, tiny_recipe, [healthy], blind=blind).nonfinite


COMPILED = """
import torch
from unitgain.infer import fastest_precision
from unitgain.loss import EDMLoss
from unitgain.recipes import recipe
from unitgain.train.config import Execution
from unitgain.train.state import TrainState
from unitgain.train.step import Microbatch, train_step

made = recipe("digits")
small = {"model_channels": 16, "channel_mult": (1,), "num_blocks": 1, "channels_per_head": 16}
made = made.replace(network=made.network.replace(**small))
losses = []
for compile in (False, True):
    torch.manual_seed(0)
    state = TrainState.start(made, execution=Execution(compile=compile))
    assert not any("_orig_mod" in name for name in state.denoiser.state_dict())
    images = 0.5 * torch.randn(4, 1, 8, 8)
    sigma, noise = EDMLoss(-0.8, 1.0).draw(images)
    batch = Microbatch(clean=images, sigma=sigma, noise=noise, label=torch.arange(4))
    losses.append([train_step(state, made.replace(batch=4), [batch]).loss for _ in range(3)])
for plain, compiled in zip(*losses):
    assert abs(plain - compiled) < 1e-5 * abs(plain), losses
print("the same")
"""


def test_compiled_blocks_train_alike():
    """In a process of its own: shapes that are checked while they are traced confuse the compiler."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert done.stdout == "the same\n", done.stderr


@dataclass(frozen=True, kw_only=True, eq=False)
class Poisoned(ArrayDataset):
    """Gives infinite values after it was checked."""

    def encode(self, stored, generator=None):
        return super().encode(stored) * float("inf")


def test_a_run_whose_gradients_stay_nonfinite_stops_with_names(tmp_path, config, tiny_data):
    broken = Poisoned(name="x", images=tiny_data.images, labels=tiny_data.labels, classes=tiny_data.classes)
    with pytest.raises(TrainingError, match=r"not finite in 10 steps in a row, the last at 80 images, in denoiser\."):
        run(config, tmp_path, broken)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["0000000032", "0000000064"]
    assert any("nonfinite" in row for row in rows(tmp_path))


def test_reconstruction_at_a_tracked_length_is_the_tracked_average(tmp_path, config, tiny_data):
    run(config, tmp_path, tiny_data)
    for sigma_rel in (0.05, 0.1):
        reconstruct(tmp_path, [sigma_rel], tmp_path / "ema", dtype="float32")
        name = f"0000000096-{sigma_rel:.3f}.safetensors"
        tracked, found = (unitgain.load(tmp_path / part / name).state_dict() for part in ("snapshots", "ema"))
        for key, tensor in tracked.items():
            torch.testing.assert_close(found[key], tensor, rtol=1e-5, atol=1e-6)


def test_reconstruction_of_a_damaged_run_writes_nothing(tmp_path, config, tiny_data):
    run(config, tmp_path, tiny_data)
    path = tmp_path / "snapshots" / "0000000048-0.050.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 255
    path.write_bytes(damaged)
    with pytest.raises(Exception, match=r"0000000048-0.050.safetensors is damaged"):
        reconstruct(tmp_path, [0.07], tmp_path / "ema")
    assert not any((tmp_path / "ema").rglob("*"))
