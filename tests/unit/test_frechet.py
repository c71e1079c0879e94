"""The Frechet distance against closed forms and an independent implementation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from unitgain.metrics.frechet import frechet_distance, root, sampling_error, statistics


def test_diagonal_gaussians():
    a, b = np.array([0.5, 2.0, 1.0]), np.array([1.5, 2.0, 3.0])
    mean1, mean2 = np.zeros(3), np.array([1.0, -2.0, 0.5])
    expected = (mean2**2).sum() + ((a - b) ** 2).sum()  # per axis (m1 - m2)^2 + (s1 - s2)^2
    assert frechet_distance(mean1, np.diag(a**2), mean2, np.diag(b**2)) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 24), st.integers(0, 2**32 - 1), st.booleans())
def test_matches_the_matrix_square_root(size, seed, deficient):
    rng = np.random.default_rng(seed)
    rank = max(size // 2, 1) if deficient else size
    factors = [rng.standard_normal((size, rank)) for _ in range(2)]
    cov1, cov2 = (factor @ factor.T for factor in factors)
    mean1, mean2 = rng.standard_normal((2, size))
    ridge = 1e-9 * np.eye(size)  # sqrtm fails on singular products; ours does not need it
    root = sqrtm((cov1 + ridge) @ (cov2 + ridge)).real
    expected = ((mean1 - mean2) ** 2).sum() + np.trace(cov1 + cov2 - 2 * root)
    assert frechet_distance(mean1, cov1, mean2, cov2) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_distance_to_itself_is_zero_and_it_is_symmetric():
    rng = np.random.default_rng(0)
    one, two = (statistics(rng.standard_normal((50, 80))) for _ in range(2))  # fewer samples than dimensions
    assert frechet_distance(*one, *one) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(*one, *two) == pytest.approx(frechet_distance(*two, *one), rel=1e-6)
    assert frechet_distance(*one, *two) > 1


def commuting(size, rank1, rank2, seed=0):
    """Two Gaussians on the same axes, and their distance in closed form."""
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal(size)
    axes = np.eye(size) - 2 * np.outer(normal, normal) / (normal @ normal)  # a reflection: orthogonal, and cheap
    deviations = [rng.uniform(0.1, 2, size) * (np.arange(size) < rank) for rank in (rank1, rank2)]
    means = rng.standard_normal((2, size))
    one, two = ((mean, (axes * deviation**2) @ axes.T) for mean, deviation in zip(means, deviations, strict=True))
    return one, two, np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()


@pytest.mark.parametrize("ranks", [(700, 700), (700, 200), (200, 700), (300, 200)])
def test_closed_form_at_any_rank(ranks):
    one, two, expected = commuting(700, *ranks)  # more than one block
    assert frechet_distance(*one, *two) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(*one, *two, root2=root(two[1])) == pytest.approx(expected, rel=1e-12)
    assert root(two[1]).shape == (700, ranks[1])


def test_closed_form_at_the_size_of_inception():
    one, two, expected = commuting(2048, 2048, 2048)
    assert frechet_distance(*one, *two) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rank", [300, 60])
def test_matches_sqrtm_of_falling_spectra(rank):
    rng = np.random.default_rng(1)
    falling = 1 / np.arange(1, rank + 1)
    factors = [rng.standard_normal((150, rank)) * falling for _ in range(2)]  # as those of image features
    cov1, cov2 = (factor @ factor.T for factor in factors)
    expected = np.trace(cov1 + cov2) - 2 * np.trace(sqrtm(cov1 @ cov2)).real
    zero = np.zeros(150)
    assert frechet_distance(zero, cov1, zero, cov2) == pytest.approx(expected, rel=1e-6)


def test_closed_form_where_the_spectrum_falls_into_rounding_without_a_gap():
    one, two = (10.0 ** -np.linspace(0, depth, 120) for depth in (8, 9))  # variances down to 1e-16 and 1e-18
    rng = np.random.default_rng(3)
    axes = np.linalg.qr(rng.standard_normal((120, 120)))[0]
    expected, zero = np.square(one - two).sum(), np.zeros(120)
    found = frechet_distance(zero, (axes * one**2) @ axes.T, zero, (axes * two**2) @ axes.T)
    assert found == pytest.approx(expected, abs=1e-6 * np.square(one).sum())


def test_without_any_spread_it_is_the_distance_of_the_means():
    zero = np.zeros((4, 4))
    assert frechet_distance(np.ones(4), zero, np.zeros(4), zero) == 4
    assert frechet_distance(np.ones(4), zero, np.zeros(4), np.eye(4)) == pytest.approx(8, rel=1e-12)
    assert frechet_distance(np.ones(4), np.eye(4), np.zeros(4), zero) == pytest.approx(8, rel=1e-12)


def test_the_root_of_any_covariance():
    rng = np.random.default_rng(2)
    for rank in (0, 1, 5, 9):
        factor = rng.standard_normal((9, rank))
        found = root(factor @ factor.T).numpy()
        assert found.shape == (9, rank)
        np.testing.assert_allclose(found @ found.T, factor @ factor.T, atol=1e-12)


def test_statistics_and_refusals():
    features = np.random.default_rng(1).standard_normal((40, 3)).astype(np.float32)
    mean, cov = statistics(features)
    assert mean.dtype == cov.dtype == np.float64
    np.testing.assert_allclose(cov, np.cov(features.T.astype(np.float64)))
    assert statistics(np.ones((4, 1)))[1].shape == (1, 1)
    for wrong in (np.zeros(5), np.zeros((1, 5)), np.full((3, 2), np.nan)):
        with pytest.raises(ValueError, match="features must be"):
            statistics(wrong)
    with pytest.raises(ValueError, match="shapes do not fit"):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3))
    with pytest.raises(ValueError, match="NaN"):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(2), np.full((2, 2), np.nan))


def test_the_error_of_a_distance_is_that_of_resampling_the_images():
    torch.manual_seed(0)
    real = torch.randn(400, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64)
    drawn = torch.randn(300, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64) + 0.3
    known = statistics(real)
    again = [drawn[torch.randint(len(drawn), (len(drawn),))] for _ in range(300)]
    spread = torch.tensor([frechet_distance(*statistics(one), *known) for one in again]).std().item()
    assert sampling_error(drawn, *known) == pytest.approx(spread, rel=0.15)
    flat = torch.cat([drawn, drawn[:, :1]], 1)  # without full rank
    assert sampling_error(flat, *statistics(torch.cat([real, real[:, :1]], 1))) < 3 * spread
