"""The DistServe evaluation on published step-time fits: traffic, promises, plans, queues.

OPT on A100-80GB; Poisson arrivals for 400 s a point; goodput is the highest rate at which 90 %
of requests meet both limits at once, found by bisection. Lengths are pairs of a real trace that
fit the model's 2,048 tokens. The paper's colocated rival runs another engine, with fits of its
own; both engines are charged 2 ms a step and 0.1 us a context token outside the kernels, as the
published simulator does (its cap of 50,000 decode tokens is left out).
Source: arXiv 2401.09670 section 6 and its artifact (github.com/LLMServe/DistServe).
"""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from plimsoll.cost.clock import LinearClock
from plimsoll.cost.fits import Engine
from plimsoll.planning.disagg import DisaggAnswer, DisaggSpace, search_disagg
from plimsoll.planning.fit_judge import FitJudge
from plimsoll.planning.goodput import sustained_rate
from plimsoll.serving.executors.simulated import InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies import PrefillFirstPolicy
from plimsoll.serving.routers import RoundRobinPolicy
from plimsoll.spec.generators import stream
from plimsoll.spec.plan import (
    DisaggRouter,
    LeastWorkRouter,
    Parallel,
    Pool,
    PrefillFirst,
    ServingPlan,
)
from plimsoll.spec.slo import Slo, SloTarget
from plimsoll.spec.workload import Workload

__all__ = [
    "AZURE",
    "FAST_BYTES_PER_S",
    "NODE_BYTES_PER_S",
    "SHAREGPT",
    "SLOW_BYTES_PER_S",
    "Case",
    "Shape",
    "goodput_of",
    "judge",
    "mean_first_token_s",
    "plan_of",
    "promise",
    "search",
    "traffic",
]

AZURE = "traces/azure_llm_2023_conv.csv"
SHAREGPT = "traces/nanoflow_sharegpt_lengths.csv"
NODE_BYTES_PER_S = 300e9
SLOW_BYTES_PER_S = 25e9 / 8
FAST_BYTES_PER_S = 400e9 / 8
_MAX_CONTEXT = 2048
_ARRIVALS_S = 400.0
_STEP_OVERHEAD_S = 2e-3
_TOKEN_OVERHEAD_S = 1e-7

Shape = tuple[int, int]
"""Tensor and pipeline degree of a replica."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One plan on one kind of traffic: prefill and decode apart, or ``both`` together.

    ``engine``: whose fits colocated replicas take. ``arrivals_s``: length of a probe.
    """

    lengths: Path
    model: str
    ttft_s: float
    tpot_s: float
    prefill: Shape = (1, 1)
    decode: Shape = (1, 1)
    both: Shape | None = None
    engine: Engine = "vllm"
    seed: int = 0
    guess_per_s: float = 1.0
    arrivals_s: float = _ARRIVALS_S


@functools.lru_cache(maxsize=16)
def _pairs(lengths: Path) -> np.ndarray:
    rows = np.loadtxt(lengths, delimiter=",", skiprows=1, usecols=(1, 2), dtype=np.int64)
    return rows[(rows.sum(axis=1) <= _MAX_CONTEXT) & (rows.min(axis=1) > 0)]


@functools.lru_cache(maxsize=16)
def traffic(lengths: Path, seed: int) -> Workload:
    """The pairs of a file in random order, arriving at random at 1 request/s."""
    pairs = _pairs(lengths)
    order = stream(seed, "distserve order").permutation(len(pairs))
    gaps = stream(seed, "distserve arrivals").exponential(1.0, len(pairs))
    return Workload(
        name=f"pairs of {lengths.name}",
        arrival_s=np.cumsum(gaps),
        prompt_tokens=pairs[order, 0],
        output_tokens=pairs[order, 1],
        source=lengths.name,
    )


def promise(ttft_s: float, tpot_s: float) -> Slo:
    """Both limits at the 90th percentile; goodput asks for them jointly."""
    return Slo(
        targets=(
            SloTarget(metric="ttft", percentile=90, bound_s=ttft_s),
            SloTarget(metric="tpot", percentile=90, bound_s=tpot_s),
        )
    )


