"""Pictures of one run record: the columns that the CDF and the timeline draw.

Reads and thins the record's own columns; which requests were late is told by the caller.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from plimsoll.report.pictures import (
    CdfPicture,
    CdfSeries,
    RequestTimeline,
    TimelineRow,
    TimelineSpan,
)
from plimsoll.report.wording import METRIC_NAMES, bound_text, percent_text
from plimsoll.spec.origin import Origin
from plimsoll.spec.record import RunRecord
from plimsoll.spec.slo import Slo

__all__ = ["cdf_series", "latency_cdf", "request_spans", "request_timeline"]

_CDF_POINTS = 240


def cdf_series(
    name: str,
    values_s: npt.NDArray[np.float64],
    *,
    counts: npt.NDArray[np.int64] | None = None,
    bound_s: float | None = None,
) -> CdfSeries:
    """A distribution thinned to a few hundred points, its ends and tail kept.

    A value that is not finite counts as a sample that never came.
    """
    weight = np.ones(len(values_s), dtype=np.int64) if counts is None else counts
    total = int(weight.sum())
    finite = np.isfinite(values_s) & (weight > 0)
    order = np.argsort(values_s[finite], kind="stable")
    values, cumulative = values_s[finite][order], np.cumsum(weight[finite][order])
    if not len(values):
        return CdfSeries(name=name, values_s=(), fractions=(), num_samples=total)
    reached = cumulative / total
    body = np.linspace(0, 1, _CDF_POINTS)
    tail = 1 - np.logspace(-2, -5, 40)
    wanted = np.unique(np.concatenate([body, tail])) * reached[-1]
    picked = np.minimum(np.searchsorted(reached, wanted), len(values) - 1)
    last = np.arange(max(len(values) - 40, 0), len(values))
    rows = np.unique(np.concatenate([picked, last]))
    # Of equal values the last one carries the whole step.
    rows = np.unique(np.searchsorted(values, values[rows], side="right") - 1)
    within = None
    if bound_s is not None:
        met = int(np.searchsorted(values, bound_s, side="right"))
        within = float(reached[met - 1]) if met else 0.0
    return CdfSeries(
        name=name,
        values_s=tuple(float(v) for v in values[rows]),
        fractions=tuple(float(v) for v in reached[rows]),
        num_samples=total,
        within_fraction=within,
    )


def latency_cdf(
    runs: Mapping[str, RunRecord], metric: str, slo: Slo, *, title: str = ""
) -> CdfPicture:
    """One latency of several runs; ``itl`` over deliveries, the others over requests."""
    bound_s = slo.bound_s(metric)
    series = []
    for name, record in runs.items():
        if metric == "itl":
            gaps, counts = record.itl_samples()
            series.append(cdf_series(name, gaps, counts=counts, bound_s=bound_s))
            continue
        values = getattr(record.requests, f"{metric}_s")
        if metric == "tpot":
            values = values[record.requests.output_tokens > 1]
        series.append(cdf_series(name, values, bound_s=bound_s))
    if not title and bound_s is not None:
        shares = [f"{percent_text(s.within_fraction)} ({s.name})" for s in series]
        title = f"{METRIC_NAMES[metric]} within {bound_text(bound_s)}: {', '.join(shares)}"
    origin = Origin(next(iter(runs.values())).meta.get("origin", Origin.MODELED))
    return CdfPicture(
        title=title or f"{METRIC_NAMES[metric]} of {series[0].num_samples:,} samples",
        metric=metric,  # type: ignore[arg-type]
        series=tuple(series),
        bound_s=bound_s,
        origin=origin,
    )


def request_spans(
    record: RunRecord, i: int, parks: npt.NDArray[np.int64]
) -> tuple[TimelineSpan, ...]:
    """What request ``i`` did, in order of time; ``parks`` are its rows of the park columns."""
    parks = parks[np.argsort(record.park_start_s[parks], kind="stable")]
    r, end_s = record.requests, record.end_s
    arrival, finish = float(r.arrival_s[i]), float(r.finished_s[i])
    stop = finish if np.isfinite(finish) else end_s
    scheduled = float(r.scheduled_s[i]) if np.isfinite(r.scheduled_s[i]) else stop
    first = float(r.first_token_s[i]) if np.isfinite(r.first_token_s[i]) else stop
    spans = [("queue", arrival, scheduled), ("prefill", scheduled, first)]
    now = first
    for row in parks:
        start = float(record.park_start_s[row])
        end = float(record.park_end_s[row]) if np.isfinite(record.park_end_s[row]) else stop
        spans += [("decode", now, start), ("preempted", start, min(end, stop))]
        now = min(end, stop)
    spans.append(("decode", now, stop))
    return tuple(
        TimelineSpan(kind=kind, start_s=start, end_s=end)  # type: ignore[arg-type]
        for kind, start, end in spans
        if end > start
    )


def request_timeline(
    record: RunRecord,
    good: npt.NDArray[np.bool_],
    *,
    start_s: float = 0.0,
    most_rows: int = 200,
    late_only: bool = False,
    title: str = "",
) -> RequestTimeline:
    """The first ``most_rows`` arrivals from ``start_s`` on; ``good`` rows met every bound."""
    r = record.requests
    wanted = r.arrival_s >= start_s
    if late_only:
        wanted &= ~good
    rows = np.flatnonzero(wanted)
    shown = rows[:most_rows]
    order = np.argsort(record.park_request, kind="stable")
    parked = record.park_request[order]
    tpot = r.tpot_s
    lines = []
    for i in shown:
        low, high = np.searchsorted(parked, [i, i + 1])
        lines.append(
            TimelineRow(
                request_id=int(i),
                late=not good[i],
                spans=request_spans(record, int(i), order[low:high]),
                tpot_s=float(tpot[i]) if np.isfinite(tpot[i]) else None,
            )
        )
    late = int(np.count_nonzero(~good))
    notes: tuple[str, ...] = ()
    if start_s > 0:
        notes = (f"requests that arrived from {start_s:,.4g} s on",)
    if len(shown) < len(rows):
        notes = (*notes, f"first {len(shown):,} of {len(rows):,} requests")
    return RequestTimeline(
        title=title or f"{late:,} of {len(r):,} requests missed a target",
        rows=tuple(lines),
        num_requests=len(r),
        num_late=late,
        origin=Origin(record.meta.get("origin", Origin.MODELED)),
        notes=notes,
    )
