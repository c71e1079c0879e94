"""State dicts in checkpoints of other projects, read without running anything that is in them."""

import re
import shlex
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from unitgain.checkpoint.archive import stored_members
from unitgain.checkpoint.records import Refused
from unitgain.checkpoint.tensors import MAX_TENSORS
from unitgain.ema.names import without_wrappers
from unitgain.kinds import ZIP, read_head
from unitgain.text import one_line, printable

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\.\w+$)", re.ASCII)
# What lies beside weights and is none.
OTHERS = re.compile(
    r"optim(?!al|um|i[sz]ed)|sched|scaler|rng_state|random_states|training_args|trainer_state|sampler", re.IGNORECASE
)
SHARED = 100  # times that the tensors of a file may be larger than it, by being the same ones
NAMED = 3  # arrays in a warning
DEPTH, MOST = 4, 30  # of mappings in a checkpoint that are looked into, and mappings in one


def files_of(folder: Path) -> list[Path]:
    """Files of a folder that may hold weights, of several shards the first; safetensors files rather than others."""
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix in SUFFIXES and path.name[0] != "." and path.is_file() and not OTHERS.search(path.name)
    ]
    stems = {SHARD.sub("", path.name).rpartition(".")[0] for path in files if path.suffix == ".safetensors"}
    if "model" in stems:
        stems.add("pytorch_model")
    firsts = [path for path in files if not (match := SHARD.search(path.name)) or int(match[1]) == 1]
    return [
        path
        for path in firsts
        if path.suffix == ".safetensors" or SHARD.sub("", path.name).rpartition(".")[0] not in stems
    ]


def read_state(path: Path, key: str = "", *, prefix: str = "", strip: str = "") -> dict[str, Tensor]:
    """The state dict of a checkpoint, without the names of wrappers (DDP, FSDP, `torch.compile`).

    Pickles are read by torch's restricted loader, which also takes NumPy's numbers here: no code of a file is run.
    Arrays of NumPy are left out, with a warning.

    Args:
        path: a file, the first of its shards, or a folder with one of these in it.
        key: where in a nested checkpoint the state dict is, with dots: "ema", "model.ema"; "" finds it if it can.
        prefix: only tensors whose names begin so, without it: "ema_model.".
        strip: taken from the front of names that begin so.

    Raises:
        ValueError: if it cannot be read, holds no tensors where `key` says, or two networks.
    """
    if path.is_dir():
        units = files_of(path)
        if len(units) != 1:
            names = ", ".join(one_line(unit.name) for unit in units) or "none"
            raise ValueError(f"{path} should have one file of weights, and has {names}: name the file")
        (path,) = units
    match = SHARD.search(path.name)
    files = sorted(path.parent.glob(SHARD.sub("-?????-of-?????", path.name))) if match else [path]
    if match and len(files) != int(match[2]):
        raise ValueError(f"{path}: {len(files)} of its {int(match[2])} shards are there")
    found: dict[str, Tensor] = {}
    for file in files:
        found |= _tensors(_load(file), key, file)
    _check_plain(found, path, sum(file.stat().st_size for file in files))
    state = _named(found, prefix, strip, path)
    if not any(tensor.is_floating_point() or tensor.is_complex() for tensor in state.values()):
        raise ValueError(f"{path} holds no tensors of real or complex numbers{f' named {prefix}...' if prefix else ''}")
    return state


def _check_plain(tensors: Mapping[str, Tensor], path: Path, size: int) -> None:
    """Refuse what is more than numbers in a file: views that are larger than what they show, sparse ones and so on."""
    for name, tensor in tensors.items():
        if (
            tensor.layout is not torch.strided
            or tensor.device.type != "cpu"
            or (tensor.is_nested or tensor.is_conj() or tensor.is_neg())
            or tensor.nbytes > tensor.untyped_storage().nbytes()
        ):
            raise ValueError(f"{path}: tensor {one_line(name)[:200]} is no plain array of numbers: save a copy of it")
    total = sum(tensor.nbytes for tensor in tensors.values())
    if len(tensors) > MAX_TENSORS or total > SHARED * size:
        raise ValueError(f"{path}: {len(tensors):,} tensors of {total:,} bytes, in a file of {size:,}, are not read")


