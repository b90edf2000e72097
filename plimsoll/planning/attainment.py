"""How many requests meet the SLO along a load curve, and the highest rate at which enough do.

A bound on first-token time is met with certainty by a request that finds no queue and needs
less; otherwise with probability 1 - p exp(-p slack / wait). Time per token is normal around
its mean, with the spread of the batch met and of the prompts met over the request's output.
End-to-end adds decode time at the mean step. The rate where a target starts to fail is found
by interpolating the logarithm of the share that misses, which is close to linear in the batch.
Leaves out: correlation of first-token time and token time; targets of one class of request
are applied to all.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plimsoll.planning.steady_state import Curves
from plimsoll.planning.traffic import Traffic
from plimsoll.spec.slo import Slo, SloTarget

__all__ = ["Limit", "State", "best_states", "margins", "state_at_rate"]

Floats = npt.NDArray[np.float64]
_LEAST_MISS = 1e-9
_STRICTEST = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Limit:
    """Log distance to missing a target along a curve: positive where it is met."""

    name: str
    margin: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class State:
    """One point of each curve, [R, M, P]: rate and latencies there, and whether it is allowed.

    ``limit``: index into the limits of the one that stops the rate; -1: capacity.
    """

    rate_per_s: Floats
    batch: Floats
    token_s: Floats
    ttft_s: Floats
    limit: npt.NDArray[np.int64]
    feasible: npt.NDArray[np.bool_]


def _log_margin(attained: Floats, percentile: float) -> Floats:
    miss = np.maximum(1 - attained, _LEAST_MISS)
    allowed = max(1 - percentile / 100, _STRICTEST)
    return np.asarray(np.log(allowed) - np.log(miss))


def _on_time(slack_s: Floats, curves: Curves) -> Floats:
    p = np.maximum(curves.wait_probability, 1e-12)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        late = p * np.exp(-p * np.maximum(slack_s, 0.0) / np.maximum(curves.wait_s, 1e-12))
    late = np.where(np.isinf(curves.wait_s), 1.0, late)
    return np.asarray(np.where(slack_s >= 0, 1 - late, 0.0))


def _first_token(curves: Curves, traffic: Traffic, bound_s: float) -> Floats:
    total: Floats = np.zeros(())
    for group, weight in enumerate(traffic.prompt_weight):
        slack = bound_s - curves.ahead_s - curves.prompt_s[..., group]
        total = total + weight * _on_time(slack, curves)
    return total


def _token(curves: Curves, traffic: Traffic, bound_s: float, once_s: Floats) -> Floats:
    from scipy.special import ndtr

    total: Floats = np.zeros(())
    several = 0.0
    for weight, output in zip(traffic.output_weight, traffic.output_tokens, strict=True):
        steps = output - 1
        if steps <= 0:
            continue
        several += weight
        mean = curves.token_s + once_s / steps
        spread = np.sqrt(curves.token_sigma_s**2 + curves.met_s2 / steps)
        with np.errstate(invalid="ignore"):
            z = (bound_s - mean) / np.maximum(spread, 1e-9)
        total = total + weight * np.where(np.isnan(z), 0.0, ndtr(z))
    return total / several if several else np.ones(())


def _gap(curves: Curves, bound_s: float) -> Floats:
    return np.where(curves.worst_step_s <= bound_s, 1.0, 0.0)


def _end_to_end(curves: Curves, traffic: Traffic, bound_s: float) -> Floats:
    total: Floats = np.zeros(())
    for weight, group, output in zip(
        traffic.cell_weight, traffic.cell_group, traffic.cell_output_tokens, strict=True
    ):
        own = curves.prompt_s[..., group] + (output - 1) * curves.token_s
        total = total + weight * _on_time(bound_s - curves.ahead_s - own, curves)
    return total


def _through_surges(attained: Floats, curves: Curves, traffic: Traffic) -> Floats:
    """Share of requests on time when the rate surges around each point of the curves."""
    if len(traffic.surge_factor) == 1 and traffic.surge_factor[0] == 1:
        return attained
    shape = np.broadcast_shapes(attained.shape, curves.valid.shape, curves.rate_per_s.shape)
    kept = np.where(np.broadcast_to(curves.valid, shape), np.broadcast_to(attained, shape), 0.0)
    rates = np.maximum.accumulate(np.atleast_2d(curves.rate_per_s), axis=-1)
    last = shape[-1] - 1
    total: Floats = np.zeros(())
    for weight, factor in zip(traffic.surge_weight, traffic.surge_factor, strict=True):
        index = np.empty(rates.shape, dtype=np.int64)
        part = np.empty(rates.shape)
        for row, rate in enumerate(rates):
            position = np.interp(factor * rate, rate, np.arange(last + 1.0), right=last + 1.0)
            index[row] = np.minimum(position.astype(np.int64), last - 1)
            part[row] = np.where(position > last, np.nan, position - index[row])
        where = np.broadcast_to(index, shape)
        low = np.take_along_axis(kept, where, axis=-1)
        high = np.take_along_axis(kept, where + 1, axis=-1)
        total = total + weight * np.where(np.isnan(part), 0.0, low + part * (high - low))
    return total


def margins(
    curves: Curves,
    traffic: Traffic,
    slo: Slo,
    *,
    metrics: tuple[str, ...] = ("ttft", "tpot", "itl", "e2e"),
    once_s: Floats | float = 0.0,
    joint_percentile: float = 0.0,
) -> list[Limit]:
    """The distance to missing each target of ``metrics`` along the curves.

    ``once_s`` is spent once between first and second token (hand-over and wait of a decode
    pool). ``joint_percentile`` > 0 asks that share of requests to meet every target together
    (targets taken as independent) instead of each target's own percentile.
    """
    once = np.asarray(once_s, dtype=np.float64)
    rules: dict[str, Callable[[SloTarget], Floats]] = {
        "ttft": lambda t: _first_token(curves, traffic, t.bound_s),
        "tpot": lambda t: _token(curves, traffic, t.bound_s, once),
        "itl": lambda t: _gap(curves, t.bound_s),
        "e2e": lambda t: _end_to_end(curves, traffic, t.bound_s),
    }
    wanted = [t for t in slo.targets if t.metric in metrics]
    attained = [(t, _through_surges(rules[t.metric](t), curves, traffic)) for t in wanted]
    if joint_percentile and attained:
        both: Floats = np.ones(())
        for _, share in attained:
            both = both * share
        name = " and ".join(dict.fromkeys(t.metric.upper() for t in wanted))
        return [Limit(name=name, margin=_log_margin(both, joint_percentile))]
    return [
        Limit(name=f"{t.metric.upper()} p{t.percentile:g}", margin=_log_margin(share, t.percentile))
        for t, share in attained
    ]


def _pick(
    values: Floats, index: npt.NDArray[np.int64], part: Floats, shape: tuple[int, ...]
) -> Floats:
    full = np.broadcast_to(values, shape)
    low = np.take_along_axis(full, index[..., None], axis=-1)[..., 0]
    high = np.take_along_axis(full, (index + 1)[..., None], axis=-1)[..., 0]
    with np.errstate(invalid="ignore"):
        between = low + part * (high - low)
    return np.asarray(np.where(part > 0, between, low))


def _state(
    curves: Curves,
    traffic: Traffic,
    index: npt.NDArray[np.int64],
    part: Floats,
    limit: npt.NDArray[np.int64],
    feasible: npt.NDArray[np.bool_],
    shape: tuple[int, ...],
) -> State:
    own = curves.prompt_s @ traffic.prompt_weight
    ttft = curves.ahead_s + curves.wait_s + own
    return State(
        rate_per_s=np.where(feasible, _pick(curves.rate_per_s, index, part, shape), 0.0),
        batch=_pick(curves.batch, index, part, shape),
        token_s=_pick(curves.token_s, index, part, shape),
        ttft_s=_pick(ttft, index, part, shape),
        limit=limit,
        feasible=feasible,
    )


def best_states(curves: Curves, traffic: Traffic, limits: list[Limit]) -> State:
    """The highest load before the first limit is passed, for each curve.

    Without limits: the highest valid load.
    """
    shape = np.broadcast_shapes(
        curves.valid.shape, curves.rate_per_s.shape, *(m.margin.shape for m in limits)
    )
    valid = np.broadcast_to(curves.valid, shape)
    margin = np.where(valid, np.inf, -np.inf)
    which = np.full(shape, -1, dtype=np.int64)
    for number, one in enumerate(limits):
        tighter = one.margin < margin
        which = np.where(tighter, number, which)
        margin = np.where(tighter, one.margin, margin)
    failed = margin < 0
    last = shape[-1] - 1
    stop = np.where(failed.any(axis=-1), failed.argmax(axis=-1), last + 1)
    feasible = np.asarray(stop > 0, dtype=np.bool_)
    index = np.clip(stop - 1, 0, last - 1)
    before = np.take_along_axis(margin, index[..., None], axis=-1)[..., 0]
    after = np.take_along_axis(margin, (index + 1)[..., None], axis=-1)[..., 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        crossing = before / (before - after)
    part = np.where(np.isfinite(before) & np.isfinite(after), np.clip(crossing, 0, 1), 0.0)
    part = np.where(stop > last, 1.0, part)
    stopped = np.minimum(stop, last)[..., None]
    limit = np.where(stop > last, -1, np.take_along_axis(which, stopped, axis=-1)[..., 0])
    capacity = ~np.take_along_axis(valid, stopped, axis=-1)[..., 0]
    limit = np.where(capacity, -1, limit)
    return _state(curves, traffic, index, part, limit, feasible, shape[:-1] + (last + 1,))


def state_at_rate(curves: Curves, traffic: Traffic, rate_per_s: Floats) -> State:
    """The state that carries ``rate_per_s`` [R, 1, 1] a replica; infeasible beyond the curve."""
    shape = np.broadcast_shapes(curves.valid.shape, curves.rate_per_s.shape)
    rate = np.broadcast_to(np.where(curves.valid, curves.rate_per_s, -np.inf), shape)
    wanted = np.broadcast_to(rate_per_s, shape[:-1])
    reached = rate >= wanted[..., None]
    feasible = np.asarray(reached.any(axis=-1), dtype=np.bool_)
    stop = np.where(feasible, reached.argmax(axis=-1), 1)
    index = np.clip(stop - 1, 0, shape[-1] - 2)
    low = np.take_along_axis(rate, index[..., None], axis=-1)[..., 0]
    high = np.take_along_axis(rate, (index + 1)[..., None], axis=-1)[..., 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.clip((wanted - low) / (high - low), 0, 1)
    part = np.where(np.isfinite(part) & (stop > 0), part, 0.0)
    limit = np.full(shape[:-1], -1, dtype=np.int64)
    return _state(curves, traffic, index, part, limit, feasible, shape)
