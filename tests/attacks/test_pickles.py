"""Files that try to do something, or to be too much: each is refused, and nothing of it happens."""

import io
import json
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from official_files import (
    EasyDict,
    Persistent,
    config_of,
    contents,
    dumps,
    module_state,
    precond,
    random_state,
    write_official,
)

from unitgain.checkpoint.convert import convert_network
from unitgain.checkpoint.origin import Origin
from unitgain.checkpoint.pickles import SMALL
from unitgain.checkpoint.records import Refused
from unitgain.checkpoint.statistics import read_reference

HERE = Origin(nimg=1024, sigma_rel=0.05, recipe="test")


@pytest.fixture
def trap(tmp_path):
    """A shell command that leaves a trace; the test ends with a look whether it is there."""
    trace = tmp_path / "executed"
    yield f"touch {trace}"
    assert not trace.exists()
    assert "UNITGAIN_EXECUTED" not in os.environ


def refused(path, data, words):
    """The file is refused with a message of these words."""
    path.write_bytes(data)
    out = path.with_suffix(".safetensors")
    with pytest.raises(Refused, match=words) as caught:
        convert_network(path, out, HERE)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()
    assert not out.exists()


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *args, state=None):
        self.function, self.args, self.state = function, args, state

    def __reduce__(self):
        return (self.function, self.args, self.state) if self.state is not None else (self.function, self.args)


def hidden_in(value):
    """Official files with something in a place that conversion does not read."""
    config = config_of()
    whole = contents(random_state(config), config)
    yield value
    yield {**whole, "loss_fn": value}
    yield {**whole, "another": [value]}
    network = precond(random_state(config), config)
    network.meta["state"]["_forward_hooks"] = {"hook": value}
    yield {**whole, "ema": network}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_calls_of_anything_dangerous(tmp_path, trap, protocol):
    code = f"__import__('os').system({trap!r})"
    for function, args in ((os.system, (trap,)), (eval, (code,)), (exec, (code,)), (__import__, ("this",))):
        for file in hidden_in(Calls(function, *args)):
            names = r"it names '(posix|nt|builtins|__builtin__)\.(system|eval|exec|__import__)'|copy_reg|opcode"
            refused(tmp_path / "network.pkl", dumps(file, protocol), names)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (b"cos\nsystem\n(X\x04\x00\x00\x00truetR.", r"byte 0: it names 'os.system'"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.", "byte 14: it names 'os.system'"),
        (b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.", "builtins.getattr"),
        (b"(S'true'\nios\nsystem\n.", "opcode STRING"),
        (b"(X\x04\x00\x00\x00trueios\nsystem\n.", "opcode INST"),
        (b"(cos\nsystem\nX\x04\x00\x00\x00trueo.", "os.system"),
        (b"(X\x02\x00\x00\x00osX\x02\x00\x00\x00oso.", "opcode OBJ"),
        (b"\x82\x01.", "opcode EXT1"),
        (b"\x83\x01\x00.", "opcode EXT2"),
        (b"\x84\x01\x00\x00\x00.", "opcode EXT4"),
        (b"Pos\n.", "opcode PERSID"),
        (b"X\x02\x00\x00\x00osQ.", "persistent id"),
        (b"\x97.", "opcode NEXT_BUFFER"),
        (b"}(X\x01\x00\x00\x00ad}\x92.", "opcode DICT"),
        (b"\x80\x04ccollections\nOrderedDict\n)}\x92.", "opcode NEWOBJ_EX"),
        (b"\x80\x00.", "protocol 0"),
        (b"\x80\x06.", "protocol 6"),
        (b"cos\x1b[2J\nsystem\n.", r"it names 'os\\x1b\[2J.system'"),
        (b"c\xff\nsystem\n.", "not UTF-8"),
        (b"c" + b"a" * 300 + b"\nb\n.", "longer than 256"),
        (b"c..\n..\n.", r"it names '\.\.\.\.\.'"),
        (b"", "empty"),
        (b".", "ends with 0 values"),
        (b"NN.", "ends with 2 values"),
        (b"(N.", "ends with 1 values"),
        (b"N", "1 bytes are announced where 0 are left"),
        (b"N.x", "1 bytes follow the end"),
        (b"N.", "not the dict of an official file"),
        (b"R.", "empty stack"),
        (b"(NR.", "empty stack"),
        (b"t.", "a mark is taken"),
        (b"u.", "a mark is taken"),
        (b"]Ns.", "no dict to take it"),
        (b"]NNs.", "no dict to take it"),
        (b"}(Nu.", "without its value"),
        (b"}N]s.", "of type list|no dict|key"),
        (b"}]Ns.", "a key or a member of a set is of type list"),
        (b"}\x8a\x10" + b"\x01" * 16 + b"Ns.", "31 bits"),
        (b"\x8a\xff" + b"\x01" * 255 + b".", "integer of 255 bytes"),
        (b"h\x07.", "value 7 of the memo"),
        (b"q\x00.", "nothing is there to remember"),
        (b"NNR.", "what is called is of type nonetype"),
    ],
)
def test_programs_by_hand(tmp_path, trap, program, words):
    refused(tmp_path / "network.pkl", program, words)
    with pytest.raises(Refused):
        read_reference(tmp_path / "network.pkl")


