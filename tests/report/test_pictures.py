"""Pictures and reports as data: they round-trip, and those of a run say what the run says."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plimsoll.report.document import Report
from plimsoll.report.from_run import cdf_series, latency_cdf, request_timeline
from plimsoll.serving.metrics import good_requests
from plimsoll.spec.errors import SpecError
from plimsoll.spec.io import from_data, plain, read, write
from tests.fcfs_run import fcfs_run, poisson_run
from tests.report_pictures import SLO, full_report, runs


def test_a_report_with_every_picture_round_trips(tmp_path):
    report = full_report()
    assert from_data(Report, plain(report), where="memory") == report
    write(report, tmp_path / "report.json")
    assert read(Report, tmp_path / "report.json") == report


def test_an_unknown_kind_of_picture_is_refused_by_path():
    data = plain(full_report())
    data["pictures"][2]["kind"] = "pie"
    with pytest.raises(SpecError, match=r"pictures\.2"):
        from_data(Report, data, where="report.json")


@given(
    values=st.lists(st.floats(0, 1e3) | st.just(float("nan")), min_size=1, max_size=400),
    bound_s=st.floats(0, 1e3),
)
def test_a_thinned_distribution_never_lies(values, bound_s):
    values = np.array(values)
    s = cdf_series("run", values, bound_s=bound_s)
    assert s.num_samples == len(values)
    for value, fraction in zip(s.values_s, s.fractions, strict=True):
        assert fraction == pytest.approx(np.count_nonzero(values <= value) / len(values))
    assert list(s.values_s) == sorted(set(s.values_s))
    finite = values[np.isfinite(values)]
    if len(finite):
        assert s.values_s[-1] == finite.max()
        assert s.within_fraction == pytest.approx(np.count_nonzero(finite <= bound_s) / len(values))


def test_weights_count_as_copies():
    rng = np.random.default_rng(0)
    values, counts = rng.random(50), rng.integers(0, 9, 50)
    weighted = cdf_series("run", values, counts=counts, bound_s=0.5)
    assert weighted == cdf_series("run", np.repeat(values, counts), bound_s=0.5)


def test_a_cdf_of_the_tail_keeps_it():
    values = np.concatenate([np.full(9_990, 0.1), np.linspace(1, 10, 10)])
    s = cdf_series("run", values)
    assert [v for v in s.values_s if v > 9] and len(s.values_s) >= 10


def test_the_title_of_a_cdf_is_its_claim():
    picture = latency_cdf(runs(), "ttft", SLO)
    assert picture.title == "TTFT within 500 ms: 100 % (2 replicas), 62.2 % (1 replica)"
    assert latency_cdf(runs(), "itl", SLO).title.startswith("ITL of ")


def test_the_itl_of_a_run_is_over_deliveries():
    record, truth = poisson_run(num=40)
    picture = latency_cdf({"run": record}, "itl", SLO)
    assert picture.series[0].num_samples == sum(len(t) - 1 for t in truth)


def test_spans_of_a_request_follow_on_and_cover_its_life():
    record, _ = poisson_run(num=60, rate_per_s=30.0, max_num_seqs=8)
    picture = request_timeline(record, good_requests(record, SLO))
    r = record.requests
    assert len(picture.rows) == 60
    for row in picture.rows:
        i = row.request_id
        assert row.spans[0].start_s == r.arrival_s[i]
        assert row.spans[-1].end_s == r.finished_s[i]
        for one, two in zip(row.spans, row.spans[1:], strict=False):
            assert one.end_s == two.start_s
    assert any(s.kind == "queue" for row in picture.rows for s in row.spans)


def test_a_park_shows_as_preempted():
    record, truth = fcfs_run([0.0], [100], [20])
    parked = replace(
        record,
        park_request=np.array([0]),
        park_start_s=np.array([truth[0][5]]),
        park_end_s=np.array([truth[0][9]]),
    )
    row = request_timeline(parked, np.array([True])).rows[0]
    assert [s.kind for s in row.spans] == ["prefill", "decode", "preempted", "decode"]
    assert (row.spans[2].start_s, row.spans[2].end_s) == (truth[0][5], truth[0][9])


def test_the_late_filter_and_the_limit_say_what_they_leave_out():
    record, _ = poisson_run(num=80, rate_per_s=60.0, max_num_seqs=4)
    good = good_requests(record, SLO)
    assert 0 < good.sum() < 80
    late = request_timeline(record, good, late_only=True, most_rows=5)
    assert all(row.late for row in late.rows) and len(late.rows) == 5
    assert late.num_late == np.count_nonzero(~good)
    assert late.notes == (f"first 5 of {np.count_nonzero(~good)} requests",)
    assert late.title == f"{np.count_nonzero(~good)} of 80 requests missed a target"
