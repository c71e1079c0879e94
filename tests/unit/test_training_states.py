"""Training states of the official loop, in the layouts that one may expect: no real file was at hand."""

import collections
import math
import os
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from official_files import config_of, random_state, write_official

from unitgain.checkpoint.nvidia import from_state, rename
from unitgain.checkpoint.records import Refused
from unitgain.checkpoint.sharded import load_tensors
from unitgain.checkpoint.snapshot import list_snapshots
from unitgain.checkpoint.state import list_checkpoints, read_manifest
from unitgain.checkpoint.training import read_training_state
from unitgain.cli.main import main
from unitgain.data.named import open_data
from unitgain.recipes import DIGITS
from unitgain.train.official import import_run
from unitgain.train.run import load_config
from unitgain.train.state import TrainState, state_tensors

CONFIG = config_of(img_channels=1, label_dim=10, model_channels=64, channels_per_head=64)
NIMG = 2048


class Foreign(torch.nn.Module):
    """Parameters and buffers by official names, in their order."""

    def __init__(self, state):
        super().__init__()
        for name, tensor in state.items():
            kind = tensor if name.endswith(("freqs", "phases")) else torch.nn.Parameter(tensor)
            (self.register_buffer if kind is tensor else self.register_parameter)(name.replace(".", "/"), kind)

    def official(self):
        return collections.OrderedDict((name.replace("/", "."), one) for name, one in self.state_dict().items())


@pytest.fixture(scope="module")
def parts():
    """The state of a network, of its Adam after two steps, and of two averages."""
    network = Foreign(random_state(CONFIG, dtype=torch.float32))
    adam = torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.9, 0.95))
    for _ in range(2):
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter)
        adam.step()
    averages = [random_state(CONFIG, seed, torch.float32) for seed in (1, 2)]
    return network.official(), adam.state_dict(), averages


def nested(state, adam, averages):
    return {"cur_nimg": NIMG, "net": state, "optimizer_state": adam, "ema": {"stds": [0.05, 0.1], "emas": averages}}


def deeper(state, adam, averages):
    wrapped = collections.OrderedDict((f"module.{name}", tensor) for name, tensor in state.items())
    emas = [{"sigma_rel": length, "model": one} for length, one in zip((0.05, 0.1), averages, strict=True)]
    return {"state": {"nimg": np.int64(7), "cur_nimg": NIMG}, "objects": [wrapped, {"optimizer": adam}, {"emas": emas}]}


def named(state, adam, averages):
    flat = {f"net.{name}": tensor for name, tensor in state.items()}
    for length, one in zip(("0.050", "0.100"), averages, strict=True):
        flat |= {f"ema-{length}.{name}": tensor for name, tensor in one.items()}
    return {**flat, "adam": adam, "cur_nimg": NIMG, "rng": torch.get_rng_state()}


def test_what_lies_in_several_places(tmp_path, parts):
    """Averages that are one dict, as before the first step; a network and an optimizer under two names each."""
    state, adam, (average, _) = parts
    saved = {"cur_nimg": NIMG, "net": state, "model": state, "optimizer": adam, "objects": {"adam": adam}}
    saved["objects"]["all"] = saved["objects"]  # in itself
    torch.save({**saved, "ema": {"stds": [0.05, 0.1], "emas": [average, average]}}, tmp_path / "a.pt")
    found = read_training_state(tmp_path / "a.pt")
    assert [one.sigma_rel for one in found.averages] == [0.05, 0.1]
    assert found.adam and not any("left out" in remark for remark in found.remarks)


def test_lists_of_lists_without_end(tmp_path, parts):
    endless = []
    for _ in range(14):
        endless = [endless] * 1000
    torch.save({"cur_nimg": NIMG, "more": endless, "net": parts[0]}, tmp_path / "a.pt")
    assert read_training_state(tmp_path / "a.pt").nimg == NIMG


