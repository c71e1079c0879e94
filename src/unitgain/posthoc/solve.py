"""From stored averages to the weights of an average of any length (EDM2, Section 3.2 and Appendix C.5).

The textbook way, the normal equations A x = b of Eq. 141, fails in float64 at hundreds of snapshots: the profiles are
nearly parallel. It is not needed. Consecutive snapshots of one average differ by a function on the time between them,

    p_k - beta_k p_(k-1) = p_k restricted to (t_(k-1), t_k],

with the beta of Eq. 116. In these pieces the problem falls apart into one small problem per interval (as many unknowns
as there are lengths), each solved by QR without ever forming an inner product, and x follows by subtraction.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from unitgain.ema import ExponentialProfile, PowerProfile, Profile
from unitgain.posthoc.inner import inner_product
from unitgain.posthoc.legendre import edges_of, expand, tolerances

Array = NDArray[np.float64]

WARN_ABOVE = 0.05  # relative L2 error of a profile past which the user is warned


class FitWarning(UserWarning):
    """An averaging profile is far from the one that was asked for."""


@dataclass(frozen=True)
class Weights:
    """Linear combinations of snapshots.

    Attributes:
        matrix: weight of each snapshot in each target, float64 `[snapshots, targets]`.
        error: `||p* - p|| / ||p||`, the relative L2 error of each target's profile before the weights were normalized,
            float64 `[targets]`.
        total: sum of each target's weights before they were normalized, near 1; float64 `[targets]`.
        snapshots: what is combined.
    """

    matrix: Array
    error: Array
    total: Array
    snapshots: tuple[Profile, ...] = field(repr=False)

    def density(self, tau: Array, target: int = 0) -> Array:
        """The profile that one target's weights achieve, at the times `tau`, float64 of any shape (Eq. 133)."""
        result = np.zeros_like(tau, dtype=np.float64)
        for weight, profile in zip(self.matrix[:, target], self.snapshots, strict=True):
            result += weight * profile.density(tau)
        return result


@dataclass(frozen=True)
class Piece:
    """Part of a snapshot's profile: what it adds to the snapshot before it.

    Attributes:
        index: of the snapshot.
        profile: of the snapshot.
        lo: the piece is the profile on (lo, hi].
        hi: end of the profile.
        previous: index of the snapshot before it, of the same average; None for the first.
        beta: weight of the previous profile in this one (Eq. 116); 0 for the first.
        initial: point mass at 0.
    """

    index: int
    profile: Profile
    lo: float
    hi: float
    previous: int | None = None
    beta: float = 0.0
    initial: float = 0.0


def solve(
    snapshots: Sequence[Profile],
    targets: Sequence[Profile],
    normalize: bool = True,
    *,
    warn_above: float | None = WARN_ABOVE,
) -> Weights:
    """Weights whose combined profile is nearest to each target in the least-squares sense (Eqs. 134-143, Algorithm 3).

    The point mass that exponential profiles have at 0 counts as if spread over the time up to the first snapshot: no
    finite distance is defined for a point mass, and nothing stored tells what is earlier than that.

    Args:
        snapshots: profiles of the stored averages, of any kinds, all different, in any order.
        targets: profiles wanted, of any kinds.
        normalize: divide the weights of each target by their sum, so that constant weights are reproduced exactly.
        warn_above: relative error past which a `FitWarning` is given; None for never.

    Raises:
        ValueError: if there are no snapshots, two are the same, or a target ends after the last.
    """
    _check(snapshots, targets)
    pieces = cut(snapshots)
    norms = np.sqrt([inner_product(target, target) for target in targets])
    spread = min(profile.t for profile in snapshots)
    masses = np.array([target.initial for target in targets]) / math.sqrt(spread)
    full = np.hypot(norms, masses)
    matrix = np.zeros((len(snapshots), len(targets)))
    squared = np.zeros(len(targets))
    groups = overlapping(pieces)
    for group in groups:
        coefficients, residual = fit(group, targets, full, spread)
        squared += residual
        for piece, row in zip(group, coefficients, strict=True):
            matrix[piece.index] += row
            if piece.previous is not None:
                matrix[piece.previous] -= piece.beta * row
    if not any(piece.initial for piece in pieces):
        squared += masses**2
    squared += _uncovered(groups, targets, full)
    error, total = np.sqrt(squared) / full, matrix.sum(0)
    if normalize:
        if (np.abs(total) < 1e-6).any():
            worst = targets[int(np.abs(total).argmin())]
            raise ValueError(f"{worst} cannot be reached: the snapshots have nothing in common with it")
        matrix = matrix / total
    if warn_above is not None:
        _warn(snapshots, targets, error, warn_above)
    return Weights(matrix, error, total, tuple(snapshots))


