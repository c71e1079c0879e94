"""The folder of a run: its settings, and whether it may be used."""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from unitgain.files import near, require_empty, write_text
from unitgain.kinds import instead_of_snapshots
from unitgain.lock import LOCK
from unitgain.serial import from_dict, to_dict
from unitgain.text import printable
from unitgain.train.config import TrainConfig
from unitgain.train.errors import TrainingError
from unitgain.trust import check_size, open_regular

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


def saved_config(run: Path, resume: bool) -> TrainConfig | None:
    """The settings of the run that is in the folder and goes on; None for a new one, which the folder may take.

    Raises:
        FileExistsError: if a new run finds the folder not empty.
        TrainingError: if `config.json` is damaged.
    """
    if resume and (run / CONFIG).exists():
        return load_config(run)
    if not (run.is_dir() and all(_is_leftover(path) for path in run.iterdir())):
        remedy = (
            f"it holds no run to resume, for there is no {CONFIG}: choose another folder"
            if resume
            else "choose another folder"
            + (", or resume the run that is in it with --resume" if (run / CONFIG).exists() else "")
        )
        require_empty(run, remedy)
    return None


def _is_leftover(path: Path) -> bool:
    """Whether a run that was killed before it had begun left this."""
    return path.name in (LOCK, CHECKSUM) or (path.name.startswith(".") and path.name.endswith(".tmp"))


def refuse_changes(config: TrainConfig, saved: TrainConfig, where: Path) -> None:
    """Raise `ValueError` if `config` would change the numbers of a run that began as `saved`, naming the fields."""
    changes = config.changes(saved)
    if any(row.startswith("data_fingerprint") for row in changes):
        if config.data == saved.data:
            raise ValueError(
                f"{where} was made with the data {config.data} as they were before they changed: put them back, or "
                "train on them as they are in a new run, in another folder, with --init and a snapshot of this one"
            )
        raise ValueError(f"{where} was made with other data, {saved.data}: give the data set that the run began with")
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
        instead = instead_of_snapshots(run) if run.exists() else near(run)
        raise FileNotFoundError(f"{run} is not the folder of a run: it has no config.json{instead}")
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
