"""The trade between speed for a user and yield of a device, over all plans and loads.

Every load point of every curve is a place a deployment could run at: output tokens/s a user
sees (1 / time per token) against output tokens/s a device yields. Points are kept when no other
of their family beats them in both; families are aggregated and disaggregated, each with the
number format if it is not the checkpoint's own. Points that miss the SLO's first-token bounds
are left out, so the picture obeys the promise that the pick obeys.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plimsoll.planning.combine import PairCounts
from plimsoll.planning.estimate import Demand, PoolEstimate
from plimsoll.planning.pareto import pareto_front
from plimsoll.planning.plan_space import (
    Candidate,
    Shape,
    SpaceOptions,
    aggregated,
    disaggregated,
    policies_for,
)

__all__ = ["ParetoPoint", "family_of", "frontier"]

_PREFILL_POOLS = 6
_Raw = tuple[float, float, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoPoint:
    """A place to run at: user speed and device yield in output tokens/s, and the plan."""

    family: str
    tokens_per_s_per_user: float
    tokens_per_s_per_device: float
    rate_per_s: float
    candidate: Candidate


def family_of(mode: str, shape: Shape) -> str:
    """The name of a plan's family: how it is served, and the weights if quantized here."""
    extra = [f"{shape.weight_dtype.value} weights"] if shape.weight_dtype is not None else []
    extra += [f"{shape.kv_dtype.value} KV"] if shape.kv_dtype is not None else []
    return ", ".join([mode, *extra])


def _front(raw: Sequence[_Raw]) -> list[_Raw]:
    return pareto_front(raw, lambda r: r[0], lambda r: r[1])


def _aggregated_points(index: int, pool: PoolEstimate, demand: Demand) -> list[_Raw]:
    """(user speed, device yield, (pool, policy, point)) of the largest count and batch limit."""
    curves = pool.curves
    shape = pool.state.rate_per_s.shape[1:]
    n = len(curves.batch)
    rate = np.broadcast_to(curves.rate_per_s, (shape[1], n))
    speed = 1 / np.broadcast_to(curves.token_s, (shape[1], n))
    full = (*pool.state.rate_per_s.shape, n)
    valid = np.broadcast_to(curves.valid, full)[-1, -1]
    valid = valid & (np.broadcast_to(pool.first_token_margin, full)[-1, -1] >= 0)
    tokens = rate * demand.traffic.mean_output_tokens / pool.record.shape.num_devices
    where = np.argwhere(valid)
    raw = [(float(speed[p, i]), float(tokens[p, i]), (index, int(p), int(i))) for p, i in where]
    return _front(raw)


def _pair_points(
    index: tuple[int, int],
    prefill: PoolEstimate,
    decode: PoolEstimate,
    pairs: PairCounts,
    demand: Demand,
) -> list[_Raw]:
    counts = pairs.of(prefill.record.shape, decode.record.shape)
    if not len(counts):
        return []
    curves = decode.curves
    rows = prefill.row(counts[:, 0])
    offered = prefill.state.rate_per_s.max(axis=(1, 2))[rows] * counts[:, 0]
    valid = np.broadcast_to(curves.valid, (*decode.state.rate_per_s.shape, len(curves.batch)))[
        -1, -1, -1
    ]
    rate = np.minimum(offered[:, None], counts[:, 1:2] * curves.rate_per_s[None, :])
    sizes = counts @ np.array([prefill.record.shape.num_devices, decode.record.shape.num_devices])
    tokens = rate * demand.traffic.mean_output_tokens / sizes[:, None]
    best = tokens.argmax(axis=0)
    raw = [
        (
            float(1 / curves.token_s[i]),
            float(tokens[best[i], i]),
            (*index, int(best[i]), int(i)),
        )
        for i in np.flatnonzero(valid)
        if tokens[best[i], i] > 0
    ]
    return _front(raw)


def frontier(
    mixed: Sequence[PoolEstimate],
    prefill: Sequence[PoolEstimate],
    decode: Sequence[PoolEstimate],
    pairs: PairCounts,
    options: SpaceOptions,
    demand: Demand,
) -> tuple[ParetoPoint, ...]:
    """The front of each family, by family and rising user speed."""
    if demand.traffic.mean_output_tokens <= 1:
        return ()
    found: dict[str, list[_Raw]] = {}
    for index, pool in enumerate(mixed):
        family = family_of("aggregated", pool.record.shape)
        found.setdefault(family, []).extend(_aggregated_points(index, pool, demand))
    strong = sorted(
        range(len(prefill)),
        key=lambda i: (
            -float(prefill[i].state.rate_per_s[-1].max()) / prefill[i].record.shape.num_devices,
            i,
        ),
    )
    for i in strong[:_PREFILL_POOLS]:
        for j, other in enumerate(decode):
            shape = prefill[i].record.shape
            if _formats(shape) != _formats(other.record.shape):
                continue
            family = family_of("disaggregated", shape)
            points = _pair_points((i, j), prefill[i], other, pairs, demand)
            found.setdefault(family, []).extend(points)
    result = []
    for family, raw in found.items():
        for speed, tokens, where in _front(raw):
            candidate = (
                _mixed_candidate(mixed[where[0]], where, options)
                if len(where) == 3
                else _pair_candidate(prefill[where[0]], decode[where[1]], where, pairs, options)
            )
            result.append(
                ParetoPoint(
                    family=family,
                    tokens_per_s_per_user=speed,
                    tokens_per_s_per_device=tokens,
                    rate_per_s=tokens * candidate.num_devices / demand.traffic.mean_output_tokens,
                    candidate=candidate,
                )
            )
    return tuple(result)


def _formats(shape: Shape) -> tuple[object, object]:
    return shape.weight_dtype, shape.kv_dtype


def _seqs_for(pool: PoolEstimate, batch: float) -> int:
    for seqs, limit in zip(pool.record.max_num_seqs, pool.record.batch_limits, strict=True):
        if limit >= batch:
            return seqs
    return pool.record.max_num_seqs[-1]


def _mixed_candidate(
    pool: PoolEstimate, where: tuple[int, ...], options: SpaceOptions
) -> Candidate:
    batch = float(pool.curves.batch[where[2]])
    policy = policies_for(options)[where[1]]
    return aggregated(
        pool.record.shape, pool.record.counts[-1], policy, _seqs_for(pool, batch), options
    )


def _pair_candidate(
    prefill: PoolEstimate,
    decode: PoolEstimate,
    where: tuple[int, ...],
    pairs: PairCounts,
    options: SpaceOptions,
) -> Candidate:
    counts = pairs.of(prefill.record.shape, decode.record.shape)[where[2]]
    row = int(prefill.row(counts[:1])[0])
    policy = int(prefill.state.rate_per_s[row].max(axis=0).argmax())
    return disaggregated(
        prefill.record.shape,
        decode.record.shape,
        (int(counts[0]), int(counts[1])),
        policies_for(options)[policy],
        _seqs_for(decode, float(decode.curves.batch[where[3]])),
        options,
    )
