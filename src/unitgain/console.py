"""What is printed: the one way to a terminal, for commands and for what reports while it works.

Names and messages may hold anything: escape sequences that rewrite a screen, markup of rich, line feeds that fake a
line. Whatever is printed here is shown as it is, and never obeyed.
"""

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.segment import Segment
from rich.text import Text

from unitgain.text import printable

WARNING = "WARNING"
ROOM = 80  # characters of a terminal in which a whole bar fits


class Console(rich.console.Console):
    """A console of rich that takes no orders: strings are text, not markup, and control characters are spelled out.

    Args:
        stderr: print on standard error.
        least: the width where it would be less.
        quiet: print nothing.
        soft_wrap: leave the breaking of long lines to the terminal.
    """

    def __init__(
        self, *, stderr: bool = False, least: int | None = None, quiet: bool = False, soft_wrap: bool = False
    ) -> None:
        super().__init__(stderr=stderr, quiet=quiet, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False)
        if least is not None:
            self.width = max(self.width, least)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich renders, without control characters in any text."""
        for segment in super().render(renderable, options):
            safe = segment.control or segment.text.isprintable() or segment.text == "\n"
            yield segment if safe else Segment(printable(segment.text), segment.style)


def say(text: object = "") -> None:
    """Print a line on standard output."""
    _line(text, sys.stdout)


def note(text: object) -> None:
    """Print a line on standard error: what a result is not."""
    _line(text, sys.stderr)


def warn(text: object) -> None:
    """Print a warning on standard error."""
    note(f"{WARNING}: {text}")


def next_step(aim: str, *words: object) -> None:
    """Print the command that goes on from here, on a line of its own, quoted for a shell: it works when it is pasted.

    Args:
        aim: what it does.
        words: of the command after `unitgain`; None and empty text are left out.
    """
    command = shlex.join(str(word) for word in words if word not in (None, ""))
    say(f"next, {aim}:\n  unitgain {command}")


def show_json(value: Any) -> None:
    """Print JSON in ASCII, in which every character is spelled out that a terminal could obey."""
    print(json.dumps(value, indent=1, default=str).replace("\x7f", "\\u007f"), flush=True)


def label(text: str, rest: object, style: str) -> Text:
    """A styled word of our own before text of any kind."""
    return Text.assemble((text, style), printable(rest))


@contextmanager
def bar(
    title: str, unit: str, *, quiet: bool = False, late: bool = False
) -> Iterator[Callable[[float, int | None], None]]:
    """A progress bar on standard error, where that is a terminal: call what it yields with (done, total or None).

    Args:
        title: what is done.
        unit: what is counted.
        quiet: show nothing.
        late: show it from the first call until all is done, so that others may come before and after it.
    """
    with _progress(title, quiet, late, MofNCompleteColumn(), plain(unit), RateColumn(unit)) as update:
        yield update


@contextmanager
def byte_bar(title: str, *, quiet: bool = False) -> Iterator[Callable[[float, int | None], None]]:
    """As a late `bar`, in bytes."""
    with _progress(title, quiet, True, DownloadColumn(), TransferSpeedColumn()) as update:
        yield update


def plain(text: str) -> TextColumn:
    """A column of a progress bar that shows text, such as a field of the task in braces, as it is."""
    return TextColumn(text, markup=False)


def progress_columns(console: Console, *choices: tuple[int, Sequence[ProgressColumn]]) -> list[ProgressColumn]:
    """Columns of a progress bar: what is done, the first choice that the terminal has room for, the time left.

    Args:
        console: where they are shown.
        choices: the characters that a line with these columns takes, widest first; percents where none fits.
    """
    fitting = (columns for room, columns in choices if console.width >= room)
    middle = next(fitting, (plain("{task.percentage:.0f} %"),))
    return [plain("{task.description}"), *middle, plain("ETA"), TimeRemainingColumn()]


class RateColumn(ProgressColumn):
    """Things per second of a progress bar."""

    def __init__(self, unit: str = "images") -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """The rate over the last seconds."""
        speed = task.finished_speed or task.speed
        return Text(f"- {self.unit}/s" if speed is None else f"{speed:,.3g} {self.unit}/s")


@contextmanager
def _progress(
    title: str, quiet: bool, late: bool, *columns: ProgressColumn
) -> Iterator[Callable[[float, int | None], None]]:
    console = Console(stderr=True)
    wide = (ROOM, (BarColumn(), *columns, TimeElapsedColumn()))
    hidden = quiet or not console.is_terminal
    progress = Progress(*progress_columns(console, wide), console=console, disable=hidden)
    task = progress.add_task(title, total=None)

    def update(done: float, total: int | None) -> None:
        full = late and total is not None and done >= total
        if not (full and progress.finished):
            progress.start()
        progress.update(task, completed=done, total=total)
        if full:
            progress.stop()

    if not late:
        progress.start()
    try:
        yield update
    finally:
        progress.stop()


def _line(text: object, file: Any) -> None:
    line, encoding = printable(text), getattr(file, "encoding", None) or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), file=file, flush=True)
