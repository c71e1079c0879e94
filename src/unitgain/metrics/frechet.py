"""The Frechet distance between Gaussians."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor


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

    With `C1 = A A'` and `C2 = B B'` the trace of the root is the sum of the roots of the eigenvalues of the symmetric
    `(A' B)(A' B)'`, which are the singular values of `A' B`: real, not negative and exact to rounding, whatever the
    rank of the covariances.

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
    overlap = torch.linalg.svdvals(root(c1).T @ (root(c2) if root2 is None else root2)).sum()
    distance = (m1 - m2).square().sum() + c1.trace() + c2.trace() - 2 * overlap
    return max(distance.item(), 0.0)


def root(cov: ArrayLike | Tensor) -> Tensor:
    """A matrix `A` `[D, R]` with `A A' = cov`, float64, where R is the rank.

    The Cholesky factor; for a covariance without full rank the eigenvectors, scaled, of the eigenvalues above rounding.
    """
    matrix = _float64(cov)
    matrix = (matrix + matrix.T) / 2
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if not failed:
        return factor
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > values.max().clamp(min=0) * len(values) * torch.finfo(torch.float64).eps
    return vectors[:, kept] * values[kept].sqrt()


def _float64(value: ArrayLike | Tensor) -> Tensor:
    return torch.as_tensor(value if isinstance(value, Tensor) else np.asarray(value)).to("cpu", torch.float64)
