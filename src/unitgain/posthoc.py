"""Post-hoc EMA: from stored averages to an average of any length (EDM2, Section 3.2 and Appendix C.5)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unitgain.checkpoint.snapshot import Snapshot, list_snapshots, power_profile, write_snapshot
from unitgain.ema import PowerProfile


@dataclass(frozen=True)
class Reconstruction:
    """A snapshot that `reconstruct` wrote.

    Attributes:
        path: the file.
        sigma_rel: its relative length.
        error: relative L2 error of its averaging profile.
    """

    path: Path
    sigma_rel: float
    error: float


@dataclass(frozen=True)
class Weights:
    """Linear combinations of snapshots.

    Attributes:
        matrix: weight of each snapshot in each target, float64 `[snapshots, targets]`.
        error: `||p* - p|| / ||p||`, the relative L2 error of each target's profile before the weights were normalized,
            float64 `[targets]`.
    """

    matrix: NDArray[np.float64]
    error: NDArray[np.float64]


def inner_product(a: PowerProfile, b: PowerProfile) -> float:
    """`<p_a, p_b>`, the integral of the product of two power profiles (Eq. 151)."""
    if a.t > b.t:
        a, b = b, a
    return (a.gamma + 1) * (b.gamma + 1) * (a.t / b.t) ** b.gamma / ((a.gamma + b.gamma + 1) * b.t)


def solve(snapshots: Sequence[PowerProfile], targets: Sequence[PowerProfile], normalize: bool = True) -> Weights:
    """Weights whose combined profile is nearest to each target in the least-squares sense (Eqs. 134-143, Algorithm 3).

    Args:
        snapshots: profiles of the stored averages, all different.
        targets: profiles wanted.
        normalize: divide the weights of each target by their sum, so that constant weights are reproduced exactly.

    Raises:
        ValueError: if there are no snapshots, or two are the same.
    """
    if not snapshots:
        raise ValueError("there are no snapshots to reconstruct from")
    if len(set(snapshots)) != len(snapshots):
        raise ValueError("two snapshots have the same time and length: keep one of them")
    gram = np.array([[inner_product(a, b) for b in snapshots] for a in snapshots])
    overlap = np.array([[inner_product(a, b) for b in targets] for a in snapshots])
    # Profiles of unit norm: the condition of the system is bad enough without the spread of their scales.
    scale = 1 / np.sqrt(np.diag(gram))[:, None]
    matrix = scale * np.linalg.solve(gram * scale * scale.T, overlap * scale)
    norms = np.array([inner_product(b, b) for b in targets])
    residual = norms - 2 * (matrix * overlap).sum(0) + (matrix * (gram @ matrix)).sum(0)
    if normalize:
        matrix = matrix / matrix.sum(0)
    return Weights(matrix, np.sqrt(residual.clip(min=0) / norms))


def reconstruct(
    run: Path,
    sigma_rels: Sequence[float],
    out: Path,
    *,
    nimg: int | None = None,
    dtype: str = "float16",
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Reconstruction]:
    """Write snapshots averaged at lengths that training did not track, reading each stored one once.

    Args:
        run: folder of a run, or of snapshots.
        sigma_rels: relative lengths, each in (0, 0.2886).
        out: folder for the results, named as snapshots are.
        nimg: end of the averages in images seen; that of the last snapshot by default.
        dtype: of the results: "float16", "bfloat16" or "float32".
        on_progress: called with (tensors done, tensors in all), after each.

    Returns:
        What was written, in the order of `sigma_rels`.

    Raises:
        FileNotFoundError: if there are no snapshots.
        SnapshotError: if one is damaged; nothing is written.
        ValueError: if a length is out of range or comes twice in the three decimals of its file's name, the snapshots
            are of different networks, or `nimg` is past the last.
    """
    snapshots = [s for s in list_snapshots(run) if isinstance(s.header.response(), PowerProfile)]
    if not snapshots:
        raise ValueError(f"{run} holds no snapshots of power-function averages")
    last = snapshots[-1]
    nimg = last.header.nimg if nimg is None else nimg
    if not 0 < nimg <= last.header.nimg:
        raise ValueError(f"an average cannot end at {nimg} images: the snapshots reach from 0 to {last.header.nimg}")
    for snapshot in snapshots:
        if snapshot.header.network != last.header.network or snapshot.names != last.names:
            raise ValueError(f"{snapshot.path} and {last.path} hold different networks")
    targets = [PowerProfile.of(nimg, sigma_rel) for sigma_rel in sigma_rels]
    headers = [
        last.header.replace(nimg=nimg, profile=power_profile(sigma_rel, target.gamma))
        for sigma_rel, target in zip(sigma_rels, targets, strict=True)
    ]
    if len({header.filename() for header in headers}) < len(headers):
        raise ValueError(f"two of the lengths {list(sigma_rels)} are equal in three decimals, the name of their file")
    weights = solve([_power(snapshot) for snapshot in snapshots], targets)
    averages = _combine(snapshots, weights.matrix, on_progress)
    results: list[Reconstruction] = []
    for header, error, tensors in zip(headers, weights.error, averages, strict=True):
        assert header.sigma_rel is not None
        results.append(Reconstruction(out / header.filename(), header.sigma_rel, float(error)))
        write_snapshot(results[-1].path, header, tensors, dtype)
    return results


def _power(snapshot: Snapshot) -> PowerProfile:
    profile = snapshot.header.response()
    assert isinstance(profile, PowerProfile)
    return profile


def _combine(
    snapshots: Sequence[Snapshot], matrix: NDArray[np.float64], on_progress: Callable[[int, int], None] | None
) -> list[dict[str, Tensor]]:
    """Each column's combination of the snapshots, in float32; holds the results and one tensor of input."""
    averages: list[dict[str, Tensor]] = [{} for _ in range(matrix.shape[1])]
    streams = [snapshot.verified() for snapshot in snapshots]
    names = snapshots[0].names
    for done, name in enumerate(names, start=1):
        for row, stream in zip(matrix, streams, strict=True):
            found, tensor = next(stream)
            assert found == name
            tensor = tensor.float()
            for weight, average in zip(row, averages, strict=True):
                if name not in average:
                    average[name] = torch.zeros_like(tensor)
                average[name].add_(tensor, alpha=float(weight))
        if on_progress is not None:
            on_progress(done, len(names))
    for stream in streams:
        for _ in stream:  # past the last tensor, where the checksum is checked
            raise AssertionError("snapshots have the same names")
    return averages


def parse_lengths(text: str) -> list[float]:
    """EMA lengths from text: `0.05`, a list `0.05,0.1`, a range `start:stop:step` with both ends, or a mixture.

    Raises:
        ValueError: if a part is none of these.
    """
    lengths: list[float] = []
    for part in text.split(","):
        try:
            numbers = [float(number) for number in part.split(":")]
        except ValueError:
            numbers = []
        if len(numbers) == 1:
            lengths += numbers
        elif len(numbers) == 3 and numbers[2] > 0 and numbers[1] >= numbers[0]:
            start, stop, step = numbers
            count = math.floor((stop - start) / step + 1e-6) + 1
            lengths += [round(start + i * step, 9) for i in range(count)]
        else:
            raise ValueError(
                f"cannot read the lengths {part!r}: write 0.05, 0.05,0.1 or start:stop:step as 0.01:0.25:0.01"
            )
    return lengths
