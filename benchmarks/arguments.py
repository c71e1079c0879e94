"""What every script takes from its command line: `--small`, to try it in seconds, and `--folder`, of its results."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, results: Path | None = RESULTS
) -> argparse.Namespace:
    """Read the arguments, `small` and `folder` among them.

    A small run writes to a temporary folder where none is named, and never over results that are kept.

    Args:
        parser: with the options of the script.
        arguments: of the script; None for those of the process.
        results: where a whole run writes; None for scripts that only print, which take no `--folder`.
    """
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script")
    if results is not None:
        parser.add_argument("--folder", type=Path, help=f"of the results; by default {results.name}")
    args = parser.parse_args(arguments)
    if results is not None and args.folder is None:
        args.folder = Path(tempfile.gettempdir()) / "unitgain-benchmarks" if args.small else results
    return args
