"""The fast search: every plan of the space, ranked by the closed forms, with what was left out.

Counts are of plans: one for each combination of shapes, counts, policy and batch limit, exactly
those that ``enumerate_plans`` yields, but counted and estimated without making them. A plan is
*pruned* when one of its shapes cannot work in its role, or when its batch limit is beyond what
memory holds, which makes it the same as another.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from plimsoll.planning.combine import (
    Estimate,
    PairCounts,
    aggregated_estimates,
    disaggregated_estimates,
)
from plimsoll.planning.estimate import (
    Demand,
    PoolEstimate,
    Role,
    ShapeRecord,
    estimate_pool,
    measure_shape,
)
from plimsoll.planning.frontier import ParetoPoint, frontier
from plimsoll.planning.parallel_shapes import Site, Skips
from plimsoll.planning.physics import Physics
from plimsoll.planning.plan_space import SpaceOptions, enumerate_shapes, is_legal, policies_for
from plimsoll.spec.model import ModelSpec

__all__ = ["Ranking", "rank_plans"]

_BEYOND_MEMORY = "batch limit beyond what memory holds (same as a smaller one)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Estimates from best to worst, the Pareto front, and what became of every plan.

    ``skipped`` counts shapes that are not legal; ``pruned`` plans, by reason. ``records`` are
    all legal shapes, dropped ones with their problem.
    """

    estimates: tuple[Estimate, ...]
    pareto: tuple[ParetoPoint, ...]
    num_enumerated: int
    num_estimated: int
    pruned: Counter[str] = field(default_factory=Counter)
    skipped: Skips = field(default_factory=Skips)
    records: tuple[ShapeRecord, ...] = ()


def _roles(options: SpaceOptions) -> list[Role]:
    roles: list[Role] = []
    if "aggregated" in options.modes:
        roles.append("both")
    if "disaggregated" in options.modes:
        roles += ["prefill", "decode"]
    return roles


def _count(
    records: Sequence[ShapeRecord], pairs: PairCounts, options: SpaceOptions
) -> tuple[int, Counter[str]]:
    """(plans in all, plans pruned by reason)."""
    policies = policies_for(options)
    total, pruned = 0, Counter[str]()

    def settle(plans: int, reason: str, kept: Sequence[int], mixed: bool) -> None:
        nonlocal total
        legal = [n for p in policies for n in options.max_num_seqs if not mixed or is_legal(p, n)]
        total += plans * len(legal)
        if reason:
            pruned[reason] += plans * len(legal)
        elif any(n not in kept for n in legal):
            pruned[_BEYOND_MEMORY] += plans * sum(n not in kept for n in legal)

    if "aggregated" in options.modes:
        for record in records:
            settle(len(record.counts), record.problem["both"], record.max_num_seqs, True)
    if "disaggregated" in options.modes:
        for first in records:
            for second in records:
                if _formats(first) == _formats(second):
                    reason = first.problem["prefill"] or second.problem["decode"]
                    plans = len(pairs.of(first.shape, second.shape))
                    settle(plans, reason, second.max_num_seqs, False)
    return total, pruned


def _formats(record: ShapeRecord) -> tuple[object, object]:
    return record.shape.weight_dtype, record.shape.kv_dtype


def _order(estimate: Estimate) -> tuple[float, float]:
    """By score to three digits; equal ones by the faster tokens."""
    score = estimate.score
    digits = 2 - math.floor(math.log10(abs(score))) if score and math.isfinite(score) else 0
    return -round(score, digits), estimate.token_s


def rank_plans(
    model: ModelSpec,
    sites: Sequence[Site],
    options: SpaceOptions,
    physics: Physics,
    demand: Demand,
) -> Ranking:
    """Estimate every plan of the space; deterministic, in one process."""
    skipped = Skips()
    shapes = enumerate_shapes(model, list(sites), options, skipped)
    roles = _roles(options)
    records = [
        measure_shape(shape, sites, options, physics, demand, roles=roles) for shape in shapes
    ]
    pairs = PairCounts(sites, options)
    total, pruned = _count(records, pairs, options)
    pools: dict[Role, list[PoolEstimate]] = {"both": [], "prefill": [], "decode": []}
    prompt = demand.traffic.mean_prompt_tokens
    for record in records:
        for role in roles:
            if record.problem[role]:
                continue
            handover = physics.handover_s(record.shape, record.shape, prompt)
            pool = estimate_pool(record, role, options, demand, handover_s=handover)
            pools[role].append(pool)
    estimates: list[Estimate] = []
    for pool in pools["both"]:
        estimates.extend(aggregated_estimates(pool, sites, options, demand))
    for first in pools["prefill"]:
        for second in pools["decode"]:
            if _formats(first.record) == _formats(second.record):
                found = pairs.of(first.record.shape, second.record.shape)
                estimates.extend(
                    disaggregated_estimates(first, second, found, sites, options, demand)
                )
    order = sorted(range(len(estimates)), key=lambda i: _order(estimates[i]))
    return Ranking(
        estimates=tuple(estimates[i] for i in order),
        pareto=frontier(pools["both"], pools["prefill"], pools["decode"], pairs, options, demand),
        num_enumerated=total,
        num_estimated=total - pruned.total(),
        pruned=pruned,
        skipped=skipped,
        records=tuple(records),
    )
