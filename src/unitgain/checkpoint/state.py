"""Training checkpoints: a folder that is whole or does not count.

`<folder>/<nimg, 10 digits or more>/` holds what `unitgain.checkpoint.sharded` writes and `manifest.json`, which is
written last and gives the size and the SHA-256 of every other file, and of itself. A folder without a valid manifest is
not a checkpoint.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unitgain.files import damage, sha256, sync_folder, write_text
from unitgain.serial import digest
from unitgain.text import printable
from unitgain.trust import Limits, parse_json, plain_name, read_regular

FORMAT = "unitgain-checkpoint/3"
MANIFEST = "manifest.json"
MANIFEST_SIZE = Limits(max_item_bytes=2**24)  # that of a thousand processes has a tenth of it


class CheckpointError(Exception):
    """A checkpoint is missing or damaged, or could not be written."""


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
    files = {path.name: {"size": path.stat().st_size, "sha256": sha256(path)} for path in sorted(partial.iterdir())}
    manifest = {"format": FORMAT, "nimg": nimg, "values": dict(values), "files": files}
    write_text(partial / MANIFEST, json.dumps({**manifest, "sha256": digest(manifest)}, indent=1))
    if final.exists():  # the same run came here before, or something damaged did
        shutil.rmtree(final)
    os.replace(partial, final)
    sync_folder(folder)
    return final


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, checked against its own checksum: `files`, by name, and `values`.

    Raises:
        CheckpointError: if it is missing or damaged.
        ValueError: if it is whole, but of another format: it is not to be taken for damaged.
    """
    try:
        manifest = parse_json(read_regular(path / MANIFEST, MANIFEST_SIZE, below=path), "it")
        if manifest.pop("sha256", None) != digest(manifest):
            raise CheckpointError(f"{path / MANIFEST} does not match its checksum")
        if (written := manifest["format"]) == FORMAT:
            _check_files(manifest["files"])
            if not isinstance(manifest["values"], dict):
                raise ValueError("its values have no names")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = printable(f"{type(error).__name__}: {error}")[:1000]
        raise CheckpointError(f"{path} has no valid manifest: {what}") from error
    if written != FORMAT:
        raise ValueError(
            f"{path} is of the format {printable(written)[:100]}, and this version of unitgain reads {FORMAT}: go on "
            "with the version that wrote it, or start again in another folder"
        )
    return manifest


def _check_files(files: Any) -> None:
    """Whoever made the manifest made its checksum too: what it says is checked as if there were none."""
    for name, entry in files.items():
        if plain_name(name, "file") == MANIFEST:
            raise ValueError(f"it lists itself, {MANIFEST}")
        if type(entry["size"]) is not int or type(entry["sha256"]) is not str:
            raise ValueError(f"it gives no size and checksum of {name}")


def verify_files(path: Path, files: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> None:
    """Check that the files with these names are as the manifest says, and lie in the folder.

    Raises:
        CheckpointError: if one is missing, has another size or checksum, is no ordinary file, or a link.
    """
    for name in names:
        if why := damage(path / name, files[name]["size"], files[name]["sha256"], below=path):
            raise CheckpointError(f"{path / name} {why}")


def list_checkpoints(folder: Path) -> list[Path]:
    """Folders that are named like checkpoints, oldest first; not validated."""
    named = (path for path in folder.glob("[0-9]" * 10 + "*") if re.fullmatch("[0-9]+", path.name))
    return sorted((path for path in named if path.is_dir()), key=checkpoint_nimg)


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
        keep: how many of the newest stay; that of the state before the first step goes when there is another.
        keep_every: the first checkpoint at or after every multiple of this many images stays too; 0 for none.
    """
    paths = list_checkpoints(folder)
    milestones: dict[int, Path] = {}
    for path in paths if keep_every else []:
        milestones.setdefault(checkpoint_nimg(path) // keep_every, path)
    milestones.pop(0, None)
    for number, path in enumerate(paths):
        newest = number >= len(paths) - keep and (checkpoint_nimg(path) or len(paths) == 1)
        if not newest and path not in milestones.values():
            shutil.rmtree(path, ignore_errors=True)


def clear_partial(folder: Path) -> None:
    """Delete what interrupted writes left; to be called while nothing is being written."""
    for path in folder.glob(".*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
