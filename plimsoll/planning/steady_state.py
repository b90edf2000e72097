"""First-token time, token time and rate of one replica under steady load, in closed form.

Everything is a curve over n, the requests that decode at once. Each request brings one prompt
and takes ``out`` decode steps, so a step that yields n tokens starts n / out prompts, and

    step(n) = decode(n) + n / out * extra(n)        rate(n) = n / (out * pp * step(n))

with no fixed point to solve; ``extra`` is what one prompt adds: to the steps that carry its
chunks (chunked prefill), or as steps of its own (prefill first, or a prefill pool). Short
prompts share a step when several arrive in one. First-token time = rest of the step in
progress + wait for prompts ahead + wait for a place in the batch + own chunks; waits follow the
many-server form rho^(sqrt(2(c+1))-1) / (c (1-rho)) * (ca2+cs2)/2 * service, with exponential
tails. Token time varies with the batch met (a birth-death process around n whose variance grows
as decode slows with n, averaged over a request's stay) and the prompts met. All policies, batch
limits and replica counts of a shape are computed at once. Leaves out: preemption, correlated
arrivals beyond their dispersion, growth of a request's own context.
Sources: doi:10.1287/opre.9.3.383 (Little), doi:10.1016/0377-2217(77)90084-0 (Sakasegawa),
arXiv 2403.02310 (chunks beside decodes).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plimsoll.planning.step_table import StepTable
from plimsoll.planning.traffic import Traffic
from plimsoll.spec.plan import ChunkedPrefill, PrefillFirst, SplitFuse, StepPolicyConfig

__all__ = ["HEAVIEST", "Curves", "decode_curves", "mixed_curves", "prefill_curves"]

Floats = npt.NDArray[np.float64]
HEAVIEST = 0.97
"""The largest utilization a curve reaches: closer to 1, waits are longer than any run."""
_LIGHTEST = 0.05
_POINTS = 40
_UNLIMITED = 10**9
_SPLITFUSE_BUDGET = 2048
_MOST_BURST = 4.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curves:
    """States of one replica from light to heavy load.

    Axes: replicas that share a queue [R], batch limits [M], policies [P], points [N], prompt
    groups [G]; an axis of length 1 does not matter. Arrays are [R, M, P, N] unless said.
    ``batch``: requests decoding at once (of a prefill pool: its load). ``rate_per_s``: through
    one replica. ``token_s``: mean time per output token; ``token_sigma_s`` its spread from the
    batch met, ``met_s2`` its variance from prompts met times output tokens. ``ahead_s`` certain
    delay before a request's own chunks, ``wait_s`` mean wait, ``wait_probability`` of one at
    all. ``prompt_s`` [P, N, G]: own chunks. ``worst_step_s``: longest gap between tokens.
    ``valid``: within the batch limit and not overloaded.
    """

    batch: Floats
    rate_per_s: Floats
    token_s: Floats
    token_sigma_s: Floats
    met_s2: Floats
    worst_step_s: Floats
    ahead_s: Floats
    wait_s: Floats
    wait_probability: Floats
    prompt_s: Floats
    valid: npt.NDArray[np.bool_]


def _budgets(policies: Sequence[StepPolicyConfig]) -> tuple[Floats, Floats]:
    """(tokens of a step, 1 where prompts share steps with decodes) [P, 1]."""
    budgets, shared = [], []
    for policy in policies:
        if isinstance(policy, ChunkedPrefill):
            budgets.append(policy.token_budget)
        elif isinstance(policy, SplitFuse):
            budgets.append(policy.token_budget or _SPLITFUSE_BUDGET)
        elif isinstance(policy, PrefillFirst):
            budgets.append(policy.max_batched_tokens)
        else:
            budgets.append(_UNLIMITED)
        shared.append(not isinstance(policy, PrefillFirst))
    return np.array(budgets, dtype=np.float64)[:, None], np.array(shared, dtype=np.float64)[:, None]


def _batch_points(limits: Floats) -> Floats:
    top = float(limits.max())
    points = np.concatenate([np.geomspace(min(_LIGHTEST, top / 2), top, _POINTS), limits * 0.9])
    return np.unique(np.concatenate([points, limits * HEAVIEST]))


def _wait(rho: Floats, service_s: Floats, variability: Floats, servers: Floats) -> Floats:
    """Mean wait of a many-server queue; infinite from full load on."""
    safe = np.minimum(rho, 1 - 1e-9)
    power = np.sqrt(2.0 * (servers + 1)) - 1
    wait = variability / 2 * safe**power / (servers * (1 - safe)) * service_s
    return np.asarray(np.where(rho < 1, wait, np.inf))


def _variability(traffic: Traffic, service_s: Floats) -> Floats:
    """ca2 + cs2 for service times per prompt group, along the last axis."""
    mean = service_s @ traffic.prompt_weight
    square = service_s**2 @ traffic.prompt_weight
    spread = np.maximum(square / np.maximum(mean, 1e-12) ** 2 - 1, 0.0)
    return np.asarray(traffic.dispersion + spread)


def _chunks(
    table: StepTable, traffic: Traffic, room: Floats, share: Floats, beside: Floats
) -> tuple[Floats, Floats, Floats]:
    """(seconds a prompt adds, steps it takes, seconds of its own chunks), each [P, N, G].

    ``room`` tokens of a step for prompts, ``share`` prompts arriving per step and ``beside``
    decodes in it are [P, N]. With several prompts in a step the first two are one's share.
    """
    length = traffic.new_tokens
    together = np.maximum(share / -np.expm1(-np.maximum(share, 1e-9)), 1.0)
    width = np.maximum(np.minimum(room[..., None], length * together[..., None]), 1.0)
    steps = length / width
    extra = table.extra(width, np.broadcast_to(beside[..., None], width.shape))
    history = np.maximum(length - width, 0.0) / 2 + traffic.cached_tokens
    pairs = table.pair_s * length * history
    return extra * steps + pairs, steps, extra * np.maximum(steps, 1.0) + pairs


def mixed_curves(
    table: StepTable,
    traffic: Traffic,
    policies: Sequence[StepPolicyConfig],
    *,
    batch_limits: Sequence[float],
    replicas: Sequence[int] = (1,),
) -> Curves:
    """A replica that runs prompts and decodes, under each policy.

    ``batch_limits``: requests at once that memory and settings allow. ``replicas`` share one
    queue (requests go where there is least work), which shortens waits.
    """
    budget, shared = _budgets(policies)
    limits = np.asarray(batch_limits, dtype=np.float64)
    stages = table.num_stages
    weight = traffic.prompt_weight
    out = max(traffic.mean_output_tokens - 1, 1e-3)
    batch = _batch_points(limits)
    met = np.minimum(batch + 1, max(float(limits.max()), 1.0)) / stages
    decode = table.decode(np.maximum(met, 1.0))
    share = batch / stages / out
    room = np.maximum(budget - shared * batch / stages, 1.0)
    extra, steps, own = _chunks(
        table, traffic, room, np.broadcast_to(share, room.shape), shared * met
    )
    mean_extra = extra @ weight
    step = decode + share * mean_extra
    rate = share / step
    beside_s = (shared * decode)[..., None]
    own = own + beside_s * np.maximum(steps, 1.0)
    work = (extra + beside_s * steps) @ weight
    own_mean, variability = own @ weight, _variability(traffic, own)
    servers = np.asarray(replicas, dtype=np.float64)[:, None, None, None]
    prompts_ahead = np.minimum(
        _wait(rate * own_mean, own_mean, variability, servers),
        _wait(rate * work, work, variability, servers),
    )
    place_s, no_place = _place(traffic, batch, limits, out * stages * step, servers)
    busy = np.minimum(rate * work, 1.0) ** np.sqrt(2.0 * servers)
    burst = min(traffic.dispersion, _MOST_BURST)
    sigma = stages * np.gradient(step, batch, axis=-1) * _batch_sigma(batch, decode, burst, servers)
    shape = np.broadcast_shapes(prompts_ahead.shape, place_s.shape)
    valid = (rate * work <= HEAVIEST + 1e-9) & (batch <= limits[:, None, None] * (HEAVIEST + 1e-9))
    return Curves(
        batch=batch,
        rate_per_s=rate,
        token_s=stages * step,
        token_sigma_s=sigma,
        met_s2=stages**2 * (extra**2 @ weight) * rate * step * burst,
        worst_step_s=stages * (decode + (extra / np.maximum(steps, 1.0)).max(axis=-1)),
        ahead_s=step / 2 * -np.expm1(-batch),
        wait_s=prompts_ahead + place_s,
        wait_probability=1 - (1 - busy) * (1 - no_place),
        prompt_s=stages * own,
        valid=np.broadcast_to(valid, shape),
    )


def _batch_sigma(batch: Floats, decode_s: Floats, burst: float, servers: Floats) -> Floats:
    """Spread of the batch that requests meet, averaged over their stay.

    Linear noise around n: variance n / (1 - k) with k the elasticity of decode time, and a
    correlation time of one stay / (1 - k).
    """
    elasticity = np.clip(batch * np.gradient(decode_s, batch) / decode_s, 0.0, 0.9)
    memory = 1 / (1 - elasticity)
    averaged = 2 * memory * (1 + memory * np.expm1(-1 / memory))
    return np.asarray(np.sqrt(batch * burst / servers * memory * averaged))


def _place(
    traffic: Traffic, batch: Floats, limits: Floats, stay_s: Floats, servers: Floats
) -> tuple[Floats, Floats]:
    """(mean wait for a place in the batch, probability of one) for each batch limit."""
    places = np.maximum(limits, 1.0)[:, None, None] * servers
    full = np.minimum(batch / limits[:, None, None], 1.0)
    variability = np.asarray(traffic.dispersion + traffic.output_variation)
    wait = _wait(full, stay_s, variability, places)
    return wait, full ** (np.sqrt(2.0 * (places + 1)) - 1)


def prefill_curves(
    table: StepTable,
    traffic: Traffic,
    policies: Sequence[StepPolicyConfig],
    *,
    replicas: Sequence[int] = (1,),
) -> Curves:
    """A replica that runs prompts only; ``batch`` holds its load, 0 to 1."""
    budget, _ = _budgets(policies)
    weight = traffic.prompt_weight
    mean = traffic.mean_new_tokens
    none = np.zeros_like(budget)
    most_together = np.maximum(budget / mean, 1.0)
    alone, _, _ = _chunks(table, traffic, budget, none, none)
    least, _, _ = _chunks(table, traffic, budget, most_together, none)
    load = np.linspace(0.02, HEAVIEST, _POINTS)
    rate = load / (least @ weight)
    together = np.ones_like(rate)
    for _ in range(4):
        step = table.extra(np.minimum(budget, mean * together), np.zeros_like(rate))
        together = np.clip(rate * step, 1.0, most_together)
    room = np.broadcast_to(budget, rate.shape)
    packed, _, own = _chunks(table, traffic, room, together, np.zeros_like(rate))
    servers = np.asarray(replicas, dtype=np.float64)[:, None, None, None]
    variability = _variability(traffic, alone)
    alone_mean = alone @ weight
    occupied = np.minimum(rate * alone_mean, 1.0)
    single = _wait(rate * alone_mean, alone_mean, variability, servers)
    grouped = occupied * (own @ weight) / 2 + _wait(
        np.broadcast_to(load, rate.shape), packed @ weight, variability, servers
    )
    zero = np.zeros(())
    wait = np.minimum(single, grouped)
    return Curves(
        batch=load,
        rate_per_s=rate,
        token_s=zero,
        token_sigma_s=zero,
        met_s2=zero,
        worst_step_s=zero,
        ahead_s=zero,
        wait_s=wait,
        wait_probability=occupied ** np.sqrt(2.0 * servers),
        prompt_s=table.num_stages * own,
        valid=np.ones(wait.shape, dtype=np.bool_),
    )


def decode_curves(
    table: StepTable,
    traffic: Traffic,
    *,
    batch_limits: Sequence[float],
    replicas: Sequence[int] = (1,),
) -> Curves:
    """A replica that decodes only; the wait is for a place in its batch."""
    limits = np.asarray(batch_limits, dtype=np.float64)
    stages = table.num_stages
    out = max(traffic.mean_output_tokens - 1, 1e-3)
    batch = _batch_points(limits)
    met = np.minimum(batch + 1, max(float(limits.max()), 1.0)) / stages
    step = table.decode(np.maximum(met, 1.0))
    servers = np.asarray(replicas, dtype=np.float64)[:, None, None, None]
    place_s, no_place = _place(traffic, batch, limits, out * stages * step, servers)
    burst = min(traffic.dispersion, _MOST_BURST)
    zero = np.zeros(())
    valid = batch <= limits[:, None, None] * (HEAVIEST + 1e-9)
    return Curves(
        batch=batch,
        rate_per_s=batch / (out * stages * step),
        token_s=stages * step,
        token_sigma_s=stages * np.gradient(step, batch) * _batch_sigma(batch, step, burst, servers),
        met_s2=zero,
        worst_step_s=stages * step,
        ahead_s=zero,
        wait_s=place_s,
        wait_probability=no_place,
        prompt_s=np.zeros((1, len(batch), len(traffic.prompt_weight))),
        valid=np.broadcast_to(valid, place_s.shape),
    )
