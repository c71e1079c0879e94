"""The folder of a run: its settings, whether it may be used, and where it goes on."""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unitgain.checkpoint.state import (
    CheckpointError,
    list_checkpoints,
    read_manifest,
    set_aside,
    verify_files,
)
from unitgain.console import note, warn
from unitgain.data.loader import Dataset
from unitgain.files import require_empty, write_text
from unitgain.parallel import World, load_tensors
from unitgain.serial import from_dict, to_dict
from unitgain.train.config import TrainConfig
from unitgain.train.errors import TrainingError, together
from unitgain.train.lock import LOCK
from unitgain.train.state import TrainState, restore, state_tensors

CONFIG, CHECKSUM = "config.json", ".config.sha256"


@dataclass
class Window:
    """Sums since the last tick, part of what a checkpoint keeps so that statistics resume too.

    Attributes:
        levels: those of `NoiseLevels` over all processes, as of the last checkpoint; empty for none.
    """

    loss: float = 0.0
    steps: int = 0
    finite_steps: int = 0
    nonfinite_steps: int = 0
    nonfinite_run: int = 0
    levels: list[list[float]] = field(default_factory=list)


def check_data(config: TrainConfig, dataset: Dataset) -> None:
    """Check that the network can be trained on the data.

    Raises:
        ValueError: if the shape of the images or the number of classes differ.
    """
    network = config.recipe.network
    expected = (network.channels, network.resolution, network.resolution)
    if dataset.shape != expected:
        remedy = "; encode the data first: unitgain data encode" if config.recipe.latents > dataset.latents else ""
        raise ValueError(
            f"data {dataset.name}: images are {dataset.shape}, the network takes {expected} (channels, height, width)"
            f"{remedy}"
        )
    if network.label_dim and network.label_dim != dataset.label_dim:
        raise ValueError(
            f"data {dataset.name}: {dataset.label_dim} classes, but the network has label_dim={network.label_dim}; "
            "use label_dim=0 to train without labels, or that of the data (--classes data)"
        )


def check_run(config: TrainConfig, run: Path, resume: bool) -> None:
    """Check that the folder may take a new run, or holds one that `config` continues.

    Raises:
        FileExistsError: if a new run finds the folder not empty.
        ValueError: if resuming would change the numbers of the run; the message names the fields.
    """
    if resume and (run / CONFIG).exists():
        refuse_changes(config, load_config(run), run)
    elif not (run.is_dir() and all(_is_leftover(path) for path in run.iterdir())):
        require_empty(run, "choose another folder, or resume the run that is in it with --resume")


def _is_leftover(path: Path) -> bool:
    """Whether a run that was killed before it had begun left this."""
    return path.name in (LOCK, CHECKSUM) or (path.name.startswith(".") and path.name.endswith(".tmp"))


def refuse_changes(config: TrainConfig, saved: TrainConfig, where: Path) -> None:
    """Raise `ValueError` if `config` would change the numbers of a run that began as `saved`, naming the fields."""
    changes = config.changes(saved)
    if changes:
        raise ValueError(f"cannot resume from {where}, which was made with other settings: {'; '.join(changes)}")


def save_config(config: TrainConfig, run: Path) -> None:
    """Write `config.json` and its checksum, unless they are there already."""
    text = json.dumps(to_dict(config), indent=1) + "\n"
    path, digest = run / CONFIG, hashlib.sha256(text.encode()).hexdigest()
    if path.is_file() and (run / CHECKSUM).is_file() and path.read_bytes() == text.encode():
        return
    write_text(run / CHECKSUM, digest + "\n")  # first, so that there is no config.json without one
    write_text(path, text)


def load_config(run: Path, verify: bool = False) -> TrainConfig:
    """The settings of the run in a folder.

    Args:
        run: the folder.
        verify: check them against their checksum: they are about to be trusted.

    Raises:
        FileNotFoundError: if there is no run.
        TrainingError: if its `config.json` is damaged.
    """
    path, checksum = run / CONFIG, run / CHECKSUM
    if not path.is_file():
        raise FileNotFoundError(f"{run} is not the folder of a run: it has no config.json")
    data = path.read_bytes()
    if verify and checksum.is_file() and checksum.read_bytes().strip() != hashlib.sha256(data).hexdigest().encode():
        raise TrainingError(
            f"{path} does not match its checksum: it is damaged, or was edited. Settings are changed with the options "
            f"of unitgain train --resume; if the file is as you want it, delete {checksum}"
        )
    try:
        return from_dict(TrainConfig, json.loads(data.decode("utf-8")))
    except ValueError as error:
        raise TrainingError(f"{path} is damaged: {error}") from error


def clear_leftovers(run: Path) -> None:
    """Delete what a killed process left half written; to be called while the run folder is held."""
    for folder in (run, run / "snapshots"):
        for path in folder.glob(".*.tmp"):
            with suppress(OSError):
                path.unlink()


def resume_from_newest(config: TrainConfig, state: TrainState, window: Window, folder: Path, fingerprint: str) -> None:
    """Restore the newest valid checkpoint, saying loudly which ones are damaged; without any the state stays new.

    Args:
        config: of the run.
        state: changed in place, on all processes alike, however many wrote the checkpoint.
        window: changed in place.
        folder: of the checkpoints.
        fingerprint: of the data.

    Raises:
        ValueError: if the checkpoint was made with other data, or settings that differ in what changes the numbers.
        CheckpointError: if there are checkpoints and none is valid.
    """
    world = state.world
    paths = world.broadcast(list_checkpoints(folder))
    for path in reversed(paths):
        manifest, damage = _verify(path, world)
        if damage:
            if world.main:
                aside = set_aside(path).name
                warn(f"skipping a damaged checkpoint, now {aside}: {damage}")
            world.barrier()
            continue
        values = manifest["values"]
        _check_values(config, values, path, state.device.type, fingerprint)
        tensors, _ = state_tensors(state)
        load_tensors(path, tensors, world)
        restore(state, tensors, values)
        for name, value in values["window"].items():
            setattr(window, name, value)
        if world.main and values["processes"] != world.size:
            note(
                f"{path.name} was written by {values['processes']} processes and goes on with {world.size}: the same "
                "up to the order of floating-point sums"
            )
        return
    if paths:
        raise CheckpointError(
            f"none of the {len(paths)} checkpoints in {folder} is intact: start again in another folder"
        )


def _verify(path: Path, world: World) -> tuple[dict[str, Any], str | None]:
    """The manifest of a checkpoint, and what is wrong with it on any process; each checks a share of the files."""

    def check() -> tuple[dict[str, Any], str | None]:
        try:
            manifest = read_manifest(path)
            verify_files(path, manifest["files"], world.share(sorted(manifest["files"])))
        except CheckpointError as error:
            return {}, str(error)
        return manifest, None

    manifest, damage = together(world, f"checking {path}", check)
    found = [text for text in world.gather(damage) if text]
    return manifest, found[0] if found else None


def _check_values(config: TrainConfig, values: dict[str, Any], path: Path, device: str, fingerprint: str) -> None:
    refuse_changes(config, from_dict(TrainConfig, values["config"]), path)
    if values["data"] != fingerprint:
        raise ValueError(f"{path} was made with other data: give the data set that the run began with")
    if values["device"] != device:
        raise ValueError(f"{path} was made on {values['device']}: resume with --device {values['device']}")
    if config.recipe.duration < values["nimg"]:
        raise ValueError(f"duration = {config.recipe.duration}: the run in {path.parent} is at {values['nimg']} images")
