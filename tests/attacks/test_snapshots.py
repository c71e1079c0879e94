"""Snapshots that someone or something tampered with: every one ends in a `SnapshotError`, before memory is taken."""

import json
import resource
import struct
import time

import pytest
import torch

from unitgain.checkpoint.facts import KEY, digest
from unitgain.checkpoint.snapshot import Snapshot, SnapshotError, SnapshotHeader, write_snapshot
from unitgain.checkpoint.tensors import PAGE, checksum
from unitgain.denoiser import Denoiser
from unitgain.ema import power_profile
from unitgain.hub import load
from unitgain.posthoc import reconstruct
from unitgain.recipes import RECIPES


@pytest.fixture
def path(tmp_path, tiny_spec):
    header = SnapshotHeader(
        network=tiny_spec, sigma_data=0.5, nimg=64, profile=power_profile(0.1), recipe="t", encoder={"kind": "pixels"}
    )
    path = tmp_path / "run" / header.filename()
    write_snapshot(path, header, Denoiser(tiny_spec).state_dict())
    return path


def rewrite(path, change, sealed=True):
    """Change header and facts of a file, and put the right checksum over them, as anyone can."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    facts = json.loads(header["__metadata__"][KEY])
    rest = change(header, facts)
    if sealed and "sha256" in facts:
        own = {name: value for name, value in header.items() if name != "__metadata__"}
        facts["sha256"] = digest(facts, own)
    header["__metadata__"][KEY] = json.dumps(facts)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + (data[8 + length :] if rest is None else rest))


def network(**changes):
    return lambda header, facts: facts["denoiser"]["network"].update(changes)


WEIGHT = "network.out_conv.weight"


def overlap(header, facts):
    lo, hi = header[WEIGHT]["data_offsets"]
    header[WEIGHT]["data_offsets"] = [lo - 2, hi - 2]


def reshape(name, shape):
    def change(header, facts):
        header[next(found for found in header if name in found)]["shape"] = shape

    return change


def lose(header, facts):
    """The tensor that lies last in the file."""
    name = max((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"])
    facts["sums"].pop(name)
    return b"\0" * header.pop(name)["data_offsets"][0]


def pop(name):
    return lambda header, facts: facts.pop(name) and None


CHANGES = {
    "blocks": network(num_blocks=100_000),
    "tokens": network(branch=" ".join(["s"] * 3000 + ["c", "m", "s", "c"])),
    "very many tokens": network(branch=" ".join(["s"] * 100_000 + ["c", "m", "s", "c"])),
    "attention": network(attn_resolutions=list(range(100_000))),
    "levels": network(channel_mult=[1] * 1000, resolution=2**1000),
    "width": network(model_channels=2**40),
    "label": network(label_dim=10**9),
    "a name of another kind": network(branch=3),
    "no checksum": lambda header, facts: facts["sums"].pop(WEIGHT) and None,
    "no checksums": pop("sums"),
    "no seal": pop("sha256"),
    "no time": pop("t"),
    "no profile": pop("profile"),
    "time": lambda header, facts: facts.update(t=float("nan")),
    "profile": lambda header, facts: facts["profile"].update(gamma="6"),
    "half of it": lambda header, facts: facts["profile"].update(gamma=-1),
    "overlap": overlap,
    "wrong shape": reshape("qkv", [1, 1]),
    "same size, other shape": lambda header, facts: header[WEIGHT]["shape"].reverse(),
    "negative": reshape("out_conv", [-1, 8, 3, 3]),
    "no list": reshape("out_conv", "8"),
    "dtype": lambda header, facts: header[WEIGHT].update(dtype="F8_E8M0"),
    "no dtype": lambda header, facts: header[WEIGHT].update(dtype=["F16"]),
    "more of it": lambda header, facts: header[WEIGHT].update(more=1),
    "a path for a shard": lambda header, facts: facts.update(shard=["../x", 2]),
    "shard": lambda header, facts: facts.update(shard=[1, 2]),
    **{
        f"sigma_data of {value}": lambda header, facts, value=value: facts["denoiser"].update(sigma_data=value)
        for value in (-1.0, 0.0, 1e-30, 1e30, float("nan"), float("inf"), "1", None, 10**400)
    },
    "missing tensor": lose,
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_a_header_says_ends_in_a_snapshot_error(path, what):
    rewrite(path, CHANGES[what])
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(SnapshotError):
        load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes
    assert time.monotonic() - began < 20


def test_a_seal_that_does_not_fit_is_refused_everywhere(path, tmp_path):
    rewrite(path, lambda header, facts: facts["sums"].update({WEIGHT: "0" * 16}), sealed=False)
    for attempt in (lambda: load(path), lambda: reconstruct(path.parent, [0.1], tmp_path / "out")):
        with pytest.raises(SnapshotError, match="does not match its checksum"):
            attempt()


@pytest.mark.parametrize("where", ["header", "facts"])
@pytest.mark.parametrize("how", ["twice", "deep", "not UTF-8", "an array"])
def test_json_that_readers_take_differently(path, where, how):
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    facts = header["__metadata__"][KEY]
    bad = {
        "twice": lambda text: text[:-1] + ', "format": "unitgain/2", "format": "unitgain/2"}',
        "deep": lambda text: "[" * 100_000 + "]" * 100_000,
        "not UTF-8": lambda text: text[:-1] + ', "\udcff": 1}',
        "an array": lambda text: "[1]",
    }[how]
    if where == "facts":
        header["__metadata__"][KEY] = bad(facts)
    text = json.dumps(header) if where == "facts" else bad(json.dumps(header))
    raw = text.encode("utf-8", "surrogateescape")
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + rest)
    with pytest.raises(SnapshotError):
        load(path)


def test_a_gap_and_a_tail_are_refused(path):
    data = path.read_bytes()
    path.write_bytes(data + b"\0" * 8)
    with pytest.raises(SnapshotError, match="should have"):
        Snapshot(path)


def test_more_tensors_than_any_network_has_are_refused_unread(path):
    lengths = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(100_000)}
    text = json.dumps(lengths).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(SnapshotError, match="at most"):
        Snapshot(path)


def test_shards_are_those_beside_the_file_and_of_one_snapshot(path, tiny_spec):
    with Snapshot(path) as snapshot:
        header = snapshot.header
    write_snapshot(path, header, Denoiser(tiny_spec).state_dict(), shard_bytes=4000)
    path.unlink()
    (first, *others) = sorted(path.parent.iterdir())
    assert load(others[-1]).spec == tiny_spec  # any of them will do
    other = path.parent / "x" / path.name
    write_snapshot(other, header.replace(nimg=65), Denoiser(tiny_spec).state_dict(), shard_bytes=4000)
    others[0].write_bytes((other.parent / others[0].name).read_bytes())
    with pytest.raises(SnapshotError, match="shards of different snapshots"):
        load(first)
    others[0].write_bytes(others[1].read_bytes())
    with pytest.raises(SnapshotError, match="another shard than its name says"):
        load(first)


def test_pages_that_change_places_are_noticed(path):
    words = torch.arange(3 * PAGE // 8 + 5)
    data = words.view(torch.uint8)
    swapped = torch.cat([data[PAGE : 2 * PAGE], data[:PAGE], data[2 * PAGE :]])
    assert checksum(data) != checksum(swapped)
    parts = checksum(data[:PAGE]) + checksum(data[PAGE:], first=1)
    assert checksum(data) == parts % 2**64
    assert checksum(data) == sum(int(w) * (2 * (i // (PAGE // 8)) + 1) for i, w in enumerate(words)) % 2**64


def test_every_real_network_is_within_the_bound():
    from unitgain.checkpoint.snapshot import check_number

    for recipe in RECIPES.values():
        with torch.device("meta"):
            check_number(recipe.network, len(Denoiser(recipe.network).state_dict()))
