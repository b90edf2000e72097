"""Instances with and without a common pool of KV memory, simulated: throughput, longest context.

Eight A100 of 40 GB serve LLaMA-2-13B, whose weights leave each room for 12.9 K tokens. Nine of ten
requests are short (50 to 500 tokens in and out), one asks about 5 to 11.5 K tokens, 40 to 90 % of
an instance; more come than can be served. Throughput counts output tokens of requests that ended
within five minutes. The load, the lengths and the step policy were chosen where memory binds and
the plain instances preempt much: with prompts that start only if all of them fit, or on devices of
80 GB, the pool gains nothing or loses (shown beside).
Source: the mix of arXiv 2401.02669; sizes chosen here.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from plimsoll.cost.clock import LinearClock
from plimsoll.cost.pooled_kv import PooledKv
from plimsoll.serving.executors.lent_steps import Lending
from plimsoll.serving.executors.simulated import InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies import ChunkedPrefillPolicy
from plimsoll.serving.policy import ClusterPolicy
from plimsoll.serving.routers import KvPoolPolicy, LeastDemandPolicy
from plimsoll.serving.simulate.lending import lending_of
from plimsoll.serving.simulate.placement import seats
from plimsoll.serving.simulate.run import build, router_for
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.generators import stream
from plimsoll.spec.model_files import load_model
from plimsoll.spec.plan import (
    ChunkedPrefill,
    KvPoolRouter,
    LeastDemandRouter,
    Parallel,
    Pool,
    ServingPlan,
    SplitFuse,
    StepPolicyConfig,
)
from plimsoll.spec.workload import Workload

__all__ = ["Served", "Way", "longest_blocks", "serve"]

_MODEL, _DEVICE, _NUM = "llama-2-13b", "a100-sxm-40", 8
_UNTIL_S, _SHORT_UNTIL_S = 300.0, 100.0
_SHORT, _LONG = (50, 500), (5000, 11500)
_LONG_OUTPUT = (200, 1000)
_BUDGET = 2048

Way = Literal["none", "ledger", "throughput", "nothing lent", "free creditors", "tp8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Output tokens a second of ended requests, how many were long, preemptions."""

    tokens_per_s: float
    num_long: int
    num_preempted: int


def _traffic(seed: int, long_share: float) -> Workload:
    """Four requests a second, all-short ones 22: more than can be served."""
    rate_per_s = 4.0 if long_share else 22.0
    n = int(1.1 * rate_per_s * (_UNTIL_S if long_share else _SHORT_UNTIL_S))
    rng = stream(seed, "pooled serving")
    long = np.zeros(n, dtype=bool)
    long[rng.permutation(n)[: int(n * long_share)]] = True
    prompts = np.where(long, rng.integers(*_LONG, n), rng.integers(*_SHORT, n))
    outputs = np.where(long, rng.integers(*_LONG_OUTPUT, n), rng.integers(*_SHORT, n))
    return Workload(
        name="short and very long",
        arrival_s=np.cumsum(rng.exponential(1 / rate_per_s, n)),
        prompt_tokens=prompts,
        output_tokens=outputs,
        max_tokens=outputs,
    )


def _plan(way: Way, guarded: bool) -> ServingPlan:
    policy: StepPolicyConfig = ChunkedPrefill(token_budget=_BUDGET)
    if guarded:
        policy = SplitFuse(token_budget=_BUDGET)
    tp = _NUM if way == "tp8" else 1
    pool = Pool(
        device=_DEVICE,
        replicas=_NUM // tp,
        parallel=Parallel(tp=tp),
        policy=policy,
        prefix_caching=False,
    )
    router: LeastDemandRouter | KvPoolRouter = LeastDemandRouter()
    if way not in ("none", "tp8"):
        router = KvPoolRouter(mode="ledger" if way == "ledger" else "throughput")
        if way == "nothing lent":
            router = replace(router, lent_fraction=0.0)
    return ServingPlan(
        model=_MODEL,
        fleet=f"{_NUM}x{_DEVICE}",
        engine="vllm",
        max_model_len=200_000,
        pools=(pool,),
        router=router,
    )


@functools.lru_cache(maxsize=64)
def serve(way: Way, seed: int, *, long_share: float = 0.1, guarded: bool = False) -> Served:
    """One run. ``guarded``: a prompt starts only where all of it fits (SplitFuse), else chunk by
    chunk, as vLLM does. ``free creditors``: throughput mode, their time not charged."""
    plan, work = _plan(way, guarded), _traffic(seed, long_share)
    model, fleet = load_model(_MODEL), parse_fleet(plan.fleet)
    specs, _, transfer_s, _ = build(plan, model, fleet)
    lending = lending_of(plan, model, seats(plan, fleet), [spec.clock for spec in specs])
    if way == "free creditors":
        assert lending is not None
        lending = replace(lending, charge_creditors=False)
    executor = SimulatedExecutor(
        specs, router_for(plan.router), transfer_s=transfer_s, lending=lending, seed=seed
    )
    until_s = _UNTIL_S if long_share else _SHORT_UNTIL_S
    found = executor.run(work, until_s=until_s).requests
    ended = np.isfinite(found.finished_s)
    return Served(
        tokens_per_s=float(found.output_tokens[ended].sum() / until_s),
        num_long=int((ended & (work.prompt_tokens >= _LONG[0])).sum()),
        num_preempted=int(found.preemptions.sum()),
    )


def longest_blocks(pool: PooledKv, *, lending: bool = True) -> int:
    """Blocks of the longest context that the simulator serves to its end on these instances.

    Tried are contexts from two blocks below the closed form to two above; 0 if none is served.
    Times are linear and short: this is about memory alone.
    """
    block = pool.block_tokens
    most_lent = (pool.lent_blocks + 0.5) / pool.instance_blocks
    spec = InstanceSpec(
        clock=LinearClock(step_base_s=1e-3, token_s=2e-5),
        policy=ChunkedPrefillPolicy(token_budget=_BUDGET),
        num_blocks=pool.instance_blocks,
        block_tokens=block,
        prefix_caching=False,
        block_bytes=pool.block_bytes,
        lent_fraction=min(most_lent, 1.0),
    )
    router: ClusterPolicy = KvPoolPolicy() if lending else LeastDemandPolicy()
    limit, best = pool.longest_tokens // block, 0
    for blocks in range(limit - 2, limit + 3):
        executor = SimulatedExecutor(
            [spec] * pool.num_instances,
            router,
            transfer_s=lambda source, target, tokens: 1e-3,
            lending=Lending(exchange_s=_no_time),
        )
        tokens = np.array([blocks * block - 1])
        alone = Workload(
            name="one context",
            arrival_s=np.zeros(1),
            prompt_tokens=tokens,
            output_tokens=np.ones(1, dtype=np.int64),
            max_tokens=np.ones(1, dtype=np.int64),
        )
        if np.isfinite(executor.run(alone).requests.finished_s[0]):
            best = blocks
    return best


def _no_time(source: int, queries: Mapping[int, int]) -> float:
    return 0.0
