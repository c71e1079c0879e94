"""Averages of a run, each reconstructed once."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from unitgain.checkpoint.snapshot import list_snapshots
from unitgain.ema import check_names
from unitgain.posthoc.planning import UNREACHABLE, fit_errors
from unitgain.posthoc.reconstruct import filename, reconstruct
from unitgain.posthoc.targets import Target, as_target


class Averages:
    """The averages of a run on disk.

    Args:
        run: folder of a run, or of snapshots.
        folder: they lie in a folder of their own in it, whose name changes with the run's snapshots.
        t: where they end; at the last snapshot by default.

    Raises:
        FileNotFoundError: if the run has no snapshots.
    """

    def __init__(self, run: Path, folder: Path, t: float | None = None) -> None:
        self.run = run
        stored = list_snapshots(run)
        self.t = max(average.t for average in stored) if t is None else t
        files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for one in stored for path in one.paths]
        about = json.dumps([str(run.resolve()), files])
        self.folder = folder / f"{run.resolve().name}-{hashlib.sha256(about.encode()).hexdigest()[:8]}"

    def path(self, target: Target) -> Path:
        """Where the average of this target is, once it is there."""
        return self.folder / filename(as_target(target, self.t))

    def out_of_reach(self, lengths: Sequence[float]) -> tuple[float, ...]:
        """Those of some lengths sigma_rel that the snapshots of the run are no base for; headers alone are read."""
        errors = fit_errors(self.run, lengths, t=self.t)
        return tuple(length for length, error in zip(lengths, errors, strict=True) if error > UNREACHABLE)

    def make(self, targets: Sequence[Target], on_progress: Callable[[int, int], None] | None = None) -> None:
        """Reconstruct those that are not there, in one pass over the snapshots.

        Raises:
            ValueError: if a length is unreachable, or two would be in files of one name.
        """
        wanted = dict.fromkeys(as_target(target, self.t) for target in targets)
        check_names([filename(target) for target in wanted])
        missing = [target for target in wanted if not self.path(target).exists()]
        if missing:
            reconstruct(self.run, missing, self.folder, t=self.t, on_progress=on_progress)
