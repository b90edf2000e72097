"""Small simulated clusters and workloads for tests."""

from typing import Any

import numpy as np

from plimsoll.cost.clock import LinearClock
from plimsoll.cost.step import replica_clock
from plimsoll.serving.executors.simulated import InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies import (
    ChunkedPrefillPolicy,
    NanoPolicy,
    OrcaPolicy,
    PrefillFirstPolicy,
    SplitFusePolicy,
)
from plimsoll.serving.routers import DisaggPolicy, LeastWorkPolicy
from plimsoll.spec.plan import Parallel
from plimsoll.spec.record import RunRecord
from plimsoll.spec.streams import with_streams
from plimsoll.spec.workload import Workload
from tests.toy_world import FLEET, dense_model

CLOCK = LinearClock(
    step_base_s=0.02, token_s=1e-4, decode_s=1e-5, context_s=1e-7, swap_token_s=1e-6
)
STREAMS = replica_clock(with_streams(dense_model(), 4), FLEET.parts[0].device, Parallel())
"""Steps of the toy model in four streams, whose requests hold 3 blocks of prefixes each."""
POLICIES = {
    "chunked": ChunkedPrefillPolicy(token_budget=512),
    "chunked-swap": ChunkedPrefillPolicy(token_budget=512, preempt="swap"),
    "chunked-shared": ChunkedPrefillPolicy(token_budget=512, max_partial_prefills=3),
    "chunked-ahead": ChunkedPrefillPolicy(token_budget=512, ahead=True),
    "prefill-first": PrefillFirstPolicy(max_batched_tokens=2048),
    "prefill-first-swap": PrefillFirstPolicy(max_batched_tokens=2048, preempt="swap"),
    "orca": OrcaPolicy(),
    "splitfuse": SplitFusePolicy(token_budget=512),
    "nano": NanoPolicy(token_budget=512, mean_output_tokens=60),
    "nano-ahead": NanoPolicy(token_budget=512, mean_output_tokens=20, ahead=True),
}


def poisson(
    n: int, *, rate: float, seed: int = 0, prompt: int = 1200, output: int = 120, **columns: Any
) -> Workload:
    """Poisson arrivals, uniform lengths up to ``prompt`` and ``output``."""
    rng = np.random.default_rng(seed)
    return Workload(
        name="poisson",
        arrival_s=np.cumsum(rng.exponential(1 / rate, n)),
        prompt_tokens=rng.integers(1, prompt + 1, n),
        output_tokens=rng.integers(1, output + 1, n),
        max_tokens=np.full(n, output),
        **columns,
    )


def executor(policy: Any, *, replicas: int = 2, num_blocks: int = 2000, **options: Any) -> Any:
    """``replicas`` equal instances behind the least-work router."""
    spec_options = {
        name: options.pop(name)
        for name in (
            "block_tokens",
            "blocks_per_request",
            "clock",
            "host_blocks",
            "max_model_len",
            "max_num_seqs",
            "prefix_caching",
        )
        if name in options
    }
    spec_options.setdefault("clock", CLOCK)
    spec_options.setdefault("host_blocks", num_blocks)
    spec = InstanceSpec(policy=policy, num_blocks=num_blocks, **spec_options)
    return SimulatedExecutor([spec] * replicas, LeastWorkPolicy(), **options)


def disagg(
    *,
    prefills: int = 1,
    decodes: int = 1,
    num_blocks: int = 2000,
    token_s: float = 1e-4,
    **options: Any,
) -> Any:
    """Prefill instances that hand over to decode instances at ``token_s`` a token."""
    specs = [
        InstanceSpec(role=role, policy=PrefillFirstPolicy(), clock=CLOCK, num_blocks=num_blocks)
        for role, count in (("prefill", prefills), ("decode", decodes))
        for _ in range(count)
    ]
    return SimulatedExecutor(
        specs, DisaggPolicy(), transfer_s=lambda source, target, tokens: token_s * tokens, **options
    )


def assert_same(a: RunRecord, b: RunRecord) -> None:
    """Both runs delivered the same tokens at the same times, up to rounding."""
    for name in ("output_tokens", "preemptions", "instance", "status", "cached_tokens"):
        assert np.array_equal(getattr(a.requests, name), getattr(b.requests, name)), name
    for name in ("arrival_s", "first_token_s", "finished_s", "scheduled_s", "max_gap_s"):
        x, y = getattr(a.requests, name), getattr(b.requests, name)
        assert np.allclose(x, y, rtol=1e-9, atol=1e-9, equal_nan=True), name
