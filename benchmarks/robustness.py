"""Mutated files of every kind that is read: none may run anything, end the process, flood it or raise other errors.

    python benchmarks/robustness.py --mutations 700 --write

Each kind of file is an entry: how to make a good one, how to open it, and the errors that opening may end in. Each is
tried in a process of its own, with limits on memory and time, which is begun again after the mutation that ended it.
The results go to `benchmarks/results/robustness.md`.
"""

import argparse
import builtins
import copy
import importlib.util
import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np

import told_files
from arguments import parse
from unitgain.arch import NetworkSpec

ROOT = Path(__file__).parents[1]
SECONDS = 20  # that one file may take; machines are busy at times
MEMORY = 700 * 2**20  # bytes that opening one file may add: an item may take 500 MB
MARK = "UNITGAIN_MARK"  # where payloads leave a mark
FORBIDDEN = ("os.system", "os.fork", "os.posix_spawn", "os.exec", "os.spawn", "pty.spawn", "subprocess.Popen")
FORBIDDEN += ("socket.connect", "pickle.find_class", "ctypes.dlopen")


@dataclass(frozen=True)
class Entry:
    """A kind of file.

    Attributes:
        make: fills a folder with a good file and what belongs to it; returns the file.
        open: opens the folder's file, and reads what a user would.
        errors: names of the exceptions that it may end in.
        seal: makes checksums right again after the file was changed, as whoever made it would.
        text: whether it is JSON or the like, of which values are changed too.
    """

    make: Callable[[Path], Path]
    open: Callable[[Path], object]
    errors: tuple[str, ...]
    seal: Callable[[Path], None] = lambda _: None
    text: bool = False


class Payload:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (builtins.open, (os.environ[MARK], "w"))


# What official files look like, and pictures.


def official_network(folder: Path) -> Path:
    from official_files import config_of, contents, dumps, random_state

    config = config_of(channel_mult=[1], attn_resolutions=[])
    path = folder / "network.pkl"
    path.write_bytes(dumps(contents(random_state(config), config), 4))
    return path


def open_official_network(path: Path) -> None:
    from unitgain.checkpoint.convert import convert_network
    from unitgain.checkpoint.origin import Origin

    convert_network(path, path.with_suffix(".safetensors"), Origin(nimg=1024, sigma_rel=0.05, recipe="fuzz"))


def statistics() -> dict[str, np.ndarray]:
    return {"mu": np.arange(8.0), "sigma": np.diag(np.arange(8.0))}


def official_reference(folder: Path) -> Path:
    path = folder / "reference.pkl"
    path.write_bytes(pickle.dumps({"fid": statistics()}, 4))
    return path


def official_npz(folder: Path) -> Path:
    np.savez_compressed(folder / "reference.npz", **statistics())
    return folder / "reference.npz"


def reference(folder: Path) -> Path:
    import torch

    from unitgain.metrics.detectors import Pixels
    from unitgain.metrics.reference import save_references
    from unitgain.metrics.summary import summarize

    images = torch.arange(4 * 3 * 64).remainder(251).to(torch.uint8).reshape(4, 3, 8, 8)
    save_references(folder / "own.npz", summarize([images], [Pixels()], rows=["pixels"]), "x", None)
    return folder / "own.npz"


def open_reference(path: Path) -> None:
    from unitgain.evaluate.references import open_references

    open_references(path)


def array(folder: Path) -> Path:
    np.save(folder / "picture.npy", np.arange(192, dtype=np.uint8).reshape(3, 8, 8))
    return folder / "picture.npy"


