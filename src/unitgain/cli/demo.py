"""`unitgain demo`."""

from dataclasses import dataclass
from pathlib import Path

from unitgain.console import say
from unitgain.demo import DemoConfig, run_demo


@dataclass(frozen=True)
class Demo:
    """Train on handwritten digits, pick the EMA length afterwards, sample, measure and write a report.

    Takes a minute or two on two CPU cores. A second call goes on with what the first has done.
    """

    out: Path = Path("runs/demo")
    """Folder for the run, the averages, report.html and report.json."""

    fresh: bool = False
    """Delete an earlier demo in the folder and start again."""

    seed: int = DemoConfig.seed
    """Seed of everything random."""

    duration: int = DemoConfig.duration
    """Training images; a multiple of the batch."""

    images: int = DemoConfig.images
    """Images drawn at each EMA length."""

    steps: int = DemoConfig.steps
    """Sampling steps."""

    quiet: bool = False
    """Show no progress bar."""

    def run(self) -> None:
        """Run the demo and say where the report is."""
        config = DemoConfig(seed=self.seed, duration=self.duration, images=self.images, steps=self.steps)
        report = run_demo(config, self.out, fresh=self.fresh, quiet=self.quiet, say=say)
        if report is None:
            say("stopped; the same command without --fresh goes on from here")
            return
        say(
            f"Frechet distance {report['fd_best']:.3f} at EMA length {report['best_sigma_rel']:g}, "
            f"{report['fd_raw']:.3f} with raw weights; {100 * report['class_accuracy']:.1f} % of the digits are "
            f"what was asked for; {report['seconds']:.0f} s in all\nlook at {self.out / 'report.html'}"
        )
