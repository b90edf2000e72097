"""Goodput-optimal placement of prefill and decode, against serving both together.

Fast fabric (``affinity="low"``): prefill and decode shapes are searched independently, each
simulated for its own part of the promise, then replicated to balance rates. Slow fabric
(``"high"``): a prefill and a decode replica share a node stage by stage, possibly with a
pipeline across nodes, so that KV never leaves a node. Colocated plans get their own best shape,
and win where they carry as much per device; the answer says why. Rates are per device, found
by bisection on a trace-driven simulation; pairs are simulated together before they are believed.
Source: arXiv 2401.09670 section 4 (algorithms 1 and 2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from plimsoll.planning.goodput import Goodput, sustained_rate
from plimsoll.planning.judging import Judge
from plimsoll.planning.offered_load import at_rate
from plimsoll.planning.tradeoffs import plan_words
from plimsoll.spec.errors import InfeasibleError
from plimsoll.spec.plan import (
    DisaggRouter,
    LeastWorkRouter,
    Parallel,
    Pool,
    PrefillFirst,
    ServingPlan,
    StepPolicyConfig,
)
from plimsoll.spec.slo import Slo
from plimsoll.spec.workload import Workload

__all__ = ["DisaggAnswer", "DisaggSpace", "Placed", "search_disagg"]

_PAIRS_SIMULATED = 4
_LOWEST_SHARE = 2.0**-8
_ALONE_REQUESTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class DisaggSpace:
    """What may be combined on ``num_nodes`` nodes of ``devices_per_node`` devices.

    ``shapes`` (tensor and pipeline degrees) are tried for prefill, decode and colocation;
    ``colocated`` are the policies of colocated plans. Prefill batches prompts up to
    ``prefill_tokens``; a decode replica runs up to ``decode_requests``.
    """

    model: str
    device: str
    num_nodes: int
    devices_per_node: int
    shapes: tuple[Parallel, ...]
    colocated: tuple[StepPolicyConfig, ...] = (PrefillFirst(),)
    prefill_tokens: int = 8192
    prefill_requests: int = 128
    decode_requests: int = 1024

    @property
    def num_devices(self) -> int:
        """Devices in all nodes."""
        return self.num_nodes * self.devices_per_node


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A plan that was simulated and the rate it sustains; ``in_node``: KV stays in a node."""

    plan: ServingPlan
    found: Goodput
    in_node: bool

    @property
    def rate_per_s_per_device(self) -> float:
        """Requests/s within the promise per device."""
        return self.found.rate_per_s_per_device


