"""A run as Chrome trace-event JSON, which ui.perfetto.dev and chrome://tracing open.

One process an instance with one thread a slot: a complete event (``ph: X``, µs) for every row
of the step columns, and counters of KV blocks, running requests and queue. Requests are a
process of their own with as many threads as overlap at once: queue, prefill, decode and
preempted spans. Events beyond the cap are left out from the end of the run, and the file says
so. Source: the Trace Event Format document of the Chromium project.
"""

import heapq
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from plimsoll.report.from_run import request_spans
from plimsoll.spec.errors import SpecError
from plimsoll.spec.io import write_text
from plimsoll.spec.record import STATUS, RunRecord

__all__ = ["MAX_EVENTS", "trace_events", "write_trace"]

MAX_EVENTS = 300_000
_REQUESTS_PID = 0
_COUNTERS_PID = 1
_FIRST_INSTANCE_PID = 10

Series = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def _us(time_s: float) -> float:
    return round(time_s * 1e6, 3)


def _named(kind: str, pid: int, name: str, tid: int = 0) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def _sorted_first(pid: int, place: int) -> dict[str, Any]:
    return {
        "ph": "M",
        "name": "process_sort_index",
        "pid": pid,
        "tid": 0,
        "args": {"sort_index": place},
    }


def _step_name(prefill_tokens: int, decodes: int, steps: int) -> str:
    parts = [f"prefill {prefill_tokens}"] if prefill_tokens else []
    parts += [f"decode {decodes}"] if decodes else []
    name = " + ".join(parts) or "idle"
    return f"{name} x{steps}" if steps > 1 else name


def _instance_events(record: RunRecord, until_s: float) -> list[dict[str, Any]]:
    s = record.steps
    rows = np.flatnonzero(s.start_s < until_s)
    rows = rows[np.argsort(s.start_s[rows], kind="stable")]
    ends_s = s.start_s + s.duration_s
    events: list[dict[str, Any]] = []
    for instance in np.unique(s.instance[rows]):
        pid = _FIRST_INSTANCE_PID + int(instance)
        events += [
            _named("process_name", pid, f"instance {instance}"),
            _sorted_first(pid, pid),
        ]
        mine = s.slot[rows[s.instance[rows] == instance]]
        events += [_named("thread_name", pid, f"slot {k}", int(k)) for k in np.unique(mine)]
    for k in rows.tolist():
        pid = _FIRST_INSTANCE_PID + int(s.instance[k])
        start, decodes = float(s.start_s[k]), int(s.num_decodes[k])
        tokens, steps = int(s.prefill_tokens[k]), int(s.num_steps[k])
        args = {
            "steps": steps,
            "step_ms": round(float(s.step_s[k]) * 1e3, 6),
            "decodes": decodes,
            "decode_context_tokens": int(s.decode_context[k]),
            "prefill_tokens": tokens,
            "prefill_requests": int(s.prefill_seqs[k]),
            "prefill_cached_tokens": int(s.prefill_context[k]),
        }
        if s.stall_s[k] > 0:
            args["swap_stall_ms"] = round(float(s.stall_s[k]) * 1e3, 6)
        events.append(
            {
                "ph": "X",
                "name": _step_name(tokens, decodes, steps),
                "cat": "step",
                "pid": pid,
                "tid": int(s.slot[k]),
                "ts": _us(start),
                "dur": max(_us(float(ends_s[k])) - _us(start), 0.0),
                "args": args,
            }
        )
        for name, at_s, value in (
            ("queue (requests)", start, s.num_waiting[k]),
            ("decoding (requests)", start, s.num_decodes[k]),
            ("KV (blocks)", float(ends_s[k]), s.used_blocks[k]),
        ):
            events.append(_count(pid, name, at_s, float(value)))
    return events


def _count(pid: int, name: str, at_s: float, value: float) -> dict[str, Any]:
    unit = name[name.find("(") + 1 : -1] if "(" in name else name
    return {"ph": "C", "name": name, "pid": pid, "tid": 0, "ts": _us(at_s), "args": {unit: value}}


