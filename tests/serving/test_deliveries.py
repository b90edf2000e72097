"""Token times read back from step rows against the engine's own log."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from plimsoll.serving.deliveries import Deliveries, token_times
from plimsoll.spec.errors import ExecutionError
from tests.fcfs_run import fcfs_run, poisson_run
from tests.serving.clusters import CLOCK, POLICIES, disagg, executor, poisson

SHAPES = st.fixed_dictionaries(
    {
        "num": st.integers(1, 40),
        "rate_per_s": st.sampled_from([0.5, 5.0, 50.0]),
        "seed": st.integers(0, 1000),
        "num_instances": st.integers(1, 3),
        "num_slots": st.integers(1, 2),
        "max_num_seqs": st.sampled_from([1, 4, 64]),
        "context_s": st.sampled_from([0.0, 1e-7]),
    }
)


@settings(deadline=None, max_examples=40)
@given(shape=SHAPES)
def test_times_and_worst_gaps_are_the_engines_own(shape):
    record, truth = poisson_run(**shape)
    deliveries = Deliveries(record)
    for i, expected in enumerate(truth):
        np.testing.assert_allclose(deliveries.times(i), expected, rtol=0, atol=1e-9)
    expected = [np.diff(t).max() if len(t) > 1 else np.nan for t in truth]
    np.testing.assert_allclose(deliveries.max_gaps(), expected, rtol=0, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(shape=SHAPES, low=st.floats(0, 1), width=st.floats(0, 1))
def test_gaps_of_a_window_are_those_that_ended_in_it(shape, low, width):
    record, truth = poisson_run(**shape)
    start_s, end_s = low * record.end_s, (low + width) * record.end_s
    ended = np.concatenate([t[1:] for t in truth])
    for edge_s in (start_s, end_s):  # which side of it a token is, rounding may say
        assume(not (np.abs(ended - edge_s) < 1e-9).any() or edge_s in (0.0, record.end_s))
    gaps = np.concatenate([np.diff(t) for t in truth])[(ended >= start_s) & (ended <= end_s)]
    found, counts = Deliveries(record).gaps_between(start_s, end_s)
    assert counts.sum() == len(gaps)
    np.testing.assert_allclose(np.sort(np.repeat(found, counts)), np.sort(gaps), atol=1e-9)


def test_gaps_of_the_whole_run_agree_with_the_records_own_samples():
    record, _ = poisson_run(num=100, rate_per_s=10.0)
    kept, kept_counts = record.itl_samples()
    found, counts = Deliveries(record).gaps_between(0.0, record.end_s)
    assert counts.sum() == kept_counts.sum()
    np.testing.assert_allclose(
        np.sort(np.repeat(found, counts)), np.sort(np.repeat(kept, kept_counts)), atol=1e-9
    )


def test_a_decode_instance_that_waited_for_the_kv_gives_only_the_tokens_after_it():
    record, truth = fcfs_run([0.0, 0.0], [100, 100], [50, 20])
    # The second request's prompt ran elsewhere and was done before the first one even started.
    first_token_s = record.requests.first_token_s.copy()
    first_token_s[1] = 0.001
    handed_over = replace(record, requests=replace(record.requests, first_token_s=first_token_s))
    times = token_times(handed_over, 1)
    assert times[0] == 0.001
    np.testing.assert_allclose(times[1:], truth[1][1:], atol=1e-9)


def test_a_park_leaves_out_the_steps_inside_it():
    record, truth = fcfs_run([0.0, 0.0], [100, 100], [50, 20])
    start_s, end_s = truth[1][4], truth[1][9]
    output_tokens = record.requests.output_tokens.copy()
    output_tokens[1] -= 5
    parked = replace(
        record,
        requests=replace(record.requests, output_tokens=output_tokens),
        park_request=np.array([1]),
        park_start_s=np.array([start_s]),
        park_end_s=np.array([end_s]),
    )
    expected = np.concatenate([truth[1][:5], truth[1][10:]])
    np.testing.assert_allclose(token_times(parked, 1), expected, atol=1e-9)
    assert Deliveries(parked).max_gaps()[1] == pytest.approx(np.diff(expected).max())


def test_a_token_sampled_by_a_recomputed_prompt_falls_at_the_end_of_its_park():
    record, truth = fcfs_run([0.0, 0.0], [100, 100], [50, 20])
    output_tokens = record.requests.output_tokens.copy()
    output_tokens[1] -= 4
    back_s = (truth[1][9] + truth[1][10]) / 2
    parked = replace(
        record,
        requests=replace(record.requests, output_tokens=output_tokens),
        park_request=np.array([1]),
        park_start_s=np.array([truth[1][4]]),
        park_end_s=np.array([back_s]),
    )
    expected = np.concatenate([truth[1][:5], [back_s], truth[1][10:]])
    np.testing.assert_allclose(token_times(parked, 1), expected, atol=1e-9)


def test_a_record_that_lost_steps_is_refused_by_name():
    record, _ = fcfs_run([0.0], [100], [50])
    tokens = record.requests.output_tokens + 7
    cut = replace(record, requests=replace(record.requests, output_tokens=tokens))
    with pytest.raises(ExecutionError, match="request 0: its row says 57 .* show 50"):
        token_times(cut, 0)


def simulated_runs():
    for name, policy in POLICIES.items():
        yield name, lambda p=policy: executor(p).run(poisson(200, rate=6.0))
        yield (
            f"{name}-tight",
            lambda p=policy: executor(p, num_blocks=300).run(poisson(200, rate=6.0)),
        )
    staged = replace(CLOCK, num_stages=3)
    yield (
        "pipeline",
        lambda: executor(POLICIES["chunked"], clock=staged).run(poisson(200, rate=6.0)),
    )
    yield "handed-over", lambda: disagg(prefills=2, decodes=2).run(poisson(200, rate=6.0))


@pytest.mark.parametrize(
    "run", [r for _, r in simulated_runs()], ids=[n for n, _ in simulated_runs()]
)
def test_the_simulators_own_worst_gaps_are_found_again_in_its_steps(run):
    record = run()
    deliveries = Deliveries(record)
    kept, found = record.requests.max_gap_s, deliveries.max_gaps()
    parked = np.zeros(len(kept), dtype=bool)
    parked[record.park_request] = True
    np.testing.assert_allclose(found[~parked], kept[~parked], rtol=0, atol=1e-7)
    for i in np.flatnonzero(~parked):
        assert np.all(np.diff(deliveries.times(int(i))) > 0)
    if not parked.any():
        gaps, counts = deliveries.gaps_between(0.0, record.end_s)
        own, own_counts = record.itl_samples()
        assert counts.sum() == own_counts.sum() == (record.requests.output_tokens - 1).sum()
        assert np.dot(gaps, counts) == pytest.approx(np.dot(own, own_counts))
