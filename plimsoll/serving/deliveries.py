"""When each token of a request was delivered, read back from the step rows.

Every decoding request of an instance's slot gets a token at the end of each of its steps, so
the deliveries of a request with n output tokens are its first token and the last n - 1 ends
of decode steps up to its finish. That holds across a hand-over from a prefill instance. Steps
inside a park are skipped; a token sampled by recomputing the prompt is put at the end of the
park. Left out: requests that moved between instances while decoding.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plimsoll.spec.errors import ExecutionError
from plimsoll.spec.record import Floats, Ints, RunRecord

__all__ = ["Deliveries", "token_times"]

Mask = npt.NDArray[np.bool_]

_SLACK_S = 1e-8
"""Step ends are sums of many times; two closer than this are the same instant."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Lane:
    """Decode rows of one instance and slot in order of time; ``before`` steps come before each."""

    base_s: Floats
    step_s: Floats
    growth_s: Floats
    num_steps: Ints
    num_decodes: Ints
    before: Ints

    def end_s(self, row: Ints, step: Ints) -> Floats:
        """End of step ``step`` (from 0) of each row."""
        ends: Floats = (
            self.base_s[row]
            + (step + 1) * self.step_s[row]
            + self.growth_s[row] * (step * (step + 1) / 2)
        )
        return ends

    def ends_s(self, low: int, high: int) -> Floats:
        """Ends of the steps numbered ``low`` to ``high`` (excluded) over all rows."""
        steps = np.arange(max(low, 0), high)
        rows = np.searchsorted(self.before, steps, side="right") - 1
        return self.end_s(rows, steps - self.before[rows])

    def count_until(self, time_s: Floats) -> Ints:
        """How many steps ended at or before each time."""
        if len(self.base_s) == 0:
            return np.zeros(len(time_s), dtype=np.int64)
        t = time_s + _SLACK_S
        row = np.searchsorted(self.base_s, t, side="right") - 1
        inside = np.maximum(row, 0)
        elapsed = t - self.base_s[inside]
        a, b = self.growth_s[inside] / 2, self.step_s[inside] - self.growth_s[inside] / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            root = np.sqrt(np.maximum(b * b + 4 * a * elapsed, 0.0))
            steps = np.floor(2 * elapsed / (b + root))  # of a k^2 + b k = elapsed
        steps = np.clip(np.nan_to_num(steps, nan=0.0), 0, self.num_steps[inside])
        result: Ints = np.where(row < 0, 0, self.before[inside] + steps.astype(np.int64))
        return result


def _lanes(record: RunRecord) -> dict[int, list[_Lane]]:
    s = record.steps
    rows = np.flatnonzero(s.num_decodes > 0)
    rows = rows[np.lexsort((s.start_s[rows], s.slot[rows], s.instance[rows]))]
    lanes: dict[int, list[_Lane]] = {}
    if len(rows) == 0:
        return lanes
    change = (np.diff(s.instance[rows]) != 0) | (np.diff(s.slot[rows]) != 0)
    for part in np.split(rows, np.flatnonzero(change) + 1):
        n = s.num_steps[part]
        lane = _Lane(
            base_s=s.start_s[part] + s.stall_s[part],
            step_s=s.step_s[part],
            growth_s=s.growth_s[part],
            num_steps=n,
            num_decodes=s.num_decodes[part],
            before=np.cumsum(n) - n,
        )
        lanes.setdefault(int(s.instance[part[0]]), []).append(lane)
    return lanes