def storage_bytes(tensor):
    return tensor.storage().__reduce__()[1][0]


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_pickles_inside_storages(tmp_path, trap):
    """`_load_from_bytes` is an unrestricted `torch.load` to others."""
    config = config_of()
    good = storage_bytes(torch.zeros(4, dtype=torch.float16))
    evil = pickle.dumps(Calls(os.system, trap), protocol=2)
    parts, position = [], 0
    while len(parts) < 5:  # the five pickles before the values
        end = end_of_pickle(good, position)
        parts.append(good[position:end])
        position = end
    values = good[position:]
    nested = {f"part {i}": b"".join([*parts[:i], evil, *parts[i + 1 :], values]) for i in range(5)}
    saved = tmp_path / "saved.pt"
    torch.save({"a": torch.zeros(2)}, saved)
    nested |= {"alone": evil, "zip": saved.read_bytes(), "empty": b"", "values": values}
    nested["after"] = good + evil
    for name, data in nested.items():
        state = random_state(config)
        target = next(key for key in state if key.endswith("_noise.weight"))
        whole = contents(state, config)
        weight = whole["ema"].meta["state"]["_modules"]["unet"].meta["state"]["_modules"]["emb_noise"].meta["state"]
        load = Calls(torch.storage._load_from_bytes, data)
        shape = tuple(state[target].shape)
        tensor = Calls(torch._utils._rebuild_tensor_v2, load, 0, shape, (shape[1], 1), False, {})
        weight["_parameters"]["weight"] = Calls(torch._utils._rebuild_parameter, tensor, False, {})
        refused(tmp_path / "network.pkl", dumps(whole), f"tensor {target}: .*in the bytes of a storage"), name


def end_of_pickle(data, start):
    """Where the pickle ends that begins at `start`."""
    file = io.BytesIO(data)
    file.seek(start)
    for _ in pickletools.genops(file):
        pass
    return file.tell()


