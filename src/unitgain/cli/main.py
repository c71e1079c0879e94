"""The entry point of `unitgain`."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from unitgain import __version__
from unitgain.cli.bench import Bench
from unitgain.cli.convert import Convert
from unitgain.cli.data import Data
from unitgain.cli.demo import Demo
from unitgain.cli.ema import Ema
from unitgain.cli.fetch import Fetch
from unitgain.cli.inspect import Inspect
from unitgain.cli.magnitudes import Magnitudes
from unitgain.cli.metrics import Metrics, MetricsReference
from unitgain.cli.push import Push
from unitgain.cli.report import Report
from unitgain.cli.sample import Sample
from unitgain.cli.sweep import SweepCommand
from unitgain.cli.train import Train
from unitgain.cli.tune import Tune
from unitgain.cli.watch import Watch
from unitgain.console import Console, label, say
from unitgain.train.errors import is_shared

DESCRIPTION = f"unitgain {__version__}: train, average and sample magnitude-preserving diffusion models."
REFERENCE = "metrics reference"  # a command of two words; `metrics` alone takes images
TRACEBACK = "UNITGAIN_TRACEBACK"
CONFIG = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command, or say in one line why not.

    Exits with 0 when all went well, 2 when the command was used wrongly (an unknown name, a value out of range, an
    output folder that is not empty), 1 when it failed (a damaged file, a full disk), 130 when it was interrupted.
    """
    args = list(sys.argv[1:] if args is None else args)
    if args == ["--version"]:
        say(__version__)
        return
    command = tyro.cli(
        Demo
        | Data
        | Train
        | Watch
        | Report
        | Ema
        | Sample
        | Metrics
        | Annotated[MetricsReference, tyro.conf.subcommand(name=REFERENCE)]
        | Annotated[SweepCommand, tyro.conf.subcommand("sweep")]
        | Tune
        | Convert
        | Fetch
        | Push
        | Inspect
        | Magnitudes
        | Bench,  # type: ignore[arg-type]
        prog="unitgain",
        description=DESCRIPTION,
        args=[REFERENCE, *args[2:]] if " ".join(args[:2]) == REFERENCE else args,
        config=CONFIG,
    )
    try:
        command.run()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        sys.exit(explain(error))


def explain(error: Exception) -> int:
    """Print what went wrong, without a traceback; returns the exit code."""
    several, rank = int(os.environ.get("WORLD_SIZE", "1")) > 1, os.environ.get("RANK", "0")
    console = Console(stderr=True, soft_wrap=True, quiet=several and is_shared(error) and rank != "0")
    usage = isinstance(error, ValueError | FileNotFoundError | FileExistsError | ImportError)
    known = usage or isinstance(error, OSError) or type(error).__module__.startswith("unitgain.")
    text = str(error) if known else f"{type(error).__name__}: {error}"
    where = f" rank {rank}:" if several and not is_shared(error) else ""
    console.print(label("error:", f"{where} {text}", "bold red"))
    if not known:
        console.print(f"This was not expected. Set {TRACEBACK}=1 to see where it happened.")
    return 2 if usage else 1
