"""`unitgain watch`."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import RenderableType
from rich.live import Live

from unitgain.cli.arguments import draw_next, refuse_idle
from unitgain.console import Console, next_step

if TYPE_CHECKING:
    from unitgain.report.history import History


@dataclass(frozen=True)
class Watch:
    """Show how a run is doing: progress, loss, noise levels, speed, and whether it is alive.

    From another terminal, while it trains; it may be one that has just been started. Ends when the run is finished, or
    with Ctrl-C, which leaves the run alone.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""

    once: bool = False
    """Print it once and end, as also where there is no terminal."""

    every: float = 1.0
    """Seconds between looks at the folder."""

    def run(self) -> None:
        """Show it."""
        from unitgain.report.history import read_history

        if self.once:
            refuse_idle(self, ["every"], "between looks, and --once looks once; leave one out")
        if not self.every > 0:
            raise ValueError(f"--every {self.every}: must be a positive number of seconds")
        console = Console()
        history = read_history(self.folder)
        if self.once or not console.is_terminal:
            console.print(_shown(history, console))
            _go_on(history)
            return
        with Live(_shown(history, console), console=console, auto_refresh=False) as live:
            while history.status != "finished":
                time.sleep(self.every)
                history = read_history(self.folder)
                live.update(_shown(history, console), refresh=True)
        _go_on(history)


def _go_on(history: "History") -> None:
    """What comes next; how a run that was stopped goes on is said beside its progress."""
    if history.status == "finished" and history.snapshots:
        told = None if history.config is None else (history.config.recipe.network, history.config.data)
        draw_next(history.folder, history.folder / f"drawn-{history.nimg}", told=told)
    elif history.status == "training" and history.ticks:
        next_step("see more of it", "report", history.folder)


def _shown(history: "History", console: Console) -> RenderableType:
    from unitgain.report.terminal import frame

    return frame(history, console.width, plain=console.options.ascii_only)
