"""The Frechet distance between Gaussians."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def statistics(features: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean `[D]` and covariance `[D, D]` (divided by N - 1) of features `[N, D]`, in float64.

    Raises:
        ValueError: unless `features` is a matrix of at least two finite rows.
    """
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) < 2 or not np.isfinite(features).all():
        raise ValueError(f"features must be [N, D] with N >= 2 and finite values, not of shape {features.shape}")
    return features.mean(0), np.cov(features, rowvar=False).reshape(features.shape[1], features.shape[1])


def frechet_distance(mean1: ArrayLike, cov1: ArrayLike, mean2: ArrayLike, cov2: ArrayLike) -> float:
    """Frechet distance `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))` of two Gaussians (Dowson and Landau 1982).

    The trace of the root is the sum of the roots of the eigenvalues of the symmetric `A C2 A` with `A = C1^(1/2)`:
    real and not negative, whatever the rank of the covariances.

    Args:
        mean1: `[D]`.
        cov1: `[D, D]`, symmetric, positive semi-definite.
        mean2: `[D]`.
        cov2: `[D, D]`.

    Raises:
        ValueError: if shapes do not fit or a value is not finite.
    """
    m1, m2 = np.asarray(mean1, dtype=np.float64), np.asarray(mean2, dtype=np.float64)
    c1, c2 = np.asarray(cov1, dtype=np.float64), np.asarray(cov2, dtype=np.float64)
    if m1.ndim != 1 or m1.shape != m2.shape or not c1.shape == c2.shape == (len(m1), len(m1)):
        raise ValueError(f"shapes do not fit: means {m1.shape} and {m2.shape}, covariances {c1.shape} and {c2.shape}")
    if not all(np.isfinite(a).all() for a in (m1, m2, c1, c2)):
        raise ValueError("means or covariances hold NaN or infinite values")
    values, vectors = np.linalg.eigh((c1 + c1.T) / 2)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    product = root @ c2 @ root
    overlap = np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(min=0)).sum()
    distance = ((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * overlap
    return max(float(distance), 0.0)
