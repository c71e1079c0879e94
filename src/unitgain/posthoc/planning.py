"""What a reconstruction will do: which snapshots, which profiles, which weights (EDM2, Sections 3.2 and 3.3)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unitgain.checkpoint.snapshot import Snapshot, list_snapshots
from unitgain.ema import Profile, UniformProfile
from unitgain.posthoc.solve import WARN_ABOVE, Weights, said, solve
from unitgain.posthoc.targets import Length, Target, as_target
from unitgain.serial import digest

UNREACHABLE = 0.5  # relative error of a profile that has no more than its name in common with what was asked for


@dataclass(frozen=True)
class Plan:
    """Everything there is to know before a byte is read.

    Attributes:
        sources: the snapshots that have weight.
        targets: what to write.
        profiles: different averaging profiles over all targets and tensors.
        weights: of sources in profiles.
        like: the last snapshot of the run: it says which tensors are averages, and in which dtype they are stored.
        digest: SHA-256 over the run's snapshots and how weights are solved for, on which results depend.
    """

    sources: tuple[Snapshot, ...]
    targets: tuple[Target, ...]
    profiles: tuple[Profile, ...]
    weights: Weights
    like: Snapshot
    digest: str

    @property
    def copied(self) -> list[Snapshot]:
        """By target, the snapshot whose buffers are passed on: the last that is not after it, or else the first."""
        return [_last_until(target, self.sources) for target in self.targets]

    def columns(self, name: str) -> NDArray[np.float64]:
        """Weights `[sources, targets]` for one tensor."""
        return self.weights.matrix[:, [self._index(target, target.length_of(name)) for target in self.targets]]

    def error(self, target: Target) -> float:
        """Largest relative error over the lengths of one target."""
        return max(
            float(self.weights.error[self._index(target, length)]) for length in (target, *target.overrides.values())
        )

    def _index(self, target: Target, length: Length) -> int:
        assert target.t is not None
        return self.profiles.index(length.profile(target.t))


def plan(
    run: Path | str,
    targets: Sequence[float | Length],
    *,
    t: float | None = None,
    normalize: bool = True,
    max_error: float = UNREACHABLE,
    warn_above: float | None = WARN_ABOVE,
) -> Plan:
    """Open the snapshots of a run and solve for the weights; nothing is read but headers.

    Args:
        run: folder of a run, or of snapshots.
        targets: lengths (a number is a sigma_rel), or `Target`s that say more.
        t: where averages end whose target does not say; at the last snapshot by default.
        normalize: as in `solve`.
        max_error: relative error of the profile past which a length counts as unreachable.
        warn_above: as in `solve`.

    Raises:
        FileNotFoundError: if there are no snapshots.
        SnapshotError: if one is damaged or a shard is missing.
        ValueError: if the snapshots are of different networks or two are the same, or a target is out of range, past
            the last snapshot, or unreachable.
    """
    run = Path(run)
    averages, profiles = usable(list_snapshots(run), run)
    check_same_network(averages)
    last = max(average.t for average in averages)
    end = last if t is None else t
    resolved = tuple(as_target(target, end) for target in targets)
    if not resolved:
        raise ValueError("give at least one length to reconstruct")
    for target in resolved:
        if target.t is None or not 0 < target.t <= last * (1 + 1e-9):
            raise ValueError(f"an average cannot end at {target.t:g}: the snapshots reach from 0 to {last:g}")
    _check_overrides(resolved, averages[-1])
    wanted = dict.fromkeys(
        length.profile(target.t) for target in resolved for length in (target, *target.overrides.values()) if target.t
    )
    weights = solve(profiles, list(wanted), normalize, warn_above=warn_above)
    for profile, error in zip(wanted, weights.error, strict=True):
        if error > max_error:
            raise ValueError(
                f"{said(profile)} is out of reach of the snapshots in {run}: the nearest profile is off by "
                f"{error:.2g} of its norm; ask for a length nearer to those that were stored, or an end nearer to a "
                "snapshot"
            )
    copied = {_last_until(target, averages).path for target in resolved}
    used = [i for i, row in enumerate(weights.matrix) if row.any() or averages[i].path in copied]
    weights = replace(weights, matrix=weights.matrix[used], snapshots=tuple(profiles[index] for index in used))
    about = digest([[average.sha256 for average in averages], normalize])
    return Plan(tuple(averages[index] for index in used), resolved, tuple(wanted), weights, averages[-1], about)


def _last_until(target: Target, averages: Sequence[Snapshot]) -> Snapshot:
    assert target.t is not None
    return next((one for one in reversed(averages) if one.t <= target.t * (1 + 1e-9)), averages[0])


def fit_errors(run: Path | str, lengths: Sequence[float | Length], *, t: float | None = None) -> list[float]:
    """Relative error of the profile of each of these averages, however large; nothing is read but headers.

    Arguments and errors as for `plan`.
    """
    planned = plan(run, lengths, t=t, max_error=math.inf, warn_above=None)
    return [planned.error(target) for target in planned.targets]


def usable(averages: Sequence[Snapshot], run: Path) -> tuple[list[Snapshot], list[Profile]]:
    """The averages of a run with their profiles; of a run that has only raw weights, those.

    Raw weights stand for the time until half way to their neighbours, as if they had not moved in it.

    Raises:
        ValueError: if two are of the same time and length, or none says how it was averaged.
    """
    averages = [average for average in averages if average.kind != "unknown"]
    if not averages:
        raise ValueError(f"the snapshots in {run} do not say how they were averaged: nothing can be made of them")
    chosen = [average for average in averages if average.kind != "raw"] or list(averages)
    if chosen[0].kind == "raw":
        times = [average.t for average in chosen]
        if len(set(times)) < len(times):
            raise ValueError(f"two raw snapshots in {run} have the same time: keep one of them")
        chosen = [average for average in chosen if average.t > 0]
        if not chosen:
            raise ValueError(f"the only snapshot in {run} is of t = 0, before training: nothing can be averaged")
        times = [average.t for average in chosen]
        starts = [0.0, *((a + b) / 2 for a, b in pairwise(times))]
        ends = [*starts[1:], times[-1]] if times else []
        profiles: list[Profile] = [UniformProfile(lo, hi) for lo, hi in zip(starts, ends, strict=True)]
        return chosen, profiles
    seen: dict[Profile, Path] = {}
    profiles = []
    for average in chosen:
        profile = average.profile()
        assert profile is not None
        if profile in seen:
            raise ValueError(f"{seen[profile]} and {average.path} have the same time and length: keep one of them")
        seen[profile] = average.path
        profiles.append(profile)
    return chosen, profiles


def check_same_network(averages: Sequence[Snapshot]) -> None:
    """Raise `ValueError` unless all snapshots have the same tensors, and are of the same network if they name it."""
    last = averages[-1]
    for average in averages[:-1]:
        where = f"{average.path} and {last.path} hold different networks"
        if average.facts.get("denoiser", {}).get("network") != last.facts.get("denoiser", {}).get("network"):
            raise ValueError(where)
        if average.entries.keys() != last.entries.keys():
            name = min(average.entries.keys() ^ last.entries.keys())
            raise ValueError(f"{where}: only one has tensor {name}")
        for name, entry in average.entries.items():
            other = last.entries[name]
            alike = entry.dtype.is_complex == other.dtype.is_complex and last.averaged(name)
            if entry.shape != other.shape or not (alike or entry.dtype == other.dtype):
                raise ValueError(
                    f"{where}: tensor {name} is {entry.dtype} {entry.shape} in one and {other.dtype} {other.shape} in "
                    "the other"
                )


def _check_overrides(targets: Sequence[Target], average: Snapshot) -> None:
    for target in targets:
        for pattern in target.overrides:
            if not any(fnmatchcase(name, pattern) and average.averaged(name) for name in average.entries):
                there = sorted(filter(average.averaged, average.entries))
                raise ValueError(f"no averaged tensor is named like {pattern!r}; there are {', '.join(there[:5])}, ...")
