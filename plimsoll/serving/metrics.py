"""What users of a run would have seen: latencies, rates, goodput, verdicts.

Pure functions of a ``RunRecord``. Latencies are of the requests that arrived in the window,
rates count what happened in it; percentiles are nearest-rank. A request is good when it
finished and meets the bound of every target that applies to it, its worst gap standing for
``itl``. Tokens of a request are spread evenly between its first and last one, which is exact
for a window that covers the run. Definitions: docs/metrics.md.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from plimsoll.serving.deliveries import Deliveries
from plimsoll.spec.errors import SpecError, suggest
from plimsoll.spec.origin import Origin
from plimsoll.spec.record import STATUS, Floats, Ints, RunRecord
from plimsoll.spec.slo import Slo, SloTarget
from plimsoll.spec.summary import (
    ClassSummary,
    Distribution,
    InstanceUse,
    Saturation,
    StatusCounts,
    Summary,
    TargetVerdict,
)

__all__ = ["distribution", "good_requests", "summarize", "within_bound"]

Mask = npt.NDArray[np.bool_]
_FINISHED = STATUS.index("finished")
_PERCENTILES = (50.0, 90.0, 95.0, 99.0)
_SATURATED_RATIO = 1.05


def _rank(percentile: float, num: int) -> int:
    """Index of the nearest-rank percentile among ``num`` sorted values."""
    return max(0, int(np.ceil(percentile / 100 * num - 1e-9)) - 1)


def distribution(values: Floats, counts: Ints | None = None) -> Distribution | None:
    """Nearest-rank percentiles of the finite values, each taken ``counts`` times; None of none."""
    finite = np.isfinite(values)
    if counts is not None:
        finite &= counts > 0
        counts = counts[finite]
    values = values[finite]
    if not len(values):
        return None
    order = np.argsort(values, kind="stable") if counts is not None else None
    if order is None or counts is None:
        ranked, total = np.sort(values), len(values)
        mean = float(values.mean())
        found = [float(ranked[_rank(p, total)]) for p in _PERCENTILES]
    else:
        ranked, cumulative = values[order], np.cumsum(counts[order])
        total = int(cumulative[-1])
        mean = float(np.dot(values, counts) / total)
        ranks = [_rank(p, total) for p in _PERCENTILES]
        found = [float(v) for v in ranked[np.searchsorted(cumulative, ranks, side="right")]]
    low, high = float(ranked[0]), float(ranked[-1])
    return Distribution(
        num_samples=total,
        mean=min(max(mean, low), high),
        p50=found[0],
        p90=found[1],
        p95=found[2],
        p99=found[3],
        max=high,
    )


class _Values:
    """Per-request values of each metric; NaN where undefined. The gaps are found on demand."""

    def __init__(self, record: RunRecord) -> None:
        self._record = record
        self._cache: dict[str, Floats] = {}

    def __getitem__(self, metric: str) -> Floats:
        if metric not in self._cache:
            requests = self._record.requests
            if metric == "itl":
                kept = requests.max_gap_s
                value = kept if len(kept) else Deliveries(self._record).max_gaps()
            else:
                value = getattr(requests, f"{metric}_s")
            self._cache[metric] = value
        return self._cache[metric]


def _class_rows(record: RunRecord, classes: Sequence[str], target: SloTarget) -> Mask | None:
    """Requests a target applies to; None for all.

    Raises:
        SpecError: the target names a class that the workload does not have.
    """
    if target.request_class == "":
        return None
    if target.request_class not in classes:
        raise SpecError(
            f"slo: a {target.metric} target is for request class {target.request_class!r}, which "
            f"the workload does not have (its classes: {', '.join(classes) or 'none'})."
            + suggest(target.request_class, classes)
        )
    rows: Mask = record.requests.class_index == list(classes).index(target.request_class)
    return rows


def within_bound(record: RunRecord, metric: str, bound_s: float) -> Mask:
    """Requests whose ``metric`` is at or below the bound.

    TPOT and ITL are undefined below two output tokens; a request that finished with one token
    has no gap to complain of and is within.
    """
    return _within(record, _Values(record), metric, bound_s)


def _within(record: RunRecord, values: _Values, metric: str, bound_s: float) -> Mask:
    value = values[metric]
    with np.errstate(invalid="ignore"):
        within: Mask = value <= bound_s
    if metric in ("tpot", "itl"):
        within = within | _single(record)
    return within


def _single(record: RunRecord) -> Mask:
    """Finished with fewer than two tokens: TPOT and ITL do not exist."""
    single: Mask = (record.requests.status == _FINISHED) & (record.requests.output_tokens < 2)
    return single


def good_requests(record: RunRecord, slo: Slo, *, classes: Sequence[str] | None = None) -> Mask:
    """Requests that finished within the bound of every target that applies to them.

    ``classes`` names the request classes in the order of ``class_index``; by default what the
    record's ``meta["classes"]`` says.
    """
    return _good(record, slo, _classes(record, classes), _Values(record))


def _good(record: RunRecord, slo: Slo, classes: Sequence[str], values: _Values) -> Mask:
    good: Mask = record.requests.status == _FINISHED
    for target in slo.targets:
        within = _within(record, values, target.metric, target.bound_s)
        rows = _class_rows(record, classes, target)
        good = good & (within if rows is None else within | ~rows)
    return good


def _classes(record: RunRecord, classes: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(record.meta.get("classes", ()) if classes is None else classes)


def _verdict(
    record: RunRecord, target: SloTarget, classes: Sequence[str], values: _Values, arrived: Mask
) -> TargetVerdict:
    rows = _class_rows(record, classes, target)
    members = arrived if rows is None else arrived & rows
    if target.metric in ("tpot", "itl"):
        members = members & ~_single(record)
    value = values[target.metric][members]
    num = len(value)
    if num == 0:
        return TargetVerdict(
            target=target, num_requests=0, observed_s=None, within_fraction=None, met=True
        )
    late_if_missing = np.where(np.isfinite(value), value, np.inf)
    rank = _rank(target.percentile, num)
    observed = float(np.partition(late_if_missing, rank)[rank])
    return TargetVerdict(
        target=target,
        num_requests=num,
        observed_s=observed if np.isfinite(observed) else None,
        within_fraction=float(np.count_nonzero(late_if_missing <= target.bound_s) / num),
        met=bool(observed <= target.bound_s),
    )


def _tokens_in(record: RunRecord, start_s: float, end_s: float) -> float:
    """Output tokens delivered in the window.

    A request that did not finish is taken to have run at the mean pace of those that did.
    """
    r = record.requests
    has = np.isfinite(r.first_token_s) & (r.output_tokens > 0)
    first = r.first_token_s[has]
    rest = r.output_tokens[has] - 1
    last = r.finished_s[has]
    ended = np.isfinite(last) & (rest > 0)
    pace_s = float((last[ended] - first[ended]).sum() / rest[ended].sum()) if ended.any() else 0.0
    guess = np.minimum(first + rest * pace_s, max(record.end_s, end_s))
    last = np.where(np.isfinite(last), last, guess)
    begins = np.clip(first, start_s, end_s)
    share = np.clip(last, start_s, end_s) - begins
    span = last - first
    fraction = np.divide(share, span, out=np.zeros_like(span), where=span > 0)
    whole = (span <= 0) & (first >= start_s) & (first <= end_s)
    fraction[whole] = 1.0
    firsts = np.count_nonzero((first >= start_s) & (first <= end_s))
    return float(firsts + np.dot(rest, fraction))


def _waiting(record: RunRecord, start_s: float, end_s: float) -> tuple[float, int]:
    """Mean and peak number of requests waiting for their first step, over the window.

    One that left without a step at an unknown time (rejected, cancelled) is not counted.
    """
    r = record.requests
    waiting_still = (r.status == STATUS.index("unfinished")) & ~np.isfinite(r.scheduled_s)
    known = np.where(np.isfinite(r.scheduled_s), r.scheduled_s, r.finished_s)
    leaves = np.where(waiting_still, record.end_s, known)
    leaves = np.where(np.isfinite(leaves), leaves, r.arrival_s)
    waits = leaves > r.arrival_s
    begins, leaves = r.arrival_s[waits], leaves[waits]
    inside = np.clip(leaves, start_s, end_s) - np.clip(begins, start_s, end_s)
    mean = float(inside.sum() / (end_s - start_s)) if end_s > start_s else 0.0
    overlap = (leaves > start_s) & (begins < end_s)
    begins, leaves = np.sort(begins[overlap]), np.sort(leaves[overlap])
    if not len(begins):
        return mean, 0
    left = np.searchsorted(leaves, begins, side="right")
    return mean, int((np.arange(1, len(begins) + 1) - left).max())


def _instances(
    record: RunRecord, total_blocks: Sequence[int] | None, start_s: float, end_s: float
) -> tuple[InstanceUse, ...]:
    s = record.steps
    window_s = end_s - start_s
    if len(s) == 0 or window_s <= 0:
        return ()
    order = np.lexsort((s.start_s, s.instance))
    ends_s = s.start_s + s.duration_s
    uses = []
    borders = np.flatnonzero(np.diff(s.instance[order])) + 1
    for rows in np.split(order, borders):
        instance = int(s.instance[rows[0]])
        begin, end = np.clip(s.start_s[rows], start_s, end_s), np.clip(ends_s[rows], start_s, end_s)
        covered = np.maximum.accumulate(end)
        free_from = np.concatenate([[start_s], covered[:-1]])
        busy_s = float(np.maximum(end - np.maximum(begin, free_from), 0.0).sum())
        inside = (ends_s[rows] > start_s) & (s.start_s[rows] < end_s)
        steps = s.num_steps[rows][inside]
        num_steps = int(steps.sum())
        decodes = float(np.dot(steps, s.num_decodes[rows][inside]))
        held = s.used_blocks[rows]
        until = np.append(begin[1:], end_s)
        blocks = total_blocks[instance] if total_blocks is not None else None
        mean_blocks = float(np.dot(held, np.maximum(until - begin, 0.0)) / window_s)
        peak = int(held[inside].max()) if inside.any() else 0
        uses.append(
            InstanceUse(
                instance=instance,
                num_steps=num_steps,
                busy_fraction=min(busy_s / window_s, 1.0),
                mean_decodes_per_step=decodes / num_steps if num_steps else None,
                kv_mean_blocks=mean_blocks,
                kv_peak_blocks=peak,
                kv_mean_fraction=mean_blocks / blocks if blocks else None,
                kv_peak_fraction=peak / blocks if blocks else None,
            )
        )
    return tuple(uses)


def _up_s(spans: Sequence[Sequence[float]] | None, start_s: float, end_s: float) -> float | None:
    """Seconds that instances were starting or up in the window, all together."""
    if spans is None:
        return None
    inside = (min(stop, end_s) - max(begin, start_s) for _, begin, stop in spans)
    return float(sum(seconds for seconds in inside if seconds > 0))


def _saturation(record: RunRecord, arrived: Mask) -> Saturation | None:
    """Arrivals against first tokens over the second half of the arrivals' span."""
    r = record.requests
    arrivals = r.arrival_s[arrived]
    if len(arrivals) < 2 or arrivals.max() <= arrivals.min():
        return None
    middle_s, last_s = (arrivals.min() + arrivals.max()) / 2, arrivals.max()
    tokens = np.where(np.isfinite(r.first_token_s), r.first_token_s, np.inf)
    gone = (r.status != _FINISHED) & (r.status != STATUS.index("unfinished"))
    tokens = np.where(gone & ~np.isfinite(r.first_token_s), r.finished_s, tokens)
    tokens = np.where(np.isnan(tokens), r.arrival_s, tokens)
    queued = [
        int(np.count_nonzero(r.arrival_s <= t)) - int(np.count_nonzero(tokens <= t))
        for t in (middle_s, last_s)
    ]
    came = int(np.count_nonzero((arrivals > middle_s) & (arrivals <= last_s)))
    growth = queued[1] - queued[0]
    served = came - growth
    if served <= 0:
        return None
    ratio = came / served
    more = growth > 10 + 3 * math.sqrt(max(queued[0], 0))
    return Saturation(
        demand_ratio=ratio,
        queue_growth_per_s=float(growth / (last_s - middle_s)),
        saturated=bool(ratio > _SATURATED_RATIO and more),
    )