class Deliveries:
    """The deliveries of one run; building it sorts the step rows once."""

    def __init__(self, record: RunRecord) -> None:
        self._record = record
        self._lanes = _lanes(record)
        order = np.argsort(record.park_request, kind="stable")
        self._park_rows = order
        self._parked_requests = record.park_request[order]

    def times(self, i: int) -> Floats:
        """Delivery times of request ``i``, one an output token; empty if it got none.

        Raises:
            ExecutionError: the step rows do not hold as many tokens as the request row says.
        """
        times = self._times(i)
        if len(times) != self._record.requests.output_tokens[i]:
            raise ExecutionError(
                f"request {i}: its row says {self._record.requests.output_tokens[i]} output "
                f"tokens, the step rows of instance {self._record.requests.instance[i]} show "
                f"{len(times)}; it moved while decoding, or the record was cut"
            )
        return times

    def _times(self, i: int) -> Floats:
        requests = self._record.requests
        tokens = int(requests.output_tokens[i])
        first_s = requests.first_token_s[i]
        if tokens == 0 or not np.isfinite(first_s):
            return np.zeros(0)
        wanted = tokens - 1
        if wanted == 0:
            return np.array([first_s])
        lane, until = self._lane_of(np.array([i]))
        if lane[0] is None:
            return np.array([first_s])
        after = int(lane[0].count_until(np.array([first_s]))[0])
        parks = self._parks(i)
        if not len(parks):
            ends = lane[0].ends_s(max(int(until[0]) - wanted, after), int(until[0]))
            return np.concatenate([[first_s], ends])
        ends = lane[0].ends_s(after, int(until[0]))
        starts_s, back_s = self._record.park_start_s[parks], self._record.park_end_s[parks]
        for start_s, end_s in zip(starts_s, back_s, strict=True):
            ends = ends[(ends <= start_s + _SLACK_S) | (ends > end_s + _SLACK_S)]
        missing = wanted - len(ends)
        if missing > 0:
            extra = back_s[np.isfinite(back_s)][::-1][:missing]
            ends = np.sort(np.concatenate([ends, extra]))
        return np.concatenate([[first_s], ends[max(len(ends) - wanted, 0) :]])

    def _parks(self, i: int) -> Ints:
        low, high = np.searchsorted(self._parked_requests, [i, i + 1])
        rows: Ints = self._park_rows[low:high]
        return rows[np.argsort(self._record.park_start_s[rows], kind="stable")]

    def _last_s(self, rows: Ints) -> Floats:
        finished = self._record.requests.finished_s[rows]
        return np.where(np.isfinite(finished), finished, self._record.end_s)

    def _lane_of(self, rows: Ints) -> tuple[list[_Lane | None], Ints]:
        """The lane of requests of one instance, and how many of its steps ended by their end."""
        lanes = self._lanes.get(int(self._record.requests.instance[rows[0]]), [])
        if not lanes:
            return [None] * len(rows), np.zeros(len(rows), dtype=np.int64)
        last_s = self._last_s(rows)
        counts = np.stack([lane.count_until(last_s) for lane in lanes])
        if len(lanes) == 1:
            return [lanes[0]] * len(rows), counts[0]
        behind = np.full(counts.shape, np.inf)
        for k, lane in enumerate(lanes):
            some = counts[k] > 0
            step = counts[k][some] - 1
            row = np.searchsorted(lane.before, step, side="right") - 1
            behind[k][some] = last_s[some] - lane.end_s(row, step - lane.before[row])
        best = np.argmin(behind, axis=0)
        return [lanes[k] for k in best], counts[best, np.arange(len(rows))]

    def max_gaps(self) -> Floats:
        """Worst gap between two deliveries of each request; NaN below two tokens."""
        requests = self._record.requests
        worst: Floats = np.full(len(requests), np.nan)
        wanted = requests.output_tokens > 1
        wanted &= np.isfinite(requests.first_token_s) & (requests.instance >= 0)
        parked = np.zeros(len(requests), dtype=bool)
        parked[self._record.park_request] = True
        for i in np.flatnonzero(wanted & parked):
            times = self._times(int(i))
            if len(times) > 1:
                worst[i] = np.diff(times).max()
        plain = np.flatnonzero(wanted & ~parked)
        for rows, lane, until in self._by_lane(plain):
            worst[rows] = _lane_max_gaps(
                lane, until, requests.output_tokens[rows] - 1, requests.first_token_s[rows]
            )
        return worst

    def gaps_between(self, start_s: float, end_s: float) -> tuple[Floats, Ints]:
        """Gaps that ended in a window, as (seconds, count).

        The first gap after a park is taken as that of the batch the request came back to.
        """
        requests = self._record.requests
        wanted = requests.output_tokens > 1
        wanted &= np.isfinite(requests.first_token_s) & (requests.instance >= 0)
        joins: dict[int, list[tuple[Ints, Floats]]] = {}
        for rows, lane, until in self._by_lane(np.flatnonzero(wanted)):
            low, _, ok = _span(
                lane, until, requests.output_tokens[rows] - 1, requests.first_token_s[rows]
            )
            joins.setdefault(id(lane), []).append((low[ok], requests.first_token_s[rows][ok]))
        gaps: list[Floats] = []
        counts: list[Ints] = []
        for lanes in self._lanes.values():
            for lane in lanes:
                total = int(lane.before[-1] + lane.num_steps[-1])
                row = np.repeat(np.arange(len(lane.base_s)), lane.num_steps)
                ends = lane.end_s(row, np.arange(total) - lane.before[row])
                inside = (ends >= start_s) & (ends <= end_s + _SLACK_S)
                stay = lane.num_decodes[row]
                for low, first_s in joins.get(id(lane), []):
                    stay = stay - np.bincount(low, minlength=total)
                    kept = inside[low]
                    gaps.append(ends[low[kept]] - first_s[kept])
                    counts.append(np.ones(int(kept.sum()), dtype=np.int64))
                kept = inside & (stay > 0)
                kept[:1] = False
                gaps.append(np.diff(ends, prepend=0.0)[kept])
                counts.append(stay[kept])
        if not gaps:
            return np.zeros(0), np.zeros(0, dtype=np.int64)
        return np.concatenate(gaps), np.concatenate(counts)

    def _by_lane(self, rows: Ints) -> Iterator[tuple[Ints, _Lane, Ints]]:
        instance = self._record.requests.instance[rows]
        for one in np.unique(instance):
            members = rows[instance == one]
            lanes, until = self._lane_of(members)
            for lane in self._lanes.get(int(one), []):
                mine = np.fromiter((x is lane for x in lanes), bool, len(lanes))
                if mine.any():
                    yield members[mine], lane, until[mine]


