"""Snapshots of running averages, written while training by a callback for any loop; what they take of the disk."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from unitgain.checkpoint.snapshot import DTYPES
from unitgain.ema import EMA, PowerEMA, PowerProfile, Profile
from unitgain.files import sweep
from unitgain.posthoc.files import Average, list_averages, unfinished
from unitgain.posthoc.targets import describe, moment
from unitgain.posthoc.thin import LENGTHS, errors, thin
from unitgain.posthoc.writer import stored, write_average

Keep = Literal["all"] | int | Callable[[Sequence[float]], Sequence[float]]
PAIR = (0.05, 0.10)  # the lengths that the paper stores


@dataclass(frozen=True)
class Estimate:
    """What a run will take of the disk, and what it will be good for.

    Attributes:
        snapshot_bytes: of the averages taken at one time.
        snapshots: times at which they are taken.
        total_bytes: at the end of the run, within the budget.
        kept: times that are left at the end.
        error: by sigma_rel: relative L2 error of the profile of an average that ends with the run, from what is kept.
        error_unthinned: the same, from all snapshots; the difference is what the budget costs.
    """

    snapshot_bytes: int
    snapshots: int
    total_bytes: int
    kept: tuple[float, ...]
    error: dict[float, float]
    error_unthinned: dict[float, float]

    def __str__(self) -> str:
        """Two lines for a log."""
        cost = ", ".join(
            f"{length:g}: {self.error[length]:.1e}"
            + (f" (all kept: {full:.1e})" if self.error[length] > 1.05 * full else "")
            for length, full in self.error_unthinned.items()
        )
        return (
            f"{self.snapshots} snapshots of {self.snapshot_bytes / 1e9:.3g} GB, {len(self.kept)} kept, "
            f"{self.total_bytes / 1e9:.3g} GB in the end\nerror of the profile by sigma_rel: {cost}"
        )


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


class SnapshotStore:
    """Averages of a module, updated and written every so often.

    Files are written atomically under `<folder>/<t>-<length>.safetensors`; see `unitgain.posthoc.files`.

    Args:
        folder: for the snapshots; made if it is not there.
        emas: the trackers, or a module, of which the pair 0.05 and 0.10 is then tracked.
        every: a snapshot is taken whenever `t` passes a multiple of this.
        dtype: of averages in the files: "float16" as in the paper, "bfloat16" or "float32".
        keep: "all", the number of newest times to keep, or a function from the times there are to those to keep.
        budget: bytes that the snapshots may take; old ones are thinned so that the fit stays good (`thin`).
        lengths: sigma_rel that the thinning cares for.
        shard_bytes: largest size of a file; None for one file per average.
        metadata: more of one's own for the headers: text by name.
        main: whether this process writes; all processes must make the same calls where parameters are sharded.

    Attributes:
        thinnings: what the budget has cost so far.
    """

    def __init__(
        self,
        folder: Path | str,
        emas: Sequence[EMA] | nn.Module,
        *,
        every: float,
        dtype: str = "float16",
        keep: Keep = "all",
        budget: int | None = None,
        lengths: Sequence[float] = LENGTHS,
        shard_bytes: int | None = None,
        metadata: Mapping[str, str] | None = None,
        main: bool = True,
    ) -> None:
        if not every > 0:
            raise ValueError(f"every = {every}: the time between snapshots must be positive")
        if dtype not in DTYPES:
            raise ValueError(f"snapshot dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
        if isinstance(keep, int) and keep < 2:
            raise ValueError(f"keep = {keep}: averages of other lengths need at least 2 snapshots")
        if keep != "all" and budget is not None:
            raise ValueError("keep and budget both say what to delete: give one of them")
        self.folder = Path(folder)
        self.emas = [PowerEMA(emas, sigma_rel) for sigma_rel in PAIR] if isinstance(emas, nn.Module) else list(emas)
        if not self.emas:
            raise ValueError("give at least one tracker")
        profiles = self.profiles_at(1.0)
        if len(set(profiles)) < len(profiles):
            raise ValueError("two of the trackers have the same length: one of them is enough")
        self.every, self.dtype, self.keep, self.budget = every, dtype, keep, budget
        self.lengths, self.shard_bytes, self.metadata, self.main = (
            tuple(lengths),
            shard_bytes,
            dict(metadata or {}),
            main,
        )
        self.thinnings: list[Thinning] = []
        self._resumed = False
        if budget is not None and budget < 2 * self.snapshot_bytes:
            raise ValueError(
                f"a budget of {budget} bytes holds fewer than 2 snapshots of {self.snapshot_bytes} bytes: give more, "
                "or store in a smaller dtype"
            )

    @property
    def t(self) -> float:
        """Time of the last update."""
        return self.emas[0].t

    @property
    def snapshot_bytes(self) -> int:
        """Size of the averages taken at one time, without headers."""
        return sum(snapshot_bytes(ema, self.dtype) for ema in self.emas)

    def update(self, t: float, dt: float) -> bool:
        """Update all averages after a step, and write them if it is time.

        Args:
            t: time after the step.
            dt: length of the step.

        Returns:
            Whether a snapshot was written.

        Raises:
            ValueError: as `EMA.update`, and as `write`.
            OSError: if it cannot be written.
        """
        before = self.t
        for ema in self.emas:
            ema.update(t, dt)
        # The fraction of a step: times such as 0.1 + 0.2 do not fall exactly on what they are meant to.
        due = (t + 1e-6 * dt) // self.every > (before + 1e-6 * dt) // self.every
        if due:
            self.write()
        return due

    def write(self) -> None:
        """Write the averages as they are now, and delete what is not to be kept.

        Raises:
            ValueError: if an average is not finite in the dtype of the files, or the folder holds snapshots of this
                time or later that this run has not written.
            OSError: if they cannot be written.
        """
        if self.main:
            self._tidy()
        there = self._there() if self.main else []
        self._check_order(there)
        for ema in self.emas:
            tensors = self._tensors(ema)
            if self.main:
                write_average(self._path(ema), tensors, self._header(ema), shard_bytes=self.shard_bytes)
        self._resumed = False
        if self.main:
            self._delete_old()

    def estimate(self, duration: float) -> Estimate:
        """What a run of this length will take of the disk; nothing is written.

        Args:
            duration: time that the run will end at.
        """
        return estimate(
            self.snapshot_bytes, duration, self.every, self.profiles_at, budget=self.budget, lengths=self.lengths
        )

    def profiles_at(self, t: float) -> list[Profile]:
        """The profiles that a snapshot taken at `t` has."""
        return [ema.profile_at(t) for ema in self.emas]

    def state_dict(self) -> dict[str, Any]:
        """The state of all trackers, for a checkpoint of the training."""
        return {"emas": [ema.state_dict() for ema in self.emas]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; snapshots of a later time are replaced as training comes to them again.

        Raises:
            ValueError: if the state is of other trackers.
        """
        if len(state["emas"]) != len(self.emas):
            raise ValueError(f"the state has {len(state['emas'])} trackers, but there are {len(self.emas)}")
        for ema, own in zip(self.emas, state["emas"], strict=True):
            ema.load_state_dict(own)
        self._resumed = True

    def _tidy(self) -> None:
        """Remove what a process that was killed while it wrote has left."""
        sweep(self.folder)
        for path in unfinished(self.folder) if self._resumed else ():
            path.unlink()

    def _there(self) -> list[Average]:
        return list_averages(self.folder) if any(self.folder.glob("[!.]*.safetensors")) else []

    def _check_order(self, there: Sequence[Average]) -> None:
        later = [average for average in there if average.t >= self.t]
        if later and not self._resumed:
            raise ValueError(
                f"{later[0].path} is of t = {later[0].t:g}, and the run is at {self.t:g}: choose an empty folder for a "
                "new run, or load the state of the run that wrote it (load_state_dict)"
            )
        for average in later:  # written after the checkpoint that the run was resumed from
            _delete(average)

    def _tensors(self, ema: EMA) -> dict[str, Tensor]:
        averaged = ema.average.keys()
        return {
            name: stored(tensor, DTYPES[self.dtype], name)
            if name in averaged
            else tensor.detach().to("cpu", copy=True).contiguous()
            for name, tensor in ema.full_tensors()
        }

    def _header(self, ema: EMA) -> dict[str, str]:
        time = int(ema.t) if ema.t.is_integer() else ema.t
        return {
            **self.metadata,
            "t": json.dumps(time),
            "profile": json.dumps(describe(ema.profile_at(ema.t)), sort_keys=True),
            "buffers": json.dumps(sorted(ema.buffers)),
        }

    def _path(self, ema: EMA) -> Path:
        return self.folder / name_of(ema.t, ema.profile_at(ema.t))

    def _delete_old(self) -> None:
        there = self._there()
        times = sorted({average.t for average in there})
        if self.budget is not None:
            kept = thin(times, self.budget // self.snapshot_bytes, self.profiles_at, self.lengths)
        elif isinstance(self.keep, int):
            kept = times[-self.keep :]
        else:
            kept = times if isinstance(self.keep, str) else list(self.keep(times))
        removed = tuple(time for time in times if time not in kept)
        if not removed:
            return
        if times[-1] in removed:
            raise ValueError("keep must not give up the newest snapshot")
        before = dict(zip(self.lengths, errors(times, self.profiles_at, self.lengths).tolist(), strict=True))
        after = dict(zip(self.lengths, errors(kept, self.profiles_at, self.lengths).tolist(), strict=True))
        self.thinnings.append(Thinning(times[-1], removed, after, before))
        for average in there:
            if average.t in removed:
                _delete(average)


def estimate(
    snapshot_bytes: int,
    duration: float,
    every: float,
    profiles_at: Callable[[float], Sequence[Profile]] = lambda t: [PowerProfile.of(t, length) for length in PAIR],
    *,
    budget: int | None = None,
    lengths: Sequence[float] = LENGTHS,
) -> Estimate:
    """What a run will take of the disk, and what the averages that end with it can be.

    Args:
        snapshot_bytes: of the averages taken at one time.
        duration: time that the run ends at.
        every: time between snapshots.
        profiles_at: the profiles stored at a time; the paper's pair by default.
        budget: bytes that the snapshots may take.
        lengths: sigma_rel to give the error for.

    Raises:
        ValueError: if there would be no snapshot, or the budget holds fewer than 2.
    """
    times = [(k + 1) * every for k in range(int(duration / every + 1e-9))]
    if not times:
        raise ValueError(f"a run of {duration:g} ends before its first snapshot at {every:g}")
    kept: list[float] = []
    room = None if budget is None else budget // snapshot_bytes
    for time in times:  # as the run will do it, one at a time
        kept.append(time)
        if room is not None and len(kept) > room:
            kept = thin(kept, room, profiles_at, lengths)

    def by_length(chosen: Sequence[float]) -> dict[float, float]:
        return dict(zip(lengths, errors(chosen, profiles_at, lengths).tolist(), strict=True))

    return Estimate(
        snapshot_bytes, len(times), len(kept) * snapshot_bytes, tuple(kept), by_length(kept), by_length(times)
    )


def snapshot_bytes(ema: EMA, dtype: str) -> int:
    """Size of one average in a file of that dtype, without the header; sharded parameters count whole."""
    whole = {name: tensor.numel() for name, tensor in ema.module.named_parameters()}
    size = sum(whole.get(name, tensor.numel()) for name, tensor in ema.average.items()) * DTYPES[dtype].itemsize
    return size + sum(tensor.numel() * tensor.element_size() for tensor in ema.buffers.values())


def name_of(t: float, profile: Profile | None) -> str:
    """`<t, 10 digits>-<length>.safetensors`, where a time that is no whole number has decimals."""
    if profile is None:
        return f"{moment(t)}-raw.safetensors"
    described = describe(profile)
    match described["kind"]:
        case "power":
            length = f"{described['sigma_rel']:.3f}"
        case "exponential":
            length = f"hl{described['half_life']:g}"
        case kind:
            length = str(kind)
    return f"{moment(t)}-{length}.safetensors"


def _delete(average: Average) -> None:
    for path in average.paths:
        path.unlink(missing_ok=True)
