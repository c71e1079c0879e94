"""Profiles and the solver: closed forms against quadrature and high precision, figures of the paper, conditioning."""

import itertools

import mpmath
import numpy as np
import pytest

from unitgain.ema import DensityProfile, ExponentialProfile, PowerProfile, UniformProfile
from unitgain.posthoc import FitWarning, inner_product, solve
from unitgain.posthoc.inner import quadrature

LENGTHS = (0.015, 0.03, 0.075, 0.13, 0.2, 0.25)
PROFILES = [
    PowerProfile.of(7.0, 0.10),
    PowerProfile.of(9.0, 0.25),
    PowerProfile.of(9.0, 0.015),
    ExponentialProfile(8.0, 0.3),
    ExponentialProfile(5.0, 20.0),
    ExponentialProfile(8.0, 0.001),
    UniformProfile(1.0, 6.0),
    UniformProfile(2.0, 8.0),
]


def pairs(n, end=1000.0, lengths=(0.05, 0.10)):
    return [PowerProfile.of(end * (k + 1) / n, length) for k in range(n) for length in lengths]


def mass(profile, start, end):
    """Integral of the density over [start, end], in closed form."""
    start, end = np.clip([start, end], profile.start, profile.t)
    match profile:
        case PowerProfile():
            return (end / profile.t) ** (profile.gamma + 1) - (start / profile.t) ** (profile.gamma + 1)
        case ExponentialProfile():
            return 2 ** ((end - profile.t) / profile.half_life) - 2 ** ((start - profile.t) / profile.half_life)
        case UniformProfile():
            return (end - start) / (profile.t - profile.start)


def closed_form(a, b):
    match a, b:
        case UniformProfile(), _:
            return mass(b, a.start, a.t) / (a.t - a.start)
        case _, UniformProfile():
            return closed_form(b, a)
        case ExponentialProfile(), ExponentialProfile():
            (ka, kb), end = (np.log(2) / one.half_life for one in (a, b)), min(a.t, b.t)
            return ka * kb / (ka + kb) * (np.exp(ka * (end - a.t) + kb * (end - b.t)) - np.exp(-ka * a.t - kb * b.t))
        case _:
            return quadrature(a, b)


@pytest.mark.parametrize(("a", "b"), list(itertools.combinations_with_replacement(PROFILES, 2)))
def test_closed_forms_equal_quadrature(a, b):
    assert inner_product(a, b) == inner_product(b, a)
    assert inner_product(a, b) == pytest.approx(closed_form(a, b), rel=1e-11, abs=1e-300)


@pytest.mark.parametrize(("gamma", "tp", "te", "half_life"), [(6.94, 7, 9, 2), (97, 9, 7, 0.5), (0.17, 5, 5, 0.01)])
def test_power_exponential_to_many_digits(gamma, tp, te, half_life):
    with mpmath.workdps(40):
        k = mpmath.log(2) / half_life
        end = min(tp, te)
        exact = (
            (gamma + 1)
            / mpmath.mpf(tp) ** (gamma + 1)
            * k
            * mpmath.exp(-k * te)
            * mpmath.mpf(end) ** (gamma + 1)
            / (gamma + 1)
            * mpmath.hyp1f1(gamma + 1, gamma + 2, k * end)
        )
    found = inner_product(PowerProfile(float(tp), gamma), ExponentialProfile(float(te), half_life))
    assert found == pytest.approx(float(exact), rel=1e-12)


def test_any_density_is_integrated():
    triangle = DensityProfile(4.0, lambda tau: np.maximum(0, 1 - np.abs(tau - 3)), start=1.0)
    assert inner_product(triangle, triangle) == pytest.approx(2 / 3, rel=1e-12)
    assert inner_product(triangle, UniformProfile(0.0, 10.0)) == pytest.approx(0.1, rel=1e-12)
    as_power = DensityProfile(5.0, PowerProfile(5.0, 0.3).density)
    other = PowerProfile(7.0, 6.94)
    assert inner_product(as_power, other) == pytest.approx(inner_product(PowerProfile(5.0, 0.3), other), rel=1e-11)


@pytest.mark.parametrize(
    ("n", "expected"),
    [(32, (8.0e-2, 1.1e-2, 9.0e-4, 1.3e-3, 6.4e-3, 3.4e-2)), (128, (6.0e-3, 7.3e-4, 5.6e-5, 8.4e-5, 4.4e-4, 6.2e-3))],
)
def test_fit_errors_that_were_predicted(n, expected):
    """To the two digits that are given."""
    error = solve(pairs(n), [PowerProfile.of(1000.0, length) for length in LENGTHS], warn_above=None).error
    assert [float(f"{value:.1e}") for value in error] == list(expected)