@dataclass(frozen=True, slots=True, kw_only=True)
class DisaggAnswer:
    """The best plan, why, and everything simulated, best first."""

    chosen: Placed
    why: str
    colocated: tuple[Placed, ...]
    disaggregated: tuple[Placed, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Probe:
    judge: Judge
    workload: Workload
    duration_s: float
    tolerance: float
    guess_per_s_per_device: float

    def rate(self, plan: ServingPlan) -> Goodput | None:
        """Its rate, or None if it does not fit or misses the promise even when idle."""
        guess = self.guess_per_s_per_device * plan.num_devices
        lightest = guess * _LOWEST_SHARE
        few = at_rate(self.workload, lightest, _ALONE_REQUESTS / lightest)
        try:
            if not self.judge(plan, few).holds:
                return None
            found = sustained_rate(
                self.judge,
                plan,
                self.workload,
                guess_per_s=guess,
                duration_s=self.duration_s,
                tolerance=self.tolerance,
            )
        except InfeasibleError:
            return None
        return found if found.rate_per_s > 0 else None


def _plan(space: DisaggSpace, slo: Slo, pools: Sequence[Pool]) -> ServingPlan:
    roles = {pool.role for pool in pools}
    return ServingPlan(
        model=space.model,
        fleet=f"{space.num_nodes}x({space.devices_per_node}x{space.device})",
        pools=tuple(pools),
        router=DisaggRouter() if len(roles) == 2 else LeastWorkRouter(),
        slo=slo,
    )


def _prefill(space: DisaggSpace, shape: Parallel, replicas: int) -> Pool:
    return Pool(
        role="prefill",
        device=space.device,
        replicas=replicas,
        parallel=shape,
        policy=PrefillFirst(max_batched_tokens=space.prefill_tokens),
        max_num_seqs=space.prefill_requests,
    )


def _decode(space: DisaggSpace, shape: Parallel, replicas: int) -> Pool:
    return Pool(
        role="decode",
        device=space.device,
        replicas=replicas,
        parallel=shape,
        policy=PrefillFirst(max_batched_tokens=space.prefill_tokens),
        max_num_seqs=space.decode_requests,
    )


def _both(space: DisaggSpace, shape: Parallel, policy: StepPolicyConfig) -> Pool:
    return Pool(
        role="both",
        device=space.device,
        parallel=shape,
        policy=policy,
        max_num_seqs=space.decode_requests,
    )


def _shares_node(space: DisaggSpace, prefill: Parallel, decode: Parallel) -> int:
    """Nodes of the cross-node pipeline with which a pair shares nodes; 0 if it cannot."""
    for across in range(1, space.num_nodes + 1):
        if prefill.pp % across or decode.pp % across:
            continue
        inside = (prefill.num_devices + decode.num_devices) // across
        if inside <= space.devices_per_node:
            return across
    return 0


def _in_node(space: DisaggSpace, plan: ServingPlan, *, tied: bool) -> bool:
    """Whether the plan's KV can stay in a node: on one node, or tied stage by stage to several."""
    across = range(1, space.num_nodes + 1 if tied else 2)
    return any(
        plan.num_devices <= nodes * space.devices_per_node
        and all(pool.parallel.pp % nodes == 0 for pool in plan.pools)
        for nodes in across
    )


def _balanced(
    space: DisaggSpace,
    first: tuple[Parallel, float],
    second: tuple[Parallel, float],
    *,
    tied: bool,
) -> tuple[float, int, int] | None:
    """(requests/s per device, prefill replicas, decode replicas) of the best counts."""
    (prefill, rate_p), (decode, rate_d) = first, second
    room = space.num_devices
    if tied:
        across = _shares_node(space, prefill, decode)
        if not across:
            return None
        room = across * space.devices_per_node
    best: tuple[float, int, int] | None = None
    for p in range(1, room // prefill.num_devices + 1):
        for d in range(1, (room - p * prefill.num_devices) // decode.num_devices + 1):
            devices = p * prefill.num_devices + d * decode.num_devices
            value = min(p * rate_p, d * rate_d) / devices
            if best is None or value > best[0] * (1 + 1e-9):
                best = (value, p, d)
    return best


def search_disagg(
    space: DisaggSpace,
    workload: Workload,
    slo: Slo,
    *,
    judge: Judge,
    affinity: Literal["high", "low"],
    duration_s: float = 400.0,
    tolerance: float = 0.03,
    guess_per_s_per_device: float = 1.0,
) -> DisaggAnswer:
    """The plan that carries most per device; ``judge`` should ask for the joint share.

    With ``affinity="high"`` the judge's link must be the one inside a node.

    Raises:
        InfeasibleError: no shape fits, or none keeps the promise at any rate.
    """
    probe = _Probe(
        judge=judge,
        workload=workload,
        duration_s=duration_s,
        tolerance=tolerance,
        guess_per_s_per_device=guess_per_s_per_device,
    )
    shapes = [s for s in space.shapes if s.num_devices <= space.num_devices]
    colocated = []
    for shape in shapes:
        for policy in space.colocated:
            plan = _plan(space, slo, [_both(space, shape, policy)])
            found = probe.rate(plan)
            if found is not None:
                colocated.append(Placed(plan=plan, found=found, in_node=True))
    sides: list[list[tuple[Parallel, float]]] = [[], []]
    for side, pool in enumerate((_prefill, _decode)):
        for shape in shapes:
            found = probe.rate(_plan(space, slo, [pool(space, shape, 1)]))
            if found is not None:
                sides[side].append((shape, found.rate_per_s))
    tied = affinity == "high"
    pairs = []
    for first in sides[0]:
        for second in sides[1]:
            counts = _balanced(space, first, second, tied=tied)
            if counts is not None:
                pairs.append((counts[0], first[0], second[0], counts[1], counts[2]))
    pairs.sort(key=lambda pair: -pair[0])
    apart = []
    for _, prefill, decode, num_p, num_d in pairs[:_PAIRS_SIMULATED]:
        pools = [_prefill(space, prefill, num_p), _decode(space, decode, num_d)]
        plan = _plan(space, slo, pools)
        found = probe.rate(plan)
        if found is not None:
            apart.append(Placed(plan=plan, found=found, in_node=_in_node(space, plan, tied=tied)))
    return _choose(colocated, apart, slo)


def _choose(colocated: list[Placed], apart: list[Placed], slo: Slo) -> DisaggAnswer:
    for placed in (colocated, apart):
        placed.sort(key=lambda one: -one.rate_per_s_per_device)
    if not colocated and not apart:
        bounds = ", ".join(f"{t.metric.upper()} {t.bound_s:g} s" for t in slo.targets)
        raise InfeasibleError(
            f"infeasible at any rate: no shape fits and keeps {bounds} even for single requests",
            binding="SLO or device memory",
            change="looser bounds, or more devices a replica",
        )
    together = colocated[0].rate_per_s_per_device if colocated else 0.0
    split = apart[0].rate_per_s_per_device if apart else 0.0
    chosen = apart[0] if split > together else colocated[0]
    rates = f"{split:.3g} against {together:.3g} requests/s a device"
    if split > together:
        limit = f" Together, {colocated[0].found.limit} stops it first." if colocated else ""
        why = f"prefill and decode apart ({plan_words(apart[0].plan)}) carry more: {rates}.{limit}"
    else:
        limit = apart[0].found.limit if apart else "no pair fits"
        why = (
            f"prefill and decode together ({plan_words(chosen.plan)}) carry more: {rates}. Prompts "
            "are short enough that they hardly delay tokens, while a split leaves one side idle "
            f"and its rate ends at {limit}."
        )
    return DisaggAnswer(
        chosen=chosen, why=why, colocated=tuple(colocated), disaggregated=tuple(apart)
    )
