"""Error tables against a case counted by hand, and laws that hold for any predictor."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plimsoll.evals.prediction_error import error_row, error_table, ordered_groups

MEASURED = np.array([100.0, 100.0, 200.0, 400.0, np.nan, 50.0])
PREDICTED = np.array([110.0, 80.0, 200.0, 500.0, 70.0, np.nan])
LOW = np.array([100.0, 70.0, 190.0, 401.0, 60.0, np.nan])
HIGH = np.array([120.0, 90.0, 210.0, 600.0, 80.0, np.nan])


def test_a_case_counted_by_hand() -> None:
    """Signed errors +10 %, -20 %, 0 %, +25 %; inside: the first (on its bound) and the third."""
    row = error_row(MEASURED, PREDICTED, LOW, HIGH)
    assert row is not None
    assert row.num_rows == 4
    assert row.median_error_fraction == pytest.approx(0.15)
    assert row.mean_error_fraction == pytest.approx(0.55 / 4)
    assert row.p90_error_fraction == pytest.approx(0.20 + 0.7 * 0.05)
    assert row.bias_fraction == pytest.approx(0.05)
    assert row.covered_fraction == 0.5


def test_groups_come_in_the_stated_order_and_empty_ones_are_left_out() -> None:
    labels = {
        "load": ["high", "low", "low", "odd", "never", "never"],
        "mode": ["b", "a", "a", "a", "a", "b"],
    }
    table = error_table(
        MEASURED, PREDICTED, LOW, HIGH, labels, order={"load": ("none", "low", "high")}
    )
    assert [(row.by, row.group, row.num_rows) for row in table] == [
        ("", "", 4),
        ("load", "low", 2),
        ("load", "high", 1),
        ("load", "odd", 1),
        ("mode", "a", 3),
        ("mode", "b", 1),
    ]
    assert table[1].bias_fraction == pytest.approx(-0.1)


def test_nothing_to_judge() -> None:
    assert error_table([np.nan], [1.0], [1.0], [1.0], {"mode": ["a"]}) == ()
    assert ordered_groups(["b", "a", "c", "c"], ("a", "z")) == ["a", "c", "b"]


POSITIVE = st.floats(1e-3, 1e6)


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=30), POSITIVE)
def test_laws(pairs: list[tuple[float, float]], scale: float) -> None:
    true, guess = (np.array(values) for values in zip(*pairs, strict=True))
    perfect = error_row(true, true, true, true)
    assert perfect is not None
    assert perfect.p90_error_fraction == perfect.bias_fraction == 0
    assert perfect.covered_fraction == 1
    one = error_row(true, guess, guess, guess)
    same = error_row(scale * true, scale * guess, scale * guess, scale * guess)
    assert one is not None and same is not None
    assert same.median_error_fraction == pytest.approx(
        one.median_error_fraction, rel=1e-9, abs=1e-9
    )
    assert abs(one.bias_fraction) <= np.abs(guess / true - 1).max() + 1e-12
    assert one.bias_fraction > -1
