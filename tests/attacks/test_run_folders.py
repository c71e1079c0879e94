"""A run folder from someone else, resumed: whoever made it made its checksums too. Nothing in it runs, leads outside,
waits for ever or takes more than its own size, and each of these ends in a CheckpointError."""

import io
import json
import os
import pickle
import shutil
import struct
from hashlib import sha256

import pytest
import torch
from safetensors.torch import save, save_file

from unitgain.checkpoint.sharded import ShardError, load_tensors
from unitgain.checkpoint.state import CheckpointError, list_checkpoints, read_manifest, verify_files
from unitgain.cli.train import Train
from unitgain.train import TrainConfig, train
from unitgain.train.errors import TrainingError
from unitgain.train.run import load_config

FILE = "00000.safetensors"


class Payload:
    """Leaves a mark when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture(scope="module")
def pattern(tmp_path_factory):
    """A run, made once; a folder to make it in."""
    return tmp_path_factory.mktemp("pattern") / "run"


@pytest.fixture
def run(tmp_path, pattern, tiny_recipe, tiny_data):
    if not pattern.exists():
        config = TrainConfig(recipe=tiny_recipe, data="tiny", tick=96, checkpoint_every=96)
        train(config, pattern, tiny_data, quiet=True, tensorboard=False)
    return shutil.copytree(pattern, tmp_path / "run")


def forge(checkpoint, change=lambda manifest: None):
    """Seal a checkpoint again after its files were changed, as `commit` would."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest.pop("sha256")
    for name in list(manifest["files"]):
        path = checkpoint / name
        if path.is_file():
            data = path.read_bytes()
            manifest["files"][name] = {"size": len(data), "sha256": sha256(data).hexdigest()}
    change(manifest)
    digest = sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (checkpoint / "manifest.json").write_text(json.dumps({**manifest, "sha256": digest}))


def refused(run, data, words):
    """Resuming ends in a CheckpointError, and trains nothing."""
    before = {path: path.read_bytes() for path in (run / "snapshots").iterdir()}
    with pytest.raises(CheckpointError, match=words):
        train(load_config(run), run, data, resume=True, quiet=True, tensorboard=False)
    assert {path: path.read_bytes() for path in (run / "snapshots").iterdir()} == before


def payloads(mark):
    """What runs code in one reader or another."""
    raw = pickle.dumps(Payload(mark))
    saved = io.BytesIO()
    torch.save({"x": Payload(mark)}, saved)
    return {"pickle": raw, "torch.save": saved.getvalue()}


@pytest.mark.parametrize("kind", ["pickle", "torch.save"])
@pytest.mark.parametrize("name", [FILE, ".metadata", "__0_0.distcp", "data.pkl"])
def test_pickles_in_a_checkpoint_are_never_read(run, tiny_data, tmp_path, kind, name):
    (checkpoint,) = list_checkpoints(run / "checkpoints")
    mark = tmp_path / "executed"
    (checkpoint / name).write_bytes(payloads(mark)[kind])
    entry = {name: {"size": 0, "sha256": ""}}
    forge(checkpoint, lambda manifest: manifest["files"].update(entry))
    forge(checkpoint)
    if name == FILE:
        refused(run, tiny_data, f"{FILE} cannot be read")
    else:  # it is checked, and nothing ever opens it
        assert train(load_config(run), run, tiny_data, resume=True, quiet=True, tensorboard=False).finished
    assert not mark.exists()


@pytest.mark.parametrize(
    "name",
    ["../other.safetensors", "/etc/passwd", "..", "", "a/b.safetensors", "manifest.json", "\x1b[2J", "a\\b", "C:"],
)
def test_names_that_are_paths(run, tiny_data, name):
    (checkpoint,) = list_checkpoints(run / "checkpoints")
    save_file({"x": torch.zeros(1)}, checkpoint.parent / "other.safetensors")
    forge(checkpoint, lambda manifest: manifest["files"].update({name: {"size": 0, "sha256": ""}}))
    with pytest.raises(CheckpointError, match="no valid manifest: ValueError") as caught:
        read_manifest(checkpoint)
    assert str(caught.value).isprintable()
    refused(run, tiny_data, "has no checkpoint to resume from")


@pytest.mark.parametrize("place", [FILE, "manifest.json"])
@pytest.mark.parametrize("what", ["pipe", "link", "device", "folder"])
def test_things_that_are_no_files(run, tiny_data, tmp_path, place, what):
    (checkpoint,) = list_checkpoints(run / "checkpoints")
    path = checkpoint / place
    path.rename(tmp_path / "elsewhere")
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere" if what == "link" else "/dev/zero")
    with pytest.raises(CheckpointError):
        manifest = read_manifest(checkpoint)
        verify_files(checkpoint, manifest["files"], list(manifest["files"]))
    refused(run, tiny_data, "has no checkpoint to resume from")


def with_rows(tensors, rows):
    return save(tensors, {"rows": rows if isinstance(rows, str) else json.dumps(rows)})


def header(text, size=0):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data + bytes(size)


