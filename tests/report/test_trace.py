"""Chrome traces: valid JSON by the format's rules, and the run's own times."""

import json
from collections import defaultdict

import numpy as np
import pytest

from plimsoll.report.trace import trace_events, write_trace
from plimsoll.spec.errors import SpecError
from tests.fcfs_run import poisson_run


def test_the_file_is_json_with_the_keys_that_each_phase_needs(tmp_path):
    record, _ = poisson_run(num=50, num_instances=2, num_slots=2)
    power = (np.array([0.0, 1.0]), np.array([300.0, 650.0]))
    write_trace(record, tmp_path / "trace.json", counters={"power (W)": power})
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert trace["displayTimeUnit"] == "ms"
    assert trace["otherData"]["note"] == "the whole run"
    assert {e["ph"] for e in trace["traceEvents"]} == {"X", "C", "M"}
    for event in trace["traceEvents"]:
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int)
        assert isinstance(event["name"], str)
        if event["ph"] in "XC":
            assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
        if event["ph"] == "C":
            assert all(isinstance(v, float) for v in event["args"].values())
    watts = [e["args"]["W"] for e in trace["traceEvents"] if e["name"] == "power (W)"]
    assert watts == [300.0, 650.0]


def test_every_process_and_thread_that_is_used_has_a_name():
    record, _ = poisson_run(num=50, num_instances=2, num_slots=2)
    events = trace_events(record)["traceEvents"]
    named = {(e["pid"], e["tid"]) for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert {(e["pid"], e["tid"]) for e in events if e["ph"] == "X"} <= named
    assert {e["pid"] for e in events} == set(processes)
    assert {"requests", "instance 0", "instance 1"} == set(processes.values())


def test_spans_of_a_thread_do_not_overlap():
    record, _ = poisson_run(num=200, rate_per_s=40.0, num_instances=2)
    threads = defaultdict(list)
    for e in trace_events(record)["traceEvents"]:
        if e["ph"] == "X":
            threads[e["pid"], e["tid"]].append((e["ts"], e["ts"] + e["dur"]))
    for spans in threads.values():
        spans.sort()
        for (_, end), (start, _) in zip(spans, spans[1:], strict=False):
            assert start >= end - 0.002  # times are rounded to a nanosecond


def test_step_events_carry_the_whole_run():
    record, _ = poisson_run(num=80)
    events = [e for e in trace_events(record)["traceEvents"] if e.get("cat") == "step"]
    assert len(events) == len(record.steps)
    assert sum(e["dur"] for e in events) == pytest.approx(record.steps.duration_s.sum() * 1e6)
    assert sum(e["args"]["prefill_tokens"] for e in events) == record.requests.prompt_tokens.sum()
    tokens = sum(e["args"]["steps"] * e["args"]["decodes"] for e in events)
    assert tokens == (record.requests.output_tokens - 1).sum()


def test_request_events_carry_each_latency():
    record, _ = poisson_run(num=30)
    life = defaultdict(float)
    for e in trace_events(record)["traceEvents"]:
        if e.get("cat") == "request":
            life[e["args"]["request"]] += e["dur"]
    for i, e2e_s in enumerate(record.requests.e2e_s):
        assert life[i] == pytest.approx(e2e_s * 1e6, abs=0.01)


def test_a_cut_trace_is_short_and_says_where_it_ends():
    record, _ = poisson_run(num=500, rate_per_s=20.0)
    trace = trace_events(record, max_events=300)
    timed = [e for e in trace["traceEvents"] if e["ph"] in "XC"]
    assert 200 <= len(timed) <= 400
    assert trace["otherData"]["note"].startswith("cut at ")
    marks = [e for e in trace["traceEvents"] if e["ph"] == "i"]
    assert len(marks) == 1 and "raise the cap" in marks[0]["name"]
    starts = [e["ts"] for e in timed if e.get("cat") == "step"]
    assert max(starts) < marks[0]["ts"]


def test_a_cap_of_nothing_is_refused():
    record, _ = poisson_run(num=1)
    with pytest.raises(SpecError, match="max_events is 0"):
        trace_events(record, max_events=0)
