"""`unitgain report`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unitgain.cli.arguments import Device, Unset, draw_next, parse_seeds, pick_device, refuse_idle
from unitgain.console import bar, say
from unitgain.extras import require
from unitgain.files import check_file, write_text


@dataclass(frozen=True)
class Report:
    """Write a page about a run, finished or in training: curves, noise levels, magnitudes, samples over time.

    One HTML file that needs no other and runs no script. Samples are the grids that the run left, if it did, or else
    drawn from its snapshots, the same seeds at each time; beside them the same seeds at several EMA lengths, and
    pictures of the data.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""

    out: Unset[Path] = None
    """Where to. Default: report.html in the folder of the run."""

    no_samples: bool = False
    """No pictures of samples."""

    seeds: Unset[str] = None
    """Seeds to draw, such as 0-7 or 1,5,9, also where the run left grids. Default: 0-7."""

    times: Unset[int] = None
    """At how many times to show samples, at most. Default: 6."""

    sigma_rel: Unset[float] = None
    """EMA length to draw with, also where the run left grids. Default: the longest that the run stores."""

    lengths: Unset[str] = None
    """EMA lengths to show at the end of the run, reconstructed: a list 0.05,0.1 or a range 0.02:0.2:0.02. Default:
    those of 0.02 to 0.25 that the run allows; none where a snapshot has more than 128 MiB."""

    device: Device = "auto"
    """Where to draw."""

    quiet: bool = False
    """Show no progress."""

    def run(self) -> None:
        """Write it, and say where."""
        from unitgain.ema import check_sigma_rel
        from unitgain.posthoc.targets import parse_lengths
        from unitgain.report.history import read_history
        from unitgain.report.run import run_page
        from unitgain.report.samples import lengths_of, real_pictures, samples_of

        lengths = None if self.lengths is None else list(dict.fromkeys(parse_lengths(self.lengths)))
        for length in lengths or ():
            check_sigma_rel(length)
        times = 6 if self.times is None else self.times
        if times < 1:
            raise ValueError(f"--times {times}: must be at least 1")
        if self.no_samples:
            idle = ["seeds", "times", "sigma_rel", "lengths", "device"]
            refuse_idle(self, idle, "of samples, which --no-samples leaves out")
        seeds = None if self.seeds is None else parse_seeds(self.seeds)
        history = read_history(self.folder)
        out = self.out or self.folder / "report.html"
        check_file(out, "report.html")
        require("matplotlib.figure", extra="plot")  # now rather than after the samples
        drawings, note, averages, real = [], "", [], None
        if not self.no_samples:
            with bar("samples", "images", quiet=self.quiet) as progress:
                drawings, note = samples_of(
                    history, times, seeds, self.sigma_rel, device=pick_device(self.device), on_images=progress
                )
            with bar("samples over EMA lengths", "images", quiet=self.quiet, late=True) as progress:
                averages = lengths_of(history, lengths, seeds, device=pick_device(self.device), on_images=progress)
            real = real_pictures(history)
        write_text(out, run_page(history, drawings, note, lengths=averages, real=real))
        say(f"look at {out}")
        if history.snapshots:
            config = history.config
            told = None if config is None else (config.recipe.network, config.data)
            draw_next(self.folder, self.folder / f"drawn-{history.nimg}", aim="draw more images", told=told)
