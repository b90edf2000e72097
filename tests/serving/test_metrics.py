"""Summaries of runs: brute force, conservation, closed forms, and what is left out."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.serving.metrics import distribution, good_requests, summarize, within_bound
from plimsoll.spec.errors import SpecError
from plimsoll.spec.io import from_data, plain, read, write
from plimsoll.spec.origin import Origin
from plimsoll.spec.record import STATUS
from plimsoll.spec.slo import Slo, SloTarget
from plimsoll.spec.summary import Summary
from tests.fcfs_run import fcfs_run, poisson_run


def slo_of(*targets):
    return Slo(
        targets=tuple(
            SloTarget(metric=m, percentile=p, bound_s=b, request_class=c)
            for m, p, b, c in (t if len(t) == 4 else (*t, "") for t in targets)
        )
    )


def with_requests(record, **columns):
    return replace(record, requests=replace(record.requests, **columns))


def never_ended(record, rows, status, *, first_token=False):
    """The record with some rows ended in another way."""
    r = record.requests
    changes = {"status": r.status.copy(), "finished_s": r.finished_s.copy()}
    changes["status"][rows] = STATUS.index(status)
    changes["finished_s"][rows] = np.nan
    if not first_token:
        for name in ("first_token_s", "scheduled_s"):
            changes[name] = getattr(r, name).copy()
            changes[name][rows] = np.nan
        changes["output_tokens"] = r.output_tokens.copy()
        changes["output_tokens"][rows] = 0
    return with_requests(record, **changes)


# Percentiles


@settings(deadline=None)
@given(
    values=st.lists(st.floats(0, 1e6), min_size=1, max_size=60),
    data=st.data(),
)
def test_weighted_percentiles_equal_those_of_the_expanded_list(values, data):
    counts = data.draw(
        st.lists(st.integers(0, 5), min_size=len(values), max_size=len(values)).filter(any)
    )
    weighted = distribution(np.array(values), np.array(counts))
    expanded = np.repeat(values, counts)
    assert weighted.num_samples == len(expanded)
    for p, found in (
        (50, weighted.p50),
        (90, weighted.p90),
        (95, weighted.p95),
        (99, weighted.p99),
    ):
        assert found == np.percentile(expanded, p, method="inverted_cdf")
    assert weighted.mean == pytest.approx(expanded.mean())
    assert weighted.max == expanded.max()
    single = distribution(expanded)
    assert (single.p50, single.p99, single.max) == (weighted.p50, weighted.p99, weighted.max)


def test_of_no_finite_value_there_is_no_distribution():
    assert distribution(np.array([])) is None
    assert distribution(np.array([np.nan, np.inf])) is None
    assert distribution(np.array([1.0]), np.array([0])) is None


# Brute force on a whole run


@pytest.mark.parametrize("seed", range(3))
def test_every_quantity_against_a_plain_loop(seed):
    record, truth = poisson_run(
        num=120, rate_per_s=20.0, seed=seed, num_instances=2, meta={"num_devices": 8}
    )
    slo = slo_of(("ttft", 99, 0.06), ("tpot", 90, 0.016), ("itl", 95, 0.025), ("e2e", 50, 1.5))
    summary = summarize(record, slo)
    r, end_s = record.requests, record.end_s
    good = 0
    for i, times in enumerate(truth):
        gaps = np.diff(times)
        good += (
            times[0] - r.arrival_s[i] <= 0.06
            and times[-1] - r.arrival_s[i] <= 1.5
            and (len(gaps) == 0 or (gaps.mean() <= 0.016 and gaps.max() <= 0.025))
        )
    assert 0 < good < len(truth)
    assert summary.good_fraction == pytest.approx(good / len(truth))
    assert summary.goodput_requests_per_s == pytest.approx(good / end_s)
    assert summary.goodput_requests_per_s_per_device == pytest.approx(good / end_s / 8)
    tokens = sum(len(t) for t in truth)
    assert summary.output_tokens_per_s == pytest.approx(tokens / end_s)
    assert summary.output_tokens_per_s_per_device == pytest.approx(tokens / end_s / 8)
    assert summary.total_tokens_per_s == pytest.approx((tokens + r.prompt_tokens.sum()) / end_s)
    gaps = np.concatenate([np.diff(t) for t in truth])
    assert summary.itl_s.num_samples == len(gaps)
    assert summary.itl_s.p99 == pytest.approx(np.percentile(gaps, 99, method="inverted_cdf"))
    assert summary.itl_s.mean == pytest.approx(gaps.mean())
    speeds = [np.diff(t).mean() for t in truth if len(t) > 1]
    assert summary.tpot_s.mean == pytest.approx(np.mean(speeds))
    assert summary.tokens_per_s_per_user == pytest.approx(1 / np.mean(speeds))
    assert summary.queue_s.max == pytest.approx((r.scheduled_s - r.arrival_s).max())
    assert summary.status.finished == summary.status.total == len(truth)


def test_waiting_follows_littles_law_and_peaks_where_counting_says():
    record, _ = poisson_run(num=300, rate_per_s=60.0, max_num_seqs=8)
    summary = summarize(record, Slo())
    r = record.requests
    waits = r.scheduled_s - r.arrival_s
    assert summary.mean_waiting == pytest.approx(waits.sum() / record.end_s)
    moments = r.arrival_s
    counts = [np.count_nonzero((moments <= t) & (r.scheduled_s > t)) for t in moments]
    assert summary.peak_waiting == max(counts)


def test_clients_that_left_the_queue_at_an_unknown_time_are_not_counted_as_waiting():
    record, _ = poisson_run(num=50, rate_per_s=5.0)
    left = never_ended(record, slice(0, 5), "cancelled")
    stuck = never_ended(record, slice(0, 5), "unfinished")
    usual = summarize(record, Slo()).mean_waiting
    assert summarize(left, Slo()).mean_waiting <= usual
    since = (record.end_s - record.requests.arrival_s[:5]).sum() / record.end_s
    assert summarize(stuck, Slo()).mean_waiting == pytest.approx(
        summarize(left, Slo()).mean_waiting + since
    )


def test_tokens_of_requests_cut_short_are_all_counted_over_the_whole_run():
    record, truth = poisson_run(num=50, rate_per_s=5.0)
    cut = never_ended(record, slice(0, 5), "cancelled", first_token=True)
    total = sum(len(t) for t in truth)
    assert summarize(cut, Slo()).output_tokens_per_s * record.end_s == pytest.approx(total)


def test_the_last_token_is_inside_the_run_whatever_the_rounding():
    record, _ = poisson_run(num=50)
    later = record.requests.finished_s.copy()
    later[np.argmax(later)] = np.nextafter(record.end_s, np.inf)
    late = with_requests(record, finished_s=later)
    summary = summarize(late, Slo())
    assert summary.requests_per_s * (summary.end_s - summary.start_s) == pytest.approx(50)


def test_busy_fraction_of_pipelined_slots_counts_the_union():
    one, _ = fcfs_run([0.0], [100], [50], num_slots=1)
    two, _ = fcfs_run([0.0, 0.0], [100, 100], [50, 50], num_slots=2)
    assert summarize(one, Slo()).instances[0].busy_fraction == pytest.approx(1.0)
    assert summarize(two, Slo()).instances[0].busy_fraction == pytest.approx(1.0)
    late, _ = fcfs_run([10.0], [100], [50])
    use = summarize(late, Slo()).instances[0]
    assert use.busy_fraction == pytest.approx((late.end_s - 10) / late.end_s)


def test_kv_use_is_weighted_by_time():
    record, _ = fcfs_run([0.0, 0.0], [160, 1600], [10, 400], blocks=1000)
    use = summarize(record, Slo()).instances[0]
    s = record.steps
    until = np.append(s.start_s[1:], record.end_s)
    mean = (s.used_blocks * (until - s.start_s)).sum() / record.end_s
    assert use.kv_mean_blocks == pytest.approx(mean)
    assert use.kv_peak_blocks == s.used_blocks.max()
    assert use.kv_peak_fraction == pytest.approx(s.used_blocks.max() / 1000)
    unknown = replace(record, meta={"num_devices": 1})
    assert summarize(unknown, Slo()).instances[0].kv_mean_fraction is None


# Verdicts


def test_the_verdict_agrees_with_the_fraction_within():
    record, _ = poisson_run(num=200, rate_per_s=30.0)
    ttft = np.sort(record.requests.ttft_s)
    bound = float(ttft[179])  # exactly 90 % are at or below
    at, above = (summarize(record, slo_of(("ttft", p, bound))).targets[0] for p in (90.0, 90.5))
    assert at.met and at.within_fraction == pytest.approx(0.9) and at.observed_s == bound
    assert not above.met and above.observed_s == ttft[180]


def test_requests_that_never_got_a_token_are_late_not_left_out():
    record, _ = poisson_run(num=100, rate_per_s=5.0)
    lost = never_ended(record, slice(0, 2), "unfinished")
    loose = slo_of(("ttft", 99, 100.0))
    assert summarize(record, loose).slo_met
    verdict = summarize(lost, loose).targets[0]
    assert not verdict.met
    assert verdict.num_requests == 100
    assert verdict.within_fraction == pytest.approx(0.98)
    assert verdict.observed_s is None
    assert summarize(lost, slo_of(("ttft", 98, 100.0))).slo_met
    assert summarize(lost, loose).ttft_s.num_samples == 98


@pytest.mark.parametrize("status", [s for s in STATUS if s != "finished"])
def test_only_finished_requests_are_good(status):
    record, _ = poisson_run(num=50, rate_per_s=5.0)
    lost = never_ended(record, slice(0, 10), status, first_token=True)
    summary = summarize(lost, Slo())
    assert summary.good_fraction == pytest.approx(0.8)
    assert getattr(summary.status, status) == 10
    assert summary.slo_met is None


def test_one_token_requests_have_no_tpot_and_are_not_blamed_for_it():
    record, _ = fcfs_run([0.0, 5.0], [100, 100], [1, 1])
    summary = summarize(record, slo_of(("tpot", 99, 1e-6), ("itl", 99, 1e-6)))
    assert summary.tpot_s is None and summary.itl_s is None
    assert summary.tokens_per_s_per_user is None
    assert summary.good_fraction == 1.0 and summary.slo_met
    assert summary.targets[0].num_requests == 0 and summary.targets[0].observed_s is None


def test_a_kept_gap_column_and_the_steps_give_the_same_goodput():
    record, truth = poisson_run(num=150, rate_per_s=25.0)
    slo = slo_of(("itl", 99, 0.024))
    worst = np.array([np.diff(t).max() if len(t) > 1 else np.nan for t in truth])
    kept = with_requests(record, max_gap_s=worst)
    read_back = good_requests(record, slo)
    assert 0 < read_back.sum() < len(truth)
    np.testing.assert_array_equal(read_back, good_requests(kept, slo))
    np.testing.assert_array_equal(read_back, within_bound(record, "itl", 0.024))


@settings(deadline=None, max_examples=25)
@given(bound=st.floats(0.01, 2.0), tighter=st.floats(0.1, 1.0), seed=st.integers(0, 20))
def test_a_tighter_promise_is_never_easier_to_keep(bound, tighter, seed):
    record, _ = poisson_run(num=40, rate_per_s=20.0, seed=seed)
    loose = summarize(record, slo_of(("ttft", 90, bound), ("e2e", 90, 2 * bound)))
    tight = summarize(record, slo_of(("ttft", 90, bound * tighter), ("e2e", 90, 2 * bound)))
    assert tight.good_fraction <= loose.good_fraction <= 1
    assert tight.goodput_requests_per_s <= loose.goodput_requests_per_s <= loose.requests_per_s
    assert loose.slo_met or not tight.slo_met


# Classes


def test_targets_of_a_class_bind_that_class_alone():
    record, _ = poisson_run(
        num=60,
        rate_per_s=10.0,
        class_index=np.arange(60) % 2,
        meta={"classes": ["interactive", "batch"]},
    )
    summary = summarize(record, slo_of(("e2e", 99, 1e-3, "interactive")))
    fast, batch = summary.classes
    assert (fast.request_class, fast.good_fraction) == ("interactive", 0)
    assert (batch.request_class, batch.good_fraction) == ("batch", 1)
    assert summary.good_fraction == pytest.approx(0.5)
    assert summary.targets[0].num_requests == 30
    assert batch.goodput_requests_per_s == pytest.approx(summary.goodput_requests_per_s)


def test_a_target_for_an_unknown_class_is_refused_with_a_suggestion():
    record, _ = poisson_run(num=5, meta={"classes": ["interactive"]})
    with pytest.raises(SpecError, match="'interactve', which the workload.*Did you mean inter"):
        summarize(record, slo_of(("ttft", 99, 1.0, "interactve")))


# Window


def test_latencies_are_of_arrivals_in_the_window_and_rates_of_what_happened_in_it():
    record, truth = poisson_run(num=400, rate_per_s=20.0)
    summary = summarize(record, Slo(), warmup_s=5.0, end_s=15.0)
    r = record.requests
    arrived = (r.arrival_s >= 5) & (r.arrival_s <= 15)
    assert summary.status.total == arrived.sum()
    assert summary.ttft_s.num_samples == arrived.sum()
    ended = (r.finished_s >= 5) & (r.finished_s <= 15)
    assert summary.requests_per_s == pytest.approx(ended.sum() / 10)
    times = np.concatenate(truth)
    inside = np.count_nonzero((times >= 5) & (times <= 15))
    assert summary.output_tokens_per_s == pytest.approx(inside / 10, rel=0.01)
    assert summary.itl_s.num_samples == pytest.approx(inside - arrived.sum(), rel=0.01)


def test_tokens_of_adjacent_windows_add_up():
    record, truth = poisson_run(num=100, rate_per_s=10.0)
    middle = record.end_s / 3
    parts = summarize(record, Slo(), end_s=middle), summarize(record, Slo(), warmup_s=middle)
    total = sum(p.output_tokens_per_s * (p.end_s - p.start_s) for p in parts)
    assert total == pytest.approx(sum(len(t) for t in truth))


def test_an_empty_window_is_refused():
    record, _ = poisson_run(num=10)
    with pytest.raises(SpecError, match="window from 1000 s"):
        summarize(record, Slo(), warmup_s=1000.0)


def test_a_run_in_which_everything_was_rejected_at_once_has_no_latency_and_no_rate():
    record, _ = fcfs_run([0.0, 0.0], [10, 10], [2, 2])
    empty = replace(record.steps, **{n: getattr(record.steps, n)[:0] for n in STEP_COLUMNS})
    refused = replace(
        never_ended(record, slice(None), "rejected"),
        steps=empty,
        gap_s=np.zeros(0),
        gap_count=np.zeros(0, np.int64),
    )
    summary = summarize(refused, slo_of(("ttft", 50, 1.0)))
    assert summary.status.rejected == 2 and summary.good_fraction == 0
    assert summary.requests_per_s == 0 and summary.ttft_s is None and summary.slo_met is False


STEP_COLUMNS = tuple(fcfs_run([0.0], [1], [1])[0].steps.__dataclass_fields__)


# Saturation


def test_saturation_reports_the_overload_it_was_given():
    # One prompt at a time, 0.1 s each, one output token: the plan sustains exactly 10 req/s.
    for rate, saturated in ((7.0, False), (13.0, True), (20.0, True)):
        arrival_s = np.arange(400) / rate
        record, _ = fcfs_run(
            arrival_s, np.full(400, 10), np.ones(400, int), base_s=0.1, token_s=0.0, context_s=0.0
        )
        found = summarize(record, Slo()).saturation
        assert found.saturated is saturated
        assert found.demand_ratio == pytest.approx(max(rate / 10, 1.0), rel=0.02)
        assert found.queue_growth_per_s == pytest.approx(max(rate - 10, 0.0), abs=0.3)


def test_a_closed_loop_start_with_all_at_once_has_no_saturation_to_report():
    record, _ = fcfs_run([0.0] * 5, [10] * 5, [5] * 5)
    assert summarize(record, Slo()).saturation is None


# Plain data


def test_a_summary_round_trips_and_holds_no_nan(tmp_path):
    record, _ = poisson_run(num=30, meta={"classes": ["a"], "origin": "calibrated"})
    lost = never_ended(record, slice(0, 3), "failed")
    summary = summarize(
        lost, slo_of(("ttft", 99, 1.0), ("itl", 99, 1.0)), energy_j=100.0, usd_per_hour=8.0
    )
    assert from_data(Summary, plain(summary), where="memory") == summary
    for name in ("summary.json", "summary.yaml"):
        write(summary, tmp_path / name)
        assert read(Summary, tmp_path / name) == summary
    assert summary.origin is Origin.CALIBRATED
    tokens = lost.requests.output_tokens.sum()
    assert summary.energy_j_per_output_token == pytest.approx(100 / tokens)
    assert summary.usd_per_million_output_tokens == pytest.approx(
        8 / 3600 * lost.end_s / tokens * 1e6
    )

    def leaves(data):
        if isinstance(data, dict):
            data = list(data.values())
        if isinstance(data, list):
            for item in data:
                yield from leaves(item)
        else:
            yield data

    assert all(math.isfinite(x) for x in leaves(plain(summary)) if isinstance(x, float))


def test_the_number_of_devices_must_be_known():
    record, _ = poisson_run(num=5)
    nameless = replace(record, meta={})
    with pytest.raises(SpecError, match="number of devices is None"):
        summarize(nameless, Slo())
    assert summarize(nameless, Slo(), num_devices=4).num_devices == 4


def test_a_hundred_thousand_requests_take_under_a_second():
    rng = np.random.default_rng(0)
    n = 100_000
    record, _ = poisson_run(num=1)
    arrival_s = np.cumsum(rng.exponential(0.01, n))
    tokens = rng.integers(2, 400, n)
    ints = {
        name: np.zeros(n, np.int64)
        for name in ("cached_tokens", "preemptions", "instance", "prefill_instance", "status")
    }
    big = with_requests(
        record,
        arrival_s=arrival_s,
        scheduled_s=arrival_s + 0.1,
        first_token_s=arrival_s + 0.2,
        finished_s=arrival_s + 0.2 + tokens * 0.02,
        prompt_tokens=tokens,
        output_tokens=tokens,
        class_index=np.zeros(n, np.int64),
        session_id=np.arange(n),
        max_gap_s=np.full(n, 0.03),
        **ints,
    )
    begin = time.process_time()
    summarize(big, slo_of(("ttft", 99, 1.0), ("tpot", 99, 1.0), ("itl", 99, 1.0)))
    assert time.process_time() - begin < 1.0
