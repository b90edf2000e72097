"""Plans that the closed forms give up on though each request alone keeps the promise.

Near the edge, where one prompt takes most of the first-token bound or a chunk most of a token's,
the closed forms may see no rate at all that holds, and a simulation a low one. There the whole
fleet is tried with each remaining cut, and the smallest, a middle and the largest token budget
that the closed forms did not pick. Used only where they leave fewer plans than may be simulated.
Leaves out: pools apart, which suffer more at low rates than they gain.
"""

from collections.abc import Sequence

import numpy as np

from plimsoll.planning.bounds import capacity_bound_per_s, unloaded_s
from plimsoll.planning.combine import Estimate
from plimsoll.planning.estimate import Demand, ShapeRecord
from plimsoll.planning.plan_space import SpaceOptions, aggregated, is_legal, policies_for
from plimsoll.planning.ranking import Ranking
from plimsoll.spec.plan import StepPolicyConfig

__all__ = ["edge_estimates"]

_SHARE = 0.05
"""Of what a full batch would carry: a first rate to try, far from any queue."""
_BATCH = 32


def edge_estimates(
    ranking: Ranking, options: SpaceOptions, demand: Demand, most: int
) -> list[Estimate]:
    """At most ``most`` plans beyond the ranking's, widest cuts first; none if a load is given."""
    if demand.load_per_s or "aggregated" not in options.modes or demand.objective == "latency":
        return []
    records = [r for r in ranking.records if r.table is not None and not r.problem["both"]]
    records.sort(key=lambda r: -r.shape.num_devices)
    seen = {_idea(e) for e in ranking.estimates}
    found: list[Estimate] = []
    for turn in range(3):
        for record in records:
            policy = _spread(policies_for(options), turn)
            one = _estimate(record, policy, options, demand)
            if one is not None and _idea(one) not in seen and len(found) < most:
                seen.add(_idea(one))
                found.append(one)
    return found


def _idea(estimate: Estimate) -> tuple[object, ...]:
    candidate = estimate.candidate
    pools = [(p.device, p.replicas, p.parallel, p.policy) for p in candidate.pools]
    return (*pools, candidate.weight_dtype, candidate.kv_dtype)


def _spread(policies: Sequence[StepPolicyConfig], turn: int) -> StepPolicyConfig:
    """The first, a middle and the last of the policies; budgets rise along them."""
    return policies[(0, len(policies) // 2, -1)[turn]]


def _estimate(
    record: ShapeRecord, policy: StepPolicyConfig, options: SpaceOptions, demand: Demand
) -> Estimate | None:
    legal = [n for n in record.max_num_seqs if is_legal(policy, n)]
    if not legal or not record.counts or record.table is None:
        return None
    seqs = max((n for n in legal if n <= _BATCH), default=legal[0])
    count = record.counts[-1]
    bound = capacity_bound_per_s(record.table, demand.traffic, seqs)
    token_s = float(record.table.decode(np.ones(1))[0]) * record.table.num_stages
    return Estimate(
        candidate=aggregated(record.shape, count, policy, seqs, options),
        score=float("-inf"),
        rate_per_s=_SHARE * bound * count,
        token_s=token_s,
        ttft_s=unloaded_s(record.table, demand.traffic, 50.0),
        limit="",
    )
