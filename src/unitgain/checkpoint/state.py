"""Training checkpoints: a folder that is whole or does not count.

`<folder>/<nimg, 10 digits>/` holds `state.safetensors` and `manifest.json`, which is written last and gives the size
and the SHA-256 of the other. A folder without a valid manifest is not a checkpoint.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from unitgain.checkpoint.tensors import write_tensors
from unitgain.files import sync_folder, write_text

FORMAT = "unitgain-checkpoint/1"
STATE, MANIFEST = "state.safetensors", "manifest.json"


class CheckpointError(Exception):
    """A checkpoint is missing or damaged."""


def write_checkpoint(folder: Path, nimg: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Path:
    """Write a checkpoint; it appears under its name when all of it is on the disk.

    Args:
        folder: of the checkpoints of a run.
        nimg: images seen; names the checkpoint.
        tensors: flat, any names.
        values: what JSON can hold.

    Raises:
        OSError: if it cannot be written; nothing is left behind, older checkpoints stay.
    """
    final, partial = folder / f"{nimg:010d}", folder / f".{nimg:010d}.{os.getpid()}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        state = partial / STATE
        write_tensors(state, tensors, {})
        files = {STATE: {"size": state.stat().st_size, "sha256": _sha256(state)}}
        manifest = {"format": FORMAT, "nimg": nimg, "values": dict(values), "files": files}
        write_text(partial / MANIFEST, json.dumps(manifest, indent=1))
        if final.exists():  # the same run came here before, or something damaged did
            shutil.rmtree(final)
        os.replace(partial, final)
        sync_folder(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return final


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and values of one checkpoint.

    Raises:
        CheckpointError: if its manifest is missing or does not describe what is there.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        expected = manifest["files"][STATE]
        size, sha256 = expected["size"], expected["sha256"]
        values = manifest["values"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} has no valid manifest: {error!r}") from error
    state = path / STATE
    if not state.is_file() or state.stat().st_size != size:
        found = f"{state.stat().st_size} bytes" if state.is_file() else "missing"
        raise CheckpointError(f"{state} should have {size} bytes, but it is {found}")
    if _sha256(state) != sha256:
        raise CheckpointError(f"{state} does not match its checksum")
    return load_file(state), values


def list_checkpoints(folder: Path) -> list[Path]:
    """Folders that are named like checkpoints, oldest first; not validated."""
    return sorted(path for path in folder.glob("[0-9]" * 10) if path.is_dir())


def checkpoint_nimg(path: Path) -> int:
    """Images seen when a checkpoint was made, by its name."""
    return int(path.name)


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint so that it is neither resumed from nor counted as one that is kept."""
    aside = path.with_name(f"{path.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(path, aside)
    return aside


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and what interrupted writes left."""
    for path in [*list_checkpoints(folder)[:-keep], *folder.glob(".*.tmp")]:
        shutil.rmtree(path, ignore_errors=True)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
