"""u(sigma) beside a snapshot that came from elsewhere: a small JSON file, `<name>.uncertainty.json`.

Snapshots themselves do not hold it, because sampling does not need it; training that goes on from them does.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unitgain.checkpoint.facts import SnapshotError, SnapshotHeader
from unitgain.checkpoint.writer import write_snapshot
from unitgain.files import write_text
from unitgain.serial import digest
from unitgain.trust import Limits, parse_json, read_regular

FORMAT = "unitgain-uncertainty/1"
PREFIX = "uncertainty."  # of its tensors, where they are among those of the denoiser
NAMES = ("fourier.freqs", "fourier.phases", "linear.weight")
LARGEST = Limits(max_item_bytes=10_000_000)


def uncertainty_path(snapshot: Path) -> Path:
    """Where the u(sigma) that belongs to a snapshot is, or would be."""
    return snapshot.with_name(f"{snapshot.name.removesuffix('.safetensors')}.uncertainty.json")


def write_uncertainty(snapshot: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Write u(sigma) beside a snapshot; float32, exactly.

    Args:
        snapshot: its path.
        tensors: those of `unitgain.denoiser.Uncertainty`, by name.

    Raises:
        SnapshotError: if they are others, or not finite.
    """
    if set(tensors) != set(NAMES) or not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise SnapshotError(f"{snapshot}: its u(sigma) is not finite, or not made of {', '.join(NAMES)}")
    values: dict[str, Any] = {name: tensors[name].detach().float().flatten().tolist() for name in NAMES}
    path = uncertainty_path(snapshot)
    write_text(path, json.dumps({"format": FORMAT, **values, "sha256": digest(values)}) + "\n")
    return path


def write_with_uncertainty(
    path: Path, header: SnapshotHeader, tensors: Mapping[str, Tensor], dtype: str = "float16"
) -> None:
    """Write a snapshot, and u(sigma) beside it.

    Args:
        path: the snapshot; replaced if it is there.
        header: what it says of itself.
        tensors: of the denoiser, and of u(sigma) as `uncertainty.*`.
        dtype: of the parameters in the snapshot.

    Raises:
        SnapshotError: as `write_snapshot` and `write_uncertainty`.
    """
    beside = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}
    write_snapshot(path, header, kept, dtype)
    write_uncertainty(path, beside)


def read_uncertainty(snapshot: Path) -> dict[str, Tensor] | None:
    """The state of the `Uncertainty` that belongs to a snapshot; None if there is none beside it.

    Raises:
        SnapshotError: if the file is damaged.
    """
    path = uncertainty_path(snapshot)
    try:
        found = parse_json(read_regular(path, LARGEST), "it")
        values = {name: found[name] for name in NAMES}
        if found["format"] != FORMAT or found["sha256"] != digest(values):
            raise ValueError("it does not match its checksum")
        freqs, phases, weight = (torch.tensor(values[name], dtype=torch.float32) for name in NAMES)
        if freqs.ndim != 1 or not freqs.shape == phases.shape == weight.shape:
            raise ValueError("its parts have different lengths")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise SnapshotError(f"{path} is damaged ({error}): delete it to begin with a new u(sigma)") from None
    return {"fourier.freqs": freqs, "fourier.phases": phases, "linear.weight": weight[None]}
