"""TensorBoard and Weights & Biases: the same scalars for both, from the lines of `stats.jsonl`."""

import importlib.util
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unitgain.console import warn
from unitgain.extras import require
from unitgain.files import write_text
from unitgain.text import printable
from unitgain.trust import DEFAULT_LIMITS, parse_json, plain_name, read_regular

WANDB = "wandb.json"  # in the run folder: which run of W&B it is


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in a line of `stats.jsonl` by the name under which they are shown: `gradient/Enc 8x8`."""
    return {printable(name): value for name, value in _named(row) if isinstance(value, int | float)}


def _named(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from ((f"train/{name}", value) for name, value in row.items() if name != "nimg")
    yield from ((f"metrics/{name}", value) for name, value in row.get("metrics", {}).items())
    for bucket, values in row.get("magnitudes", {}).items():
        yield from ((f"magnitudes/{name}/{bucket}", value) for name, value in values.items())
    for part, values in row.get("parts", {}).items():
        yield from ((f"{name}/{part}", value) for name, value in values.items())
    levels = row.get("noise_levels", {})
    for key in ("error", "loss", "u"):
        for i, value in enumerate(levels.get(key) or ()):
            yield f"noise_level_{key}/{i:02d} ln_sigma={levels['ln_sigma'][i]:+.2f}", value
    if "nonfinite" in row:
        yield "train/nonfinite_values", sum(row["nonfinite"].values())


def boards(
    run: Path, nimg: int, config: Mapping[str, Any], tensorboard: bool, wandb: str | None, quiet: bool = False
) -> "list[Board]":
    """What a run writes to beside `stats.jsonl`.

    Args:
        run: folder of the run.
        nimg: images seen at the start.
        config: settings of the run, as JSON.
        tensorboard: write TensorBoard events, if it is installed.
        wandb: project of W&B; None for that of before, if the run was there, else none.
        quiet: W&B is to print nothing.

    Raises:
        ImportError: if W&B is asked for and not installed.
        ValueError: if W&B does not take the run. Where the project is only remembered, both are warnings.
    """
    shown: list[Board] = []
    if wandb is not None or (run / WANDB).exists():
        try:
            shown.append(WandB(run, wandb, config, quiet))
        except (ImportError, ValueError) as error:
            if wandb is not None:
                raise
            warn(f"this run was in W&B before and goes on without it: {error}. Delete {run / WANDB} not to be told")
    if tensorboard and importlib.util.find_spec("tensorboard"):  # last, as it begins to write
        shown.append(TensorBoard(run, nimg))
    return shown


def _identity(run: Path) -> dict[str, str]:
    """What `wandb.json` says: id and project.

    Raises:
        ValueError: if it says anything else, or is no ordinary file.
    """
    path = run / WANDB
    try:
        known = parse_json(read_regular(path, DEFAULT_LIMITS, below=run), WANDB)
        return {name: plain_name(known[name]) for name in ("id", "project")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: delete it, and W&B shows the run as a new one") from error


def _shown(value: Any) -> Any:
    """The same JSON with no control characters in any text."""
    if isinstance(value, Mapping):
        return {printable(name): _shown(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(one) for one in value]
    return printable(value) if isinstance(value, str) else value


class TensorBoard:
    """Events in `tensorboard/`; those of a later time than the start, from before a resume, are hidden."""

    def __init__(self, run: Path, nimg: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=nimg + 1)  # the first step that is hidden

    def write(self, nimg: int, values: Mapping[str, float]) -> None:
        """Take scalars by name, at so many images."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, nimg)

    def image(self, name: str, nimg: int, pixels: Any) -> None:
        """Take a picture: an array, uint8 `[H, W]` or `[H, W, 3]`."""
        self._writer.add_image(name, pixels, nimg, dataformats="HW" if pixels.ndim == 2 else "HWC")

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases, the same one again after a resume: its id is kept in the run folder.

    Its own settings hold, such as the environment's WANDB_MODE=offline. Steps are images seen, so that W&B leaves out
    what it has from before a resume. When it fails later, the training goes on without it.

    Args:
        run: folder of the run; W&B's files go to `wandb/` in it.
        project: of W&B; None for that of before.
        config: settings, as JSON.
        quiet: print nothing.

    Raises:
        ImportError: if it is not installed.
        ValueError: if it does not take the run.
    """

    def __init__(self, run: Path, project: str | None, config: Mapping[str, Any], quiet: bool = False) -> None:
        wandb = require("wandb", extra="track")
        identity = run / WANDB
        new = project is not None and not identity.exists()
        if project is not None and new:
            known = {"id": secrets.token_hex(4), "project": plain_name(project, "--wandb")}
        else:
            known = _identity(run)
        if project not in (None, known["project"]):
            raise ValueError(
                f"--wandb {project}: the run is already in the project {known['project']}; name that one, or "
                f"delete {identity} to begin a new run of W&B"
            )
        try:
            self._run: Any = wandb.init(
                project=known["project"],
                id=known["id"],
                name=printable(run.resolve().name),
                dir=str(run),
                config=_shown(dict(config)),
                resume="allow",
                allow_val_change=True,
                settings=wandb.Settings(console="off", silent=quiet),
            )
        except wandb.errors.Error as error:
            raise ValueError(
                f"W&B does not take the run: {str(error).rstrip('.')}. Log in with: wandb login; or set "
                "WANDB_MODE=offline and upload with: wandb sync"
            ) from error
        if new:
            write_text(identity, json.dumps(known) + "\n")

    def write(self, nimg: int, values: Mapping[str, float]) -> None:
        """Take scalars by name, at so many images."""
        self._log(nimg, lambda: {"nimg": nimg, **values})

    def image(self, name: str, nimg: int, pixels: Any) -> None:
        """Take a picture: an array, uint8 `[H, W]` or `[H, W, 3]`."""
        self._log(nimg, lambda: {name: require("wandb", extra="track").Image(pixels)})

    def _log(self, nimg: int, values: Callable[[], Mapping[str, Any]]) -> None:
        self._guarded(lambda: self._run.log(values(), step=nimg))

    def close(self) -> None:
        """Wait until everything is uploaded."""
        self._guarded(lambda: self._run.finish())

    def _guarded(self, call: Callable[[], object]) -> None:
        """Call W&B, unless it has failed before."""
        if self._run is None:
            return
        try:
            call()
        except Exception as error:  # whatever it is, it is not worth a training run
            self._run = None
            warn(f"W&B failed, the run goes on without it: {error}")


Board = TensorBoard | WandB
