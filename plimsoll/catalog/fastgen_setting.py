"""The FastGen evaluation on the simulated clock: cluster, traffic, and what is read off a run.

Llama-2-70B in FP16 on 4 x A100-80GB; closed loops of clients, normal lengths with 30 % standard
deviation. One clock for all policies: a pass is limited by weights or by tokens. The efficiencies
of the clock and the prefill speed of the rival are parameters, stated here once.
Leaves out: host time between passes, which both engines hide behind the forward.
Source: arXiv 2401.08671 and its release note (DeepSpeed blogs/deepspeed-fastgen).
"""

import functools
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from plimsoll.cost.pass_clock import PassClock
from plimsoll.evals.serving import EffectiveThroughput, effective_throughput
from plimsoll.serving.executors.simulated import InstanceSpec, SimulatedExecutor
from plimsoll.serving.metrics import distribution
from plimsoll.serving.policies import (
    ChunkedPrefillPolicy,
    OrcaPolicy,
    PrefillFirstPolicy,
    SplitFusePolicy,
)
from plimsoll.serving.policy import StepPolicy
from plimsoll.serving.routers import RoundRobinPolicy
from plimsoll.spec.generators import stream
from plimsoll.spec.record import RunRecord
from plimsoll.spec.workload import Workload

__all__ = [
    "BUDGET",
    "CLIENTS",
    "Case",
    "PolicyName",
    "best_rate",
    "clock",
    "decodes_skipped",
    "latency_at_rate",
    "missed",
    "pass_spread",
    "passes_filled",
    "rate_at_latency",
    "raw_rate",
    "serve",
    "tail",
    "traffic",
]

PolicyName = Literal["splitfuse", "prefill-first", "orca", "chunked"]

