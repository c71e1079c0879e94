"""Checkpoints that someone or something tampered with: nothing in them runs, nothing wrong is taken for right."""

import hashlib
import json
import os
import signal

import pytest
import torch

from unitgain.checkpoint import sharded
from unitgain.checkpoint.sharded import ShardError, load_tensors, save_tensors
from unitgain.checkpoint.state import (
    CheckpointError,
    commit,
    list_checkpoints,
    partial_folder,
    prune_checkpoints,
    read_manifest,
    verify_files,
)
from unitgain.parallel import World
from unitgain.recipes import DIGITS
from unitgain.train import TrainConfig, train
from unitgain.train.saver import Saver

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b.c": torch.tensor(3), "empty": torch.empty(0, 4)}


@pytest.fixture
def checkpoint(tmp_path):
    save_tensors(partial_folder(tmp_path, 8), TENSORS, World()).result()
    return commit(tmp_path, 8, {"nimg": 8, "ema": [{"t": 8.0}]})


FILES = ["00000.safetensors"]


def test_what_is_written_is_read_and_anything_else_is_refused(checkpoint):
    there = {name: torch.full_like(tensor, 7) for name, tensor in TENSORS.items()}
    load_tensors(checkpoint, FILES, there)
    assert all(torch.equal(there[name], tensor) for name, tensor in TENSORS.items())
    for wrong, words in (
        ({"a": torch.zeros(3, 3)}, r"tensor a has shape \(2, 3\), and \(3, 3\) is wanted"),
        ({"a": torch.zeros(2)}, "shape"),
        ({"b.c": torch.zeros(1, dtype=torch.int64)}, "shape"),
        ({"a": torch.zeros(2, 3, dtype=torch.float64)}, "dtype torch.float32"),
        ({"x": torch.zeros(1)}, "of the 1 rows of tensor x it has, file by file, none"),
    ):
        with pytest.raises(ShardError, match=words):
            load_tensors(checkpoint, FILES, wrong)
    with pytest.raises(ShardError, match="none"):
        load_tensors(checkpoint, [], there)


@pytest.mark.parametrize("part", ["tensors", "manifest"])
@pytest.mark.parametrize("how", ["cut", "flip", "zero", "gone"])
def test_damage_is_found(checkpoint, part, how):
    path = checkpoint / {"tensors": FILES[0], "manifest": "manifest.json"}[part]
    data = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    else:
        middle = len(data) // 2
        data[middle:] = b"" if how == "cut" else data[middle:]
        if how == "flip":
            data[middle] ^= 1
        if how == "zero":
            data[:] = bytes(len(data))
        path.write_bytes(data)
    with pytest.raises(CheckpointError, match=str(checkpoint)):
        manifest = read_manifest(checkpoint)
        verify_files(checkpoint, manifest["files"], sorted(manifest["files"]))


def test_every_byte_of_the_manifest_counts(checkpoint):
    path = checkpoint / "manifest.json"
    whole = path.read_bytes()
    assert read_manifest(checkpoint)["values"]["ema"] == [{"t": 8.0}]
    harmless = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            found = read_manifest(checkpoint)
        except CheckpointError:
            continue
        harmless += 1  # white space between the parts
        assert found == read_manifest_of(whole)
    assert harmless < len(whole) / 2


def read_manifest_of(data):
    manifest = json.loads(data)
    manifest.pop("sha256")
    return manifest


def test_another_format_is_named_and_not_taken_for_damage(tiny_recipe, tiny_data, tmp_path):
    config = TrainConfig(recipe=tiny_recipe, data="tiny")
    train(config, tmp_path, tiny_data, quiet=True, tensorboard=False)
    folder = list_checkpoints(tmp_path / "checkpoints")[-1]
    manifest = {**read_manifest(folder), "format": "unitgain-checkpoint/99"}
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({**manifest, "sha256": digest}))
    with pytest.raises(ValueError, match="of the format unitgain-checkpoint/99, and this version of unitgain reads"):
        train(config, tmp_path, tiny_data, quiet=True, tensorboard=False, resume=True)
    assert folder in list_checkpoints(tmp_path / "checkpoints")