@pytest.mark.parametrize("layout", [nested, deeper, named])
def test_layouts_that_one_may_expect(tmp_path, parts, layout):
    state, adam, averages = parts
    path = tmp_path / "training-state-0000002.pt"
    torch.save(layout(*parts), path)
    found = read_training_state(path)
    denoiser, uncertainty = from_state(state, CONFIG)
    assert {name: value for name, value in found.config.items() if name in CONFIG} == {
        name: tuple(value) if isinstance(value, list) else value for name, value in CONFIG.items()
    }
    ours = {**denoiser.state_dict(), **uncertainty.state_dict(prefix="uncertainty.")}
    assert found.weights.keys() == ours.keys()
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in ours.items())
    assert found.nimg == NIMG and found.options == {"betas": (0.9, 0.95), "eps": 1e-8}
    assert [one.sigma_rel for one in found.averages] == [0.05, 0.1]
    for one, average in zip(found.averages, averages, strict=True):
        expected = rename(average, 64)
        assert all(torch.equal(one.tensors[name], tensor) for name, tensor in expected.items())
    parameters = [name for name in state if not name.endswith(("freqs", "phases"))]
    for kind in ("exp_avg", "exp_avg_sq"):
        expected = rename({name: adam["state"][i][kind] for i, name in enumerate(parameters)}, 64)
        assert all(torch.equal(found.adam[name][kind], tensor) for name, tensor in expected.items())
    assert all(one["step"] == 2 for one in found.adam.values())


def test_what_is_not_there_is_said(tmp_path, parts):
    state, adam, averages = parts
    path = tmp_path / "training-state-0000002.pt"
    torch.save({"net": state, "ema": averages[:1]}, path)
    found = read_training_state(path)
    assert found.nimg == NIMG  # by the name of the file
    assert not found.adam and not found.averages
    said = " ".join(found.remarks)
    assert "Adam: left out" in said and "ema.0: left out, nothing says how long" in said
    torch.save({"net": state}, tmp_path / "state.pt")
    with pytest.raises(Refused, match=r"how many images were seen: name it training-state-"):
        read_training_state(tmp_path / "state.pt")
    other = random_state({**CONFIG, "label_dim": 3}, dtype=torch.float32)
    torch.save({"net": state, "ema-0.050": averages[0], "ema-0.100": other}, path)
    found = read_training_state(path)
    assert [one.sigma_rel for one in found.averages] == [0.05]
    assert "ema-0.100: left out, its tensors are not those of the network" in " ".join(found.remarks)
    shuffled = {**adam, "state": {**adam["state"], 0: adam["state"][1]}}
    torch.save({"net": state, "optimizer": shuffled}, path)
    assert "parameter 0 has another shape" in " ".join(read_training_state(path).remarks)
    for params in (5, None, [[0], [1]], ["a"], [0, 0]):
        torch.save({"net": state, "optimizer": {**adam, "param_groups": [{"params": params}]}}, path)
        found = read_training_state(path)
        assert not found.adam and "Adam: left out, it" in " ".join(found.remarks)
    for wrong in ({"betas": None, "eps": "a"}, {"betas": (0.9, 1.0), "eps": -1e-8}, {"betas": (0.9,), "eps": math.inf}):
        torch.save({"net": state, "optimizer": {**adam, "param_groups": [adam["param_groups"][0] | wrong]}}, path)
        found = read_training_state(path)
        assert found.adam and not found.options
    for wrong in ({"ema": {"net": state}}, {"a": state, "b": dict(state)}, {"w": torch.ones(1)}, [1, 2]):
        torch.save(wrong, path)
        with pytest.raises(Refused, match="no training state"):
            read_training_state(path)


