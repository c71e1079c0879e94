"""What the averages of a run will take of the disk, and what can be made of them in the end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unitgain.checkpoint.facts import average_dtype
from unitgain.ema import EMA, PowerProfile, Profile
from unitgain.ema.names import tracked_names
from unitgain.posthoc.thin import LENGTHS, errors, thin

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

    error, unthinned = (errors(chosen, profiles_at, lengths) for chosen in (kept, times))
    return Estimate(snapshot_bytes, len(times), len(kept) * snapshot_bytes, tuple(kept), error, unthinned)


def snapshot_bytes(ema: EMA, dtype: str) -> int:
    """Size of one average in a file of that dtype, without the header; sharded parameters count whole, tied ones for
    each of their names.
    """
    whole = {**dict(ema.module.named_parameters()), **dict(ema.module.named_buffers())}  # not only this process's shard
    own = {**ema.average, **ema.buffers}
    size = 0
    for name in tracked_names(ema.module).values():
        kept = average_dtype(name, own[name].dtype, dtype) if name in ema.average else own[name].dtype
        size += whole[name].numel() * kept.itemsize
    return size