def _request_events(record: RunRecord, until_s: float) -> list[dict[str, Any]]:
    """Spans of each request, on the first thread that is free when it arrives."""
    r = record.requests
    order = np.argsort(record.park_request, kind="stable")
    parked = record.park_request[order]
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    events: list[dict[str, Any]] = []
    num_threads = 0
    rows = np.flatnonzero(r.arrival_s < until_s)
    for i in rows[np.argsort(r.arrival_s[rows], kind="stable")].tolist():
        low, high = np.searchsorted(parked, [i, i + 1])
        spans = request_spans(record, i, order[low:high])
        if not spans:
            continue
        while busy and busy[0][0] <= spans[0].start_s:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            tid = heapq.heappop(free)
        else:
            tid, num_threads = num_threads, num_threads + 1
        heapq.heappush(busy, (spans[-1].end_s, tid))
        args = {
            "request": i,
            "prompt_tokens": int(r.prompt_tokens[i]),
            "cached_tokens": int(r.cached_tokens[i]),
            "output_tokens": int(r.output_tokens[i]),
            "instance": int(r.instance[i]),
            "status": STATUS[int(r.status[i])],
        }
        events += [
            {
                "ph": "X",
                "name": span.kind,
                "cat": "request",
                "pid": _REQUESTS_PID,
                "tid": tid,
                "ts": _us(span.start_s),
                "dur": max(_us(span.end_s) - _us(span.start_s), 0.0),
                "args": args,
            }
            for span in spans
        ]
    names = [_named("thread_name", _REQUESTS_PID, f"row {k}", k) for k in range(num_threads)]
    head = [_named("process_name", _REQUESTS_PID, "requests"), _sorted_first(_REQUESTS_PID, 1000)]
    return head + names + events


def _cut_s(record: RunRecord, max_events: int) -> float:
    """Time after which events are left out so that about ``max_events`` remain; inf: none."""
    starts = [np.repeat(record.steps.start_s, 4), np.repeat(record.requests.arrival_s, 3)]
    times = np.sort(np.concatenate([*starts, np.repeat(record.park_start_s, 2)]))
    return float(times[max_events]) if len(times) > max_events else float("inf")


def trace_events(
    record: RunRecord,
    *,
    max_events: int = MAX_EVENTS,
    counters: Mapping[str, Series] | None = None,
) -> dict[str, Any]:
    """The JSON object of a trace.

    ``counters`` adds series for the whole run as (seconds, values), with the unit in the name:
    ``{"power (W)": (at_s, watts)}``.

    Raises:
        SpecError: the cap is not positive.
    """
    if max_events < 1:
        raise SpecError(f"trace: max_events is {max_events}; it must be 1 or more")
    until_s = _cut_s(record, max_events)
    events = _instance_events(record, until_s) + _request_events(record, until_s)
    if counters:
        events += [_named("process_name", _COUNTERS_PID, "run"), _sorted_first(_COUNTERS_PID, 0)]
        for name, (at_s, values) in counters.items():
            for time_s, value in zip(at_s.tolist(), values.tolist(), strict=True):
                if time_s < until_s:
                    events.append(_count(_COUNTERS_PID, name, time_s, float(value)))
    note = "the whole run"
    if np.isfinite(until_s):
        note = (
            f"cut at {until_s:.6g} s of {record.end_s:.6g} s to keep about {max_events:,} events; "
            "raise the cap to see more"
        )
        events.append(
            {
                "ph": "i",
                "s": "g",
                "name": f"trace {note}",
                "pid": _REQUESTS_PID,
                "tid": 0,
                "ts": _us(until_s),
            }
        )
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"note": note, "origin": str(record.meta.get("origin", ""))},
    }


def write_trace(
    record: RunRecord,
    path: Path,
    *,
    max_events: int = MAX_EVENTS,
    counters: Mapping[str, Series] | None = None,
) -> None:
    """Write the trace of a run as JSON, whole or not at all."""
    trace = trace_events(record, max_events=max_events, counters=counters)
    write_text(json.dumps(trace, allow_nan=False, separators=(",", ":")) + "\n", path)