def tensor_call(data, shape, stride, offset=0):
    load = Calls(torch.storage._load_from_bytes, data)
    return Calls(torch._utils._rebuild_tensor_v2, load, offset, shape, stride, False, {})


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [
        ((2**40,), (1,), 0),
        ((2**32, 2**32), (2**32, 1), 0),
        ((8, 2**20), (0, 0), 0),
        ((8, 8), (0, 1), 0),
        ((8, 8), (1, 1), 0),
        ((8, 8), (8, 1), 1),
        ((8, 8), (8, 1), 2**61),
        ((8, 8), (8, 1), -1),
        ((8, 8), (-8, 1), 63),
        ((8, -8), (8, 1), 0),
        ((8, 8), (8,), 0),
        ((0, 2**61), (1, 1), 0),
        ((1,) * 100, (1,) * 100, 0),
        ((8, 8), (2**61, 2**61), 0),
        ((8, 8.0), (8, 1), 0),
        ((8, True), (8, 1), 0),
    ],
)
def test_tensors_that_reach_beyond_their_storage(tmp_path, shape, stride, offset):
    data = storage_bytes(torch.zeros(64, dtype=torch.float16))
    refused(tmp_path / "network.pkl", dumps(with_weight(tensor_call(data, shape, stride, offset))), "emb_noise.weight")


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_storages_that_declare_more_than_they_have(tmp_path):
    good = storage_bytes(torch.zeros(64, dtype=torch.float16))
    assert good.count(b"K\x40Nt") == 1
    count = struct.pack("<Q", 64)
    for data in (
        good.replace(b"K\x40Nt", b"\x8a\x06" + (2**40).to_bytes(6, "little") + b"Nt"),
        good.replace(b"K\x40Nt", b"\x8a\x08" + (2**62).to_bytes(8, "little") + b"Nt"),
        good.replace(b"K\x40Nt", b"J\xff\xff\xff\xffNt"),
        good.replace(count, struct.pack("<Q", 2**60)),
        good.replace(b"K\x40Nt", b"\x8a\x06" + (2**40).to_bytes(6, "little") + b"Nt").replace(
            count, struct.pack("<Q", 2**40)
        ),
        good[:-1],
        good + b"\0",
        good.replace(b"HalfStorage", b"ByteStorage"),
        good.replace(b"little_endian\x71\x02\x88", b"little_endian\x71\x02\x89"),
    ):
        assert data != good
        began = time.monotonic()
        refused(tmp_path / "network.pkl", dumps(with_weight(tensor_call(data, (8, 8), (8, 1)))), "bytes of a storage")
        assert time.monotonic() - began < 10


def with_weight(weight):
    """An official file whose `unet.emb_noise.weight` is something else."""
    config = config_of()
    whole = contents(random_state(config), config)
    unet = whole["ema"].meta["state"]["_modules"]["unet"].meta["state"]
    unet["_modules"]["emb_noise"].meta["state"]["_parameters"]["weight"] = weight
    return whole


def test_source_code_is_never_run(tmp_path, trap):
    """Every official file has source in it, so a file is not refused for it; but what it says does not matter."""
    source = f"import os\nos.system({trap!r})\nraise SystemExit('executed')\n"
    write_official(tmp_path / "network.pkl", module_src=source)
    convert_network(tmp_path / "network.pkl", tmp_path / "network.safetensors", HERE)


@pytest.mark.parametrize("class_name", ["Evil", "torch.nn.Module", "os", "", 7, None, b"Precond", "E\x1b[31mvil" * 50])
def test_objects_of_other_classes(tmp_path, class_name):
    config = config_of()
    whole = contents(random_state(config), config)
    for place in ("loss_fn", "unused"):
        refused(tmp_path / "network.pkl", dumps({**whole, place: Persistent(class_name, {})}), "an object of class")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 7}, "another type or version"),
        ({"type": "module"}, "another type or version"),
        ({"module_src": None}, "without its source"),
        ({"state": [1]}, "without its source text or its attributes"),
    ],
)
def test_objects_of_another_form(tmp_path, changes, words):
    config = config_of()
    whole = contents(random_state(config), config)
    whole["ema"].meta.update(changes)
    refused(tmp_path / "network.pkl", dumps(whole), words)


def test_cycles_in_modules(tmp_path):
    config = config_of()
    for name in ("own", "child"):
        whole = contents(random_state(config), config)
        network = whole["ema"]
        unet = network.meta["state"]["_modules"]["unet"]
        if name == "own":
            unet.meta["state"]["_modules"]["enc"] = unet.meta["state"]["_modules"]["dec"]
        else:
            deep = torch.nn.ModuleDict()
            deep.__dict__["_modules"] = {"again": deep}
            unet.meta["state"]["_modules"]["enc"] = deep
        refused(tmp_path / "network.pkl", dumps(whole), "twice, or inside itself")


def test_a_call_of_itself(tmp_path):
    loop = Calls(Persistent("Block", {}).__reduce__()[0])
    arguments = EasyDict(type="class", version=6, module_src="", class_name="Precond", state={})
    arguments["state"]["again"] = arguments
    loop.args = (arguments,)
    refused(tmp_path / "network.pkl", dumps({"ema": loop}), "has no _parameters")
    # A tuple within itself, as picklers write it: with opcodes that take back what was built.
    inside: list = []
    inside.append((inside,))
    data = pickle.dumps(inside[0], protocol=2)
    refused(tmp_path / "network.pkl", data, "opcode POP")
    refused(tmp_path / "network.pkl", b"\x80\x04]\x94h\x00a.", "holds a list")
    refused(
        tmp_path / "network.pkl", b"\x80\x04}\x94X\x03\x00\x00\x00emah\x00s.", "type dict where an object should be"
    )