def test_newest_and_milestones_are_kept(tmp_path):
    for nimg in range(0, 200, 8):
        (tmp_path / f"{nimg:010d}").mkdir()
        prune_checkpoints(tmp_path, keep=2, keep_every=50)
        assert (tmp_path / "0000000000").exists() == (nimg == 0)
    assert [int(path.name) for path in list_checkpoints(tmp_path)] == [56, 104, 152, 184, 192]


@pytest.fixture
def config(tiny_recipe):
    return TrainConfig(recipe=tiny_recipe, data="tiny", tick=16, checkpoint_every=32)


@pytest.fixture
def full_disk(monkeypatch):
    """No room for the checkpoint at 64 images."""
    write = sharded.write_tensors

    def refuse(path, tensors, metadata):
        if "0000000064" in str(path):
            raise OSError(28, "No space left on device", str(path))
        return write(path, tensors, metadata)

    monkeypatch.setattr(sharded, "write_tensors", refuse)


def test_a_checkpoint_that_cannot_be_written_stops_the_run(tmp_path, config, tiny_data, full_disk, monkeypatch):
    with pytest.raises(
        CheckpointError, match=r"at 64 images could not be written: .*No space left.*0000000032, is intact"
    ):
        train(config, tmp_path, tiny_data, quiet=True, tensorboard=False)
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["0000000032"]
    monkeypatch.undo()
    assert train(config, tmp_path, tiny_data, quiet=True, tensorboard=False, resume=True).finished
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_or_the_run_goes_on_if_the_user_says_so(tmp_path, config, tiny_data, full_disk, capsys):
    how = {"quiet": True, "tensorboard": False, "on_checkpoint_error": "continue"}
    assert train(config, tmp_path, tiny_data, **how).finished
    assert "WARNING: the checkpoint at 64 images could not be written" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["0000000032", "0000000096"]


@pytest.mark.parametrize("last", [None, 32])
def test_a_run_that_is_stopped_says_from_which_checkpoint_it_goes_on(tmp_path, call_train, monkeypatch, last):
    write, run = sharded.write_tensors, tmp_path / "run"

    def refuse(path, tensors, metadata):
        if last is None or int(path.parent.name.strip(".tmp")) > last:
            os.kill(os.getpid(), signal.SIGTERM)
            raise OSError(28, "No space left on device", str(path))
        return write(path, tensors, metadata)

    monkeypatch.setattr(sharded, "write_tensors", refuse)
    small = ["--batch", "16", "--duration", "320", "--checkpoint-every", "32", "--device", "cpu"]
    said = call_train("digits", "--out", run, *small, "--on-checkpoint-error", "continue", code=1)
    assert "checkpoint written" not in said.out
    assert "stopped by SIGTERM" in said.err and "no checkpoint could be written" in said.err
    if last is None:
        assert "nothing to resume from" in said.err and "--resume" not in said.out
    else:
        assert "goes on from that of 32" in said.err and f"train --out {run} --resume" in said.out
    config = TrainConfig(recipe=DIGITS.replace(batch=16, duration=64), data="digits", checkpoint_every=32)
    how = {"on_checkpoint_error": "continue", "quiet": True, "tensorboard": False}
    assert train(config, tmp_path / "other", **how).checkpoint == last
    monkeypatch.undo()
    if last is not None:
        assert train(config, tmp_path / "other", resume=True, **how).checkpoint == 64


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    from threading import Event

    from unitgain.train import saver

    written, allowed = [], Event()

    def slow(folder, nimg, values):
        allowed.wait(10)
        written.append(nimg)
        return commit(folder, nimg, values)

    monkeypatch.setattr(saver, "commit", slow)
    tensors = {"a": torch.ones(3)}
    writer = Saver(tmp_path, World(), keep=2)
    writer.begin(8, tensors, {"nimg": 8})
    tensors["a"].zero_()  # training goes on
    assert not written and not writer.failed()
    allowed.set()
    writer.finish()
    there = {"a": torch.empty(3)}
    load_tensors(tmp_path / "0000000008", FILES, there)
    assert there["a"].tolist() == [1, 1, 1]