@pytest.mark.parametrize("length", [0.03, 0.075, 0.13])
def test_squared_error_falls_as_the_fourth_power_of_the_number_of_snapshots(length):
    """Fig. 4: O(1 / n^4) with two lengths, and O(1 / n^2) with one."""
    counts = [48, 96, 192]
    for lengths, order in (((0.05, 0.10), -4), ((0.05,), -2)):
        target = [PowerProfile.of(1000.0, length)]
        squared = [solve(pairs(n, lengths=lengths), target, warn_above=None).error[0] ** 2 for n in counts]
        slope = np.polyfit(np.log(counts), np.log(squared), 1)[0]
        assert slope == pytest.approx(order, abs=0.1)


def high_precision_weights(snapshots, targets, digits):
    """The normal equations as the paper has them (Eqs. 141-143, 151), with digits enough for their conditioning."""
    with mpmath.workdps(digits):
        gammas = [mpmath.mpf(p.gamma) for p in snapshots]
        times = [mpmath.mpf(p.t) for p in snapshots]

        def inner(ta, ga, tb, gb):
            if ta > tb:
                ta, ga, tb, gb = tb, gb, ta, ga
            return (ga + 1) * (gb + 1) * (ta / tb) ** gb / ((ga + gb + 1) * tb)

        n = len(snapshots)
        gram = mpmath.matrix(n, n)
        for i in range(n):
            for j in range(i + 1):
                gram[i, j] = gram[j, i] = inner(times[i], gammas[i], times[j], gammas[j])
        columns = []
        for target in targets:
            right = mpmath.matrix(
                [
                    inner(t, g, mpmath.mpf(target.t), mpmath.mpf(target.gamma))
                    for t, g in zip(times, gammas, strict=True)
                ]
            )
            columns.append([float(value) for value in mpmath.lu_solve(gram, right)])
    return np.array(columns).T


def test_weights_against_high_precision_arithmetic():
    snapshots = pairs(10)
    targets = [PowerProfile.of(1000.0, 0.03), PowerProfile.of(700.0, 0.2)]
    exact = high_precision_weights(snapshots, targets, 50)
    found = solve(snapshots, targets, normalize=False, warn_above=None).matrix
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-11 * np.abs(exact).max())


def test_512_snapshots_against_high_precision_arithmetic():
    """1024 averages, whose Gram matrix has a condition number beyond float64; solved exactly by its structure.

    Snapshots of one average are a Markov chain (Eq. 119): with D the matrix of differences p_k - beta_k p_(k-1), the
    Gram matrix D A D^T is block diagonal with one 2 x 2 block per interval, which 60 digits solve without loss.
    """
    n, end = 512, 1000
    snapshots = pairs(n, float(end))
    targets = [PowerProfile.of(1000.0, length) for length in (0.015, 0.03, 0.13, 0.25)]
    found = solve(snapshots, targets, normalize=False, warn_above=None)
    gammas = [snapshots[0].gamma, snapshots[1].gamma]
    with mpmath.workdps(60):
        times = [mpmath.mpf(snapshots[2 * k].t) for k in range(n)]
        exact = np.zeros((2 * n, len(targets)), dtype=object)
        norms = [mpmath.mpf(0)] * len(targets)

        def integral(exponent, lo, hi):
            return (hi ** (exponent + 1) - lo ** (exponent + 1)) / (exponent + 1)

        for k in range(n):
            lo, hi = times[k - 1] if k else mpmath.mpf(0), times[k]
            scale = [(mpmath.mpf(g) + 1) / hi ** (mpmath.mpf(g) + 1) for g in gammas]
            block = mpmath.matrix(2, 2)
            for i, j in itertools.product(range(2), repeat=2):
                block[i, j] = scale[i] * scale[j] * integral(mpmath.mpf(gammas[i]) + gammas[j], lo, hi)
            for column, target in enumerate(targets):
                g, t = mpmath.mpf(target.gamma), mpmath.mpf(target.t)
                factor = (g + 1) / t ** (g + 1)
                right = mpmath.matrix([scale[i] * factor * integral(g + gammas[i], lo, hi) for i in range(2)])
                c = mpmath.lu_solve(block, right)
                norms[column] += factor**2 * integral(2 * g, lo, hi) - c[0] * right[0] - c[1] * right[1]
                for i in range(2):
                    exact[2 * k + i, column] += c[i]
                    if k:
                        exact[2 * k - 2 + i, column] -= c[i] * (lo / hi) ** (mpmath.mpf(gammas[i]) + 1)
        errors = [float(mpmath.sqrt(r / inner_product(t, t))) for r, t in zip(norms, targets, strict=True)]
    exact = exact.astype(float)
    assert np.abs(found.matrix - exact).max() < 1e-10 * np.abs(exact).max()
    np.testing.assert_allclose(found.error, errors, rtol=1e-7)