def test_the_run_goes_on_here(tmp_path, parts, capsys):
    _, _, averages = parts
    path = tmp_path / "training-state-0000002.pt"
    torch.save(nested(*parts), path)
    run = tmp_path / "run"
    main(["convert", str(path), str(run), "--data", "digits", "--recipe", "digits", "--device", "cpu"])
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "Adam: taken" in printed and "averages: taken" in printed and f"unitgain train --out {run} --resume" in printed
    )
    config = load_config(run, verify=True)
    assert config.recipe.ema == (0.05, 0.1) and config.recipe.beta2 == 0.95
    assert config.recipe.network.model_channels == 64
    (checkpoint,) = list_checkpoints(run / "checkpoints")
    loaded = TrainState.start(config.recipe)
    tensors, _ = state_tensors(loaded)
    load_tensors(checkpoint, read_manifest(checkpoint)["files"], tensors)
    expected = rename(averages[1], 64)
    own = {name: one for name, one in tensors.items() if name.startswith("ema1.average.")}
    assert own and all(torch.equal(one, expected[name.removeprefix("ema1.average.")]) for name, one in own.items())
    batch = config.recipe.batch
    main(["train", "--out", str(run), "--resume", "--quiet", "--device", "cpu", "--duration", str(NIMG + batch)])
    assert "finished at" in capsys.readouterr().out
    stored = list_snapshots(run)
    assert {(one.t, one.kind) for one in stored} == {
        (t, kind) for t in (NIMG, NIMG + batch) for kind in ("power", "raw")
    }
    # Of a power-function average one batch later little is new.
    first, last = (next(one for one in stored if one.t == t and one.kind == "power") for t in (NIMG, NIMG + batch))
    name = "network.out_conv.weight"
    assert not torch.equal(first.tensor(name), last.tensor(name))


def test_its_batch_rate_and_accumulation_are_options(tmp_path, parts, call):
    path, run = tmp_path / "training-state-0000002.pt", tmp_path / "run"
    torch.save(nested(*parts), path)
    options = ["--batch", "64", "--lr", "0.001", "--microbatch", "16"]
    said = call("convert", path, run, "--data", "digits", "--recipe", "digits", "--device", "cpu", *options).out
    assert "batch 64 in passes of 16, learning rate 0.001" in said
    config = load_config(run, verify=True)
    assert (config.recipe.batch, config.recipe.lr, config.microbatch) == (64, 0.001, 16)
    assert config.recipe.network.model_channels == 64 and config.recipe.ema == (0.05, 0.1)
    goes_on = ["--out", run, "--resume", "--quiet", "--no-tensorboard", "--device", "cpu", "--duration", NIMG + 64]
    assert "finished at" in call("train", *goes_on, *options).out


def test_settings_of_a_run_are_refused_where_none_goes_on(tmp_path, parts, call):
    path = tmp_path / "training-state-0000002.pt"
    torch.save(nested(*parts), path)
    assert "--microbatch: give --data" in call("convert", path, tmp_path / "run", "--microbatch", "16", code=2).err
    said = call("convert", path, tmp_path / "a.npz", "--lr", "0.1", "--data", "digits", code=2).err
    assert "--data, --lr: of a training state" in said
    wrong = ["--data", "digits", "--device", "cpu", "--batch", "64", "--microbatch", "24"]
    said = call("convert", path, tmp_path / "run", *wrong, code=2).err
    assert "microbatch = 24: must divide the batch of 64 images" in said and not (tmp_path / "run").exists()


def test_what_is_the_files_own_is_not_changed(tmp_path, parts):
    torch.save(nested(*parts), tmp_path / "a.pt")

    def change(config):
        network = config.recipe.network.replace(num_blocks=3)
        return replace(config, seed=5, flip=True, recipe=config.recipe.replace(t_ref=77, ema=(0.2,), network=network))

    import_run(tmp_path / "a.pt", tmp_path / "run", dataset=open_data("digits"), recipe=DIGITS, change=change)
    config = load_config(tmp_path / "run")
    assert (config.seed, config.flip, config.recipe.t_ref, config.recipe.ema) == (5, True, 77, (0.05, 0.1))
    assert config.recipe.network.num_blocks == 1


