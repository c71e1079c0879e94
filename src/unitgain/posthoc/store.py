"""Snapshots of running averages, written while training by a callback for any loop; what they take of the disk."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unitgain.checkpoint.facts import DTYPES, SnapshotHeader, facts_of
from unitgain.checkpoint.names import tracked_names
from unitgain.checkpoint.snapshot import unfinished
from unitgain.checkpoint.writer import check_dtype, check_finite, write_average
from unitgain.ema import EMA, RAW, PowerEMA, PowerProfile, Profile, describe, file_name
from unitgain.files import sweep
from unitgain.parallel import full
from unitgain.posthoc.thin import LENGTHS, errors, thin

Keep = Literal["all"] | int | Callable[[Sequence[float]], Sequence[float]]
NAME = re.compile(r"(\d{10,}(?:\.\d{3})?)-(?!raw\b)", re.ASCII)  # of an average's file, as `file_name` makes them
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

    Files are written atomically under `<folder>/<t>-<length>.safetensors`; see `unitgain.checkpoint.facts`. Names of
    tensors are those of the module without its wrappers (DDP, `torch.compile`), and a strict `load_state_dict` takes
    them: tied parameters are there under each name, buffers that do not persist are not. Complex parameters stay as
    they are, complex64.

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
        header: what snapshots of a denoiser say of themselves, but for time and profile.
        resumed: the trackers go on from a checkpoint: snapshots of a later time are replaced as training comes to them
            again. `load_state_dict` says so too.
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
        header: SnapshotHeader | None = None,
        resumed: bool = False,
        main: bool = True,
    ) -> None:
        if not every > 0:
            raise ValueError(f"every = {every}: the time between snapshots must be positive")
        check_dtype(dtype)
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
        self.lengths, self.shard_bytes, self.main = tuple(lengths), shard_bytes, main
        self.metadata, self.header = dict(metadata or {}), header
        self.thinnings: list[Thinning] = []
        self._names = tracked_names(self.emas[0].module)
        self._resumed = resumed
        self._there: dict[float, list[Path]] | None = None  # files of averages by time, once they are known
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
            SnapshotError: if an average is not finite in the dtype of the files.
            ValueError: if the folder holds snapshots of this time or later that this run has not written.
            OSError: if they cannot be written.
        """
        self.take()()

    def take(self, raw: bool = False) -> Callable[[], None]:
        """Copy the averages as they are now; what is returned writes them as `write` does, once, from any thread.

        All processes must call this together where parameters are sharded; there is nothing to write but on the main
        one, and what is taken first is to be written first.

        Args:
            raw: the weights of the module itself instead, in their own dtypes.
        """
        t = self.t
        if raw:
            module = self.emas[0].module
            whole = {**dict(module.named_parameters()), **dict(module.named_buffers())}
            files = [(RAW, {name: self._copy(full(whole[own].detach())) for name, own in self._names.items()})]
        else:
            averages = [self._average(ema) for ema in self.emas]
            files = [(describe(ema.profile_at(t)), own) for ema, own in zip(self.emas, averages, strict=True)]
        return (lambda: self._write(t, files)) if self.main else lambda: None

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
        self._resumed, self._there = True, None

    def _known(self) -> dict[float, list[Path]]:
        """The files of averages by time. What is there is looked for once, by name, as a damaged one must not stop the
        run; what is written is remembered.
        """
        if self._there is None:
            sweep(self.folder)  # what a process that was killed while it wrote has left
            for path in unfinished(self.folder) if self._resumed else ():
                path.unlink()
            self._there = {}
            for path in sorted(self.folder.glob("*.safetensors")):
                if match := NAME.match(path.name):
                    self._there.setdefault(float(match[1]), []).append(path)
        return self._there

    def _check_order(self, there: dict[float, list[Path]], now: float) -> None:
        later = [t for t in there if t >= now]
        if later and not self._resumed:
            raise ValueError(
                f"{there[min(later)][0]} is of t = {min(later):g}, and the run is at {now:g}: choose an empty folder "
                "for a new run, or load the state of the run that wrote it (load_state_dict)"
            )
        for t in later:  # written after the checkpoint that the run was resumed from
            self._delete(t)

    def _delete(self, t: float) -> None:
        for path in self._known().pop(t):
            path.unlink(missing_ok=True)

    def _average(self, ema: EMA) -> dict[str, Tensor]:
        whole = {name: self._copy(tensor, name in ema.average) for name, tensor in ema.full_tensors()}
        return {name: whole[own] for name, own in self._names.items()}

    def _copy(self, tensor: Tensor, average: bool = False) -> Tensor:
        """A tensor that was gathered on all processes, as it is stored; where nothing is written, nothing of it."""
        if not self.main:
            return torch.empty(0)
        dtype = DTYPES[self.dtype] if average and tensor.is_floating_point() else tensor.dtype
        return tensor.to("cpu", dtype, copy=True)

    def _write(self, t: float, files: Sequence[tuple[dict[str, Any], dict[str, Tensor]]]) -> None:
        there = self._known()
        averaged = self.emas[0].average
        buffers = [name for name, own in self._names.items() if own not in averaged]
        for name, tensor in (item for _, tensors in files for item in tensors.items()):
            check_finite(name, tensor)
        raw = files[0][0] is RAW
        if not raw:
            self._check_order(there, t)
        for described, tensors in files:
            facts = facts_of(t, described, buffers, self.header, self.metadata)
            paths = write_average(self.folder / file_name(t, described), facts, tensors, shard_bytes=self.shard_bytes)
            if not raw:
                there.setdefault(t, []).extend(paths)
        if not raw:
            self._resumed = False
            self._delete_old(there)

    def _delete_old(self, there: dict[float, list[Path]]) -> None:
        times = sorted(there)
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
        for t in removed:
            self._delete(t)


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
    """Size of one average in a file of that dtype, without the header; sharded parameters count whole, tied ones for
    each of their names.
    """
    whole = {**dict(ema.module.named_parameters()), **dict(ema.module.named_buffers())}  # not only this process's shard
    own = {**ema.average, **ema.buffers}
    size = 0
    for name in tracked_names(ema.module).values():
        real = name in ema.average and own[name].is_floating_point()
        size += whole[name].numel() * (DTYPES[dtype] if real else own[name].dtype).itemsize
    return size
