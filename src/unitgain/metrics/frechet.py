"""The Frechet distance between Gaussians."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

GAP = 1e3  # by which eigenvalues stand apart from the rounding of zeros
BLOCK = 512  # columns of a triangular product taken at once


def statistics(features: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean `[D]` and covariance `[D, D]` (divided by N - 1) of features `[N, D]`, in float64.

    Raises:
        ValueError: unless `features` is a matrix of at least two finite rows.
    """
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) < 2 or not np.isfinite(features).all():
        raise ValueError(f"features must be [N, D] with N >= 2 and finite values, not of shape {features.shape}")
    return features.mean(0), np.cov(features, rowvar=False).reshape(features.shape[1], features.shape[1])


def frechet_distance(
    mean1: ArrayLike, cov1: ArrayLike, mean2: ArrayLike, cov2: ArrayLike, *, root2: Tensor | None = None
) -> float:
    """Frechet distance `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))` of two Gaussians (Dowson and Landau 1982).

    With `C2 = B B'` the trace of the root is the sum of the roots of the eigenvalues of the symmetric `B' C1 B`: real
    and not negative. Zeros among them, of a covariance without full rank, are rounding whose root would be large, and
    are left out. Where they do not stand apart, and where C2 has no full rank, it is, with `C1 = A A'`, the sum of the
    singular values of `A' B`, which are exact to rounding at any rank.

    Args:
        mean1: `[D]`.
        cov1: `[D, D]`, symmetric, positive semi-definite.
        mean2: `[D]`.
        cov2: `[D, D]`.
        root2: `root(cov2)`, if it is at hand: a reference is measured against many times.

    Raises:
        ValueError: if shapes do not fit or a value is not finite.
    """
    m1, c1, m2, c2 = (_float64(value) for value in (mean1, cov1, mean2, cov2))
    if m1.ndim != 1 or m1.shape != m2.shape or not c1.shape == c2.shape == (len(m1), len(m1)):
        shapes = [tuple(value.shape) for value in (m1, m2, c1, c2)]
        raise ValueError(f"shapes do not fit: means {shapes[0]} and {shapes[1]}, covariances {shapes[2]}, {shapes[3]}")
    if not all(bool(torch.isfinite(value).all()) for value in (m1, m2, c1, c2)):
        raise ValueError("means or covariances hold NaN or infinite values")
    overlap = _overlap(c1, root(c2) if root2 is None else root2)
    distance = (m1 - m2).square().sum() + c1.trace() + c2.trace() - 2 * overlap
    return max(distance.item(), 0.0)


def sampling_error(
    features: ArrayLike | Tensor, mean2: ArrayLike, cov2: ArrayLike, *, root2: Tensor | None = None
) -> float:
    """Standard error of the Frechet distance that comes from which images were drawn: as from resampling them.

    To first order an image x moves the distance by its influence `2 (m1 - m2)' y + y' (I - T) y` over N, where
    `y = x - m1` and `I - T` is the derivative with respect to C1, `T = B (B' C1 B)^(-1/2) B'` with `C2 = B B'`. The
    error is the standard deviation of the influences over the root of N (the infinitesimal jackknife, Jaeckel 1972).
    It says nothing of the bias of few images.

    Args:
        features: of the images, `[N, D]`, N >= 2.
        mean2: `[D]`, of the reference.
        cov2: `[D, D]`.
        root2: as in `frechet_distance`.
    """
    rows, m2 = _float64(features), _float64(mean2)
    mean = rows.mean(0)
    rows = rows - mean
    lower = root(cov2) if root2 is None else root2
    values, vectors = torch.linalg.eigh(lower.T @ (rows.T @ rows / (len(rows) - 1)) @ lower)
    nonzero = values > values.max() * len(values) * torch.finfo(torch.float64).eps * GAP
    half = lower @ (vectors[:, nonzero] * values[nonzero] ** -0.25)  # T = half half'
    influence = 2 * rows @ (mean - m2) + rows.square().sum(1) - (rows @ half).square().sum(1)
    return (influence.std() / len(rows) ** 0.5).item()


def root(cov: ArrayLike | Tensor) -> Tensor:
    """A matrix `A` `[D, R]` with `A A' = cov`, float64, where R is the rank.

    The Cholesky factor, lower triangular; without full rank the pivoted one, of fewer columns, up to rounding.
    """
    matrix = _float64(cov)
    matrix = (matrix + matrix.T) / 2
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if not failed:
        return factor
    return _pivoted_cholesky(matrix)


def _pivoted_cholesky(matrix: Tensor) -> Tensor:
    """`A` `[D, R]`, R < D, with `A A' = matrix`; always the largest remaining pivot next (Higham 1990)."""
    factor = torch.zeros_like(matrix)  # transposed, so that what is read lies together
    left = matrix.diagonal().clone()
    least = left.max() * len(matrix) * torch.finfo(torch.float64).eps
    for rank in range(len(matrix) - 1):
        pivot = int(left.argmax())
        if left[pivot] <= least:
            return factor[:rank].T
        known = factor[:rank]
        factor[rank] = (matrix[pivot] - known[:, pivot] @ known) / left[pivot].sqrt()
        left -= factor[rank].square()
    return factor[:-1].T


def _overlap(cov: Tensor, other_root: Tensor) -> Tensor:
    """The trace of the root of `cov` times the covariance with the other root."""
    if len(other_root) == other_root.shape[1]:
        values = torch.linalg.eigvalsh(_congruence(cov, other_root))
        rounding = values.max() * len(values) * torch.finfo(torch.float64).eps
        nonzero = values[values > rounding]
        if len(nonzero) == len(values) or (len(nonzero) and nonzero.min() > GAP * rounding):
            return nonzero.sqrt().sum()
    return torch.linalg.svdvals(root(cov).T @ other_root).sum()


def _congruence(cov: Tensor, lower: Tensor) -> Tensor:
    """The lower triangle of `L' C L` for a lower triangular L, without multiplying most of its zeros."""
    half, product = torch.zeros_like(cov), torch.zeros_like(cov)
    for start in range(0, len(cov), BLOCK):
        stop = start + BLOCK
        half[start:, start:stop] = cov[start:, start:] @ lower[start:, start:stop]
    for start in range(0, len(cov), BLOCK):
        stop = start + BLOCK
        product[start:stop, :stop] = lower[start:, start:stop].T @ half[start:, :stop]
    return product


def _float64(value: ArrayLike | Tensor) -> Tensor:
    return torch.as_tensor(value if isinstance(value, Tensor) else np.asarray(value)).to("cpu", torch.float64)