def attack(script, *options):
    """Run a script beside this file without the checks of types that tests have: they would take most of the time."""
    command = [sys.executable, Path(__file__).with_name(script), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_bombs_stay_small_and_quick():
    results = attack("bombs.py")
    assert len(results) > 25
    for name, result in results.items():
        assert "nothing was executed" in result["outcome"] or "holds a" in result["outcome"], name
        assert result["memory"] <= max(2 * result["bytes"], SMALL) + result["bytes"], name  # the mapped file as well
        assert result["seconds"] < 20, name


def test_mutated_files():
    result = attack("fuzz.py", "--mutations", "2000")
    assert not result["failures"]
    assert sum(result["outcomes"].values()) == 2000
    assert result["outcomes"]["converted"] > 100  # some mutations touch what does not matter
    assert result["outcomes"]["refused"] > 1000


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_tensors_that_are_offered_twice(tmp_path):
    """A thousand views of one storage would make a thousand files of it."""
    config = config_of()
    load = Calls(torch.storage._load_from_bytes, storage_bytes(torch.zeros(100_000, dtype=torch.float16)))
    whole = contents(random_state(config), config)
    unet = whole["ema"].meta["state"]["_modules"]["unet"].meta["state"]
    for name in ("emb_noise", "emb_label"):
        parameters = unet["_modules"][name].meta["state"]["_parameters"]
        shape = tuple(parameters["weight"].shape)
        parameters["weight"] = Calls(torch._utils._rebuild_tensor_v2, load, 0, shape, (shape[1], 1), False, {})
    refused(tmp_path / "network.pkl", dumps(whole), "offered twice")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_blocks": 10**9}, "num_blocks is not a whole number from 0 to 64"),
        ({"num_blocks": 60}, "describe 120 blocks at least"),
        ({"model_channels": 2**40}, "model_channels"),
        ({"channel_mult": [1] * 10**4}, "channel_mult is not a list of 16"),
        ({"channel_mult": [1, "2"]}, "channel_mult"),
        ({"channel_mult": 3}, "channel_mult"),
        ({"img_resolution": 2.0}, "img_resolution"),
        ({"label_dim": -1}, "label_dim"),
        ({"label_dim": True}, "label_dim"),
        ({"sigma_data": float("nan")}, "sigma_data"),
        ({"sigma_data": 0.0}, "sigma_data must be positive"),
        ({"dropout": 2.0}, "dropout"),
        ({"num_blocks": 0}, "num_blocks"),
        ({"channels_per_head": 0}, "channels_per_head"),
        ({"resample_filter": [1, 2, 1]}, "resample_filter"),
        ({"evil": 1}, "constructor argument 'evil' is not known"),
        ({"model_channels": 16}, "describe another network"),
        ({"label_dim": 0}, "left over"),
    ],
)
def test_arguments_of_impossible_networks(tmp_path, changes, words):
    config = config_of()
    whole = contents(random_state(config), config)
    whole["ema"].meta["state"]["_init_kwargs"].update(changes)
    began = time.monotonic()
    refused(tmp_path / "network.pkl", dumps(whole), words)
    assert time.monotonic() - began < 20


def test_modules_that_are_none(tmp_path):
    config = config_of()
    for place, value, words in (
        ("_parameters", None, "has no _parameters"),
        ("_parameters", {"a.b": 1}, "as a name in _parameters"),
        ("_parameters", {"weight": 3}, "tensor weight: a value of type int where a tensor should be"),
        ("_modules", {"unet": 3}, "a value of type int where an object should be"),
        ("_modules", {"unet": Persistent("EDM2Loss", module_state())}, "is EDM2Loss, which is no part of a network"),
        ("_modules", {}, "blocks at least, but it has 0 tensors"),
    ):
        whole = contents(random_state(config), config)
        whole["ema"].meta["state"][place] = value
        refused(tmp_path / "network.pkl", dumps(whole), words)
