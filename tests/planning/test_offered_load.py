"""Scaled workloads keep their rows and last as long as asked at the rate asked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.planning.offered_load import at_rate, busiest_slice, take_rows
from plimsoll.spec.errors import SpecError
from tests.toy_world import steady


@given(rate=st.floats(0.1, 60), duration=st.floats(5, 300))
@settings(deadline=None, max_examples=40)
def test_rate_and_duration_are_as_asked(rate, duration):
    base = steady(4.0, 300)
    scaled = at_rate(base, rate, duration)
    assert len(scaled) == max(2, round(rate * duration))
    if len(scaled) > 10:
        assert scaled.rate_per_s == pytest.approx(len(scaled) / duration, rel=1e-6)
        assert scaled.duration_s < duration
    if len(scaled) >= len(base):
        rows = np.arange(len(scaled)) % len(base)
        assert np.array_equal(scaled.prompt_tokens, base.prompt_tokens[rows])


def test_a_fixed_time_means_more_requests_at_a_higher_rate():
    base = steady(4.0, 300)
    assert len(at_rate(base, 8, 100)) == 2 * len(at_rate(base, 4, 100))


def test_bursts_keep_their_shape():
    base = steady(4.0, 300)
    gaps = np.diff(base.arrival_s)
    scaled = np.diff(at_rate(base, 2.0, 150.0).arrival_s)
    assert scaled / scaled.mean() == pytest.approx(gaps / gaps.mean())


@given(count=st.integers(2, 299))
@settings(deadline=None, max_examples=60)
def test_a_short_probe_takes_each_row_once_from_all_over_the_trace(count):
    base = steady(4.0, 300).with_changes(prompt_tokens=np.arange(1, 301))
    rows = at_rate(base, 1.0, float(count)).prompt_tokens
    assert len(rows) == count
    assert np.all(np.diff(rows) > 0)
    if count >= 100:
        assert rows[0] == 1 and rows[-1] == 300


def test_prefix_keys_follow_their_rows():
    base = steady(4.0, 4).with_changes(
        prefix_keys=np.array([1, 2, 3, 1, 5]),
        prefix_start=np.array([0, 2, 3, 3, 5]),
        prefix_block_tokens=16,
    )
    taken = take_rows(base, np.array([0, 3]))
    assert taken.prefix_keys.tolist() == [1, 2, 1, 5]
    assert taken.prefix_start.tolist() == [0, 2, 4]
    doubled = at_rate(base, 8.0, 1.0)
    assert doubled.prefix_keys.tolist() == [1, 2, 3, 1, 5] * 2


def test_the_busiest_slice_is_the_densest_window():
    times = np.concatenate([np.arange(50.0), 50 + 0.1 * np.arange(30), 60 + np.arange(50.0)])
    base = steady(1.0, len(times)).with_changes(arrival_s=times)
    part = busiest_slice(base, 30)
    assert part.duration_s == pytest.approx(2.9)
    assert "busiest 30 of 130" in part.notes[-1]
    assert busiest_slice(base, 1000) is base


@pytest.mark.parametrize(("rate", "duration"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 5.0)])
def test_nonsense_is_refused(rate, duration):
    with pytest.raises(SpecError, match="above zero"):
        at_rate(steady(), rate, duration)


def test_a_closed_loop_has_no_rate():
    with pytest.raises(SpecError, match="closed loop"):
        at_rate(steady().with_changes(num_in_flight=4), 1.0, 10.0)


def test_requests_without_times_are_offered_at_random():
    """Work that is all there at the start would otherwise be probed on evenly spaced arrivals."""
    base = steady(4.0, 300).with_changes(arrival_s=np.zeros(300))
    offered = at_rate(base, 2.0, 2000.0)
    gaps = np.diff(offered.arrival_s)
    assert len(offered) == 4000
    assert gaps.mean() == pytest.approx(0.5, rel=0.01)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)
