"""Which snapshots to give up when there is room for only so many."""

from collections.abc import Callable, Sequence

import numpy as np

from unitgain.ema import PowerProfile, Profile
from unitgain.posthoc.inner import inner_product
from unitgain.posthoc.solve import Piece, fit, solve

LENGTHS = (0.02, 0.05, 0.10, 0.15, 0.20, 0.25)  # sigma_rel that the fit is kept good for
ProfilesAt = Callable[[float], Sequence[Profile]]


def thin(
    times: Sequence[float], count: int, profiles_at: ProfilesAt, lengths: Sequence[float] = LENGTHS
) -> list[float]:
    """The `count` times to keep, such that averages that end at the last one suffer least.

    One time after the other is given up, each the one that adds the least to the sum of squared relative errors over
    `lengths`. What is lost is local: the profiles between two neighbours of the time given up are fitted by one set of
    pieces instead of two. The last is always kept.

    Args:
        times: when snapshots were taken, increasing.
        count: how many to keep, at least 2.
        profiles_at: the profiles stored at a time, of the same lengths at all times.
        lengths: sigma_rel of the averages to care for.

    Raises:
        ValueError: if `count` is less than 2.
    """
    if count < 2:
        raise ValueError(f"a budget of {count} snapshots is too small: averages of other lengths need at least 2")
    kept = list(times)
    targets = [PowerProfile.of(kept[-1], length) for length in lengths] if kept else []
    norms = np.sqrt([inner_product(target, target) for target in targets])
    known: dict[tuple[float, float], float] = {}

    def residual(lo: float, hi: float) -> float:
        if (lo, hi) not in known:
            pieces = [Piece(i, p, lo, hi, initial=0.0 if lo else p.initial) for i, p in enumerate(profiles_at(hi))]
            known[lo, hi] = float((fit(pieces, targets, norms, times[0])[1] / norms**2).sum())
        return known[lo, hi]

    while len(kept) > count:
        bounds = [0.0, *kept]
        costs = [
            residual(lo, hi) - residual(lo, mid) - residual(mid, hi)
            for lo, mid, hi in zip(bounds, bounds[1:], bounds[2:], strict=False)
        ]
        del kept[int(np.argmin(costs))]
    return kept


def errors(times: Sequence[float], profiles_at: ProfilesAt, lengths: Sequence[float] = LENGTHS) -> dict[float, float]:
    """By length: relative L2 error of its profile that ends at the last of `times`."""
    stored = [profile for time in times for profile in profiles_at(time)]
    targets = [PowerProfile.of(times[-1], length) for length in lengths]
    return dict(zip(lengths, solve(stored, targets, warn_above=None).error.tolist(), strict=True))
