"""An average from a file into a model of any project, whatever wraps it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from unitgain.checkpoint.snapshot import Snapshot
from unitgain.ema.names import tracked_names
from unitgain.parallel import is_sharded, reshard
from unitgain.text import printable

SHOWN = 5  # names in an error


def load_into(model: nn.Module, file: Path | str, *, prefix: str = "") -> None:
    """Give a model the weights of a snapshot, in place; all of them, or nothing.

    Names are those of the model without its wrappers (DDP, `torch.compile`, FSDP, Accelerate, `AveragedModel`), as
    `SnapshotStore` writes them. Of tied weights one name is enough; buffers that do not persist stay as they are.
    Values are converted to the dtypes of the model. Its mode, training or evaluation, does not change.

    Args:
        model: wrapped or not; on any device, but not cut up among processes.
        file: a snapshot that training wrote, or `reconstruct`.
        prefix: take only tensors whose names begin so, without it: "model." for the network within a
            `LightningModule` that was tracked whole.

    Raises:
        FileNotFoundError: if there is no file.
        SnapshotError: if it is no snapshot, or damaged.
        ValueError: if names, shapes or kinds of its tensors are not those of the model, weights that are tied in the
            model differ in it, or values are out of the range of the model's dtypes; nothing is changed then.
    """
    model = _without_wrappers(model)
    reshard(model)
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    names = tracked_names(model)
    if Path(file).is_dir():
        raise FileNotFoundError(f"{printable(file)} is a folder: name one of the snapshots in it")
    with Snapshot(file) as snapshot:
        if prefix and not any(name.startswith(prefix) for name in snapshot.names):
            raise ValueError(f"{printable(snapshot.path)}: no name begins with {prefix!r}: {_some(snapshot.names)}")
        found = {name.removeprefix(prefix): tensor for name, tensor in snapshot.verified() if name.startswith(prefix)}
        try:
            values = _matched(names, found, own)
        except ValueError as error:
            raise ValueError(f"{printable(snapshot.path)} does not fit {type(model).__name__}: {error}") from None
        with torch.no_grad():
            for name, value in values.items():
                own[name].copy_(value)


def _matched(names: Mapping[str, str], found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values by the names of `named_parameters` and `named_buffers`."""
    _check_names(names, found)
    values: dict[str, Tensor] = {}
    for name, target in ((name, names[name]) for name in names if name in found):
        value, old = found[name], own[target]
        if old.is_meta or is_sharded(old):
            what = "has no memory yet: materialize it" if old.is_meta else "is cut up among processes: load before that"
            raise ValueError(f"tensor {name} of the model {what}")
        if value.shape != old.shape or _kind(value) != _kind(old):
            there, here = (f"{_kind(one)} {tuple(one.shape)}" for one in (value, old))
            raise ValueError(f"tensor {name} is {there} in the file and {here} in the model")
        if target in values and not torch.equal(values[target], value):
            raise ValueError(f"tensor {name} is tied to another one in the model, from which it differs in the file")
        if (torch.isfinite(value) & ~torch.isfinite(value.to(old.dtype))).any():
            raise ValueError(f"tensor {name} has values that are not finite in {old.dtype}, its dtype in the model")
        if name.endswith("running_var") and bool((value < 0).any()):
            raise ValueError(
                f"tensor {name} has variances below 0: the weights of some snapshots are negative, and training began "
                "with far larger ones; average closer to a length that was stored, or pass data through the model "
                "(torch.optim.swa_utils.update_bn)"
            )
        values[target] = value
    return values


def _check_names(names: Mapping[str, str], found: Mapping[str, Tensor]) -> None:
    there = {names[name] for name in found if name in names}
    missing = sorted(name for name, own in names.items() if own not in there)
    unknown = sorted(found.keys() - names.keys())
    if not missing and not unknown:
        return
    said = [f"{what}: {_some(one)}" for what, one in (("it lacks", missing), ("of no use are", unknown)) if one]
    hint = _hint(names, unknown) if missing else ""
    raise ValueError("; ".join(said) + hint)


def _hint(names: Mapping[str, str], unknown: list[str]) -> str:
    """What to do where names differ by what stands before them."""
    before = _before(unknown, list(names))
    if before:
        return f'; it may be of a larger module: load_into(..., prefix="{printable(before)}.")'
    part = _before(list(names), unknown)
    return f"; it may be of a part of the model, {part}: load into that" if part else ""


def _before(longer: list[str], shorter: list[str]) -> str:
    """What stands before the shorter names, all of them, among the longer ones; empty if nothing does."""
    ends = (name.removesuffix(f".{shorter[0]}") for name in longer if shorter and name.endswith(f".{shorter[0]}"))
    return next((begin for begin in ends if {f"{begin}.{name}" for name in shorter} <= set(longer)), "")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(printable(name)[:200] for name in names[:SHOWN]) + more


def _kind(tensor: Tensor) -> str:
    return "complex" if tensor.is_complex() else "real" if tensor.is_floating_point() else "whole"


def _without_wrappers(model: nn.Module) -> nn.Module:
    """What is inside of the outermost wrappers, which may have tensors of their own."""
    while isinstance(model, DistributedDataParallel | DataParallel | AveragedModel):
        model = cast(nn.Module, cast(Any, model).module)
    return model
