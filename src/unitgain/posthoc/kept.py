"""The files of a store: which are there, which are in the way, and which are given up."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unitgain.checkpoint.snapshot import unfinished
from unitgain.ema import Profile, time_text
from unitgain.files import sweep
from unitgain.posthoc.thin import errors, thin

Keep = Literal["all"] | int | Callable[[Sequence[float]], Sequence[float]]
NAME = re.compile(r"(\d{10,}(?:\.\d{3})?)-(?!raw\b)", re.ASCII)  # of an average's file, as `file_name` makes them


@dataclass(frozen=True)
class Thinning:
    """What a budget has cost.

    Attributes:
        t: when.
        removed: times whose snapshots were deleted.
        error: by sigma_rel: relative L2 error of the profile of an average that ends at `t`, from what is left.
        error_before: the same, from what was there.
    """

    t: float
    removed: tuple[float, ...]
    error: dict[float, float]
    error_before: dict[float, float]


class Kept:
    """The snapshots of averages in a folder, by time as names of files have it. What is there is looked for once, by
    name, as a damaged one must not stop the run; what is written is remembered.

    Args:
        folder: of the store.
        keep: as in `SnapshotStore`.
        room: the number of times that the budget allows; None without one.
        profiles_at: the profiles stored at a time.
        lengths: sigma_rel that the thinning cares for.

    Attributes:
        thinnings: what the budget has cost so far.

    Raises:
        ValueError: if `keep` says nothing, or is fewer than 2.
    """

    def __init__(
        self,
        folder: Path,
        keep: Keep,
        room: int | None,
        profiles_at: Callable[[float], Sequence[Profile]],
        lengths: Sequence[float],
    ) -> None:
        if not (keep == "all" or isinstance(keep, int) or callable(keep)):
            raise ValueError(f'keep = {keep!r}: must be "all", a number of times, or a function of the times there are')
        if isinstance(keep, int) and keep < 2:
            raise ValueError(f"keep = {keep}: averages of other lengths need at least 2 snapshots")
        self.folder, self.keep, self.room = folder, keep, room
        self.profiles_at, self.lengths = profiles_at, lengths
        self.thinnings: list[Thinning] = []
        self._from: float | None = None  # time that the run goes on from
        self._last = 0.0  # of the last one that this run wrote
        self._there: dict[float, list[Path]] | None = None  # files by time, once they are known

    def resume(self, t: float) -> None:
        """The run goes on from a checkpoint of the time `t`: what is there of a later one is not of this run."""
        self._from, self._last, self._there = _as_named(t), 0.0, None

    def check(self) -> None:
        """Raise `ValueError` if the folder holds snapshots that this run has not written, and it does not go on."""
        there = self._known()
        if there and not self._last and self._from is None:
            raise ValueError(
                f"{there[min(there)][0]} is of another run, or of this one without its state: choose an empty folder "
                "for a new run; to go on, load the state of the store (load_state_dict), or say resumed=True where the "
                "trackers have theirs"
            )

    def begin(self, now: float) -> None:
        """Make way for snapshots of the time `now`.

        Raises:
            ValueError: as `check`, and if the last one is of this time too, as names have it.
        """
        self.check()
        there, exact, now = self._known(), now, _as_named(now)
        if now <= self._last:
            raise ValueError(
                f"a snapshot at t = {exact:g} after the one at {self._last:g}: names of files have times in "
                "thousandths, so that they would be one file; count t in a smaller unit, such as steps, or store less "
                "often"
            )
        after = [] if self._from is None else [t for t in there if t > self._from]
        for t in {*after, *(t for t in there if t >= now)}:  # which came after that checkpoint, in a training given up
            self._delete(t)

    def add(self, t: float, paths: Sequence[Path]) -> None:
        """Note what was written."""
        self._last = _as_named(t)
        self._known().setdefault(self._last, []).extend(paths)

    def end(self) -> None:
        """Delete what is not to be kept, now that the newest is there.

        Raises:
            ValueError: if that is the newest.
        """
        self._from = None
        times = sorted(self._known())
        if self.room is not None:
            kept = thin(times, self.room, self.profiles_at, self.lengths)
        elif isinstance(self.keep, int):
            kept = times[-self.keep :]
        else:
            kept = times if isinstance(self.keep, str) else list(self.keep(times))
        removed = tuple(time for time in times if time not in kept)
        if not removed:
            return
        if times[-1] in removed:
            raise ValueError("keep must not give up the newest snapshot")
        before, after = (errors(one, self.profiles_at, self.lengths) for one in (times, kept))
        self.thinnings.append(Thinning(times[-1], removed, after, before))
        for t in removed:
            self._delete(t)

    def _known(self) -> dict[float, list[Path]]:
        if self._there is None:
            sweep(self.folder)  # what a process that was killed while it wrote has left
            for path in unfinished(self.folder) if self._from is not None else ():
                path.unlink()
            self._there = {}
            for path in sorted(self.folder.glob("*.safetensors")):
                if match := NAME.match(path.name):
                    self._there.setdefault(float(match[1]), []).append(path)
        return self._there

    def _delete(self, t: float) -> None:
        for path in self._known().pop(t):
            path.unlink(missing_ok=True)


def _as_named(t: float) -> float:
    return float(time_text(t))