def _last_s(record: RunRecord) -> float:
    """End of the run: rounding may put a last token behind the last step."""
    last = record.requests.finished_s
    return max(record.end_s, float(np.max(last, initial=0.0, where=np.isfinite(last))))


def summarize(
    record: RunRecord,
    slo: Slo,
    *,
    warmup_s: float = 0.0,
    end_s: float | None = None,
    num_devices: int | None = None,
    classes: Sequence[str] | None = None,
    total_blocks: Sequence[int] | None = None,
    origin: Origin | None = None,
    energy_j: float | None = None,
    usd_per_hour: float | None = None,
) -> Summary:
    """The run over the window from ``warmup_s`` to ``end_s`` (by default its end).

    What is not passed is read from ``record.meta``: ``num_devices``, ``classes`` (names in the
    order of ``class_index``), ``total_blocks`` (KV blocks of each instance) and ``origin`` of
    the clock. ``energy_j`` is what all devices took over the window.

    Raises:
        SpecError: the window is empty, no device count is known, or a target names a class
            that the workload does not have.
    """
    meta, r = record.meta, record.requests
    devices = num_devices if num_devices is not None else meta.get("num_devices")
    if not isinstance(devices, int) or devices < 1:
        raise SpecError(
            f"summary: number of devices is {devices!r}; pass num_devices, 1 or more, or put it "
            "into the record's meta"
        )
    stop_s = _last_s(record) if end_s is None else end_s
    if stop_s < warmup_s or warmup_s < 0 or (stop_s == warmup_s and record.end_s > 0):
        raise SpecError(
            f"summary: the window from {warmup_s:g} s to {stop_s:g} s is empty; the run ends at "
            f"{record.end_s:g} s"
        )
    names = _classes(record, classes)
    blocks = meta.get("total_blocks") if total_blocks is None else total_blocks
    source = Origin(meta.get("origin", Origin.MODELED)) if origin is None else origin
    window_s = stop_s - warmup_s
    values = _Values(record)
    arrived: Mask = (r.arrival_s >= warmup_s) & (r.arrival_s <= stop_s)
    num_arrived = int(np.count_nonzero(arrived))
    good = _good(record, slo, names, values)
    ended: Mask = (r.status == _FINISHED) & (r.finished_s >= warmup_s) & (r.finished_s <= stop_s)
    output_tokens = _tokens_in(record, warmup_s, stop_s)
    started = (r.first_token_s >= warmup_s) & (r.first_token_s <= stop_s)
    prompt_tokens = float(r.prompt_tokens[started].sum())
    counts = np.bincount(r.status[arrived], minlength=len(STATUS))
    tpot = distribution(r.tpot_s[arrived & r.ok])
    verdicts = tuple(_verdict(record, t, names, values, arrived) for t in slo.targets)
    mean_waiting, peak_waiting = _waiting(record, warmup_s, stop_s)
    placed = arrived & np.isfinite(r.first_token_s)
    placed_prompt = int(r.prompt_tokens[placed].sum())
    whole_run = warmup_s == 0 and end_s is None
    gaps = record.itl_samples() if whole_run else Deliveries(record).gaps_between(warmup_s, stop_s)

    def per_s(amount: float) -> float:
        return amount / window_s if amount else 0.0

    def count(rows: Mask) -> int:
        return int(np.count_nonzero(rows))

    good_rate = per_s(count(good & ended))

    def of_class(index: int, name: str) -> ClassSummary:
        members = arrived & (r.class_index == index)
        num = int(np.count_nonzero(members))
        return ClassSummary(
            request_class=name,
            num_requests=num,
            good_fraction=float(np.count_nonzero(good & members) / num) if num else None,
            goodput_requests_per_s=per_s(count(good & ended & (r.class_index == index))),
            ttft_s=distribution(r.ttft_s[members]),
            tpot_s=distribution(r.tpot_s[members & r.ok]),
            e2e_s=distribution(r.e2e_s[members & r.ok]),
        )

    return Summary(
        origin=source,
        start_s=float(warmup_s),
        end_s=float(stop_s),
        num_devices=devices,
        status=StatusCounts(**{name: int(c) for name, c in zip(STATUS, counts, strict=True)}),
        ttft_s=distribution(r.ttft_s[arrived]),
        tpot_s=tpot,
        itl_s=distribution(*gaps),
        e2e_s=distribution(r.e2e_s[arrived & r.ok]),
        queue_s=distribution((r.scheduled_s - r.arrival_s)[arrived]),
        requests_per_s=per_s(count(ended)),
        output_tokens_per_s=per_s(output_tokens),
        total_tokens_per_s=per_s(output_tokens + prompt_tokens),
        output_tokens_per_s_per_device=per_s(output_tokens) / devices,
        tokens_per_s_per_user=1 / tpot.mean if tpot is not None and tpot.mean > 0 else None,
        goodput_requests_per_s=good_rate,
        goodput_requests_per_s_per_device=good_rate / devices,
        good_fraction=float(np.count_nonzero(good & arrived) / num_arrived)
        if num_arrived
        else None,
        slo_met=all(v.met for v in verdicts) if verdicts else None,
        targets=verdicts,
        classes=tuple(of_class(i, name) for i, name in enumerate(names)),
        prefix_hit_fraction=float(r.cached_tokens[placed].sum() / placed_prompt)
        if placed_prompt
        else None,
        preemptions=int(r.preemptions[arrived].sum()),
        preempted_fraction=float(np.count_nonzero(r.preemptions[arrived] > 0) / num_arrived)
        if num_arrived
        else None,
        mean_waiting=mean_waiting,
        peak_waiting=peak_waiting,
        instances=_instances(record, blocks, warmup_s, stop_s),
        instance_up_s=_up_s(meta.get("up_spans"), warmup_s, stop_s),
        saturation=_saturation(record, arrived),
        energy_j_per_output_token=energy_j / output_tokens
        if energy_j is not None and output_tokens > 0
        else None,
        usd_per_million_output_tokens=usd_per_hour / 3600 * window_s / output_tokens * 1e6
        if usd_per_hour is not None and output_tokens > 0
        else None,
    )
