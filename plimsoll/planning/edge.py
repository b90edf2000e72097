"""Plans that the closed forms misjudge because the promise leaves them little to carry.

Near the edge, where one prompt takes most of the first-token bound or a chunk most of a token's,
the closed forms see a small share of a full batch's rate, or none, and rank budgets badly; a
simulation tells. There the whole fleet is tried with the cuts that are fastest on a long prompt,
each with the largest token budget whose step keeps the token bound, then smaller ones.
Leaves out: pools apart, which suffer more at low rates than they gain.
"""

from collections.abc import Sequence

import numpy as np

from plimsoll.planning.bounds import capacity_bound_per_s, unloaded_s
from plimsoll.planning.combine import Estimate
from plimsoll.planning.estimate import Demand, ShapeRecord
from plimsoll.planning.plan_space import SpaceOptions, aggregated, is_legal, policies_for
from plimsoll.planning.ranking import Ranking
from plimsoll.planning.step_table import StepTable
from plimsoll.spec.plan import ChunkedPrefill, StepPolicyConfig

__all__ = ["edge_estimates", "near_edge"]

_LITTLE = 0.1
_SHARE = 0.05
_BATCH = 32


def near_edge(ranking: Ranking, demand: Demand) -> bool:
    """Whether no plan with one pool is seen to carry a tenth of what full batches would."""
    records = {(r.shape.device, r.shape.parallel): r for r in ranking.records}
    for estimate in ranking.estimates:
        pool = estimate.candidate.pools[0]
        record = records.get((pool.device, pool.parallel))
        if pool.role != "both" or record is None or record.table is None:
            continue
        batch = max(record.batch_limits)
        bound = pool.replicas * capacity_bound_per_s(record.table, demand.traffic, batch)
        if estimate.rate_per_s > _LITTLE * bound:
            return False
    return True


def edge_estimates(
    ranking: Ranking, options: SpaceOptions, demand: Demand, most: int
) -> list[Estimate]:
    """At most ``most`` plans beyond the ranking's.

    With a load none whose full batches would not carry it.
    """
    if "aggregated" not in options.modes or demand.objective == "latency":
        return []
    seen = {_idea(e) for e in ranking.estimates}
    ladders = [_ladder(record, options, demand) for record in _fastest_first(ranking, demand)]
    found: list[Estimate] = []
    for turn in range(len(options.budgets)):
        for ladder in ladders:
            if turn < len(ladder) and _idea(ladder[turn]) not in seen and len(found) < most:
                seen.add(_idea(ladder[turn]))
                found.append(ladder[turn])
    return found


def _idea(estimate: Estimate) -> tuple[object, ...]:
    candidate = estimate.candidate
    pools = [(p.device, p.replicas, p.parallel, p.policy) for p in candidate.pools]
    return (*pools, candidate.weight_dtype, candidate.kv_dtype)


def _fastest_first(ranking: Ranking, demand: Demand) -> list[ShapeRecord]:
    """Cuts that keep the promise for one request, by the time of a long prompt; one of each size.

    Of the ways to spread experts over the same ranks only the fastest is kept.
    """
    timed = [
        (unloaded_s(r.table, demand.traffic, 99.0), index, r)
        for index, r in enumerate(ranking.records)
        if r.table is not None and not r.problem["both"] and r.counts
    ]
    kept: dict[tuple[object, ...], ShapeRecord] = {}
    for _, _, record in sorted(timed, key=lambda row: row[:2]):
        shape = record.shape
        cut = (shape.parallel.tp, shape.parallel.pp, shape.parallel.attention_dp)
        kept.setdefault((shape.device, shape.weight_dtype, shape.kv_dtype, cut), record)
    return list(kept.values())


def _ladder(record: ShapeRecord, options: SpaceOptions, demand: Demand) -> list[Estimate]:
    """Plans of one cut, from the largest token budget that keeps the token bound downwards."""
    table = record.table
    if table is None:
        return []
    bounds = [t.bound_s for t in demand.slo.targets if t.metric in ("tpot", "itl")]
    bound = min(bounds, default=float("inf"))
    policies = [p for p in policies_for(options) if isinstance(p, ChunkedPrefill)]
    policies.sort(key=lambda p: -p.token_budget)
    keep = [p for p in policies if _step_s(table, p.token_budget) <= bound] or policies[-1:]
    plans = (_estimate(record, table, policy, options, demand) for policy in keep)
    return [one for one in plans if one is not None]


def _step_s(table: StepTable, tokens: int) -> float:
    beside = np.full(1, float(_BATCH))
    step = table.decode(beside) + table.extra(np.full(1, float(tokens)), beside)
    return float(step[0]) * table.num_stages


def _estimate(
    record: ShapeRecord,
    table: StepTable,
    policy: StepPolicyConfig,
    options: SpaceOptions,
    demand: Demand,
) -> Estimate | None:
    legal: Sequence[int] = [n for n in record.max_num_seqs if is_legal(policy, n)]
    if not legal:
        return None
    seqs = max((n for n in legal if n <= _BATCH), default=legal[0])
    count = record.counts[-1]
    full = count * capacity_bound_per_s(table, demand.traffic, seqs)
    if full < demand.load_per_s:
        return None
    return Estimate(
        candidate=aggregated(record.shape, count, policy, seqs, options),
        score=float("-inf"),
        rate_per_s=max(_SHARE * full, demand.load_per_s),
        token_s=float(table.decode(np.ones(1))[0]) * table.num_stages,
        ttft_s=unloaded_s(table, demand.traffic, 50.0),
        limit="",
    )