def judge(
    model: str,
    *,
    engine: Engine = "vllm",
    seed: int = 0,
    fabric_bytes_per_s: float = NODE_BYTES_PER_S,
) -> FitJudge:
    """The judge of the setting; ``fabric_bytes_per_s`` is between nodes of eight."""
    return FitJudge(
        model=model,
        devices_per_node=8,
        node_bytes_per_s=NODE_BYTES_PER_S,
        fabric_bytes_per_s=fabric_bytes_per_s,
        colocated_engine=engine,
        joint_fraction=0.9,
        seed=seed,
        overhead_s=_STEP_OVERHEAD_S,
        overhead_token_s=_TOKEN_OVERHEAD_S,
    )


def _pool(role: Literal["both", "prefill", "decode"], shape: Shape) -> Pool:
    return Pool(
        role=role,
        device="A100-SXM-80",
        parallel=Parallel(tp=shape[0], pp=shape[1]),
        policy=PrefillFirst(max_batched_tokens=8192),
        max_num_seqs=128 if role == "prefill" else 1024,
        prefix_caching=False,
    )


def plan_of(case: Case) -> ServingPlan:
    """The plan of a case, one replica of each pool."""
    if case.both is not None:
        pools: tuple[Pool, ...] = (_pool("both", case.both),)
    else:
        pools = (_pool("prefill", case.prefill), _pool("decode", case.decode))
    return ServingPlan(
        model=case.model,
        fleet="8xA100-SXM-80",
        pools=pools,
        router=LeastWorkRouter() if case.both is not None else DisaggRouter(),
        slo=promise(case.ttft_s, case.tpot_s),
    )


@functools.lru_cache(maxsize=256)
def goodput_of(case: Case) -> float:
    """Requests/s per device within the promise."""
    plan = plan_of(case)
    return sustained_rate(
        judge(case.model, engine=case.engine, seed=case.seed),
        plan,
        traffic(case.lengths, case.seed),
        guess_per_s=case.guess_per_s * plan.num_devices,
        duration_s=case.arrivals_s,
        spread=1.5,
    ).rate_per_s_per_device


@functools.lru_cache(maxsize=8)
def search(
    case: Case,
    *,
    affinity: Literal["high", "low"],
    shapes: tuple[Shape, ...],
    num_nodes: int,
    devices_per_node: int,
    fabric_bytes_per_s: float,
) -> DisaggAnswer:
    """Placement search for the model, traffic and promise of a case."""
    space = DisaggSpace(
        model=case.model,
        device="A100-SXM-80",
        num_nodes=num_nodes,
        devices_per_node=devices_per_node,
        shapes=tuple(Parallel(tp=tp, pp=pp) for tp, pp in shapes),
    )
    judged = judge(
        case.model, engine=case.engine, seed=case.seed, fabric_bytes_per_s=fabric_bytes_per_s
    )
    return search_disagg(
        space,
        traffic(case.lengths, case.seed),
        promise(case.ttft_s, case.tpot_s),
        judge=replace(judged, devices_per_node=devices_per_node),
        affinity=affinity,
        duration_s=case.arrivals_s,
        tolerance=0.05,
        guess_per_s_per_device=case.guess_per_s,
    )


@functools.lru_cache(maxsize=64)
def mean_first_token_s(
    *, utilization: float, service_s: float, seed: int, num_stages: int = 1, speedup: float = 1.0
) -> float:
    """Simulated mean first-token time of constant prompts on one instance.

    ``service_s`` is the time of a prompt on one device, ``num_stages`` cuts it into equal
    stages, ``speedup`` divides it. Gaps are scaled to the exact mean, which takes out the
    largest part of the sampling error.
    """
    num = 60_000 if utilization > 0.7 else 20_000
    gaps = stream(seed, "queue arrivals").exponential(1.0, num)
    gaps *= service_s / utilization / gaps.mean()
    workload = Workload(
        name="constant prompts",
        arrival_s=np.cumsum(gaps),
        prompt_tokens=np.full(num, 1000),
        output_tokens=np.ones(num, dtype=np.int64),
    )
    clock = LinearClock(token_s=service_s / speedup / num_stages / 1000, num_stages=num_stages)
    spec = InstanceSpec(
        clock=clock,
        policy=PrefillFirstPolicy(max_batched_tokens=1),
        num_blocks=10**7,
        max_num_seqs=num_stages,
    )
    record = SimulatedExecutor([spec], RoundRobinPolicy(), seed=seed).run(workload)
    return float(np.mean(record.requests.ttft_s))
