"""`unitgain demo`."""

from dataclasses import dataclass, field
from pathlib import Path

from unitgain.cli.arguments import draw_next
from unitgain.console import say
from unitgain.demo.settings import DemoConfig


@dataclass(frozen=True)
class Demo:
    """Train on handwritten digits, pick the EMA length afterwards, sample, measure and write a report.

    Made for CPUs: a small network, a short run. A second call goes on with what the first has done.
    """

    out: Path = Path("runs/demo")
    """Folder for the run and its sweep, report.html, explore.html and report.json."""

    fresh: bool = False
    """Delete an earlier demo in the folder and start again."""

    settings: DemoConfig = field(default_factory=DemoConfig)

    quiet: bool = False
    """Show no progress bar."""

    def run(self) -> None:
        """Run the demo and say where the report is."""
        from unitgain.demo.run import run_demo

        report = run_demo(self.settings, self.out, fresh=self.fresh, quiet=self.quiet, say=say)
        if report is None:
            say("stopped; the same command without --fresh goes on from here")
            return
        page, run = self.out / "report.html", self.out / "run"
        say(
            f"Frechet distance {report['fd_best']:.3f} at EMA length {report['best_sigma_rel']:g}, "
            f"{report['fd_raw']:.3f} with raw weights; {100 * report['class_accuracy']:.1f} % of the digits are "
            f"what was asked for; {report['seconds']:.0f} s in all\nlook at {page}, "
            f"and at {self.out / 'explore.html'} to choose the length yourself"
        )
        draw_next(run, self.out / "drawn", aim="draw more digits")
