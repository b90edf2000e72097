"""The same traffic at another rate for a fixed time, and the busiest slice of a trace.

Scaling keeps order, lengths and burst shape, and compresses time. A probe lasts a fixed *time*
whatever the rate: with a fixed number of requests a high rate ends before its queue has grown,
and looks sustainable. Rows are taken from the start of the trace; when it is too short it is
played again (prefix keys repeat with it, sessions do not join).
"""

import numpy as np

from plimsoll.spec.errors import SpecError
from plimsoll.spec.workload import Workload

__all__ = ["at_rate", "busiest_slice", "take_rows"]

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
    whole, _ = divmod(count - 1, len(workload))
    rows = np.arange(count) % len(workload)
    turn = np.arange(count) // len(workload)
    span = float(workload.arrival_s[-1] - workload.arrival_s[0])
    gap = span / max(1, len(workload) - 1)
    times = workload.arrival_s[rows] - workload.arrival_s[0] + turn * (span + gap)
    if times[-1] <= 0:
        times = np.arange(count, dtype=np.float64)
    scale = duration_s * (count - 1) / count / times[-1]
    taken = take_rows(
        workload.with_changes(arrival_s=np.zeros(len(workload))), rows.astype(np.int64)
    )
    changes: dict[str, object] = {"arrival_s": times * scale}
    if whole and len(workload.session_id):
        apart = int(workload.session_id.max()) + 1
        changes["session_id"] = taken.session_id + turn * apart
    return taken.with_changes(**changes)


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