def test_without_data_it_starts_a_new_run(tmp_path, parts, capsys):
    path = tmp_path / "training-state-0000002.pt"
    write_official(tmp_path / "network-snapshot-0000002-0.050.pkl", config_of(**CONFIG, res_balance=0.4))
    torch.save(nested(*parts), path)
    main(["convert", str(path), str(tmp_path / "run")])
    assert "--data DATA to resume" in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "run" / "checkpoints").exists()
    (raw,) = (one for one in list_snapshots(tmp_path / "run") if one.kind == "raw")
    assert raw.header.network.res_balance == 0.4  # of the network beside it
    new = ["--data", "digits", "--out", str(tmp_path / "new"), "--batch", "64", "--duration", "64", "--device", "cpu"]
    main(["train", "--init", str(raw.path), *new])
    said = " ".join(capsys.readouterr().err.split())
    assert "64/64 images" in said and "tensors taken over as they are" in said
    with pytest.raises(SystemExit):
        main(["convert", str(path), str(tmp_path / "run.safetensors")])


def test_data_of_another_network_leave_nothing(tmp_path, parts):
    state = random_state({**CONFIG, "label_dim": 3}, dtype=torch.float32)
    torch.save({"net": state, "cur_nimg": NIMG}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="10 classes, but the network has label_dim=3"):
        import_run(tmp_path / "a.pt", tmp_path / "run", dataset=open_data("digits"), recipe=DIGITS)
    assert not (tmp_path / "run").exists()


class Runs:
    def __reduce__(self):
        return os.system, ("touch executed",)


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def rewrite(path, contents, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)


def flip_byte(path, whole, data):
    place = whole.index(data)
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])


def test_hostile_archives_are_refused_and_nothing_runs(tmp_path, parts, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pt"
    torch.save({"net": parts[0], "cur_nimg": NIMG}, path)
    good, whole = members(path), path.read_bytes()
    (top,) = {name.partition("/")[0] for name in good}
    storage = max((name for name in good if "/data/" in name), key=lambda name: len(good[name]))

    def refused(words):
        with pytest.raises(Refused, match=words):
            read_training_state(path)
        assert not (tmp_path / "executed").exists()

    rewrite(path, good)
    assert read_training_state(path).nimg == NIMG
    torch.save({"net": parts[0], "evil": Runs()}, path)
    refused(r"names '(posix|nt)\.system'")
    rewrite(path, good | {storage: good[storage][:-4]})
    refused("should have .* values")
    rewrite(path, good, zipfile.ZIP_DEFLATED)
    refused("packed or encrypted")
    rewrite(path, {name: data for name, data in good.items() if name != storage})
    refused("no member 'data/")
    rewrite(path, good | {f"{top}/byteorder": b"big"})
    refused("little-endian")
    path.write_bytes(whole[: len(whole) // 2])
    refused("zip")
    flip_byte(path, whole, good[storage])
    refused("checksum")
    torch.save({"net": parts[0], "optimizer": parts[1], "cur_nimg": NIMG}, path)
    flip_byte(path, path.read_bytes(), parts[1]["state"][1]["exp_avg_sq"].numpy().tobytes())
    refused("checksum")
    path.write_bytes(b"<html>")
    refused("HTML page")
    # A list of lists of lists ..., each of which the pickle has once.
    laughs = [0.05]
    for _ in range(12):
        laughs = [laughs] * 1000
    rewrite(path, {f"{top}/data.pkl": pickle.dumps({"std": laughs}, protocol=2)})
    refused("no training state")


def test_checkpoints_past_ten_digits_are_listed_by_number(tmp_path):
    for name in ("9999999999", "10000000000", "0000000008", "12", "0000000009.damaged", "00000000100.tmp"):
        (tmp_path / name).mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["0000000008", "9999999999", "10000000000"]
