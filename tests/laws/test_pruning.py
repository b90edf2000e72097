"""The solved perceptron: limits, published points, quadrature near R = 1, and refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import erfcinv, ndtr

from plimsoll.laws.pruning import pareto, perceptron, perceptron_error
from plimsoll.spec.errors import SpecError


@pytest.mark.parametrize(
    ("alpha", "f", "error"),
    [
        (2, 1, 0.1885),
        (4, 1, 0.1137),
        (4, 0.6, 0.1191),
        (2, 0.3, 0.4326),
        (8, 0.3, 0.0715),
        (20, 0.15, 0.0262),
        (30, 0.1, 0.0176),
        (3, 1, 0.1428),
    ],
)
def test_known_points(alpha, f, error):
    assert perceptron_error(alpha, f) == pytest.approx(error, abs=6e-5)


@settings(max_examples=10, deadline=None)
@given(alpha=st.floats(0.3, 20), f=st.floats(0.05, 1))
def test_more_of_the_same_kind_never_hurts(alpha, f):
    less, more = perceptron(alpha, f), perceptron(alpha * 1.3, f)
    assert 0 < more.error < less.error < 0.5
    assert more.margin < less.margin
    assert less.error == pytest.approx(np.arccos(less.overlap) / np.pi, abs=1e-6)


def test_all_examples_are_the_limit_of_almost_all():
    assert perceptron_error(3.0, 1 - 1e-9) == pytest.approx(perceptron_error(3.0, 1.0), abs=1e-5)


def test_examples_at_random_follow_the_known_law_of_many():
    """The perceptron of largest margin: error times alpha tends to 0.50 (arXiv cond-mat)."""
    scaled = [a * perceptron_error(a, 1.0) for a in (50.0, 100.0, 200.0)]
    assert scaled[-1] == pytest.approx(0.50, abs=0.01)
    assert abs(scaled[2] - scaled[1]) < abs(scaled[1] - scaled[0])


def residuals(point, alpha_tot, f):
    """Both equations by adaptive quadrature that is told where the integrands bend."""
    r, s, kappa = point.overlap, 1 - point.overlap**2, point.margin
    gamma = np.sqrt(2) * erfcinv(1 - f)
    width = np.sqrt(s)
    bends = [0.0, gamma / r]
    near = [b + k * width for b in bends for k in (-8, -3, -1, 0, 1, 3, 8)]

    def bell(t):
        plain = np.exp(-(r**2) * t**2 / (2 * s))
        return plain - np.exp(-(r**2 * t**2 + gamma * (gamma - 2 * r * t)) / (2 * s))

    def share(t):
        return ndtr(r * t / width) - ndtr((r * t - gamma) / width)

    def integral(function, power):
        cuts = sorted({-12.0, kappa, *[c for c in near if -12 < c < kappa]})
        return sum(
            quad(
                lambda t: (
                    np.exp(-t * t / 2) / np.sqrt(2 * np.pi) * function(t) * (kappa - t) ** power
                ),
                a,
                b,
                epsabs=1e-15,
                epsrel=1e-11,
            )[0]
            for a, b in zip(cuts[:-1], cuts[1:], strict=True)
        )

    first = 2 * alpha_tot / np.sqrt(2 * np.pi * s) * integral(bell, 1)
    return first / r - 1, 2 * alpha_tot * integral(share, 2) / s - 1


@pytest.mark.parametrize(("alpha", "f"), [(4.0, 0.6), (20.0, 0.15), (100.0, 0.1), (400.0, 0.03)])
def test_the_solution_solves_both_equations_near_one(alpha, f):
    point = perceptron(alpha, f)
    assert np.abs(residuals(point, alpha, f)).max() < 1e-5


def test_the_error_does_not_floor():
    """A quadrature that misses the bend of width sqrt(1 - R²) stops near 0.005."""
    errors = [perceptron_error(a, 0.1) for a in (50.0, 100.0, 200.0, 400.0)]
    assert (np.diff(errors) < 0).all()
    assert errors[-1] < 0.0015


def test_alpha_counts_the_kept_examples():
    """Ten times the examples with a tenth kept is another problem than as many with all kept."""
    assert perceptron_error(30.0, 0.1) < perceptron_error(3.0, 1.0) / 5
    assert perceptron_error(3.0, 0.1) > perceptron_error(0.3, 1.0)


def test_the_best_fraction_falls_as_data_grow():
    points = [pareto(a, np.array([0.05, 0.1, 0.3, 0.6, 1.0])) for a in (0.8, 1.6, 2.4)]
    fractions = [p.fraction for p in points]
    assert fractions == sorted(fractions, reverse=True) and fractions[0] == 1.0
    assert all(p.error <= p.random_error for p in points)
    assert points[2].error < points[2].random_error / 10


@pytest.mark.parametrize(
    ("alpha", "f", "message"),
    [
        (2.0, 0.0, "fraction kept of 0"),
        (2.0, 1.2, "fraction kept of 1.2"),
        (2.0, float("nan"), "fraction kept of nan"),
        (0.0, 0.5, "0 examples a dimension"),
        (float("inf"), 0.5, "inf examples a dimension"),
    ],
)
def test_what_cannot_be(alpha, f, message):
    with pytest.raises(SpecError, match=message):
        perceptron_error(alpha, f)
