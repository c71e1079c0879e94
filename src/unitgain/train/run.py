"""The folder of a run: its settings, and whether it may be used."""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from unitgain.data.loader import Dataset
from unitgain.files import require_empty, write_text
from unitgain.serial import from_dict, to_dict
from unitgain.train.config import TrainConfig
from unitgain.train.errors import TrainingError
from unitgain.train.lock import LOCK
from unitgain.trust import check_size, open_regular, printable

CONFIG, CHECKSUM = "config.json", ".config.sha256"
CONFIG_SIZE = 2**24  # bytes that may be read; it has some kilobytes


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
        remedy = (
            f"it holds no run to resume, for there is no {CONFIG}: choose another folder"
            if resume
            else "choose another folder, or resume the run that is in it with --resume"
        )
        require_empty(run, remedy)


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
    # Through `from_dict`: a whole number where a field takes any is written as it is after reading, 300.0.
    text = json.dumps(to_dict(from_dict(TrainConfig, to_dict(config))), indent=1) + "\n"
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
    with open_regular(path) as file:
        check_size(str(path), os.fstat(file.fileno()).st_size, CONFIG_SIZE, "CONFIG_SIZE")
        data = file.read()
    if verify and checksum.is_file() and checksum.read_bytes().strip() != hashlib.sha256(data).hexdigest().encode():
        raise TrainingError(
            f"{path} does not match its checksum: it is damaged, or was edited. Settings are changed with the options "
            f"of unitgain train --resume; if the file is as you want it, delete {checksum}"
        )
    try:
        return from_dict(TrainConfig, json.loads(data.decode("utf-8")))
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{path} is damaged: {printable(error)}") from error


def clear_leftovers(run: Path) -> None:
    """Delete what a killed process left half written; to be called while the run folder is held."""
    for folder in (run, run / "snapshots"):
        for path in folder.glob(".*.tmp"):
            with suppress(OSError):
                path.unlink()
