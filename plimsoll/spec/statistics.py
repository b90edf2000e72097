"""What a workload looks like in numbers, and how much of it repeats.

Gap CV is the standard deviation of the gaps between arrivals over their mean. Reuse counts, for
each request in order, the leading prefix blocks that any earlier request had (a cache that never
forgets): an upper bound on what a real cache serves.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plimsoll.spec.errors import SpecError
from plimsoll.spec.workload import Workload

__all__ = ["Reuse", "rank_correlation", "reuse_in", "statistics_of"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def _ranks(values: npt.NDArray[np.generic]) -> Floats:
    """Ranks with ties sharing their mean."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2.0)[index])


def rank_correlation(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic]) -> float:
    """Spearman's rho; 0 where one side is constant."""
    ranks_a, ranks_b = _ranks(a), _ranks(b)
    if ranks_a.std() == 0 or ranks_b.std() == 0:
        return 0.0
    return float(np.corrcoef(ranks_a, ranks_b)[0, 1])


def statistics_of(workload: Workload) -> dict[str, float]:
    """Rate, gap CV, mean and P50/P90/P99 of both lengths, rank correlation, reused share."""
    gaps_s = np.diff(workload.arrival_s)
    mean_gap_s = float(gaps_s.mean()) if len(gaps_s) else 0.0
    result = {
        "requests": float(len(workload)),
        "span_s": workload.duration_s,
        "rate_per_s": workload.rate_per_s,
        "gap_cv": float(gaps_s.std()) / mean_gap_s if mean_gap_s > 0 else 0.0,
    }
    for name in ("prompt_tokens", "output_tokens"):
        values = getattr(workload, name)
        result[f"{name}_mean"] = float(values.mean())
        for percent in (50, 90, 99):
            result[f"{name}_p{percent}"] = float(np.percentile(values, percent))
    result["length_rank_correlation"] = rank_correlation(
        workload.prompt_tokens, workload.output_tokens
    )
    if len(workload.prefix_start):
        seen = reuse_in(workload)
        result["reused_block_fraction"] = float(seen.shared_blocks.sum() / seen.blocks.sum())
    return result


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reuse:
    """Prefix reuse, a row a request."""

    blocks: Ints
    shared_blocks: Ints
    parent: Ints
    """The latest earlier request that had the last shared block; -1 where nothing is shared."""
    common_blocks: int
    """Leading blocks that nearly all requests (19 in 20) have in common."""


def reuse_in(workload: Workload) -> Reuse:
    """Who repeats whose prefix, with a cache that never forgets.

    Raises:
        SpecError: the workload carries no prefix keys.
    """
    if not len(workload.prefix_start):
        raise SpecError(f"workload {workload.name}: carries no prefix keys")
    n = len(workload)
    keys, starts = workload.prefix_keys.tolist(), workload.prefix_start.tolist()
    owner: dict[int, int] = {}
    shared = np.zeros(n, dtype=np.int64)
    parent = np.full(n, -1, dtype=np.int64)
    for i in range(n):
        own = keys[starts[i] : starts[i + 1]]
        for key in own:
            if key not in owner:
                break
            shared[i] += 1
            parent[i] = owner[key]
        for key in own:
            owner[key] = i
    blocks = np.diff(workload.prefix_start)
    common = 0
    while True:
        long = np.flatnonzero(blocks > common)
        if len(long) < 0.95 * n:
            break
        column = workload.prefix_keys[workload.prefix_start[long] + common]
        if np.unique(column, return_counts=True)[1].max() < 0.95 * n:
            break
        common += 1
    return Reuse(blocks=blocks, shared_blocks=shared, parent=parent, common_blocks=common)
