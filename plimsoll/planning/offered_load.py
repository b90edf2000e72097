"""The same traffic at another rate for a fixed time, and the busiest slice of a trace.

Scaling keeps order, lengths and burst shape, and compresses time. A probe lasts a fixed *time*
whatever the rate: with a fixed number of requests a high rate ends before its queue has grown,
and looks sustainable. A probe shorter than the trace takes stretches of requests in a row,
spread evenly over the trace, so that its quiet and busy hours are both there; a longer one plays
it again (prefix keys repeat with it, sessions do not join).
"""

import numpy as np

from plimsoll.spec.errors import SpecError
from plimsoll.spec.generators.streams import stream
from plimsoll.spec.workload import Workload

__all__ = ["at_rate", "busiest_slice", "take_rows"]

_STRETCHES = 16
_LEAST_STRETCH = 50
_COLUMNS = (
    "prompt_tokens",
    "output_tokens",
    "max_tokens",
    "class_index",
    "session_id",
    "think_s",
    "priority",
    "cancel_after_s",
)


def take_rows(workload: Workload, rows: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> Workload:
    """The workload of these rows, in this order, with their arrival times as they are."""
    changes = {
        name: getattr(workload, name)[rows] for name in _COLUMNS if len(getattr(workload, name))
    }
    if len(workload.prefix_start):
        starts, ends = workload.prefix_start[:-1][rows], workload.prefix_start[1:][rows]
        lengths = ends - starts
        total = np.concatenate([[0], np.cumsum(lengths)])
        index = np.repeat(starts - total[:-1], lengths) + np.arange(total[-1])
        changes["prefix_keys"] = workload.prefix_keys[index]
        changes["prefix_start"] = total
    return workload.with_changes(arrival_s=workload.arrival_s[rows], **changes)


def at_rate(workload: Workload, rate_per_s: float, duration_s: float) -> Workload:
    """``duration_s`` of the workload's requests arriving at ``rate_per_s`` on average.

    Raises:
        SpecError: a rate or duration that is not positive, or a closed-loop workload.
    """
    if not (rate_per_s > 0 and duration_s > 0):
        raise SpecError(f"rate {rate_per_s:g}/s over {duration_s:g} s; both must be above zero")
    if workload.num_in_flight:
        raise SpecError(f"workload {workload.name} is a closed loop; it has no rate to scale")
    count = max(2, round(rate_per_s * duration_s))
    num = len(workload)
    whole = (count - 1) // num
    span = float(workload.arrival_s[-1] - workload.arrival_s[0])
    gap = span / max(1, num - 1)
    rows = _stretches(num, count) if count < num else np.arange(count) % num
    turn = np.arange(count) // num
    gaps = np.diff(workload.arrival_s[rows])
    times = np.concatenate([[0.0], np.cumsum(np.where(np.diff(rows) == 1, gaps, gap))])
    if times[-1] <= 0:
        gaps = stream(0, "arrivals of work without times").exponential(size=count - 1)
        times = np.concatenate([[0.0], np.cumsum(gaps)])
    scale = duration_s * (count - 1) / count / times[-1]
    taken = take_rows(
        workload.with_changes(arrival_s=np.zeros(len(workload))), rows.astype(np.int64)
    )
    changes: dict[str, object] = {"arrival_s": times * scale}
    if whole and len(workload.session_id):
        apart = int(workload.session_id.max()) + 1
        changes["session_id"] = taken.session_id + turn * apart
    return taken.with_changes(**changes)


def _stretches(num_rows: int, count: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """``count`` of the rows in order: stretches of equal length, evenly spread."""
    num = min(_STRETCHES, max(1, count // _LEAST_STRETCH))
    lengths = np.full(num, count // num)
    lengths[: count % num] += 1
    starts = np.round(np.linspace(0, num_rows - lengths[-1], num)).astype(np.int64)
    starts = np.maximum(starts, np.concatenate([[0], np.cumsum(lengths)[:-1]]))
    return np.concatenate([np.arange(a, a + n) for a, n in zip(starts, lengths, strict=True)])


def busiest_slice(workload: Workload, max_requests: int) -> Workload:
    """The ``max_requests`` requests in a row that arrive in the least time; all if no more."""
    count = len(workload)
    if count <= max_requests or workload.num_in_flight:
        rows = np.arange(min(count, max_requests))
        return workload if count <= max_requests else take_rows(workload, rows)
    spans = workload.arrival_s[max_requests - 1 :] - workload.arrival_s[: count - max_requests + 1]
    first = int(np.argmin(spans))
    part = take_rows(workload, np.arange(first, first + max_requests))
    return part.with_changes(
        arrival_s=part.arrival_s - part.arrival_s[0],
        notes=(*workload.notes, f"busiest {max_requests:,} of {count:,} requests in a row"),
    )
