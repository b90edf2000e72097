"""Effective throughput: requests/s that were served at the speed a reader was promised.

A request counts when (1) its first token came within prompt_tokens / 512 s and (2) the
exponential moving average of its gaps never rose above 1 / threshold seconds, for a threshold
of 2, 4 or 6 tokens/s. The average starts at the first gap and moves by 0.1 of each later one;
its worst value is judged. A request with one token has no gap and is judged on (1) alone.
Source: the DeepSpeed-FastGen evaluation (arXiv 2401.08671); start and worst value of the
average are choices that the paper leaves open.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plimsoll.serving.deliveries import Deliveries, token_times
from plimsoll.spec.errors import SpecError
from plimsoll.spec.record import Floats, RunRecord

__all__ = ["EffectiveThroughput", "effective_throughput", "token_times", "worst_average_gaps"]

PROMPT_TOKENS_PER_S = 512.0
AVERAGE_WEIGHT = 0.1
THRESHOLDS_TOKENS_PER_S = (2.0, 4.0, 6.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveThroughput:
    """Requests that kept the promise at one threshold.

    ``missed_fraction`` is of all requests of the run; those that did not finish missed.
    """

    tokens_per_s: float
    requests_per_s: float
    missed_fraction: float
    prompt_missed_fraction: float


def worst_average_gaps(record: RunRecord, *, weight: float = AVERAGE_WEIGHT) -> Floats:
    """Worst moving average of the gaps of each request, in seconds; NaN below two tokens."""
    deliveries = Deliveries(record)
    requests = record.requests
    rows = np.flatnonzero((requests.output_tokens > 1) & np.isfinite(requests.first_token_s))
    worst: Floats = np.full(len(requests), np.nan)
    if not len(rows):
        return worst
    gaps = [np.diff(deliveries.times(int(i))) for i in rows]
    order = np.argsort([-len(g) for g in gaps], kind="stable")
    lengths = np.array([len(gaps[k]) for k in order])
    table = np.zeros((len(rows), int(lengths[0])))
    for place, k in enumerate(order):
        table[place, : lengths[place]] = gaps[k]
    average = table[:, 0].copy()
    peak = average.copy()
    for column in range(1, table.shape[1]):
        live = int(np.searchsorted(-lengths, -column, side="left"))
        average[:live] += weight * (table[:live, column] - average[:live])
        np.maximum(peak[:live], average[:live], out=peak[:live])
    worst[rows[order]] = peak
    return worst


def effective_throughput(
    record: RunRecord,
    *,
    thresholds_tokens_per_s: Sequence[float] = THRESHOLDS_TOKENS_PER_S,
    prompt_tokens_per_s: float = PROMPT_TOKENS_PER_S,
    weight: float = AVERAGE_WEIGHT,
    duration_s: float | None = None,
) -> tuple[EffectiveThroughput, ...]:
    """One row a threshold; ``duration_s`` is by default first arrival to last event of the run.

    Raises:
        SpecError: a threshold, the prompt rate, the weight or the duration is not positive.
    """
    r = record.requests
    span_s = record.end_s - float(r.arrival_s.min()) if duration_s is None else duration_s
    for name, value in (
        ("prompt_tokens_per_s", prompt_tokens_per_s),
        ("weight", weight),
        ("duration_s", span_s),
        *(("threshold", t) for t in thresholds_tokens_per_s),
    ):
        if not value > 0:
            raise SpecError(f"effective throughput: {name} is {value:g}; it must be more than 0")
    with np.errstate(invalid="ignore"):
        prompt_ok = r.ok & (r.ttft_s <= r.prompt_tokens / prompt_tokens_per_s)
    worst_s = worst_average_gaps(record, weight=weight)
    rows = []
    for threshold in thresholds_tokens_per_s:
        with np.errstate(invalid="ignore"):
            kept = prompt_ok & ((worst_s <= 1 / threshold) | (r.output_tokens < 2))
        num = int(np.count_nonzero(kept))
        rows.append(
            EffectiveThroughput(
                tokens_per_s=float(threshold),
                requests_per_s=num / span_s,
                missed_fraction=1 - num / len(r),
                prompt_missed_fraction=1 - int(np.count_nonzero(prompt_ok)) / len(r),
            )
        )
    return tuple(rows)