def picture_of(format: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        from pictures import encoded, picture

        path = folder / f"picture.{format.lower()}"
        path.write_bytes(encoded(picture(0), format))
        return path

    return make


def open_picture(path: Path) -> None:
    from unitgain.data.fit import Fit, fit_image

    fit_image(path.read_bytes(), Fit(resolution=8))


# Snapshots and checkpoints.


def spec(told: bool = False) -> NetworkSpec:
    sizes = {"model_channels": 8, "channel_mult": (1,), "num_blocks": 1, "channels_per_head": 8}
    more = {"conditions": told_files.conditions()} if told else {}
    return NetworkSpec(resolution=8, channels=1, label_dim=3, **sizes, **more)


def snapshot(folder: Path, told: bool = False) -> Path:
    from unitgain.checkpoint.snapshot import SnapshotHeader, write_snapshot
    from unitgain.data.encoder import PixelEncoder
    from unitgain.denoiser import Denoiser
    from unitgain.serial import to_dict

    denoiser = Denoiser(spec(told))
    header = SnapshotHeader(
        network=denoiser.spec,
        sigma_data=0.5,
        nimg=64,
        profile={"kind": "power", "sigma_rel": 0.1, "gamma": 6.94},
        recipe="fuzz",
        encoder=to_dict(PixelEncoder()),
        classes=("a", "b", "c"),
    )
    path = folder / header.filename()
    write_snapshot(path, header, denoiser.state_dict())
    return path


def head_of_snapshot(folder: Path, told: bool = False) -> Path:
    """What a snapshot says of itself, apart, so that it is mutated alone and sealed again."""
    path = snapshot(folder, told)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    (folder / "rest.bin").write_bytes(data[8 + length :])
    path.unlink()
    (folder / "head.json").write_bytes(data[8 : 8 + length].rstrip())
    return folder / "head.json"


def seal_snapshot(path: Path) -> None:
    """Put the parts together, with checksums of what is there now, as far as it can be understood."""
    head = path.read_bytes()
    with suppress(Exception):  # no header any more: as it is
        head = resealed(json.loads(head), (path.parent / "rest.bin").read_bytes())
    head += b" " * (-len(head) % 8)
    whole = len(head).to_bytes(8, "little") + head + (path.parent / "rest.bin").read_bytes()
    (path.parent / "0000000064-0.100.safetensors").write_bytes(whole)


def resealed(header: dict, data: bytes) -> bytes:
    facts = importlib.util.find_spec("unitgain.checkpoint.facts") and importlib.import_module(
        "unitgain.checkpoint.facts"
    )
    metadata, tensors = header["__metadata__"], {name: one for name, one in header.items() if name != "__metadata__"}
    if facts:
        own = json.loads(metadata[facts.KEY])
        own["sha256"] = facts.digest(own, tensors)
        metadata[facts.KEY] = json.dumps(own)
        return json.dumps(header).encode()
    module = importlib.import_module("unitgain.checkpoint.snapshot")
    metadata["header_sha256"] = module.header_digest(metadata)
    whole = module.Digest(metadata)
    for name in sorted(tensors):
        begin, end = tensors[name]["data_offsets"]
        import torch

        dtype = {"F16": torch.float16, "F32": torch.float32}[tensors[name]["dtype"]]
        whole.begin(name, dtype, tuple(tensors[name]["shape"]))
        whole.feed(memoryview(data[begin:end]))
    metadata["sha256"] = whole.hex()
    return json.dumps(header).encode()


def open_snapshot(path: Path) -> None:
    from unitgain.hub import load

    load(path if path.suffix == ".safetensors" else path.parent / "0000000064-0.100.safetensors")


def checkpoint_tensors(folder: Path) -> Path:
    import torch

    from unitgain.checkpoint.sharded import save_tensors
    from unitgain.parallel import World

    save_tensors(folder, wanted(), World()).result()
    assert torch.is_tensor(wanted()["a"])
    return folder / "00000.safetensors"


def wanted() -> dict:
    import torch

    return {"a": torch.zeros(4, 2), "b.c": torch.tensor(3), "rows": torch.zeros(6, 2, dtype=torch.float64)}


def open_checkpoint_tensors(path: Path) -> None:
    from unitgain.checkpoint.sharded import load_tensors

    load_tensors(path.parent, [path.name], wanted())


def run_folder(folder: Path) -> Path:
    """A run of a few steps."""
    import torch

    from unitgain.data.dataset import ArrayDataset
    from unitgain.loss import EDMLoss
    from unitgain.recipe import Recipe
    from unitgain.train import TrainConfig, train

    recipe = Recipe(
        name="fuzz",
        network=spec(),
        batch=8,
        duration=32,
        loss=EDMLoss(P_mean=-0.5, P_std=1.0),
        lr=0.01,
        snapshot_every=16,
    )
    images = torch.arange(16 * 64, dtype=torch.int64).remainder(256).to(torch.uint8).reshape(16, 1, 8, 8)
    data = ArrayDataset(name="fuzz", images=images, labels=torch.arange(16) % 3, classes=("a", "b", "c"))
    config = TrainConfig(recipe=recipe, data="fuzz", tick=8, checkpoint_every=32)
    train(config, folder / "run", data, quiet=True, tensorboard=False)
    return folder / "run"


def part_of_run(*names: str) -> Callable[[Path], Path]:
    return lambda folder: run_folder(folder).joinpath(*names)


def seal_manifest(path: Path) -> None:
    with suppress(Exception):  # no manifest any more: as it is
        manifest = json.loads(path.read_bytes())
        manifest.pop("sha256", None)
        digest = sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        path.write_text(json.dumps({**manifest, "sha256": digest}))


def open_manifest(path: Path) -> None:
    from unitgain.checkpoint.state import read_manifest, verify_files
    from unitgain.train.resume import _read_values
    from unitgain.train.run import load_config
    from unitgain.train.state import TrainState

    manifest = read_manifest(path.parent)
    verify_files(path.parent, manifest["files"], sorted(manifest["files"]))
    _read_values(manifest, path.parent, TrainState.start(load_config(path.parents[2]).recipe))


def open_run(path: Path) -> None:
    from unitgain.report.history import read_history
    from unitgain.train.run import load_config

    (path.parent / ".config.sha256").unlink(missing_ok=True)
    load_config(path.parent, verify=True)
    history = read_history(path.parent)
    _ = history.nimg, history.duration, history.status, history.rate, history.left, history.series("loss")


# Data.


def pictures(folder: Path) -> Path:
    from pictures import folder_of

    return folder_of(folder / "pictures", each=2)


def files_of(folder: Path) -> list[tuple[str, bytes]]:
    root = pictures(folder)
    found = [(str(path.relative_to(root)), path.read_bytes()) for path in sorted(root.rglob("*.png"))]
    shutil.rmtree(root)
    labels = {"labels": [[name, index % 3] for index, (name, _) in enumerate(found)]}
    return [*found, ("dataset.json", json.dumps(labels).encode())]


def zip_of(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files_of(folder):
            archive.writestr(name, data)
    return folder / "set.zip"


def tar_of(mode: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / f"set.tar{mode}"
        with tarfile.open(path, f"w:{mode.lstrip('.')}") as archive:
            for name, data in files_of(folder):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return path

    return make


def parquet(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = files_of(folder)[:-1]
    rows = [{"bytes": data, "path": name} for name, data in found]
    pq.write_table(pa.table({"image": rows, "label": list(range(len(rows)))}), folder / "set.parquet")
    return folder / "set.parquet"


def labels_of(name: str, text: Callable[[list[str]], str]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        root = pictures(folder)
        names = [str(path.relative_to(root)) for path in sorted(root.rglob("*.png"))]
        (root / name).write_text(text(names))
        return root / name

    return make


def open_set(path: Path) -> None:
    from unitgain.data.fit import Fit, ImageError, fit_image
    from unitgain.data.sources import open_source

    source = open_source(str(path), path.parent)
    for item in source.read():
        try:
            fit_image(item.load(), Fit(resolution=8))
        except ImageError:
            continue


def open_labels(path: Path) -> None:
    open_set(path.parent)


def prepared(folder: Path) -> Path:
    from unitgain.data.fit import Fit
    from unitgain.data.prepare import prepare_data

    prepare_data(str(pictures(folder)), folder / "data", Fit(resolution=8), workers=1)
    return next((folder / "data").glob("*.arrow"))


def prepared_manifest(folder: Path) -> Path:
    return prepared(folder).parent / "unitgain.json"


def seal_shard(path: Path) -> None:
    manifest = path.parent / "unitgain.json"
    about = json.loads(manifest.read_text())
    for shard in about["shards"]:
        data = (path.parent / shard["file"]).read_bytes()
        shard["sha256"] = sha256(data).hexdigest()
        for key in ("bytes", "size"):
            if key in shard:
                shard[key] = len(data)
    manifest.write_text(json.dumps(about))


def open_prepared(path: Path) -> None:
    from unitgain.data.prepared import PreparedDataset

    dataset = PreparedDataset(path.parent)
    if len(dataset):
        dataset.rows(np.arange(min(len(dataset), 64)))


# Weights of others, downloads, folders of drawn images.


def weights(folder: Path) -> Path:
    import torch

    torch.save({"model": {"a": torch.zeros(4), "b": torch.zeros(2, 2)}, "step": 3}, folder / "weights.pt")
    return folder / "weights.pt"


def open_weights(path: Path) -> None:
    from unitgain.posthoc.foreign import _load

    _load(path)


def part(folder: Path) -> Path:
    (folder / ".file.pkl.part").write_bytes(bytes(100))
    (folder / ".file.pkl.part.json").write_text(json.dumps({"url": "http://a/file.pkl", "validator": '"abc"'}))
    return folder / ".file.pkl.part.json"


def open_part(path: Path) -> None:
    from unitgain.download import _validator

    _validator(path.parent / "file.pkl", "http://a/file.pkl")


def record(folder: Path) -> Path:
    (folder / "file.pkl.json").write_text(json.dumps({"url": "http://a/file.pkl", "size": 100, "sha256": "0" * 64}))
    return folder / "file.pkl.json"


def open_record(path: Path) -> None:
    from unitgain.download import _record

    _record(path.parent / "file.pkl")


def drawn(folder: Path) -> Path:
    import torch

    from unitgain.draw.folder import ImageFolder

    images = ImageFolder(folder / "drawn", {"network": {"name": "x"}})
    for seed in range(3):
        images.write(seed, seed, torch.full((1, 8, 8), seed, dtype=torch.uint8))
    images.finish()
    return folder / "drawn" / "manifest.json"


def open_drawn(path: Path) -> None:
    from unitgain.draw.folder import ImageFolder

    images = ImageFolder(path.parent, {"network": {"name": "x"}})
    images.check()
    images.finished()


SET = ("ValueError", "OSError", "DataError", "ImageError", "LimitError")
CSV = labels_of(
    "metadata.csv", lambda names: "file_name,label\n" + "".join(f"{name},{i % 3}\n" for i, name in enumerate(names))
)
JSON = labels_of("dataset.json", lambda names: json.dumps({"labels": [[name, i % 3] for i, name in enumerate(names)]}))
LINES = labels_of(
    "metadata.jsonl", lambda names: "".join(json.dumps({"file_name": name, "label": 1}) + "\n" for name in names)
)
CHECKPOINT = ("checkpoints", "0000000032", "manifest.json")
ENTRIES = {
    "official network (.pkl)": Entry(official_network, open_official_network, ("Refused", "SnapshotError")),
    "official reference (.pkl)": Entry(official_reference, open_reference, ("Refused", "ReferenceFileError")),
    "official reference (.npz)": Entry(official_npz, open_reference, ("ReferenceFileError",)),
    "reference (.npz)": Entry(reference, open_reference, ("ReferenceFileError",)),
    "array as picture (.npy)": Entry(array, open_picture, ("ImageError",)),
    "picture (PNG)": Entry(picture_of("PNG"), open_picture, ("ImageError",)),
    "picture (JPEG)": Entry(picture_of("JPEG"), open_picture, ("ImageError",)),
    "picture (WebP)": Entry(picture_of("WEBP"), open_picture, ("ImageError",)),
    "picture (TIFF)": Entry(picture_of("TIFF"), open_picture, ("ImageError",)),
    "picture (GIF)": Entry(picture_of("GIF"), open_picture, ("ImageError",)),
    "snapshot": Entry(snapshot, open_snapshot, ("SnapshotError",)),
    "header of a snapshot, sealed": Entry(head_of_snapshot, open_snapshot, ("SnapshotError",), seal_snapshot, True),
    "tensors of a checkpoint": Entry(checkpoint_tensors, open_checkpoint_tensors, ("ShardError",)),
    "manifest of a checkpoint, sealed": Entry(
        part_of_run(*CHECKPOINT), open_manifest, ("CheckpointError", "ValueError"), seal_manifest, True
    ),
    "config.json of a run": Entry(part_of_run("config.json"), open_run, ("TrainingError",), text=True),
    "stats.jsonl of a run": Entry(part_of_run("stats.jsonl"), open_run, (), text=True),
    "zip of pictures": Entry(zip_of, open_set, SET),
    "tar of pictures": Entry(tar_of(""), open_set, SET),
    "tar.gz of pictures": Entry(tar_of(".gz"), open_set, SET),
    "parquet of pictures": Entry(parquet, open_set, SET),
    "labels (dataset.json)": Entry(JSON, open_labels, SET, text=True),
    "labels (metadata.csv)": Entry(CSV, open_labels, SET, text=True),
    "labels (metadata.jsonl)": Entry(LINES, open_labels, SET, text=True),
    "shard of prepared data, sealed": Entry(prepared, open_prepared, ("DataError",), seal_shard),
    "manifest of prepared data": Entry(prepared_manifest, open_prepared, ("DataError",), text=True),
    "weights of others (.pt)": Entry(weights, open_weights, ("ValueError",)),
    "part of a download (.part.json)": Entry(part, open_part, (), text=True),
    "record of a download (.json)": Entry(record, open_record, ("DownloadError",), text=True),
    "manifest of drawn images": Entry(drawn, open_drawn, ("FileExistsError", "ValueError"), text=True),
    "signal (.wav)": Entry(told_files.signal, told_files.open_array, ("ImageError",)),
    "volume (.nii)": Entry(told_files.volume(""), told_files.open_array, ("ImageError",)),
    "volume (.nii.gz)": Entry(told_files.volume(".gz"), told_files.open_array, ("ImageError",)),
    "field (.npy)": Entry(told_files.field, told_files.open_array, ("ImageError",)),
    "stacked arrays with conditions (.npz)": Entry(told_files.npz, told_files.open_told, SET),
    "stacked arrays with conditions (.h5)": Entry(told_files.hdf5, told_files.open_told, SET),
    "table with conditions (.csv)": Entry(told_files.csv_table, told_files.open_told, SET),
    "table with conditions (.jsonl)": Entry(
        told_files.jsonl("table.jsonl", "image"), told_files.open_told, SET, text=True
    ),
    "table with conditions (.parquet)": Entry(told_files.parquet, told_files.open_told, SET),
    "conditions beside pictures (metadata.jsonl)": Entry(
        told_files.jsonl("metadata.jsonl", "file_name"), told_files.open_told, SET, text=True
    ),
    "conditions beside pictures (tar)": Entry(told_files.tar, told_files.open_told, SET),
    "shard of arrays with conditions, sealed": Entry(
        told_files.prepared, told_files.open_prepared, ("DataError",), seal_shard
    ),
    "manifest of arrays with conditions": Entry(
        told_files.prepared_manifest, told_files.open_prepared, ("DataError",), text=True
    ),
    "header of a snapshot with conditions, sealed": Entry(
        partial(head_of_snapshot, told=True), open_snapshot, ("SnapshotError",), seal_snapshot, True
    ),
}


# What must be found, to see that it is: each time the next of five.


def counter(folder: Path) -> Path:
    (folder / "counter").write_text("")
    return folder / "counter"


def do_wrong(path: Path) -> None:
    count = path.parents[1] / "count"
    turn = len(count.read_text()) if count.exists() else -1
    count.write_text("x" * (turn + 1))
    if turn == 0:
        os.system("true")
    elif turn == 1:
        raise MemoryError("as the limit makes Python say")
    elif turn == 2:
        raise KeyError("unforeseen")
    elif turn == 3:  # the process that follows opens the good file again, as number 4
        os.kill(os.getpid(), signal.SIGSEGV)


ENTRIES["what is wrong"] = Entry(counter, do_wrong, ())
HIDDEN = {"what is wrong"}

# Mutations.

VALUES = [
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    2**64,
    10**30,
    1e308,
    -1e308,
    0.5,
    "",
    "x",
    "../x",
    "/etc/passwd",
    "\x1b[2J",
]
VALUES += [
    "a" * 5000,
    "\x00",
    "\ud800",
    [],
    {},
    [[]],
    [0] * 1000,
    {"a": {"b": []}},
    "=1+1",
    "nan",
    "[/x]",
    float("nan"),
]
WORDS = [
    b"\x00" * 8,
    b"\xff" * 8,
    b"\xff\xff\xff\x7f",
    b"[" * 3000,
    b"{" * 3000,
    b'"' * 9,
    b"../",
    b"PK\x05\x06",
    b"\x1b[2J",
]
WORDS += [b"9" * 400, b"1e999", b"-1", b"NaN", b"null", b"\r\n", b",,,,", b"\\ud800", b"F64", b"BOOL", b"I64"]


def pickle_payloads() -> list[bytes]:
    """What runs in a reader of pickles."""
    mark = os.environ[MARK]
    text = f"X{len(mark).to_bytes(4, 'little').decode('latin1')}{mark}".encode("latin1")
    return [
        pickle.dumps(Payload(), 2),
        b"cbuiltins\nopen\n(" + text + b"X\x01\x00\x00\x00wtR",
        b"cos\nsystem\n(X\x04\x00\x00\x00truetR",
        b"\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R",
    ]


def mutate(
    data: bytes, chance: random.Random, text: bool, payloads: Sequence[bytes], words: Sequence[bytes] = WORDS
) -> bytes:
    """A few edits: of values, where it is JSON, or of bytes.

    Args:
        data: a file.
        chance: what is random.
        text: whether it is JSON or the like.
        payloads: what would run, to be put in.
        words: what a reader may take for something else, to be put in, over what is there, or for one another.
    """
    if text and chance.random() < 0.7:
        try:
            return mutate_json(data, chance)
        except (ValueError, OverflowError):
            pass
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        # Heads and tails say what the rest is.
        at = min(
            int(chance.choice((chance.random(), chance.random() ** 4, 1 - chance.random() ** 4)) * len(out)), len(out)
        )
        span = min(int(chance.expovariate(1 / 12)) + 1, len(out))
        match chance.randrange(10):
            case 0 | 1 if at < len(out):
                out[at] = chance.randrange(256)
            case 2 if at < len(out):
                out[at] ^= 1 << chance.randrange(8)
            case 3:
                del out[at : at + span]
            case 4:
                out[at:at] = out[max(at - span, 0) : at]
            case 5:
                out[at:at] = chance.choice(payloads if chance.random() < 0.5 else words)
            case 6:
                word = chance.choice(words)
                out[at : at + len(word)] = word
            case 7:
                other = chance.randrange(len(out) + 1)
                out[at : at + span] = out[other : other + span]
            case 8 if chance.random() < 0.3:
                del out[at:]
            case 9 if there := [word for word in words if word in out]:
                old, new = chance.choice(there), chance.choice(words)
                at = chance.choice([match.start() for match in re.finditer(re.escape(old), out)])
                out[at : at + len(old)] = new
            case _:
                pass
    return bytes(out)


def mutate_json(data: bytes, chance: random.Random) -> bytes:
    lines = data.decode().splitlines()
    whole = len(lines) < 2 or data.lstrip().startswith(b"{\n")
    place = 0 if whole else chance.randrange(len(lines))
    root = [json.loads(data if whole else lines[place])]
    for _ in range(chance.choice((1, 1, 2, 4))):
        change_value(root, chance)
    text = json.dumps(root[0])
    return text.encode() if whole else "\n".join([*lines[:place], text, *lines[place + 1 :]]).encode()


def change_value(node: object, chance: random.Random) -> None:
    """Walk down at random, and change, remove or add something there; JSON within text is walked into as well."""
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
        if not keys:
            return
        key = chance.choice(keys)
        child = node[key]
        if isinstance(child, str) and child[:1] in "{[" and child and chance.random() < 0.9:
            try:
                inner = [json.loads(child)]
            except ValueError:
                node[key] = copy.deepcopy(chance.choice(VALUES))
                return
            change_value(inner, chance)
            node[key] = json.dumps(inner[0])
            return
        if isinstance(child, dict | list) and child and chance.random() < 0.8:
            node = child
            continue
        action = chance.randrange(5)
        if action == 0 and not (isinstance(node, list) and len(node) == 1):
            del node[key]
        elif action == 1 and isinstance(node, dict):
            node[chance.choice([str(key) + "x", "", "\x1b[2J", "__proto__"])] = child
        elif action == 2 and isinstance(child, int | float):
            node[key] = child * chance.choice((-1, 2, 10, 10**6, 10**12)) + chance.choice((0, 1))
        else:
            node[key] = copy.deepcopy(chance.choice(VALUES))  # of lists each its own
        return


# What tries one kind of file, in a process of its own.


def try_all(name: str, seed: int, start: int, stop: int, folder: Path) -> None:
    """Try mutations number `start` to `stop` - 1, saying on standard output what became of each."""
    entry, seen, watching = ENTRIES[name], [], [False]
    mark = Path(os.environ[MARK])
    good, note = folder / "good", folder / "target"
    if not note.exists():  # the first of several processes makes it
        good.mkdir()
        note.write_text(str(entry.make(good).relative_to(good)))
    target = Path(note.read_text())
    data, work = (good / target).read_bytes(), folder / "work"

    def attempt(mutated: bytes, measured: bool) -> None:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(good, work)
        (work / target).write_bytes(mutated)
        entry.seal(work / target)
        if measured:
            reset_peak()
        before = resident(peak=False) if measured else 0
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        watching[0], outcome = True, "opened"
        try:
            entry.open(work / target)
        except TimeoutError:
            outcome = "limit: time"
        except MemoryError:
            outcome = "limit: memory"
        except Exception as error:
            kinds = {one.__name__ for one in type(error).__mro__}
            if kinds & set(entry.errors):
                outcome = "refused"
            else:
                where = traceback.extract_tb(error.__traceback__)[-1]
                outcome = (
                    f"other: {type(error).__name__}: {str(error)[:200]} ({Path(where.filename).name}:{where.lineno})"
                )
        finally:
            watching[0] = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        grown = resident(peak=True) - before if measured else 0
        if grown > MEMORY:
            outcome = "limit: memory"
        if seen or mark.exists():
            outcome = f"executed: {seen[:3]}"
            seen.clear()
            mark.unlink(missing_ok=True)
        print(json.dumps([outcome, grown]), flush=True)

    entry_open_once(entry, good, target, work)
    sys.addaudithook(lambda event, _: seen.append(event) if watching[0] and event.startswith(FORBIDDEN) else None)
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("took too long")))
    limit = resident(peak=False, field="VmSize:") + MEMORY + 2**28
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    payloads = pickle_payloads()
    for number in range(start, stop):
        # To reset the peak takes the kernel its time; the limit on memory holds for each.
        mutated = mutate(data, random.Random(f"{name} {seed} {number}"), entry.text, payloads)
        attempt(mutated, number % 16 == 0)


def entry_open_once(entry: Entry, good: Path, target: Path, work: Path) -> None:
    """Open the good file: whatever is imported on first use is imported now, and it has to open."""
    shutil.copytree(good, work, dirs_exist_ok=True)
    entry.seal(work / target)
    entry.open(work / target)


def resident(peak: bool, field: str = "") -> int:
    """Bytes of this process in memory, now or at most since `reset_peak`."""
    field = field or ("VmHWM:" if peak else "VmRSS:")
    return int(Path("/proc/self/status").read_text().partition(field)[2].split()[0]) * 1024


def reset_peak() -> None:
    """Begin to measure the peak anew."""
    Path("/proc/self/clear_refs").write_text("5")


# What starts them, and sums up.


def fuzz(name: str, seed: int, mutations: int) -> dict:
    """Try a kind of file; counts of what became of its mutations, and the failures."""
    counts = dict.fromkeys(("opened", "refused", "executed", "killed", "limit", "other"), 0)
    failures, done, most, began = [], 0, 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, MARK: str(Path(folder) / "mark"), "OMP_NUM_THREADS": "1", "UNITGAIN_NATIVE": "0"}
        env["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
        while done < mutations:
            command = [sys.executable, __file__, "--worker", name, str(seed), str(done), str(mutations), folder]
            child = subprocess.run(command, env=env, capture_output=True, text=True, timeout=3600, check=False)
            rows = [json.loads(line) for line in child.stdout.splitlines() if line.startswith("[")]
            for outcome, grown in rows:
                kind = outcome.partition(":")[0]
                counts[kind] += 1
                most = max(most, grown)
                if kind not in ("opened", "refused"):
                    failures.append(f"{name}, mutation {done} of seed {seed}: {outcome}")
                done += 1
            if child.returncode and done < mutations:
                if not rows and not child.returncode < 0:
                    raise SystemExit(f"{name}: {child.stderr[-3000:]}")
                counts["killed"] += 1
                failures.append(f"{name}, mutation {done} of seed {seed}: ended with {child.returncode}")
                done += 1
    return {**counts, "failures": failures, "seconds": time.perf_counter() - began, "most": most}


def table(results: dict[str, dict], seed: int) -> str:
    """The results as Markdown."""
    kinds = ("opened", "refused", "executed", "killed", "limit", "other")
    total = {kind: sum(result[kind] for result in results.values()) for kind in kinds}
    lines = [
        "# Robustness",
        "",
        "Files of each kind, mutated: bytes changed, moved, cut, doubled, payloads that leave a mark put in; values of",
        "JSON replaced; checksums made right again where whoever made the file would have made them. *Executed*: a",
        f"payload ran, or a program was started. *Killed*: by a signal. *Limit*: more than {MEMORY >> 20} MB",
        f"or {SECONDS} s for one file. *Other*: an error of another kind than is documented. These four must be 0.",
        "",
        f"`python benchmarks/robustness.py --write`, seed {seed}.",
        "",
        "| file | opened | refused | executed | killed | limit | other | most memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        cells = " | ".join(f"{result[kind]:,}" for kind in kinds)
        lines.append(f"| {name} | {cells} | {result['most'] / 2**20:.0f} MB |")
    lines.append(f"| **all {sum(total.values()):,}** | " + " | ".join(f"{total[kind]:,}" for kind in kinds) + " | |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the arguments, fuzz, print."""
    if sys.argv[1:2] == ["--worker"]:
        name, seed, start, stop, folder = sys.argv[2:]
        try_all(name, int(seed), int(start), int(stop), Path(folder))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=800, help="of each kind of file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2, help="at a time")
    parser.add_argument("--only", default="", help="kinds whose names have this pattern; others stay as written")
    parser.add_argument("--write", action="store_true", help="write robustness.md and .json")
    options = parse(parser, arguments)
    if options.small:
        options.mutations, options.only = 4, "stats.jsonl"
    names = [name for name in ENTRIES if re.search(options.only, name) and name not in HIDDEN]
    with ThreadPoolExecutor(options.processes) as pool:
        found = pool.map(lambda name: fuzz(name, options.seed, options.mutations), names)
        results = {}
        for name, result in zip(names, found, strict=True):
            results[name] = result
            shown = {key: value for key, value in result.items() if key != "failures"}
            print(name, shown, *result["failures"][:8], sep="\n  ", flush=True)
    if options.write:
        from machine import write_results

        path = options.folder / "robustness.json"
        before = json.loads(path.read_text())["files"] if options.only and path.exists() else {}
        both = {name: results.get(name) or before[name] for name in ENTRIES if name in {**before, **results}}
        write_results(
            "robustness", {"seed": options.seed, "files": both}, table(both, options.seed), folder=options.folder
        )
    return int(any(result["failures"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
