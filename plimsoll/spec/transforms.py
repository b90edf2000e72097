"""Workloads made from workloads: other rates, parts, and limits on lengths.

Changing the rate divides all times, so the shape of bursts stays (``scale_rate``,
``with_rate``). Leaving out requests also lowers the rate, but thins bursts and breaks sessions;
that is a different workload, and ``subsample`` says so in the notes.
Source: arXiv 2401.17644 (rate scaling against sampling).
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from plimsoll.spec.errors import SpecError
from plimsoll.spec.generators.streams import stream
from plimsoll.spec.workload import Workload

__all__ = [
    "limit_lengths",
    "poisson",
    "rows_of",
    "scale_rate",
    "slice_time",
    "subsample",
    "take",
    "with_rate",
]

_COLUMNS = (
    "arrival_s",
    "prompt_tokens",
    "output_tokens",
    "max_tokens",
    "class_index",
    "session_id",
    "think_s",
    "priority",
    "cancel_after_s",
)


def rows_of(workload: Workload, rows: npt.NDArray[np.int64]) -> dict[str, Any]:
    """The columns of the chosen rows (rising positions), prefix keys included."""
    columns = {
        name: getattr(workload, name)[rows] for name in _COLUMNS if len(getattr(workload, name))
    }
    if len(workload.prefix_start):
        starts = workload.prefix_start
        counts = (starts[1:] - starts[:-1])[rows]
        new = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(counts, out=new[1:])
        at = np.arange(new[-1]) + np.repeat(starts[rows] - new[:-1], counts)
        columns["prefix_start"] = new
        columns["prefix_keys"] = workload.prefix_keys[at]
    return columns


def scale_rate(workload: Workload, factor: float) -> Workload:
    """Arrivals ``factor`` times as fast; burst shape, lengths and sessions stay.

    Think times and patience are human and stay too.
    """
    if not 0 < factor < float("inf"):
        raise SpecError(f"workload {workload.name}: rate factor {factor} must be above zero")
    if workload.num_in_flight:
        raise SpecError(
            f"workload {workload.name}: is a closed loop of {workload.num_in_flight} clients; its "
            "rate follows from the service"
        )
    arrival_s = workload.arrival_s / factor
    if not np.isfinite(arrival_s[-1]):
        raise SpecError(f"workload {workload.name}: rate factor {factor} is too small")
    return workload.with_changes(
        arrival_s=arrival_s, notes=(*workload.notes, f"times divided by {factor:.6g}")
    )


def with_rate(workload: Workload, rate_per_s: float) -> Workload:
    """The workload at another mean rate, see ``scale_rate``."""
    if not 0 < rate_per_s < float("inf"):
        raise SpecError(f"workload {workload.name}: rate {rate_per_s}/s must be above zero")
    if not workload.num_in_flight and workload.rate_per_s == 0:
        raise SpecError(
            f"workload {workload.name}: all requests arrive at once, so there is no rate to "
            "change; generate arrivals, or use a trace with times"
        )
    factor = rate_per_s / workload.rate_per_s if workload.rate_per_s else 1.0
    return scale_rate(workload, factor)


def poisson(workload: Workload, rate_per_s: float, *, seed: int = 0) -> Workload:
    """The requests in their order, arriving at random: for work that has no times of its own."""
    gaps = stream(seed, "arrivals of work without times").exponential(size=len(workload))
    note = f"no arrival times: assumed Poisson arrivals at {rate_per_s:g} requests/s (seed {seed})"
    return workload.with_changes(
        arrival_s=np.cumsum(gaps) / rate_per_s, notes=(*workload.notes, note)
    )


def subsample(workload: Workload, share: float, *, seed: int = 0) -> Workload:
    """A random ``share`` of the requests at their own times: fewer, and less bursty."""
    if not 0 < share <= 1:
        raise SpecError(f"workload {workload.name}: share {share} must be above 0, at most 1")
    keep = stream(seed, "subsample").random(len(workload)) < share
    if not keep.any():
        raise SpecError(f"workload {workload.name}: a share of {share} leaves no request")
    note = f"random {share:.4g} of the requests (seed {seed}): bursts are thinned, sessions broken"
    return workload.with_changes(
        **rows_of(workload, np.flatnonzero(keep)), notes=(*workload.notes, note)
    )


def slice_time(workload: Workload, start_s: float, end_s: float = float("inf")) -> Workload:
    """The requests that arrive in [start_s, end_s); time starts again at ``start_s``."""
    if not 0 <= start_s < end_s:
        raise SpecError(f"workload {workload.name}: slice from {start_s} s to {end_s} s is empty")
    first, last = np.searchsorted(workload.arrival_s, [start_s, end_s])
    if first == last:
        raise SpecError(
            f"workload {workload.name}: no request between {start_s:g} s and {end_s:g} s; it spans "
            f"{workload.duration_s:g} s"
        )
    columns = rows_of(workload, np.arange(first, last))
    columns["arrival_s"] = columns["arrival_s"] - start_s
    return workload.with_changes(
        **columns, notes=(*workload.notes, f"only {start_s:g} s to {end_s:g} s")
    )


def take(workload: Workload, num_requests: int) -> Workload:
    """The first ``num_requests`` requests."""
    if not 1 <= num_requests <= len(workload):
        raise SpecError(
            f"workload {workload.name}: holds {len(workload):,} requests; {num_requests:,} were "
            "asked for"
        )
    if num_requests == len(workload):
        return workload
    return workload.with_changes(
        **rows_of(workload, np.arange(num_requests)),
        notes=(*workload.notes, f"only the first {num_requests:,} requests"),
    )


def limit_lengths(
    workload: Workload, max_tokens: int, *, how: Literal["fail", "clip", "drop"] = "fail"
) -> Workload:
    """No request longer than ``max_tokens`` (prompt and output together), as a model limits.

    ``clip`` shortens the output first, then the prompt; ``drop`` leaves the request out.

    Raises:
        SpecError: requests are too long and ``how`` is "fail", or nothing is left.
    """
    if max_tokens < 2:
        raise SpecError(f"workload {workload.name}: limit {max_tokens} must be at least 2 tokens")
    if how not in ("fail", "clip", "drop"):
        raise SpecError(f"workload {workload.name}: how = {how!r}; expected fail, clip or drop")
    total = workload.prompt_tokens + workload.output_tokens
    long = total > max_tokens
    count = int(long.sum())
    if count == 0:
        return workload
    worst = int(total.argmax())
    found = (
        f"{count:,} of {len(workload):,} requests are longer than {max_tokens:,} tokens (row "
        f"{worst}: {workload.prompt_tokens[worst]:,} + {workload.output_tokens[worst]:,})"
    )
    if how == "fail":
        raise SpecError(
            f"workload {workload.name}: {found}; use a longer limit, or clip or drop them"
        )
    if how == "drop":
        if long.all():
            raise SpecError(f"workload {workload.name}: {found}; dropping them leaves none")
        return workload.with_changes(
            **rows_of(workload, np.flatnonzero(~long)),
            notes=(*workload.notes, f"{found}: dropped"),
        )
    prompt = np.minimum(workload.prompt_tokens, max_tokens - 1)
    output = np.minimum(workload.output_tokens, max_tokens - prompt)
    changes: dict[str, Any] = {"prompt_tokens": prompt, "output_tokens": output}
    if len(workload.prefix_start):
        most = -(-prompt // workload.prefix_block_tokens)
        counts = np.minimum(np.diff(workload.prefix_start), most)
        starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        at = np.arange(starts[-1]) + np.repeat(workload.prefix_start[:-1] - starts[:-1], counts)
        changes.update(prefix_start=starts, prefix_keys=workload.prefix_keys[at])
    return workload.with_changes(**changes, notes=(*workload.notes, f"{found}: clipped"))
