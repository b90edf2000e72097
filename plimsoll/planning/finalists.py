"""Which estimates are worth a simulation: the best, but not eight times the same idea.

In turn: the best of each structure (shapes and counts) by score, no pool of a disaggregated plan
more than twice; the best of each mode, the fewest devices, the fastest tokens; and then second
settings of the leaders.
"""

from collections import Counter
from collections.abc import Sequence

from plimsoll.planning.combine import Estimate

__all__ = ["pick_finalists"]

_MOST_BELOW = 0.5
_MOST_ALIKE = 2


def _structure(estimate: Estimate) -> tuple[object, ...]:
    candidate = estimate.candidate
    pools = tuple((p.role, p.device, p.replicas, p.parallel) for p in candidate.pools)
    return (*pools, candidate.weight_dtype, candidate.kv_dtype)


def _varied(leaders: list[Estimate]) -> list[Estimate]:
    """Without those whose limiting pool has been seen often enough in better plans."""
    seen: Counter[object] = Counter()
    kept = []
    for one in leaders:
        pools = one.candidate.pools
        keys = [(p.role, p.device, p.replicas, p.parallel) for p in pools if p.role != "both"]
        if all(seen[key] < _MOST_ALIKE for key in keys):
            kept.append(one)
            seen.update(keys)
    return kept


def pick_finalists(estimates: Sequence[Estimate], most: int) -> list[Estimate]:
    """At most ``most`` of the estimates, which come best first; the first is always picked."""
    if not estimates:
        return []
    by_structure: dict[tuple[object, ...], Estimate] = {}
    for one in estimates:
        by_structure.setdefault(_structure(one), one)
    leaders = _varied(list(by_structure.values()))
    best = leaders[0].score
    if best > 0:
        near = [e for e in leaders if e.score >= best * _MOST_BELOW]
    else:
        near = [e for e in leaders if e.score >= best / _MOST_BELOW]
    special = [
        *{e.candidate.mode: e for e in reversed(near)}.values(),
        min(leaders, key=lambda e: e.candidate.num_devices),
        min(near, key=lambda e: e.token_s),
    ]
    others = [e for e in estimates if e.score >= near[-1].score]
    picked: list[Estimate] = []
    reserved = min(len(special), most // 2)
    for one in [*near[: most - reserved], *special, *near, *others]:
        if one not in picked and len(picked) < most:
            picked.append(one)
    return sorted(picked, key=estimates.index)