def _named(found: Mapping[str, Tensor], prefix: str, strip: str, path: Path) -> dict[str, Tensor]:
    """Tensors by the names of their module alone."""
    names: dict[str, str] = {name: without_wrappers(name) for name in found}
    for cut in ("module.", prefix):
        if cut and (cut == prefix or all(name.startswith(cut) for name in names.values())):
            names = {name: short.removeprefix(cut) for name, short in names.items() if short.startswith(cut)}
    if strip and not any(short.startswith(strip) for short in names.values()):
        there = ", ".join(one_line(short) for short in sorted(names.values())[:NAMED])
        raise ValueError(f"{path}: no name begins with {strip!r}, to be stripped; there are {there}, ...")
    names = {name: short.removeprefix(strip) for name, short in names.items()}
    tops = {short.partition(".")[0] for short in names.values()}
    averaged = sorted(top for top in tops if re.search(r"(^|_)ema(_|$)", top))
    if averaged and len(tops) > 1 and not prefix:
        others = ", ".join(f"{one_line(top)}." for top in sorted(tops))
        raise ValueError(
            f"{path} holds more than one network, {others}: choose with --prefix {shlex.quote(f'{averaged[0]}.')}"
        )
    if len(set(names.values())) < len(names):
        raise ValueError(f"{path}: without wrappers' names, two of its tensors have the same one")
    return {short: found[name] for name, short in names.items()}


def _load(file: Path) -> object:
    _check_archive(file)
    try:
        if file.suffix == ".safetensors":
            return cast(Any, safetensors.torch).load_file(file)
        with torch.serialization.safe_globals(_NUMBERS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise nearly anything for a damaged file
        asked = re.search(r"(?:GLOBAL |got <class ')([\w.]+)", str(error))
        what = (
            f"holds {asked[1]} beside tensors, which is not read: save its state dict alone" if asked else "is damaged"
        )
        raise ValueError(f"{printable(file)} cannot be read: it {what}") from None


def _check_archive(file: Path) -> None:
    """Refuse an archive whose members would take more than it does: `torch.save` packs nothing."""
    if not ZIP.fits(read_head(file)):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(member.file_size for member in stored_members(archive))
    except Refused as error:
        raise ValueError(f"{printable(file)} cannot be read: {error}") from None
    except Exception as error:  # zipfile raises nearly anything
        raise ValueError(f"{printable(file)} cannot be read: it is damaged") from error
    if size > file.stat().st_size:
        raise ValueError(f"{printable(file)} cannot be read: its members lie over each other")


def _tensors(loaded: object, key: str, file: Path, depth: int = DEPTH) -> dict[str, Tensor]:
    for part in key.split(".") if key else ():
        if not isinstance(loaded, Mapping) or part not in loaded:
            known = ", ".join(map(str, cast(Mapping[Any, Any], loaded))) if isinstance(loaded, Mapping) else "no names"
            raise ValueError(f"{file} has nothing under {part!r}; there is {one_line(known)}")
        loaded = cast(Mapping[str, object], loaded)[part]
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{file} holds a {type(loaded).__name__}, no state dict")
    given = cast(Mapping[str, object], loaded)
    if arrays := [one_line(name)[:100] for name, value in given.items() if isinstance(value, _LeftOut)]:
        more = ", ..." if len(arrays) > NAMED else ""
        warnings.warn(
            f"arrays of NumPy in checkpoints are left out: {', '.join(arrays[:NAMED])}{more}",
            stacklevel=2,
        )
    inside = [name for name in _keys(given, depth=1) if name]
    if not key and len(inside) == 1 and depth:
        return _tensors(given[inside[0]], "", file, depth - 1)
    if tensors := {str(name): value for name, value in given.items() if isinstance(value, Tensor)}:
        return tensors
    there = [f"--key {shlex.quote(one_line('.'.join(filter(None, (key, name)))))}" for name in _keys(given)]
    remedy = f"say where they are: {' or '.join(there)}" if there else "nor anywhere in it"
    raise ValueError(f"{file} holds no tensors {f'right under {key!r}' if key else 'at the top'}; {remedy}")


def _keys(value: Mapping[Any, object], depth: int = DEPTH) -> list[str]:
    """Where there are tensors in nested mappings, names with dots between; "" for the mapping itself."""
    keys = [""] if any(isinstance(one, Tensor) for one in value.values()) else []
    nested: Any = [(name, one) for name, one in value.items() if isinstance(name, str) and isinstance(one, Mapping)]
    for name, one in nested[:MOST] if depth else ():
        keys += [f"{name}.{key}".rstrip(".") for key in _keys(one, depth - 1)]
    return keys


class _LeftOut:
    """What stands for an array of NumPy, whose own reader is not trusted with bytes from elsewhere."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


# NumPy's numbers in pickles, by the names of NumPy 1 and 2.
_SCALAR: Any = cast(Any, np)._core.multiarray.scalar
_NUMBERS: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    *((_LeftOut, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    (_LeftOut, "numpy.ndarray"),
    np.dtype,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefdFD"},
]
