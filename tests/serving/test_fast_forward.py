"""Runs of equal steps are a shortcut, never a different result: the plain loop is the oracle."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.cost.clock import LinearClock
from plimsoll.serving.executors.simulated import Fault
from tests.serving.clusters import POLICIES, assert_same, disagg, executor, poisson


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), rate=st.floats(0.5, 30), num_blocks=st.integers(90, 800))
def test_fast_forward_equals_stepping(name, seed, rate, num_blocks):
    rng = np.random.default_rng(seed)
    workload = poisson(40, rate=rate, seed=seed).with_changes(
        cancel_after_s=np.where(rng.random(40) < 0.2, rng.uniform(0.1, 5, 40), np.inf)
    )
    runs = [
        executor(POLICIES[name], num_blocks=num_blocks, fast_forward=fast).run(workload)
        for fast in (True, False)
    ]
    assert_same(*runs)
    fast_gaps, slow_gaps = (expanded(run) for run in runs)
    assert np.allclose(fast_gaps, slow_gaps, atol=1e-9)
    assert len(runs[0].steps) <= len(runs[1].steps)


def expanded(record):
    gaps, counts = record.itl_samples()
    return np.sort(np.repeat(gaps, counts))


def test_fast_forward_saves_events():
    workload = poisson(200, rate=2, output=400)
    fast, slow = (
        executor(POLICIES["chunked"], fast_forward=f).run(workload) for f in (True, False)
    )
    assert len(fast.steps) < 0.1 * len(slow.steps)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), down=st.floats(0.1, 4))
def test_fast_forward_equals_stepping_when_disaggregated_and_faulty(seed, down):
    workload = poisson(40, rate=10, seed=seed)
    faults = (Fault(instance=2, down_at_s=down, up_at_s=down + 1),)
    assert_same(
        *(
            disagg(prefills=2, decodes=2, num_blocks=250, faults=faults, fast_forward=f).run(
                workload
            )
            for f in (True, False)
        )
    )


class KinkedClock(LinearClock):
    """Decode time with a kink in the middle: the run must stop at the end of each line."""

    def step_s(self, chunks, num_decodes, decode_context):
        base, slope, _ = self.decode_line(num_decodes, decode_context)
        return base + slope * decode_context + sum(1e-4 * new for new, _ in chunks)

    def decode_line(self, num_decodes, decode_context):
        if decode_context <= 3000:
            return 0.01, 1e-6, 3000
        return 0.004, 3e-6, 2**62


def test_runs_end_at_the_kinks_of_the_clock():
    workload = poisson(40, rate=3, output=200)
    assert_same(
        *(
            executor(POLICIES["chunked"], clock=KinkedClock(), fast_forward=f).run(workload)
            for f in (True, False)
        )
    )


class FlatThenRisingClock(KinkedClock):
    """No slope at first: a run must stop at the end of a flat piece too."""

    def decode_line(self, num_decodes, decode_context):
        if decode_context <= 3000:
            return 0.01, 0.0, 3000
        return 0.004, 3e-6, 2**62


def test_runs_end_where_a_flat_piece_ends():
    workload = poisson(40, rate=3, output=200)
    assert_same(
        *(
            executor(POLICIES["chunked"], clock=FlatThenRisingClock(), fast_forward=f).run(workload)
            for f in (True, False)
        )
    )


def test_the_end_of_a_run_is_when_the_last_thing_happened():
    workload = poisson(5, rate=5).with_changes(cancel_after_s=np.full(5, 1e6))
    record = executor(POLICIES["chunked"]).run(workload)
    assert record.meta["end_s"] == pytest.approx(record.requests.finished_s.max())
