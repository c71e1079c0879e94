"""What the folder of a run says of it, while it trains or later."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unitgain.checkpoint.state import checkpoint_nimg, list_checkpoints
from unitgain.lock import holder
from unitgain.train.config import TrainConfig
from unitgain.train.rows import read_stats
from unitgain.train.run import load_config

RECENT = 8  # ticks that the speed of a run is taken from
Row = Mapping[str, Any]
Status = Literal["starting", "training", "finished", "stopped"]


@dataclass(frozen=True, kw_only=True)
class History:
    """A run as its folder has it.

    Attributes:
        folder: of the run.
        config: its settings; None while it is being set up.
        ticks: lines of statistics, in order.
        magnitudes: measurements of activations, in order.
        metrics: evaluations, in order.
        nonfinite: steps with non-finite gradients, in order.
        snapshots: files, in order.
        grids: pictures of samples that the run has drawn, in order.
        paired: images after which a grid was drawn whose samples are beside real pictures.
        checkpoint: images of the newest one; None for none.
        holder: which process trains; None for none.
        reason: why it stopped, where it could still say so; None if it has not, or was killed.
        age: seconds since the last line of statistics; None for none.
    """

    folder: Path
    config: TrainConfig | None
    ticks: Sequence[Row]
    magnitudes: Sequence[Row]
    metrics: Sequence[Row]
    nonfinite: Sequence[Row]
    snapshots: Sequence[Path]
    grids: Sequence[Path]
    paired: frozenset[int]
    checkpoint: int | None
    holder: str | None
    reason: str | None
    age: float | None

    @property
    def nimg(self) -> int:
        """Images seen, as far as that is written down."""
        return max(self.ticks[-1]["nimg"] if self.ticks else 0, self.checkpoint or 0)

    @property
    def duration(self) -> int:
        """Images of the whole run; 0 while that is not known."""
        return self.config.recipe.duration if self.config is not None else 0

    @property
    def status(self) -> Status:
        """Whether it trains."""
        if self.holder is not None:
            return "training" if self.ticks else "starting"
        whole = self.config is not None and self.nimg >= self.duration and self.reason is None
        return "finished" if whole else "stopped"

    @property
    def rate(self) -> float | None:
        """Images per second over the last ticks, with all that happens between them; None where nothing is known."""
        recent = self.ticks[-RECENT:]
        seconds = sum(row["seconds"] + row.get("evaluation_seconds", 0.0) for row in recent)
        return sum(row["images_per_second"] * row["seconds"] for row in recent) / seconds if seconds else None

    @property
    def left(self) -> float | None:
        """Seconds that are left, if it goes on as in the last ticks."""
        if not self.rate or self.status != "training":
            return None
        return max((self.duration - self.nimg) / self.rate - (self.age or 0.0), 0.0)

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Images and values of the ticks that have this key."""
        rows = [row for row in self.ticks if row.get(key) is not None]
        return [row["nimg"] for row in rows], [row[key] for row in rows]


def pooled(ticks: Sequence[Row]) -> Mapping[str, Any] | None:
    """Noise levels of several ticks as those of one: means over their images, u(sigma) of the last; None for none."""
    rows = [row["noise_levels"] for row in ticks if "noise_levels" in row]
    rows = [row for row in rows if len(row["images"]) == len(rows[-1]["images"])]
    if not rows:
        return None
    images = [sum(column) for column in zip(*(row["images"] for row in rows), strict=True)]
    levels: dict[str, Any] = {"ln_sigma": rows[-1]["ln_sigma"], "images": images, "u": rows[-1]["u"]}
    for key in ("error", "loss"):
        sums = [sum((row[key][i] or 0.0) * row["images"][i] for row in rows) for i in range(len(images))]
        levels[key] = [total / count if count else None for total, count in zip(sums, images, strict=True)]
    return levels


def exp_u(u: float | None) -> float | None:
    """What u(sigma) says the denoising error is; None where it is not known."""
    return None if u is None else math.exp(min(u, 700.0))


def read_history(folder: Path) -> History:
    """Read the folder of a run.

    Raises:
        FileNotFoundError: if it is not that of a run, nor one that a run is being set up in.
        TrainingError: if its settings are damaged.
    """
    who = holder(folder)
    config = None if who is not None and not (folder / "config.json").is_file() else load_config(folder)
    rows = read_stats(folder)
    stats, checkpoints = folder / "stats.jsonl", list_checkpoints(folder / "checkpoints")
    return History(
        folder=folder,
        config=config,
        ticks=[row for row in rows if "loss" in row],
        magnitudes=[row for row in rows if "magnitudes" in row],
        metrics=[row for row in rows if "metrics" in row],
        nonfinite=[row for row in rows if "nonfinite" in row],
        snapshots=sorted((folder / "snapshots").glob("[!.]*.safetensors")),
        grids=sorted(path for path in (folder / "samples").glob("*.png") if path.stem.isdecimal()),
        paired=frozenset(row["nimg"] for row in rows if row.get("grid", {}).get("pairs") is True),
        checkpoint=checkpoint_nimg(checkpoints[-1]) if checkpoints else None,
        holder=who,
        reason=rows[-1].get("stopped") if rows and who is None else None,
        age=max(time.time() - stats.stat().st_mtime, 0.0) if rows else None,
    )
