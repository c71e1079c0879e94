"""`unitgain ema`."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from unitgain.checkpoint.snapshot import list_snapshots
from unitgain.cli.arguments import bar
from unitgain.files import require_empty
from unitgain.posthoc import parse_lengths, reconstruct
from unitgain.train.config import Precision


@dataclass(frozen=True)
class List:
    """List the averages that a run has stored."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, or of snapshots."""

    json: bool = False
    """Print JSON."""

    def run(self) -> None:
        """Print one row per snapshot."""
        headers = [(snapshot.path, snapshot.header) for snapshot in list_snapshots(self.run_folder)]
        if self.json:
            rows = [{"path": str(path), "nimg": header.nimg, "profile": header.profile} for path, header in headers]
            print(json.dumps(rows, indent=1))
            return
        table = Table("file", "images", "profile", "sigma_rel", box=None)
        for path, header in headers:
            length = "" if header.sigma_rel is None else f"{header.sigma_rel:.3f}"
            table.add_row(path.name, f"{header.nimg:,}", header.profile["kind"], length)
        Console().print(table)


@dataclass(frozen=True)
class Reconstruct:
    """Reconstruct averages of any length from those that a run has stored (post-hoc EMA)."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, or of snapshots."""

    lengths: Annotated[str, tyro.conf.Positional]
    """Lengths sigma_rel in (0, 0.2886): 0.05, a list 0.05,0.1 or a range with both ends 0.01:0.25:0.01."""

    out: Path | None = None
    """Folder for the results; must be empty. Default: RUN/ema."""

    nimg: int | None = None
    """Where the averages end, in images seen. Default: at the last snapshot."""

    dtype: Precision = "float16"
    """Precision of the results."""

    def run(self) -> None:
        """Write one snapshot per length."""
        lengths = parse_lengths(self.lengths)
        out = self.out or self.run_folder / "ema"
        require_empty(out)
        with bar("reconstructing", "tensors") as progress:
            results = reconstruct(self.run_folder, lengths, out, nimg=self.nimg, dtype=self.dtype, on_progress=progress)
        for result in results:
            print(f"{result.path}  (relative error of its profile: {result.error:.1e})")


@dataclass(frozen=True)
class Ema:
    """Post-hoc EMA: list what a run has stored, reconstruct averages of any length."""

    command: (
        Annotated[List, tyro.conf.subcommand("list")] | Annotated[Reconstruct, tyro.conf.subcommand("reconstruct")]
    ) = field()

    def run(self) -> None:
        """Run the subcommand."""
        self.command.run()