def test_the_error_is_the_distance_of_the_profile_that_is_achieved():
    snapshots = pairs(12)
    target = PowerProfile.of(1000.0, 0.2)
    weights = solve(snapshots, [target], normalize=False, warn_above=None)
    achieved = DensityProfile(1000.0, lambda tau: weights.density(tau) - target.density(tau))
    edges = [0.0, *(p.t for p in snapshots[::2])]
    squared = 0.0
    for lo, hi in itertools.pairwise(edges):
        part = DensityProfile(hi, achieved.function, start=lo)
        squared += inner_product(part, part)
    assert weights.error[0] == pytest.approx(np.sqrt(squared / inner_product(target, target)), rel=1e-9)


def test_stored_lengths_are_reproduced_exactly():
    snapshots = pairs(16)
    weights = solve(snapshots, [snapshots[-1], snapshots[10]])
    expected = np.zeros((32, 2))
    expected[-1, 0] = expected[10, 1] = 1
    np.testing.assert_allclose(weights.matrix, expected, atol=1e-11)
    assert weights.error.max() < 1e-12


def test_a_traditional_average_gives_power_function_averages():
    """Section 3.2: a run that kept only an EMA with a half-life; the error shrinks with the snapshots."""
    errors = []
    for n in (32, 128, 256):
        snapshots = [ExponentialProfile(1000 * (k + 1) / n, 20.0) for k in range(n)]
        errors.append(solve(snapshots, [PowerProfile.of(1000.0, 0.10)], warn_above=None).error[0])
    assert errors == pytest.approx([0.232, 0.0612, 0.0307], rel=0.01)
    pair = [ExponentialProfile(1000 * (k + 1) / 32, h) for k in range(32) for h in (20.0, 40.0)]
    assert solve(pair, [PowerProfile.of(1000.0, 0.10)], warn_above=None).error[0] < errors[0] / 5


def test_raw_weights_as_boxes():
    boxes = [UniformProfile(10.0 * k, 10.0 * (k + 1)) for k in range(100)]
    target = PowerProfile.of(1000.0, 0.2)
    weights = solve(boxes, [target], warn_above=None)
    masses = np.diff((np.arange(101) / 100) ** (target.gamma + 1))
    np.testing.assert_allclose(weights.matrix[:, 0], masses, atol=1e-12)  # least squares in boxes: the mean over each
    assert weights.error[0] < 0.02


def test_snapshots_of_different_kinds_at_different_times():
    power = [PowerProfile.of(t, 0.05) for t in np.arange(30.0, 1000.0, 50.0)]
    exponential = [ExponentialProfile(t, 60.0) for t in np.arange(50.0, 1001.0, 50.0)]
    target = [PowerProfile.of(1000.0, 0.1)]
    both = solve([*exponential, *power], target, warn_above=None)
    assert both.error[0] < 0.7 * solve(exponential, target, warn_above=None).error[0]
    shuffled = solve([*power, *exponential][::-1], target, warn_above=None)
    assert shuffled.error[0] == pytest.approx(both.error[0], rel=1e-9)


def test_poor_fits_are_told_with_a_remedy():
    with pytest.warns(FitWarning, match="more snapshots near t = 1000 help, and so does a second length"):
        solve(pairs(16, lengths=(0.1,)), [PowerProfile.of(1000.0, 0.02)])
    with pytest.warns(FitWarning) as warned:
        solve(pairs(16), [PowerProfile.of(1000.0, 0.015)])
    assert "second length" not in str(warned[0].message)


def test_mistakes():
    with pytest.raises(ValueError, match="no snapshots"):
        solve([], [PowerProfile.of(1.0, 0.1)])
    with pytest.raises(ValueError, match="same time and length"):
        solve([PowerProfile.of(1.0, 0.1)] * 2, [PowerProfile.of(1.0, 0.1)])
    with pytest.raises(ValueError, match="cannot end at 1001: the snapshots reach from 0 to 1000"):
        solve(pairs(4), [PowerProfile.of(1001.0, 0.1)])
