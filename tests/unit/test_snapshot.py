"""Snapshots describe themselves, come back as they were, and notice every kind of damage."""

import errno
import json
import os
import struct

import pytest
import torch
from safetensors import safe_open

import unitgain
from unitgain import files
from unitgain.checkpoint.snapshot import (
    Snapshot,
    SnapshotError,
    SnapshotHeader,
    power_profile,
    write_snapshot,
)
from unitgain.data.encoder import PixelEncoder
from unitgain.denoiser import Denoiser
from unitgain.ema import sigma_rel_to_gamma
from unitgain.serial import to_dict


@pytest.fixture
def header(tiny_spec):
    return SnapshotHeader(
        network=tiny_spec,
        sigma_data=0.5,
        nimg=4096,
        profile=power_profile(0.05, sigma_rel_to_gamma(0.05)),
        recipe="tiny",
        encoder=to_dict(PixelEncoder()),
        classes=("a", "b", "ç"),
    )


@pytest.fixture
def denoiser(tiny_spec):
    denoiser = Denoiser(tiny_spec)
    for parameter in denoiser.parameters():
        if parameter.ndim == 0:
            parameter.data.fill_(0.25)
    return denoiser


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0.0), ("float16", 5e-4), ("bfloat16", 4e-3)])
def test_round_trip(tmp_path, header, denoiser, dtype, tolerance):
    path = tmp_path / header.filename()
    assert path.name == "0000004096-0.050.safetensors"
    write_snapshot(path, header, denoiser.state_dict(), dtype)
    with Snapshot(path) as snapshot:
        assert snapshot.header == header
    loaded = unitgain.load(path)
    assert not loaded.training
    assert all(not parameter.requires_grad for parameter in loaded.parameters())
    for name, tensor in denoiser.state_dict().items():
        error = (loaded.state_dict()[name] - tensor).abs().max() / tensor.abs().max()
        assert error <= (0 if name.endswith((".freqs", ".phases")) else tolerance), name
    x = torch.randn(2, 1, 8, 8)
    difference = loaded(x, 0.7, torch.tensor([0, 2])) - denoiser(x, 0.7, torch.tensor([0, 2]))
    assert difference.norm() <= 20 * tolerance * x.norm()


def test_any_reader_of_safetensors_can_read_it(tmp_path, header, denoiser):
    path = tmp_path / "s.safetensors"
    write_snapshot(path, header, denoiser.state_dict())
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        assert set(file.keys()) == set(denoiser.state_dict())
    assert metadata.keys() == {"unitgain"}
    facts = json.loads(metadata["unitgain"])
    assert (facts["format"], facts["t"], facts["profile"]["sigma_rel"]) == ("unitgain/2", 4096, 0.05)
    assert facts["denoiser"]["network"]["resolution"] == 8
    assert {"sigma_data", "recipe", "encoder", "classes"} <= facts["denoiser"].keys()
    assert facts["sums"].keys() == set(denoiser.state_dict())


def test_same_contents_same_bytes(tmp_path, header, denoiser):
    for name in ("a", "b"):
        write_snapshot(tmp_path / name, header, denoiser.state_dict())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_files_are_as_readable_as_the_umask_says(tmp_path, header, denoiser):
    previous = os.umask(0o022)
    try:
        write_snapshot(tmp_path / "s", header, denoiser.state_dict())
    finally:
        os.umask(previous)
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o644


def damaged_or_unchanged(path, expected):
    """Whether a damaged copy ends in a clean error; if it loads, it must be what it was."""
    try:
        loaded = unitgain.load(path)
    except SnapshotError as error:
        assert str(path) in str(error)
        return True
    for name, tensor in expected.items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    return False


def test_one_flipped_byte_is_noticed_wherever_it_is(tmp_path, header, denoiser):
    path, copy = tmp_path / "good", tmp_path / "bad"
    write_snapshot(path, header, denoiser.state_dict(), "float32")
    good = path.read_bytes()
    expected = unitgain.load(path).state_dict()
    size = 8 + struct.unpack("<Q", good[:8])[0]
    generator = torch.Generator().manual_seed(0)
    in_header = torch.randint(0, size, (60,), generator=generator).tolist()
    in_data = torch.randint(size, len(good), (20,), generator=generator).tolist()
    noticed = 0
    for position in [*range(12), *in_header, *in_data, size, len(good) - 1]:
        bad = bytearray(good)
        bad[position] ^= 0x41
        copy.write_bytes(bad)
        noticed += damaged_or_unchanged(copy, expected)
    assert noticed == 12 + 60 + 20 + 2


@pytest.mark.parametrize("keep", [0, 4, 8, 200, 0.5, -1])
def test_cut_short(tmp_path, header, denoiser, keep):
    path = tmp_path / "s"
    write_snapshot(path, header, denoiser.state_dict())
    good = path.read_bytes()
    path.write_bytes(good[: int(keep * len(good)) if isinstance(keep, float) else keep])
    with pytest.raises(SnapshotError, match=r"damaged or no safetensors file|is no snapshot: it is empty"):
        unitgain.load(path)


def test_a_damaged_header_is_noticed_before_any_tensor_is_read(tmp_path, header, denoiser):
    path = tmp_path / "s"
    write_snapshot(path, header, denoiser.state_dict())
    good = path.read_bytes()
    for old, new in ((b"power", b"pover"), (b"gamma", b"gamna"), (b":4096}", b":4097}"), (b"tiny", b"tinx")):
        assert old in good
        path.write_bytes(good.replace(old, new, 1))
        with pytest.raises(SnapshotError, match="header does not match its checksum"):
            Snapshot(path)


@pytest.mark.parametrize(
    "profile", [{}, {"kind": "pover"}, {"kind": "power", "sigma_rel": 0.1}, {"kind": "exponential"}]
)
def test_a_profile_must_say_what_it_is(header, profile):
    with pytest.raises(ValueError, match="a snapshot's profile must be one of power with sigma_rel, gamma"):
        header.replace(profile=profile)


def test_other_files_are_refused(tmp_path, header, denoiser):
    from safetensors.torch import save_file

    with pytest.raises(FileNotFoundError, match="no snapshot at"):
        unitgain.load(tmp_path / "missing.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(SnapshotError, match="not a snapshot of format unitgain/2; `unitgain ema convert` makes"):
        unitgain.load(tmp_path / "plain.safetensors")
    tensors = dict(denoiser.state_dict())
    tensors.pop("network.out_gain")
    write_snapshot(tmp_path / "less.safetensors", header, tensors)
    with pytest.raises(SnapshotError, match="do not fit its network"):
        unitgain.load(tmp_path / "less.safetensors")


def test_values_that_are_not_finite_are_not_written(tmp_path, header, denoiser):
    tensors = dict(denoiser.state_dict())
    tensors["network.out_conv.weight"] = tensors["network.out_conv.weight"] * 1e6
    with pytest.raises(SnapshotError, match=r"network.out_conv.weight holds values that are not finite in float16"):
        write_snapshot(tmp_path / "s", header, tensors)
    with pytest.raises(ValueError, match="must be one of float16, bfloat16, float32, not 'int8'"):
        write_snapshot(tmp_path / "s", header, tensors, "int8")
    assert not list(tmp_path.iterdir())


def test_no_space_left_leaves_the_old_file(tmp_path, header, denoiser, monkeypatch):
    path = tmp_path / "s"
    write_snapshot(path, header, denoiser.state_dict())
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)  # the module os itself: every writer sees it
    with pytest.raises(OSError, match="No space left"):
        write_snapshot(path, header.replace(nimg=9), denoiser.state_dict())
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]