def cut(snapshots: Sequence[Profile]) -> list[Piece]:
    """The pieces that span what the profiles span; consecutive ones of one average do not overlap."""
    chains: dict[object, list[int]] = {}
    for index, profile in enumerate(snapshots):
        match profile:
            case PowerProfile():
                key: object = ("power", f"{profile.gamma:.12g}")
            case ExponentialProfile():
                key = ("exponential", f"{profile.half_life:.12g}")
            case _:
                key = index
        chains.setdefault(key, []).append(index)
    pieces: list[Piece] = []
    for chain in chains.values():
        chain.sort(key=lambda index: snapshots[index].t)
        first = snapshots[chain[0]]
        pieces.append(Piece(chain[0], first, first.start, first.t, initial=first.initial))
        for previous, index in pairwise(chain):
            before, after = snapshots[previous].t, snapshots[index]
            assert isinstance(after, PowerProfile | ExponentialProfile), "others are alone in their chain"
            pieces.append(Piece(index, after, before, after.t, previous, after.decay(after.t - before)))
    return pieces


def overlapping(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Groups of pieces that overlap each other, directly or through others; groups have no time in common."""
    groups: list[list[Piece]] = []
    end = -math.inf
    for piece in sorted(pieces, key=lambda piece: (piece.lo, piece.hi)):
        if piece.lo < end:
            groups[-1].append(piece)
        else:
            groups.append([piece])
        end = max(end, piece.hi)
    return groups


def fit(group: Sequence[Piece], targets: Sequence[Profile], norms: Array, spread: float) -> tuple[Array, Array]:
    """Least squares of one group.

    Args:
        group: overlapping pieces.
        targets: profiles wanted.
        norms: their L2 norms `[targets]`.
        spread: time over which a point mass counts as spread.

    Returns:
        Coefficients of the pieces `[pieces, targets]`, and the squared L2 residuals on the group's time `[targets]`.
    """
    ends = [time for piece in group for time in (piece.lo, piece.hi)]
    profiles = [*(piece.profile for piece in group), *targets]
    edges = np.union1d(edges_of(profiles, min(ends), max(ends)), ends)

    def values(tau: Array) -> Array:
        middle = tau[:, tau.shape[1] // 2, None]
        rows = [piece.profile.density(tau) * ((middle > piece.lo) & (middle < piece.hi)) for piece in group]
        return np.stack([*rows, *(target.density(tau) for target in targets)])

    expansion = expand(values, edges, tolerances(profiles), np.concatenate([np.zeros(len(group)), norms]))
    if any(piece.initial for piece in group):
        points = np.array([item.initial for item in (*group, *targets)]) / math.sqrt(spread)
        expansion = np.concatenate([expansion, points[:, None]], axis=1)
    count = len(group)
    scale = np.sqrt((expansion[:count] ** 2).sum(1))
    scale[scale == 0] = 1.0  # the profile underflows here: it takes no part
    expansion[:count] /= scale[:, None]
    triangle: Array = np.asarray(np.linalg.qr(expansion.T, mode="r"))  # a smaller problem with the same solution
    system, right = triangle[:, :count], triangle[:, count:]
    coefficients: Array = np.asarray(np.linalg.lstsq(system, right, rcond=None)[0], dtype=np.float64)
    residual: Array = ((system @ coefficients - right) ** 2).sum(0)
    return coefficients / scale[:, None], residual


def _check(snapshots: Sequence[Profile], targets: Sequence[Profile]) -> None:
    if not snapshots:
        raise ValueError("there are no snapshots to reconstruct from")
    seen: set[Profile] = set()
    for profile in snapshots:
        if profile in seen:
            raise ValueError(f"two snapshots have the same time and length, {profile}: keep one of them")
        seen.add(profile)
    last = max(profile.t for profile in snapshots)
    for target in targets:
        if target.t > last * (1 + 1e-9):
            raise ValueError(f"an average cannot end at {target.t:g}: the snapshots reach from 0 to {last:g}")


def _uncovered(groups: Sequence[Sequence[Piece]], targets: Sequence[Profile], norms: Array) -> Array:
    """Squared norms of the targets on the times that no snapshot has averaged."""
    squared, reached = np.zeros(len(targets)), 0.0
    for group in groups:
        lo = min(piece.lo for piece in group)
        if lo > reached:
            edges = edges_of(targets, reached, lo)
            squared += (
                expand(lambda tau: np.stack([t.density(tau) for t in targets]), edges, tolerances(targets), norms) ** 2
            ).sum(1)
        reached = max(piece.hi for piece in group)
    return squared


def said(profile: Profile) -> str:
    """The length of an average, as it is asked for."""
    if isinstance(profile, PowerProfile):
        return f"length {profile.sigma_rel:.3g}"
    return f"half-life {profile.half_life:g}" if isinstance(profile, ExponentialProfile) else f"{profile}"


def _warn(snapshots: Sequence[Profile], targets: Sequence[Profile], error: Array, level: float) -> None:
    if not len(error) or error.max() <= level:
        return
    worst = targets[int(error.argmax())]
    lengths = {
        profile.gamma if isinstance(profile, PowerProfile) else getattr(profile, "half_life", None)
        for profile in snapshots
    }
    remedy = f"more snapshots near t = {worst.t:g} help"
    if len(lengths) < 2:
        remedy += ", and so does a second length tracked beside the first"
    warnings.warn(
        f"an average of {said(worst)} at t = {worst.t:g} is met with a relative error of {error.max():.2g} only: "
        f"{remedy}",
        FitWarning,
        stacklevel=3,
    )
