"""From pools to plans: how many of each shape, and which prefill pool with which decode pool.

Aggregated: count x the rate of one replica. Disaggregated: the smaller of the pools' rates, for
every pair of counts that fits the fleet and the limits; the policy of the prefill pool and the
batch limit of the decode pool are then the best of each on its own, because the smaller rate
never falls when one of the two rises. Every combination is scored; the best of each
(shapes, counts) is kept as an estimate, with the next best policy of each aggregated one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plimsoll.planning.estimate import Demand, PoolEstimate
from plimsoll.planning.objective import scale_of, score
from plimsoll.planning.parallel_shapes import Site
from plimsoll.planning.plan_space import (
    Candidate,
    Shape,
    SpaceOptions,
    aggregated,
    disaggregated,
    pair_counts_of,
    policies_for,
)

__all__ = ["Estimate", "PairCounts", "aggregated_estimates", "disaggregated_estimates"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_CAPACITY = "throughput"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A candidate as the closed forms see it; larger ``score`` is better.

    ``rate_per_s`` is the highest within the SLO for the whole plan; ``token_s`` and ``ttft_s``
    are means there. ``limit`` is what stops the rate.
    """

    candidate: Candidate
    score: float
    rate_per_s: float
    token_s: float
    ttft_s: float
    limit: str

    @property
    def rate_per_s_per_device(self) -> float:
        """Rate over the devices of the plan."""
        return self.rate_per_s / self.candidate.num_devices


class PairCounts:
    """Numbers of (prefill, decode) replicas that fit; remembered by sizes and stages."""

    def __init__(self, sites: Sequence[Site], options: SpaceOptions) -> None:
        self._sites, self._options = list(sites), options
        self._known: dict[tuple[tuple[int, int, int], ...], Ints] = {}

    def of(self, prefill: Shape, decode: Shape) -> Ints:
        """All fitting pairs of counts, [pairs, 2]."""
        key = tuple((s.site_index, s.num_devices, s.parallel.pp) for s in (prefill, decode))
        found = self._known.get(key)
        if found is None:
            pairs = pair_counts_of(prefill, decode, self._sites, self._options)
            found = np.array(pairs, dtype=np.int64).reshape(-1, 2)
            self._known[key] = found
        return found


def _kind(shape: Shape) -> tuple[int, ...]:
    cut = shape.parallel
    return shape.site_index, shape.num_devices, cut.pp, cut.attention_dp


def _limit_name(pool: PoolEstimate, where: tuple[int, int, int]) -> str:
    index = int(pool.state.limit[where])
    return pool.limits[index] if index >= 0 else _CAPACITY


def aggregated_estimates(
    pool: PoolEstimate,
    sites: Sequence[Site],
    options: SpaceOptions,
    demand: Demand,
    *,
    policies_each: int = 2,
) -> Iterator[Estimate]:
    """The best batch limit of the ``policies_each`` best policies, for each count of replicas."""
    record = pool.record
    counts = np.array(record.counts, dtype=np.int64)
    rows = pool.row(counts)
    rate = pool.state.rate_per_s[rows] * counts[:, None, None]
    device = sites[record.shape.site_index].device
    one = scale_of(device, record.shape.num_devices, demand.objective)
    value = score(
        demand.objective,
        one.times(counts[:, None, None].astype(np.float64)),
        capacity_per_s=rate,
        load_per_s=demand.load_per_s,
        output_tokens=demand.traffic.mean_output_tokens,
        e2e_s=pool.e2e_s[rows] if pool.e2e_s.ndim else None,
    )
    value = np.where(rate >= demand.load_per_s, value, -np.inf)
    policies = policies_for(options)
    by_policy = value.max(axis=1)
    batch = value.argmax(axis=1)
    for index, count in enumerate(record.counts):
        order = np.argsort(-by_policy[index], kind="stable")[:policies_each]
        for p in order:
            m = int(batch[index, p])
            found = float(value[index, m, p])
            if found == -np.inf:
                continue
            at = (int(rows[index]), m, int(p))
            yield Estimate(
                candidate=aggregated(
                    record.shape, count, policies[p], record.max_num_seqs[m], options
                ),
                score=found,
                rate_per_s=float(rate[index, m, p]),
                token_s=float(pool.state.token_s[at]),
                ttft_s=float(pool.state.ttft_s[at]),
                limit=_limit_name(pool, at),
            )


def disaggregated_estimates(
    prefill: PoolEstimate,
    decode: PoolEstimate,
    pairs: Ints,
    sites: Sequence[Site],
    options: SpaceOptions,
    demand: Demand,
    *,
    counts_each: int = 3,
) -> Iterator[Estimate]:
    """The ``counts_each`` best pairs of counts of two pools."""
    if not len(pairs):
        return
    first, second = prefill.record.shape, decode.record.shape
    rows_p, rows_d = prefill.row(pairs[:, 0]), decode.row(pairs[:, 1])
    best_p = prefill.state.rate_per_s.max(axis=(1, 2))[rows_p] * pairs[:, 0]
    best_d = decode.state.rate_per_s.max(axis=(1, 2))[rows_d] * pairs[:, 1]
    rate = np.minimum(best_p, best_d)
    counts = pairs.astype(np.float64)
    scale = scale_of(sites[first.site_index].device, first.num_devices, demand.objective)
    other = scale_of(sites[second.site_index].device, second.num_devices, demand.objective)
    e2e = None
    if prefill.e2e_s.ndim:
        e2e = prefill.e2e_s.min(axis=(1, 2))[rows_p] + decode.e2e_s.min(axis=(1, 2))[rows_d]
    value = score(
        demand.objective,
        scale.times(counts[:, 0]).plus(other.times(counts[:, 1])),
        capacity_per_s=rate,
        load_per_s=demand.load_per_s,
        output_tokens=demand.traffic.mean_output_tokens,
        e2e_s=e2e,
    )
    value = np.where(rate >= demand.load_per_s, value, -np.inf)
    policies = policies_for(options)
    for index in np.argsort(-value, kind="stable")[:counts_each]:
        if value[index] == -np.inf:
            return
        row_p, row_d = int(rows_p[index]), int(rows_d[index])
        p = _best(prefill, row_p)
        d = _best(decode, row_d)
        tight_prefill = best_p[index] <= best_d[index]
        yield Estimate(
            candidate=disaggregated(
                first,
                second,
                (int(pairs[index, 0]), int(pairs[index, 1])),
                policies[p[2]],
                decode.record.max_num_seqs[d[1]],
                options,
            ),
            score=float(value[index]),
            rate_per_s=float(rate[index]),
            token_s=float(decode.state.token_s[d]),
            ttft_s=float(prefill.state.ttft_s[p]),
            limit=("prefill " if tight_prefill else "decode ")
            + (_limit_name(prefill, p) if tight_prefill else _limit_name(decode, d)),
        )


def _best(pool: PoolEstimate, row: int) -> tuple[int, int, int]:
    rates = pool.state.rate_per_s[row] if not pool.e2e_s.ndim else -pool.e2e_s[row]
    m, p = np.unravel_index(int(rates.argmax()), rates.shape)
    return row, int(m), int(p)
