"""Effective throughput against a plain loop and hand-made cases."""

import time
from dataclasses import replace

import numpy as np
import pytest

from plimsoll.evals.serving import effective_throughput, worst_average_gaps
from plimsoll.spec.errors import SpecError
from plimsoll.spec.record import StepColumns
from tests.fcfs_run import fcfs_run, poisson_run


def plain_worst(times):
    gaps = np.diff(times)
    average = worst = gaps[0]
    for gap in gaps[1:]:
        average = 0.9 * average + 0.1 * gap
        worst = max(worst, average)
    return worst


def paced(gaps):
    """The record of one request with these gaps, one step row each after the prompt's."""
    record, _ = fcfs_run([0.0], [1024], [len(gaps) + 1])
    first_s = 0.1
    ends = first_s + np.cumsum(gaps)
    ints = {
        name: np.full(len(gaps), value, dtype=np.int64)
        for name, value in (
            ("instance", 0),
            ("slot", 0),
            ("num_steps", 1),
            ("num_decodes", 1),
            ("decode_context", 1024),
            ("prefill_tokens", 0),
            ("prefill_seqs", 0),
            ("prefill_context", 0),
            ("used_blocks", 65),
            ("num_waiting", 0),
        )
    }
    zero = np.zeros(len(gaps))
    steps = StepColumns(start_s=ends - gaps, step_s=gaps, growth_s=zero, stall_s=zero, **ints)
    times = {"first_token_s": np.array([first_s]), "finished_s": ends[-1:]}
    return replace(record, steps=steps, requests=replace(record.requests, **times))


def test_the_table_of_averages_equals_the_plain_loop():
    record, truth = poisson_run(num=120, rate_per_s=8.0, num_instances=2)
    found = worst_average_gaps(record)
    expected = [plain_worst(t) if len(t) > 1 else np.nan for t in truth]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_thresholds_split_at_the_speed_of_a_steady_stream():
    # One request, constant step of 0.2 s: 5 tokens/s, so it passes 2 and 4 and fails 6.
    record, _ = fcfs_run([0.0], [1024], [30], base_s=0.2, token_s=1e-4, context_s=0.0)
    rows = effective_throughput(record)
    assert [r.tokens_per_s for r in rows] == [2, 4, 6]
    assert [r.missed_fraction for r in rows] == [0, 0, 1]
    assert rows[0].requests_per_s == pytest.approx(1 / record.end_s)


def test_a_late_first_token_misses_whatever_the_generation_speed():
    # 0.2 s for 100 prompt tokens is more than 100/512 s = 0.195 s; 110 tokens have 0.215 s.
    late, _ = fcfs_run([0.0], [100], [5], base_s=0.2, token_s=0.0, context_s=0.0)
    fine, _ = fcfs_run([0.0], [110], [5], base_s=0.2, token_s=0.0, context_s=0.0)
    assert effective_throughput(late)[0].prompt_missed_fraction == 1
    assert effective_throughput(late)[0].requests_per_s == 0
    assert effective_throughput(fine)[0].missed_fraction == 0


def test_one_long_pause_passes_where_many_do_not():
    # The average forgives one gap of ten times the usual: 0.1 * 1.0 + 0.9 * 0.1 = 0.19 s < 0.25 s.
    gaps = np.full(40, 0.1)
    gaps[20] = 1.0
    once = paced(gaps)
    assert worst_average_gaps(once) == pytest.approx([0.19])
    assert [row.missed_fraction for row in effective_throughput(once)] == [0, 0, 1]
    gaps[20:24] = 1.0
    often = paced(gaps)
    assert worst_average_gaps(often) == pytest.approx([1 - 0.9**5])
    assert [row.missed_fraction for row in effective_throughput(often)] == [0, 1, 1]


def test_a_lower_threshold_never_loses_requests():
    record, _ = poisson_run(num=150, rate_per_s=40.0, base_s=0.2)
    rates = [
        r.requests_per_s
        for r in effective_throughput(record, thresholds_tokens_per_s=(1, 2, 3, 4, 5, 6))
    ]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1]


def test_512_requests_of_128_tokens_take_well_under_a_second():
    rng = np.random.default_rng(1)
    record, _ = fcfs_run(np.zeros(512), rng.integers(1000, 3000, 512), np.full(512, 128))
    begin = time.process_time()
    effective_throughput(record)
    assert time.process_time() - begin < 1.0


def test_bounds_that_make_no_sense_are_refused():
    record, _ = fcfs_run([0.0], [100], [5])
    with pytest.raises(SpecError, match="threshold is 0"):
        effective_throughput(record, thresholds_tokens_per_s=(0,))
    with pytest.raises(SpecError, match="duration_s is -1"):
        effective_throughput(record, duration_s=-1)