A = torch.zeros(4, 2)
F32 = {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 32]}
FORGED = {
    "missing": {FILE: save({"b": A})},
    "shape": {FILE: save({"a": torch.zeros(2, 4)})},
    "dtype": {FILE: save({"a": A.half()})},
    "rows that overlap": {
        FILE: with_rows({"a": A[:3]}, {"a": [0, 4]}),
        "1.safetensors": with_rows({"a": A[:3]}, {"a": [1, 4]}),
    },
    "rows that are missing": {FILE: with_rows({"a": A[:3]}, {"a": [0, 4]})},
    "rows beyond": {FILE: with_rows({"a": A}, {"a": [1, 4]})},
    "rows before": {FILE: with_rows({"a": A}, {"a": [-1, 4]})},
    "rows of 10^30": {FILE: with_rows({"a": A}, {"a": [0, 10**30]})},
    "rows that are no numbers": {FILE: with_rows({"a": A}, {"a": ["0", "4"]})},
    "rows that are true": {FILE: with_rows({"a": A}, {"a": [False, 4]})},
    "rows of no tensor": {FILE: with_rows({"a": A[:3]}, {"b": [0, 4]})},
    "rows that are a list": {FILE: with_rows({"a": A[:3]}, [1])},
    "rows that are no JSON": {FILE: with_rows({"a": A[:3]}, "{")},
    "rows that are deep": {FILE: with_rows({"a": A[:3]}, "[" * 100_000)},
    "twice": {FILE: save({"a": A}), "1.safetensors": save({"a": A})},
    "a header of 2^60 bytes": {FILE: struct.pack("<Q", 2**60) + b"{}"},
    "a header that is deep": {FILE: header("[" * 100_000)},
    "bytes beyond the file": {FILE: header(json.dumps({"a": F32}), 8)},
    "bytes that overlap": {FILE: header(json.dumps({"a": F32, "b": F32}), 32)},
    "a shape of 2^60": {FILE: header(json.dumps({"a": {**F32, "shape": [2**60, 2]}}), 32)},
    "a shape that overflows": {FILE: header(json.dumps({"a": {**F32, "shape": [2**32, 2**32, 2]}}), 32)},
    "nothing": {FILE: b""},
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_files_of_tensors(tmp_path, name):
    for file, data in FORGED[name].items():
        (tmp_path / file).write_bytes(data)
    with pytest.raises(ShardError, match=r"tensor a|cannot be read") as caught:
        load_tensors(tmp_path, list(FORGED[name]), {"a": torch.ones(4, 2)})
    assert len(str(caught.value)) < 1000


def test_only_files_of_the_manifest_are_opened(tmp_path):
    save_file({"a": A}, tmp_path / FILE)
    (tmp_path / "more.safetensors").symlink_to(tmp_path / FILE)
    os.mkfifo(tmp_path / "pipe.safetensors")
    load_tensors(tmp_path, [FILE, "notes.txt"], {"a": torch.ones(4, 2)})
    for name in ("more.safetensors", "pipe.safetensors"):
        with pytest.raises(ShardError, match="no ordinary file"):
            load_tensors(tmp_path, [name], {"a": torch.ones(4, 2)})


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.clear(),
        lambda values: values.update(extra=1),
        lambda values: values.update(nimg="96"),
        lambda values: values.update(nimg=10**400),
        lambda values: values.update(nimg=-1),
        lambda values: values.update(nimg=95),
        lambda values: values.update(ema=[]),
        lambda values: values.update(ema=[{"t": 1e999}] * 2),
        lambda values: values.update(ema=[{"t": "x"}] * 2),
        lambda values: values.update(ema=[{}] * 2),
        lambda values: values.update(ema=7),
        lambda values: values.update(window=None),
        lambda values: values["window"].update(steps=-1),
        lambda values: values["window"].update(loss=float("nan")),
        lambda values: values["window"].update(levels=[[0.0]]),
        lambda values: values["window"].update(levels=[["x"] * 12] * 3),
        lambda values: values["window"].update(levels=7),
        lambda values: values.update(config=[]),
        lambda values: values["config"]["recipe"]["network"].update(model_channels="x"),
        lambda values: values["config"].update(seed="\x1b[2J"),
        lambda values: values.update(processes=None),
    ],
)
def test_forged_values(run, tiny_data, change):
    (checkpoint,) = list_checkpoints(run / "checkpoints")
    forge(checkpoint, lambda manifest: change(manifest["values"]))
    refused(run, tiny_data, "is no checkpoint of this run")


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "[" * 100_000, '{"files": 7}', '{"format": []}', "9" * 5000, '{"a": NaN}', "\x00"]
)
def test_manifests_that_are_none(run, tiny_data, text):
    (checkpoint,) = list_checkpoints(run / "checkpoints")
    (checkpoint / "manifest.json").write_text(text)
    refused(run, tiny_data, "has no checkpoint to resume from")


@pytest.mark.parametrize(
    "change", [{"num_blocks": 10**7}, {"model_channels": 10**9}, {"channel_mult": [1] * 3000}, {"label_dim": 10**9}]
)
def test_settings_that_ask_for_a_network_beyond_reason(run, change):
    config = json.loads((run / "config.json").read_text())
    config["recipe"]["network"].update(change)
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(TrainingError) as caught:
        load_config(run)
    assert len(str(caught.value)) < 1000


def test_u_of_sigma_beyond_reason(run):
    config = json.loads((run / "config.json").read_text())
    config["recipe"]["uncertainty_channels"] = 10**9
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(TrainingError, match="uncertainty_channels = 1000000000"):
        load_config(run)


@pytest.mark.parametrize(
    ("option", "value"),
    [("metrics", "kid@payload:detect"), ("metrics", "payload:Own"), ("metrics", "kid@x.pt"), ("inception", "x.pt")],
)
def test_programs_that_a_run_folder_names_are_not_run(run, tmp_path, monkeypatch, option, value):
    (tmp_path / "payload.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\ndetect = Own = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = json.loads((run / "config.json").read_text())
    config["evaluation"][option] = [value] if option == "metrics" else value
    (run / "config.json").write_text(json.dumps(config))
    (run / ".config.sha256").unlink()
    words = ["--out", str(run), "--resume"]
    with pytest.raises(ValueError, match=f"if you trust it, say so by --{option} {value}"):
        Train.read(words)
    assert not (tmp_path / "mark").exists()
    assert Train.read([*words, f"--{option}", value]).settings.evaluation.programs() == {option: value}
