"""Picking the best configuration: a case counted by hand, a second implementation, and laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from plimsoll.evals.ranking import (
    GroupRanking,
    output_rate_per_device,
    rank_groups,
    spearman,
    summarize_rankings,
)


def test_the_rate_is_littles_law() -> None:
    """10 requests in flight, each 1 s + 100 * 10 ms = 2 s: 5 requests/s, 500 tokens/s on 4."""
    assert output_rate_per_device(10, 100, 1.0, 0.01, 4) == pytest.approx(125.0)


def test_a_case_counted_by_hand() -> None:
    groups = ["x"] * 4 + ["y"] * 3 + ["z", "w", "w"]
    configurations = ["a", "b", "c", "c", "a", "b", "b", "a", "a", "b"]
    measured = [100.0, 96.0, 40.0, 60.0, 10.0, 20.0, 20.0, 1.0, 5.0, np.nan]
    predicted = [50.0, 60.0, 1.0, 3.0, 9.0, 8.0, 8.0, 1.0, 5.0, 6.0]
    x, y = rank_groups(groups, configurations, measured, predicted)
    assert (x.group, x.num_configurations, x.right) == ("x", 3, True)
    assert x.loss_fraction == pytest.approx(0.04), "picked b, 96 of 100"
    assert x.blind_fraction == pytest.approx(2 / 3), "a and b of a, b, c"
    assert x.spearman == pytest.approx(0.5)
    assert (y.num_configurations, y.right, y.spearman) == (2, False, pytest.approx(-1))
    assert y.loss_fraction == pytest.approx(0.5)
    whole = summarize_rankings([x, y])
    assert whole is not None
    assert (whole.num_groups, whole.num_configurations) == (2, 5)
    assert whole.right_fraction == 0.5
    assert whole.mean_loss_fraction == pytest.approx(0.27)
    assert whole.blind_fraction == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert whole.mean_spearman == pytest.approx(-0.25)
    assert summarize_rankings([]) is None


def test_a_predictor_that_cannot_tell_gains_nothing() -> None:
    (tied,) = rank_groups(["g"] * 3, ["a", "b", "c"], [10.0, 5.0, 8.0], [1.0, 1.0, 1.0])
    assert tied.loss_fraction == pytest.approx(0.5) and not tied.right and tied.spearman == 0


def test_just_within_the_tolerance() -> None:
    (edge,) = rank_groups(["g"] * 2, ["a", "b"], [100.0, 95.0], [1.0, 2.0])
    assert edge.right and edge.blind_fraction == 1


VALUES = st.lists(st.integers(1, 6), min_size=2, max_size=12)


@given(st.data())
def test_spearman_agrees_with_scipy(data: st.DataObject) -> None:
    first = data.draw(VALUES)
    second = data.draw(st.lists(st.integers(1, 6), min_size=len(first), max_size=len(first)))
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert spearman(first, second) == 0
    else:
        assert spearman(first, second) == pytest.approx(float(spearmanr(first, second).statistic))


@given(st.lists(st.floats(1, 100), min_size=2, max_size=9))
def test_laws(measured: list[float]) -> None:
    names = [str(k) for k in range(len(measured))]
    group = ["g"] * len(measured)
    (perfect,) = rank_groups(group, names, measured, measured)
    assert perfect.right and perfect.loss_fraction == 0
    (scaled,) = rank_groups(group, names, measured, [7 * value for value in measured])
    assert scaled == perfect
    (worst,) = rank_groups(group, names, measured, [-value for value in measured])
    assert worst.loss_fraction == pytest.approx(1 - min(measured) / max(measured))
    assert isinstance(worst, GroupRanking)
