"""Scores of forecasts: by hand, over gaps, and where they mean nothing."""

import functools
from dataclasses import dataclass

import numpy as np
import pytest

from plimsoll.evals.series import mape, mase, mean_nll, score_series
from plimsoll.spec.errors import SpecError

NAN = np.nan


@dataclass
class Normal:
    """Says a unit Gaussian around 0 of normalised points."""

    mean: np.ndarray
    scale: np.ndarray
    horizon: int

    def median(self):
        return np.repeat(self.mean, self.horizon, axis=1)

    def log_density(self, future):
        return -0.5 * np.log(2 * np.pi) - 0.5 * ((future - self.mean) / self.scale) ** 2


def said(mean, scale, context, horizon):
    return Normal(mean, scale, horizon)


def test_mape_by_hand_without_gaps_and_zeros():
    actual = np.array([[2.0, 4.0, NAN, 0.0]])
    assert mape(actual, np.array([[1.0, 5.0, 9.0, 7.0]])) == pytest.approx(100 * (0.5 + 0.25) / 2)


def test_mase_of_the_last_value_is_one_on_a_straight_line():
    context = np.arange(10.0)[None]
    ahead = np.array([[10.0]])
    assert mase(ahead, np.array([[9.0]]), context) == pytest.approx(1.0)
    assert mase(ahead, np.array([[9.0]]), context, season=2) == pytest.approx(0.5)


def test_mase_leaves_series_out_that_do_not_move():
    context = np.array([[3.0, 3.0, 3.0], [0.0, 1.0, 2.0]])
    actual = np.array([[3.0], [3.0]])
    assert mase(actual, actual + 2.0, context) == pytest.approx(2.0)
    with pytest.raises(SpecError, match="no series changes in its context"):
        mase(actual[:1], actual[:1], context[:1])
    holed = np.array([[0.0, NAN, 2.0, 3.0]])
    assert mase(np.array([[4.0]]), np.array([[3.0]]), holed) == pytest.approx(1.0)


def test_scores_that_mean_nothing_are_refused():
    with pytest.raises(SpecError, match="use MASE"):
        mape(np.zeros((1, 3)), np.ones((1, 3)))
    with pytest.raises(SpecError, match="shape"):
        mape(np.ones((1, 3)), np.ones((1, 2)))
    with pytest.raises(SpecError, match="a season of 4 points"):
        mase(np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 4)), season=4)
    with pytest.raises(SpecError, match="no point to score"):
        mean_nll(np.full((2, 2), NAN))


def test_the_true_law_has_no_excess_whatever_the_unit():
    """The same series in another unit: another density, the same nats above the bound."""
    rng = np.random.default_rng(0)
    for unit in (1.0, 1000.0):
        future = 5 * unit + unit * rng.normal(size=(4_000, 3))
        context = 5 * unit + unit * rng.normal(size=(4_000, 8))
        mean, scale = np.full((4_000, 1), 5 * unit), np.full((4_000, 1), unit)
        bound = np.full((4_000, 3), 0.5 * np.log(2 * np.pi * np.e) + np.log(unit))
        truth = functools.partial(said, mean, scale)
        found = score_series(truth, context, future, bound)
        assert found.excess.mean() == pytest.approx(0.0, abs=0.02)
        assert found.nll - found.bound == pytest.approx(found.excess.mean(), abs=1e-9)
        assert found.bound == pytest.approx(1.4189, abs=1e-4)


def test_points_that_are_missing_count_nowhere():
    future = np.array([[5.0, NAN], [6.0, 5.0]])
    context = np.array([[4.0, 6.0], [4.0, 6.0]])
    ones = np.ones((2, 1))
    found = score_series(functools.partial(said, 5 * ones, ones), context, future, np.zeros((2, 2)))
    least = 0.5 * np.log(2 * np.pi)
    assert found.nll == pytest.approx(least + 0.5 / 3)
    assert found.excess == pytest.approx([least, least + 0.25])
