"""What a run says while it trains: `stats.jsonl`, TensorBoard and others beside it, a progress bar."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TimeElapsedColumn

from unitgain.console import Console, RateColumn, note, plain, progress_columns
from unitgain.files import write_text
from unitgain.text import span
from unitgain.train.boards import Board, scalars
from unitgain.train.rows import is_sound
from unitgain.trust import open_own, read_rows

SECONDS_BETWEEN_LINES = 10  # of progress where there is no terminal
WORTH_SAYING = 0.05  # share of the time that is spent waiting for data
LOW = 0.1  # share of the peak below which it is said why, once
BUSY = 0.75  # part of its threads' time that a process gets on a machine that nobody else uses
WIDE = (110, 130)  # characters of a terminal in which a bar leaves room for the share of the peak, and for the wait too


class StatsLog:
    """`stats.jsonl`, one object per tick, and its scalars on boards beside it.

    Args:
        run: folder of the run.
        nimg: images seen at the start; lines of a later time, from before a resume, are dropped, and those
            that say why the run had stopped.
        boards: as from `boards`.
    """

    def __init__(self, run: Path, nimg: int, boards: Sequence[Board] = ()) -> None:
        self.path = run / "stats.jsonl"
        with suppress(FileNotFoundError):
            rows = [
                row for row in read_rows(self.path) if is_sound(row) and row["nimg"] <= nimg and "stopped" not in row
            ]
            write_text(self.path, "".join(f"{json.dumps(row)}\n" for row in rows))
        self._boards = boards

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one line, flushed."""
        with open(open_own(self.path), "a", encoding="utf-8") as file:
            file.seek(0, os.SEEK_END)
            file.write(json.dumps(row, allow_nan=False) + "\n")
        for board in self._boards:
            board.write(row["nimg"], scalars(row))

    def image(self, name: str, nimg: int, pixels: Any) -> None:
        """Show a picture on the boards: an array, uint8 `[H, W]` or `[H, W, 3]`."""
        for board in self._boards:
            board.image(name, nimg, pixels)

    def close(self) -> None:
        """Finish the boards."""
        for board in self._boards:
            board.close()


class TrainProgress:
    """Progress in images, with images/s, time left, loss and learning rate: a bar in a terminal, lines elsewhere.

    Args:
        total: images of the whole run.
        nimg: images seen at the start.
        quiet: show nothing.
        threads: that compute on the CPU; 0 where a GPU does.
    """

    def __init__(self, total: int, nimg: int, quiet: bool = False, threads: int = 0) -> None:
        console = Console(stderr=True)
        self._quiet, self._lines = quiet, not console.is_terminal and not quiet
        self._total, self._start, self._began = total, nimg, time.monotonic()
        images, status = plain("{task.completed:,.0f}/{task.total:,.0f} images"), plain("{task.fields[status]}")
        whole = (BarColumn(), images, RateColumn(), status, TimeElapsedColumn())
        columns = progress_columns(
            console, (110, whole), (70, (plain("{task.percentage:.0f} %"), RateColumn(), status))
        )
        self._bar = Progress(*columns, console=console, disable=quiet or not console.is_terminal)
        self._last_line = -math.inf
        self._cpu, self._threads, self._told = time.process_time(), threads, False
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
        status = f"loss {_number(row['loss'])}  lr {row['lr']:.2e}{_speed(row, self._bar.console.width)}"
        self._bar.update(self._task, status=status)
        now = time.monotonic()
        if self._lines and (now - self._last_line > SECONDS_BETWEEN_LINES or row["nimg"] >= self._total):
            self._last_line = now
            rate = (row["nimg"] - self._start) / max(now - self._began, 1e-9)
            left = (self._total - row["nimg"]) / rate
            note(
                f"{row['nimg']:,}/{self._total:,} images  {row['images_per_second']:.0f} images/s  "
                f"loss {_number(row['loss'])}  lr {row['lr']:.2e}{_speed(row)}  ETA {span(left)}, at "
                f"{time.strftime('%H:%M', time.localtime(time.time() + left))}"
            )
        if row["peak_share"] < LOW and not self._told and now - self._began > SECONDS_BETWEEN_LINES:
            self._told = True
            cores = (time.process_time() - self._cpu) / (now - self._began)
            self.note(why_slow(row["peak_share"], cores, self._threads))

    @contextmanager
    def beside(self, title: str, total: int) -> Iterator[Callable[[float, int], None]]:
        """A second bar for other work on images while training waits; call what it yields with (done, of how many)."""
        task = self._bar.add_task(title, total=total, status="")
        try:
            yield lambda done, total: self._bar.update(task, completed=done, total=total)
        finally:
            self._bar.remove_task(task)

    def note(self, text: str) -> None:
        """As `say`, unless nothing is to be shown."""
        if not self._quiet:
            self.say(text)

    def say(self, text: str) -> None:
        """Print a line above the bar, whether or not there is one."""
        self._bar.console.print(text, soft_wrap=True)


def why_slow(share: float, cores: float, threads: int) -> str:
    """What a low share of the peak comes from, and what helps.

    Args:
        share: of the rate of matrix products that was measured when the run began.
        cores: processor time that this process got in a second.
        threads: that it computes with.
    """
    text = f"training reaches {100 * share:.1f} % of what matrix products reach here"
    if cores < BUSY * threads:
        return (
            f"{text}, and got {cores:.1f} of {threads} cores: other programs take the rest. End them, or compute with "
            "fewer threads (OMP_NUM_THREADS=1), which wait for one another no longer"
        )
    return (
        f"{text}: narrow layers and few images at a time are bound by memory. A larger --microbatch or --width uses "
        "the machine better; a narrow network is all the same the faster one"
    )


def _number(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.4f}"


def _speed(row: Mapping[str, Any], width: int = 1000) -> str:
    """Share of the machine's peak, and the wait for data where there is one to speak of, as the width allows."""
    text = f"  {100 * row['peak_share']:.0f} % of peak" if width >= WIDE[0] else ""
    waits = row["data_wait_share"]
    return f"{text}  waits {100 * waits:.0f} % for data" if waits >= WORTH_SAYING and width >= WIDE[1] else text
