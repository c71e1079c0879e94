"""Training checkpoints: a folder that is whole or does not count.

`<folder>/<nimg, 10 digits>/` holds what `unitgain.parallel.storage` writes and `manifest.json`, which is written last
and gives the size and the SHA-256 of every other file, and of itself. A folder without a valid manifest is not a
checkpoint.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unitgain.files import sync_folder, write_text

FORMAT = "unitgain-checkpoint/2"
MANIFEST = "manifest.json"


class CheckpointError(Exception):
    """A checkpoint is missing or damaged, or could not be written."""


class OldCheckpointError(ValueError):
    """A checkpoint was written by a version whose format is not read any more."""


def partial_folder(folder: Path, nimg: int) -> Path:
    """Where a checkpoint is written before it counts; the same on all processes."""
    return folder / f".{nimg:010d}.tmp"


def commit(folder: Path, nimg: int, values: Mapping[str, Any]) -> Path:
    """Make what was written to `partial_folder` a checkpoint: describe it, flush it, and give it its name.

    Args:
        folder: of the checkpoints of a run.
        nimg: images seen; names the checkpoint.
        values: what JSON can hold, kept in the manifest.

    Raises:
        OSError: if it cannot be written; older checkpoints stay.
    """
    final, partial = folder / f"{nimg:010d}", partial_folder(folder, nimg)
    files = {path.name: {"size": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(partial.iterdir())}
    manifest = {"format": FORMAT, "nimg": nimg, "values": dict(values), "files": files}
    write_text(partial / MANIFEST, json.dumps({**manifest, "sha256": _digest(manifest)}, indent=1))
    if final.exists():  # the same run came here before, or something damaged did
        shutil.rmtree(final)
    os.replace(partial, final)
    sync_folder(folder)
    return final


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, checked against its own checksum: `files`, by name, and `values`.

    Raises:
        CheckpointError: if it is missing or damaged.
        OldCheckpointError: if it is of another format.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if manifest.get("format") == "unitgain-checkpoint/1":
            raise OldCheckpointError(
                f"{path} was written by an earlier version of unitgain, in the format unitgain-checkpoint/1; this one "
                f"reads {FORMAT}: finish the run with that version, or start again in another folder"
            )
        digest = manifest.pop("sha256")
        if digest != _digest(manifest) or manifest["format"] != FORMAT:
            raise CheckpointError(f"{path / MANIFEST} does not match its checksum")
    except OldCheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} has no valid manifest: {error!r}") from error
    return manifest


def verify_files(path: Path, files: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> None:
    """Check that the files with these names are as the manifest says.

    Raises:
        CheckpointError: if one is missing, or has another size or checksum.
    """
    for name in names:
        file, size = path / name, files[name]["size"]
        if not file.is_file() or file.stat().st_size != size:
            found = f"it has {file.stat().st_size}" if file.is_file() else "it is missing"
            raise CheckpointError(f"{file} should have {size} bytes, but {found}")
        if _sha256(file) != files[name]["sha256"]:
            raise CheckpointError(f"{file} does not match its checksum")


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


def prune_checkpoints(folder: Path, keep: int, keep_every: int = 0) -> None:
    """Delete old checkpoints.

    Args:
        folder: of the checkpoints of a run.
        keep: how many of the newest stay.
        keep_every: the first checkpoint at or after every multiple of this many images stays too; 0 for none.
    """
    paths = list_checkpoints(folder)
    milestones: dict[int, Path] = {}
    for path in paths if keep_every else []:
        milestones.setdefault(checkpoint_nimg(path) // keep_every, path)
    milestones.pop(0, None)
    for path in paths[:-keep]:
        if path not in milestones.values():
            shutil.rmtree(path, ignore_errors=True)


def clear_partial(folder: Path) -> None:
    """Delete what interrupted writes left; to be called while nothing is being written."""
    for path in folder.glob(".*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
