"""`unitgain report`."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from unitgain.cli.arguments import Device, Unset, parse_seeds, pick_device
from unitgain.console import bar, say, warn
from unitgain.extras import require
from unitgain.files import write_text

if TYPE_CHECKING:
    import torch

    from unitgain.report.history import History
    from unitgain.report.samples import Drawing

SEEDS = "0-7"


@dataclass(frozen=True)
class Report:
    """Write a page about a run, finished or in training: curves, noise levels, magnitudes, samples over time.

    One HTML file that needs no other. Samples are the grids that the run left, if it did, or else drawn from its
    snapshots, the same seeds at each time.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""

    out: Unset[Path] = None
    """Where to. Default: report.html in the folder of the run."""

    no_samples: bool = False
    """No pictures of samples."""

    seeds: Unset[str] = None
    """Seeds to draw, such as 0-7 or 1,5,9, also where the run left grids. Default: 0-7."""

    times: int = 6
    """At how many times to show samples, at most."""

    sigma_rel: Unset[float] = None
    """EMA length to draw with, also where the run left grids. Default: the longest that the run stores."""

    device: Device = "auto"
    """Where to draw."""

    quiet: bool = False
    """Show no progress."""

    def run(self) -> None:
        """Write it, and say where."""
        from unitgain.report.history import read_history
        from unitgain.report.run import run_page

        if self.times < 1:
            raise ValueError(f"--times {self.times}: must be at least 1")
        seeds = parse_seeds(self.seeds or SEEDS)
        history = read_history(self.folder)
        out = self.out or self.folder / "report.html"
        if out.is_dir():
            raise ValueError(f"--out {out} is a folder: name a file, such as {out / 'report.html'}")
        require("matplotlib.figure", extra="plot")  # now rather than after the samples
        drawings, note = self._samples(history, seeds)
        write_text(out, run_page(history, drawings, note))
        say(f"wrote {out}")

    def _samples(self, history: "History", seeds: list[int]) -> "tuple[list[Drawing], str]":
        """Pictures, and what is to be said of them."""
        from unitgain.checkpoint.snapshot import SnapshotError
        from unitgain.report.samples import SETTINGS, choose_snapshots, kept_drawings

        if self.no_samples:
            return [], ""
        asked = self.seeds is not None or self.sigma_rel is not None
        if not asked and (drawings := kept_drawings(history, self.times)):
            return drawings, "Drawn by the run itself."
        snapshots = choose_snapshots(history, self.times, self.sigma_rel)
        if not snapshots:
            return [], "None yet: the run has no snapshot."
        device = pick_device(self.device)
        try:
            drawings = self._draw(snapshots, seeds, device)
        except (SnapshotError, ImportError, ValueError, OSError) as error:
            warn(f"no samples: {error}")
            return [], f"Not drawn: {error}"
        length = snapshots[-1].stem.partition("-")[2]
        return drawings, f"Seeds {self.seeds or SEEDS}, EMA length {length}, {SETTINGS.steps} steps of Heun's method."

    def _draw(self, snapshots: list[Path], seeds: list[int], device: "torch.device") -> "list[Drawing]":
        """Draw, with a progress bar."""
        from unitgain.report.samples import draw_over_time

        total = len(snapshots) * len(seeds)
        with nullcontext() if self.quiet else bar("samples", "images") as progress:
            report = None if progress is None else lambda done: progress(done, total)
            return draw_over_time(snapshots, seeds, device, report)