BUDGET = 768
CLIENTS = (2, 4, 8, 12, 16, 20, 24, 32)
_DEVICES = 4
_WEIGHT_BYTES = 140e9
_PARAMETERS = 70e9
_KV_BYTES_PER_TOKEN = 2 * 80 * 8 * 128 * 2
"""Keys and values of 80 layers with 8 KV heads of 128, two bytes each."""
_PEAK_FLOPS_PER_S = 312e12
_PEAK_BYTES_PER_S = 2e12
_MEMORY_EFFICIENCY = 0.8
_FLOP_EFFICIENCY = 0.55
_PASS_S = 3e-3
_KV_TOKENS = 400_000
"""What 4 x 80 GB leave beside the weights at 0.85 of memory."""
_MAX_NUM_SEQS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run: a closed loop, or with ``clients`` 0 all requests at once.

    ``prefill_speed``: of the engine's prompt kernels, 1 as of SplitFuse.
    """

    policy: PolicyName
    prompt: int
    output: int
    clients: int = 16
    seed: int = 0
    replicas: int = 1
    requests: int = 512
    kv_tokens: int = _KV_TOKENS
    flop_efficiency: float = _FLOP_EFFICIENCY
    prefill_speed: float = 1.0
    budget: int = BUDGET


def clock(*, flop_efficiency: float = _FLOP_EFFICIENCY, prefill_speed: float = 1.0) -> PassClock:
    """The pass clock of the setting: at 0.55 a token takes 0.204 ms."""
    bytes_per_s = _DEVICES * _PEAK_BYTES_PER_S * _MEMORY_EFFICIENCY
    return PassClock(
        weight_s=_WEIGHT_BYTES / bytes_per_s,
        token_s=2 * _PARAMETERS / (_DEVICES * _PEAK_FLOPS_PER_S * flop_efficiency),
        context_s=_KV_BYTES_PER_TOKEN / bytes_per_s,
        base_s=_PASS_S,
        prefill_speed=prefill_speed,
    )


def traffic(*, prompt: int, output: int, clients: int, seed: int, requests: int = 512) -> Workload:
    """Requests with normal lengths, standard deviation 30 % of the mean, in a closed loop."""

    def lengths(mean: int, purpose: str) -> np.ndarray:
        drawn = stream(seed, purpose).normal(mean, 0.3 * mean, requests)
        return np.maximum(np.rint(drawn), 1).astype(np.int64)

    output_tokens = lengths(output, "fastgen output lengths")
    return Workload(
        name=f"normal lengths around {prompt}/{output}, {clients} clients",
        arrival_s=np.zeros(requests),
        prompt_tokens=lengths(prompt, "fastgen prompt lengths"),
        output_tokens=output_tokens,
        max_tokens=output_tokens,
        num_in_flight=clients,
        source="arXiv 2401.08671 section 4",
    )


def _policy(case: Case) -> StepPolicy:
    if case.policy == "splitfuse":
        return SplitFusePolicy(token_budget=case.budget)
    if case.policy == "chunked":
        return ChunkedPrefillPolicy(token_budget=case.budget)
    return OrcaPolicy() if case.policy == "orca" else PrefillFirstPolicy()


@functools.lru_cache(maxsize=256)
def serve(case: Case) -> RunRecord:
    """The run of a case."""
    spec = InstanceSpec(
        clock=clock(flop_efficiency=case.flop_efficiency, prefill_speed=case.prefill_speed),
        policy=_policy(case),
        num_blocks=case.kv_tokens // 16,
        max_num_seqs=_MAX_NUM_SEQS,
    )
    executor = SimulatedExecutor([spec] * case.replicas, RoundRobinPolicy(), seed=case.seed)
    return executor.run(
        traffic(
            prompt=case.prompt,
            output=case.output,
            clients=case.clients,
            seed=case.seed,
            requests=case.requests,
        )
    )


def tail(record: RunRecord) -> tuple[float, float]:
    """Median and 95th percentile of all gaps between tokens, in seconds."""
    gaps = distribution(*record.itl_samples())
    assert gaps is not None
    return gaps.p50, gaps.p95


@functools.lru_cache(maxsize=256)
def _effective(case: Case) -> dict[float, EffectiveThroughput]:
    return {row.tokens_per_s: row for row in effective_throughput(serve(case))}


def best_rate(case: Case, tokens_per_s: float) -> tuple[float, float]:
    """Highest effective throughput over the numbers of clients, and the share missed there.

    ``tokens_per_s``: 2, 4 or 6.
    """
    rows = [_effective(replace(case, clients=n))[tokens_per_s] for n in CLIENTS]
    best = max(rows, key=lambda row: row.requests_per_s)
    return best.requests_per_s, best.missed_fraction


def missed(case: Case, tokens_per_s: float) -> float:
    """Share of requests that miss the promise at 2, 4 or 6 tokens/s."""
    return _effective(case)[tokens_per_s].missed_fraction


def rate_at_latency(case: Case, latency_s: float) -> float:
    """Requests/s at which mean latency is ``latency_s``, between the numbers of clients."""
    records = [serve(replace(case, clients=n)) for n in CLIENTS]
    means = [float(np.mean(r.requests.e2e_s)) for r in records]
    return float(np.interp(latency_s, means, [raw_rate(r) for r in records]))


def latency_at_rate(case: Case, rate_per_s: float) -> float:
    """Mean latency where the loop carries ``rate_per_s``, between the numbers of clients."""
    records = [serve(replace(case, clients=n)) for n in CLIENTS]
    means = [float(np.mean(r.requests.e2e_s)) for r in records]
    return float(np.interp(rate_per_s, [raw_rate(r) for r in records], means))


def raw_rate(record: RunRecord) -> float:
    """Finished requests per second of the whole run, however slow."""
    return int(np.count_nonzero(record.requests.ok)) / record.end_s


def passes_filled(record: RunRecord, budget: int) -> float:
    """Share of passes that hold exactly ``budget`` tokens, of those that leave prompts behind."""
    steps = record.steps
    left = record.requests.prompt_tokens.sum() - np.cumsum(steps.prefill_tokens)
    saturated = left > 0
    full = steps.prefill_tokens + steps.num_decodes == budget
    return float(np.mean(full[saturated]))


def pass_spread(record: RunRecord) -> float:
    """Longest less shortest pass over their mean, of passes that leave prompts behind."""
    steps = record.steps
    left = record.requests.prompt_tokens.sum() - np.cumsum(steps.prefill_tokens)
    passes_s = steps.duration_s[left > 0]
    return float((passes_s.max() - passes_s.min()) / passes_s.mean())


def decodes_skipped(record: RunRecord) -> int:
    """Passes that gave no token to a request which had its first token and was not done.

    For runs of one instance without recomputation.
    """
    steps, requests = record.steps, record.requests
    ends = np.sort(steps.start_s + steps.duration_s)
    passed = np.concatenate([[0], np.cumsum(steps.num_steps)])
    first = passed[np.searchsorted(ends, requests.first_token_s + 1e-9, side="right")]
    last = passed[np.searchsorted(ends, requests.finished_s + 1e-9, side="right")]
    return int(np.sum(last - first - (requests.output_tokens - 1)))
