"""Where networks come from: a run, of which any average can be had, or a network as it is."""

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from unitgain.checkpoint.snapshot import Snapshot, SnapshotHeader, list_snapshots
from unitgain.draw.networks import Network, open_network, ready
from unitgain.draw.settings import DrawSettings
from unitgain.explore.views import Average
from unitgain.hub import locate
from unitgain.posthoc.memory import combine
from unitgain.posthoc.planning import UNREACHABLE, Plan, fit_errors, plan, usable
from unitgain.posthoc.reconstruct import filename, reconstruct
from unitgain.posthoc.targets import Target
from unitgain.report.known import is_run, newest_average

LENGTH = 0.1  # where a run stores no power-function average
PLANS = 8  # of reconstructions that are kept: each has the headers of all snapshots
PRECISION = "float16"  # of reconstructed averages, as `unitgain ema reconstruct` writes them
OnBytes = Callable[[int, int], None]


class Source:
    """A network as it is: a snapshot, a preset, or a repository of the Hub; `Run` is one with averages to choose from.

    Args:
        name: as for `open_network`.

    Attributes:
        name: likewise.

    Raises:
        FileNotFoundError, HubError, SnapshotError: if there is no such network.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.header()

    @functools.cached_property
    def file(self) -> Path:
        """Where the network is, once found: a repository is asked in the beginning, and not for each drawing."""
        return locate(self.name)

    @property
    def title(self) -> str:
        """Its name in few words."""
        return self.name

    def header(self) -> SnapshotHeader:
        """What the newest network says of itself."""
        with Snapshot(self.file) as snapshot:
            return snapshot.header

    def resolve(self, average: Average) -> Average:
        """The average with everything said that was left open.

        Raises:
            ValueError: if there is no such average.
        """
        if average != Average():
            raise ValueError(
                f"{self.name} is one network, which has no averages to choose from: name the folder of a run"
            )
        return average

    def key(self, average: Average) -> Hashable:
        """What stands for the network of a resolved average: another one as soon as its files are others."""
        about = self.file.stat()
        return str(self.file.resolve()), about.st_size, about.st_mtime_ns

    def open(self, average: Average, device: torch.device, settings: DrawSettings, on_bytes: OnBytes) -> Network:
        """The network of a resolved average, ready to draw."""
        return replace(open_network(str(self.file), device, settings), name=self.name)

    def path(self, average: Average) -> str:
        """Name of its network for `unitgain sample`: of an average, where `unitgain ema reconstruct` puts it."""
        return self.name


class Run(Source):
    """A run, whose averages of any length are reconstructed in memory.

    Args:
        folder: of the run, or of snapshots.

    Raises:
        FileNotFoundError: if there are no snapshots.
        SnapshotError: if one cannot be opened, or is not of a denoiser.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._plan = functools.lru_cache(maxsize=PLANS)(self._plan_of)
        self._times = functools.lru_cache(maxsize=1)(self._times_of)
        super().__init__(str(folder))

    @property
    def title(self) -> str:
        """As `Source` says."""
        return self.folder.resolve().name

    def header(self) -> SnapshotHeader:
        """As `Source` says."""
        return list_snapshots(self.folder)[-1].header

    def times(self) -> list[float]:
        """When snapshots were taken, in order."""
        return self._times(self._files())

    def errors(self, lengths: Sequence[float], t: float | None = None) -> list[float]:
        """Relative errors of the profiles of averages of these lengths that end at `t`, from headers alone."""
        return fit_errors(self.folder, lengths, t=t)

    def plan(self, average: Average) -> Plan:
        """How a resolved average is made.

        Raises:
            ValueError: if it is out of reach.
        """
        return self._plan(average, self._files())

    def resolve(self, average: Average) -> Average:
        """As `Source` says."""
        length, t = average.length, average.t
        if length is None:
            with Snapshot(newest_average(self.folder)) as newest:
                length = newest.described.get("sigma_rel") or LENGTH
        if t is None:
            t = self.times()[-1]
        return Average(length=length, t=t)

    def key(self, average: Average) -> Hashable:
        """As `Source` says."""
        return self.name, self.plan(average).digest, average

    def open(self, average: Average, device: torch.device, settings: DrawSettings, on_bytes: OnBytes) -> Network:
        """As `Source` says."""
        planned = self.plan(average)
        (tensors,) = combine(planned, PRECISION, on_progress=on_bytes)
        (source,) = planned.copied
        denoiser = source.denoiser(mapped=not settings.exact, tensors=tensors)
        facts = {"recipe": source.header.recipe, "nimg": average.t, "length": average.length}
        return Network(name=self.path(average), denoiser=ready(denoiser, device, settings), record=facts)

    def path(self, average: Average) -> str:
        """As `Source` says."""
        return str(self.folder / "ema" / filename(self._target(average)))

    def write(self, average: Average, folder: Path, on_bytes: OnBytes) -> Path:
        """A resolved average as a file in a folder; returns it. What `on_bytes` raises ends the work."""
        (written,) = reconstruct(self.folder, [self._target(average)], folder, dtype=PRECISION, on_progress=on_bytes)
        return written.path

    def _files(self) -> Hashable:
        """What stands for the snapshots that are there: files that are as they were are not read again."""
        inner = self.folder / "snapshots"
        there = [path.stat() for path in (inner if inner.is_dir() else self.folder).glob("[!.]*.safetensors")]
        return tuple(sorted((one.st_ino, one.st_size, one.st_mtime_ns) for one in there))

    def _times_of(self, files: Hashable) -> list[float]:
        averages, _ = usable(list_snapshots(self.folder), self.folder)
        return sorted({average.t for average in averages})

    def _plan_of(self, average: Average, files: Hashable) -> Plan:
        return plan(self.folder, [self._target(average)], max_error=UNREACHABLE, warn_above=None)

    def _target(self, average: Average) -> Target:
        return Target(sigma_rel=average.length, t=average.t)


def open_source(name: str) -> Source:
    """A run where `name` is the folder of one, else whatever `unitgain.load` opens."""
    return Run(Path(name)) if is_run(Path(name)) else Source(name)
