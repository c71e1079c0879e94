"""Snapshots of running averages, written while training by a callback for any loop."""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unitgain.checkpoint.facts import SnapshotHeader, average_dtype, facts_of
from unitgain.checkpoint.tensors import places
from unitgain.checkpoint.writer import check_dtype, check_finite, shard, write_average
from unitgain.ema import EMA, RAW, Buffers, PowerEMA, Profile, check_names, check_sigma_rel, describe, file_name
from unitgain.ema.names import tracked_names
from unitgain.ema.state import matched
from unitgain.ema.tracker import check_step
from unitgain.parallel import full, reshard
from unitgain.posthoc.estimate import PAIR, Estimate, estimate, snapshot_bytes
from unitgain.posthoc.kept import Keep, Kept, Thinning
from unitgain.posthoc.thin import LENGTHS


class SnapshotStore:
    """Averages of a module, updated and written every so often.

    Files are written atomically under `<folder>/<t>-<length>.safetensors`; see `unitgain.checkpoint.facts`. Names of
    tensors are those of the module without its wrappers (DDP, `torch.compile`), and a strict `load_state_dict` takes
    them: tied parameters are there under each name, buffers that do not persist are not. Complex parameters stay as
    they are, complex64. Running statistics are stored in float32, whatever `dtype`: float16 has not the range of all
    variances.

    Args:
        folder: for the snapshots; made if it is not there.
        emas: the trackers, or a module to track.
        every: a snapshot is taken whenever `t` passes a multiple of this.
        track: sigma_rel to track of a module; the pair of the paper by default.
        buffers: of a module, as in `EMA`.
        device: of the averages of a module, as in `EMA`.
        update_every: steps between updates of the averages, for less work: the weights after each N-th step then stand
            for all N, so that an average weighs them by the integral of its profile over these. Snapshots and `switch`
            take in what is missing first. `EMA.guard` is for updates after every step.
        dtype: of averages in the files: "float16" as in the paper, "bfloat16" or "float32".
        keep: "all", the number of newest times to keep, or a function from the times there are to those to keep.
        budget: bytes that the snapshots may take; old ones are thinned so that the fit stays good (`thin`).
        lengths: sigma_rel that the thinning cares for.
        shard_bytes: largest size of a file; None for one file per average.
        metadata: more of one's own for the headers: text by name.
        header: what snapshots of a denoiser say of themselves, but for time and profile.
        resumed: the trackers go on from a checkpoint: the first snapshot replaces those of a later time than theirs,
            which training comes to again. `load_state_dict` says so too.
        main: whether this process writes; all processes must make the same calls where parameters are sharded.

    Raises:
        ValueError: if an argument is out of range or says nothing, or the module has tensors that no file holds.
    """

    def __init__(
        self,
        folder: Path | str,
        emas: Sequence[EMA] | nn.Module,
        *,
        every: float,
        track: Sequence[float] | float = PAIR,
        buffers: Buffers = "statistics",
        device: torch.device | str | None = None,
        update_every: int = 1,
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
        if not 0 < every < math.inf:
            raise ValueError(f"every = {every}: the time between snapshots must be positive, and finite")
        if not (update_every >= 1 and update_every == int(update_every)):
            raise ValueError(f"update_every = {update_every}: must be a number of steps, 1 or more")
        check_dtype(dtype)
        if keep != "all" and budget is not None:
            raise ValueError("keep and budget both say what to delete: give one of them")
        self.folder = Path(folder)
        self.emas = _trackers(emas, (track,) if isinstance(track, int | float) else tuple(track), buffers, device)
        profiles = self.profiles_at(1.0)
        if not profiles or len(set(profiles)) < len(profiles):
            raise ValueError("give at least one tracker, and no two of the same length")
        described = [describe(profile) for profile in profiles]
        check_names([file_name(1.0, one) for one in described])
        facts_of(1.0, described[0], (), header, metadata)  # whether files can say so
        for length in lengths:
            check_sigma_rel(length)
        self.every, self.update_every, self.dtype, self.budget = every, update_every, dtype, budget
        self._steps, self._behind = 0, 0.0  # since the last update of the averages: steps, and the time that they took
        self.lengths, self.shard_bytes, self.main = tuple(lengths), shard_bytes, main
        self.metadata, self.header = dict(metadata or {}), header
        self._names = tracked_names(self.emas[0].module)
        stored = self.emas[0].average | self.emas[0].buffers
        layout = {name: (stored[own].dtype, tuple(stored[own].shape)) for name, own in self._names.items()}
        places(layout)  # whether files can hold them, and
        shard(layout, shard_bytes)
        if budget is not None and budget < 2 * self.snapshot_bytes:
            raise ValueError(
                f"a budget of {budget} bytes holds fewer than 2 snapshots of {self.snapshot_bytes} bytes: give more, "
                "or store in a smaller dtype"
            )
        room = None if budget is None else budget // self.snapshot_bytes
        self._kept = Kept(self.folder, keep, room, self.profiles_at, self.lengths)
        self._stored = 0.0  # time of the last snapshot that was taken
        self._resumed = resumed
        self._go_on()

    @property
    def thinnings(self) -> list[Thinning]:
        """What the budget has cost so far."""
        return self._kept.thinnings

    @property
    def t(self) -> float:
        """Time of the last step."""
        return self.emas[0].t + self._behind

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
        t, dt, before = float(t), float(dt), self.t
        check_step(t, dt, before)
        self.emas[0].check_online()
        self._look()
        # The fraction of a step: times such as 0.1 + 0.2 do not fall exactly on what they are meant to.
        due = (t + 1e-6 * dt) // self.every > (before + 1e-6 * dt) // self.every
        behind = self._steps, self._behind
        self._steps, self._behind = self._steps + 1, t - self.emas[0].t
        if self._steps >= self.update_every:
            try:
                self.catch_up()
            except ValueError:  # nothing was updated, and the step can be tried again
                self._steps, self._behind = behind
                raise
        if due:
            self.write()
        return due

    def _look(self) -> None:
        """Check, before a step, that the folder is this run's."""
        self._go_on()
        self._resumed = False  # trackers without a time have no state, and begin
        if self.main:
            self._kept.check()

    def _go_on(self) -> None:
        """Take the time that trackers have, once they have one, for that which the run goes on from."""
        if self._resumed and self.t > 0:
            self._resumed = False
            self._kept.resume(self.t)

    def catch_up(self) -> None:
        """Take the weights as they are now into the averages, for all steps since their last update."""
        if self._steps:
            t, dt = self.t, self._behind
            for ema in self.emas:
                ema.update(t, dt)
            self._steps, self._behind = 0, 0.0

    @contextmanager
    def switch(self, length: float | None = None) -> Generator[nn.Module, None, None]:
        """Put an average into the module for as long as a `with` block lasts; see `EMA.switch`.

        Args:
            length: sigma_rel or half-life of the tracker; the first one by default.

        Yields:
            The module that is tracked.

        Raises:
            ValueError: as `EMA.switch`, and if no tracker has this length.
        """
        lengths = [getattr(ema, "sigma_rel", getattr(ema, "half_life", None)) for ema in self.emas]
        if length is not None and length not in lengths:
            raise ValueError(f"no average of length {length} is tracked; there are {', '.join(map(str, lengths))}")
        self.emas[0].check_online()
        self.catch_up()
        with self.emas[0 if length is None else lengths.index(length)].switch() as module:
            yield module

    def write(self) -> None:
        """Write the averages as they are now, and delete what is not to be kept.

        Raises:
            SnapshotError: if an average is not finite in the dtype of the files.
            ValueError: if the folder holds snapshots that this run has not written, and it does not go on from a
                checkpoint; or the last one that it has written is of the same time in the thousandths that names of
                files have.
            OSError: if they cannot be written.
        """
        self.take()()

    def close(self) -> None:
        """Write the averages at the end of training, if there were steps after the last snapshot; as `write`."""
        if self.t > self._stored:
            self.write()

    def take(self, raw: bool = False) -> Callable[[], None]:
        """Copy the averages as they are now; what is returned writes them as `write` does, once, from any thread.

        All processes must call this together where parameters are sharded; there is nothing to write but on the main
        one, and what is taken first is to be written first.

        Args:
            raw: the weights of the module itself instead, in their own dtypes.
        """
        self.emas[0].check_online()
        self._look()
        self.catch_up()
        t = self.t
        self._stored = self._stored if raw else t
        if raw:
            module = self.emas[0].module
            reshard(module)
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
        emas = [ema.state_dict() for ema in self.emas]
        return {"emas": emas, "steps": self._steps, "behind": self._behind}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: the first snapshot replaces those of a later time, which training comes to again.

        Raises:
            ValueError: if the state is none of a store, or of other trackers; nothing is changed then.
        """
        if "emas" not in state:
            raise ValueError("this is no state of a store: give what its state_dict() returned")
        if len(state["emas"]) != len(self.emas):
            raise ValueError(f"the state has {len(state['emas'])} trackers, but there are {len(self.emas)}")
        for ema, own in zip(self.emas, state["emas"], strict=True):
            matched(ema, own)
        for ema, own in zip(self.emas, state["emas"], strict=True):
            ema.load_state_dict(own)
        self._steps, self._behind = int(state.get("steps", 0)), float(state.get("behind", 0.0))
        self._resumed = False
        self._kept.resume(self.t)

    def _average(self, ema: EMA) -> dict[str, Tensor]:
        whole = {
            name: self._copy(tensor, average_dtype(name, tensor.dtype, self.dtype) if name in ema.average else None)
            for name, tensor in ema.full_tensors()
        }
        return {name: whole[own] for name, own in self._names.items()}

    def _copy(self, tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor that was gathered on all processes, as it is stored; where nothing is written, nothing of it."""
        return tensor.to("cpu", dtype or tensor.dtype, copy=True) if self.main else torch.empty(0)

    def _write(self, t: float, files: Sequence[tuple[dict[str, Any], dict[str, Tensor]]]) -> None:
        averaged = self.emas[0].average
        buffers = [name for name, own in self._names.items() if own not in averaged]
        for name, tensor in (item for _, tensors in files for item in tensors.items()):
            if name not in buffers:  # which may be masks of -inf
                check_finite(name, tensor)
        raw = files[0][0] is RAW
        if not raw:
            self._kept.begin(t)
        for described, tensors in files:
            facts = facts_of(t, described, buffers, self.header, self.metadata)
            paths = write_average(self.folder / file_name(t, described), facts, tensors, shard_bytes=self.shard_bytes)
            if not raw:
                self._kept.add(t, paths)
        if not raw:
            self._kept.end()


def _trackers(
    emas: Sequence[EMA] | nn.Module, track: tuple[float, ...], buffers: Buffers, device: torch.device | str | None
) -> list[EMA]:
    """The trackers that are given, or those of these lengths of a module; arguments as of `SnapshotStore`."""
    if isinstance(emas, nn.Module):
        return [PowerEMA(emas, length, buffers=buffers, device=device) for length in track]
    if (track, buffers, device) != (PAIR, "statistics", None):
        raise ValueError("track, buffers and device are for a module: trackers have theirs")
    if others := [type(one).__name__ for one in emas if not hasattr(one, "average")]:
        raise ValueError(f"a store is given a module or trackers of one, not a sequence of {others[0]}")
    return list(emas)
