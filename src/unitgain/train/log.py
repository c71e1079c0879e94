"""What a run says while it trains: `stats.jsonl`, TensorBoard, a progress bar."""

import importlib.util
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from unitgain.files import write_text

SECONDS_BETWEEN_LINES = 10  # of progress where there is no terminal


class StatsLog:
    """`stats.jsonl`, one object per tick, and TensorBoard events beside it.

    Args:
        run: folder of the run.
        nimg: images seen at the start; lines of a later time, from before a resume, are dropped.
        tensorboard: also write TensorBoard events, if it is installed.
    """

    def __init__(self, run: Path, nimg: int, tensorboard: bool = True) -> None:
        self.path = run / "stats.jsonl"
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [line for line in lines if _nimg(line) <= nimg]
            write_text(self.path, "".join(f"{line}\n" for line in kept))
        self._board: Any = None
        if tensorboard and importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run / "tensorboard"), purge_step=nimg if nimg else None)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one line, flushed."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
        if self._board is not None:
            for name, value in row.items():
                if name != "nimg" and isinstance(value, int | float):
                    self._board.add_scalar(f"train/{name}", value, row["nimg"])
            for name, value in row.get("metrics", {}).items():
                if value is not None:
                    self._board.add_scalar(f"metrics/{name}", value, row["nimg"])
            for bucket, values in row.get("magnitudes", {}).items():  # type: ignore[union-attr]
                for name, value in values.items():
                    self._board.add_scalar(f"magnitudes/{name}/{bucket}", value, row["nimg"])

    def image(self, name: str, nimg: int, pixels: Any) -> None:
        """Show a picture in TensorBoard: an array, uint8 `[H, W]` or `[H, W, 3]`."""
        if self._board is not None:
            self._board.add_image(name, pixels, nimg, dataformats="HW" if pixels.ndim == 2 else "HWC")

    def close(self) -> None:
        """Finish the TensorBoard file."""
        if self._board is not None:
            self._board.close()


class TrainProgress:
    """Progress in images, with images/s, time left, loss and learning rate: a bar in a terminal, lines elsewhere.

    Args:
        total: images of the whole run.
        nimg: images seen at the start.
        quiet: show nothing.
    """

    def __init__(self, total: int, nimg: int, quiet: bool = False) -> None:
        console = Console(file=sys.stderr)
        self._quiet, self._lines = quiet, not console.is_terminal and not quiet
        self._total, self._start, self._began = total, nimg, time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} images"),
            RateColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
        )
        self._last_line = -math.inf
        self._task = self._bar.add_task("training", total=total, completed=nimg, status="")

    def __enter__(self) -> "TrainProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, nimg: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=nimg)

    def tick(self, row: Mapping[str, Any]) -> None:
        """Show the statistics of a tick."""
        self._bar.update(self._task, status=f"loss {_number(row['loss'])}  lr {row['lr']:.2e}")
        now = time.monotonic()
        if self._lines and (now - self._last_line > SECONDS_BETWEEN_LINES or row["nimg"] >= self._total):
            self._last_line = now
            rate = (row["nimg"] - self._start) / max(now - self._began, 1e-9)
            left = (self._total - row["nimg"]) / rate
            print(
                f"{row['nimg']:,}/{self._total:,} images  {row['images_per_second']:.0f} images/s  "
                f"loss {_number(row['loss'])}  lr {row['lr']:.2e}  ETA {left:.0f} s",
                file=sys.stderr,
                flush=True,
            )

    @contextmanager
    def beside(self, title: str, total: int) -> Iterator[Callable[[float], None]]:
        """A second bar for other work on images while training waits; call what it yields with how many are done."""
        task = self._bar.add_task(title, total=total, status="")
        try:
            yield lambda done: self._bar.update(task, completed=min(done, total))
        finally:
            self._bar.remove_task(task)

    def note(self, text: str) -> None:
        """As `say`, unless nothing is to be shown."""
        if not self._quiet:
            self.say(text)

    def say(self, text: str) -> None:
        """Print a line above the bar, whether or not there is one."""
        self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)


def read_stats(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's `stats.jsonl`; none where there is no file, and without a line that a crash cut short."""
    path = run / "stats.jsonl"
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def _number(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.4f}"


class RateColumn(ProgressColumn):
    """Things per second of a rich progress bar."""

    def __init__(self, unit: str = "images") -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """The rate over the last seconds."""
        speed = task.finished_speed or task.speed
        return Text(f"- {self.unit}/s" if speed is None else f"{speed:,.3g} {self.unit}/s")


def _nimg(line: str) -> float:
    try:
        return json.loads(line)["nimg"]
    except (ValueError, KeyError, TypeError):  # a line cut short by a crash
        return float("inf")