def _span(lane: _Lane, until: Ints, wanted: Ints, first_s: Floats) -> tuple[Ints, Ints, Mask]:
    """First and last step number of each request on its lane; both 0 where the mask is unset."""
    low = np.maximum(until - wanted, lane.count_until(first_s))
    ok = until > low
    return np.where(ok, low, 0), np.where(ok, until - 1, 0), ok


def _lane_max_gaps(lane: _Lane, until: Ints, wanted: Ints, first_s: Floats) -> Floats:
    """Worst gap of each request over its last ``wanted`` steps before ``until``.

    Rows are taken whole: a request joins and leaves at row borders, and the gaps inside a row
    do not shrink.
    """
    low, high, ok = _span(lane, until, wanted, first_s)
    first_row = np.searchsorted(lane.before, low, side="right") - 1
    last_row = np.searchsorted(lane.before, high, side="right") - 1
    rows = np.arange(len(lane.base_s))
    ends = lane.end_s(rows, lane.num_steps - 1)
    inner = np.where(
        lane.num_steps > 1, lane.step_s + (lane.num_steps - 1) * lane.growth_s, -np.inf
    )
    heads = lane.end_s(rows, np.zeros_like(rows))
    heads[1:] -= ends[:-1]
    heads[0] = -np.inf
    step = low - lane.before[first_row]
    worst = lane.end_s(first_row, step) - first_s
    more = step + 1 < lane.num_steps[first_row]
    worst = np.maximum(worst, np.where(more, inner[first_row], -np.inf))
    worst = np.maximum(worst, _range_max(np.maximum(inner, heads), first_row + 1, last_row))
    return np.where(ok, worst, np.nan)


def _range_max(values: Floats, low: Ints, high: Ints) -> Floats:
    """max(values[low..high]), both ends included; -inf for empty ranges. One doubling table."""
    length = high - low + 1
    result: Floats = np.full(len(low), -np.inf)
    level = values
    width = 1
    while width <= max(int(length.max(initial=0)), 1):
        use = (length >= width) & (length < 2 * width)
        if use.any():
            a, b = low[use], high[use] - width + 1
            result[use] = np.maximum(level[a], level[b])
        if len(level) <= width:
            break
        level = np.maximum(level[: len(level) - width], level[width:])
        width *= 2
    return result


def token_times(record: RunRecord, i: int) -> Floats:
    """Delivery times of request ``i``; build ``Deliveries`` once to ask for many."""
    return Deliveries(record).times(i)
