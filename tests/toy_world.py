"""A world small enough to search by hand: a toy model, toy physics and a judge in closed form."""

from dataclasses import dataclass

import numpy as np

from plimsoll.cost.clock import LinearClock
from plimsoll.planning.estimate import Demand
from plimsoll.planning.judging import Verdict
from plimsoll.planning.physics import ReplicaRoom
from plimsoll.planning.plan_space import Shape, SpaceOptions
from plimsoll.planning.traffic import describe_traffic
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.model import Attention, DenseFfn, Layer, LayerGroup, ModelSpec, MoeFfn
from plimsoll.spec.plan import ServingPlan
from plimsoll.spec.slo import Slo, SloTarget
from plimsoll.spec.workload import Workload

FLEET = parse_fleet("4xH100-SXM")


def dense_model(heads: int = 8, kv_heads: int = 8, layers: int = 8) -> ModelSpec:
    mixer = Attention(num_heads=heads, num_kv_heads=kv_heads, head_dim=64)
    layer = Layer(mixer=mixer, ffn=DenseFfn(intermediate=2048))
    return ModelSpec(
        name="toy",
        hidden_size=512,
        vocab_size=1000,
        max_context=8192,
        layers=(LayerGroup(count=layers, layer=layer),),
    )


def moe_model() -> ModelSpec:
    mixer = Attention(num_heads=16, num_kv_heads=2, head_dim=64)
    layer = Layer(mixer=mixer, ffn=MoeFfn(num_experts=16, top_k=2, intermediate=1024))
    return ModelSpec(
        name="toy-moe",
        hidden_size=512,
        vocab_size=1000,
        max_context=8192,
        layers=(LayerGroup(count=8, layer=layer),),
    )


def steady(rate_per_s: float = 4.0, count: int = 2000, seed: int = 3) -> Workload:
    rng = np.random.default_rng(seed)
    return Workload(
        name="steady",
        arrival_s=np.cumsum(rng.exponential(1 / rate_per_s, count)),
        prompt_tokens=rng.integers(50, 500, count),
        output_tokens=rng.integers(20, 120, count),
    )


def slo(ttft_s: float = 2.0, tpot_s: float = 0.1, percentile: float = 95.0) -> Slo:
    return Slo(
        targets=(
            SloTarget(metric="ttft", percentile=percentile, bound_s=ttft_s),
            SloTarget(metric="tpot", percentile=percentile, bound_s=tpot_s),
        )
    )


@dataclass(frozen=True, kw_only=True)
class ToyPhysics:
    """Tensor parallelism speeds a step up by less than its degree; memory is per device."""

    bandwidth: float = 1.0
    weights_bytes: float = 60e9
    device_bytes: float = 100e9
    kv_token_bytes: float = 1e6

    def clock(self, shape: Shape) -> LinearClock:
        tp, pp = shape.parallel.tp, shape.parallel.pp
        speed = self.bandwidth * tp**0.8 * pp
        return LinearClock(
            step_base_s=0.001 + 0.02 / speed,
            token_s=1e-4 / speed,
            square_s=1e-9 / speed,
            decode_s=2e-4 / speed,
            context_s=2e-7 / speed,
            num_stages=pp,
        )

    def room(
        self, shape: Shape, *, context_tokens: float, max_batched_tokens: int, max_num_seqs: int
    ) -> ReplicaRoom:
        cut = shape.parallel
        need = self.weights_bytes / (cut.tp * cut.pp)
        left = max(0.0, self.device_bytes - need) * cut.num_devices
        tokens = int(left / self.kv_token_bytes)
        return ReplicaRoom(
            kv_tokens=tokens,
            longest_tokens=tokens,
            most_requests=int(tokens / context_tokens),
            needed_bytes=need,
            weights_bytes=need,
            available_bytes=self.device_bytes,
        )

    def handover_s(self, prefill: Shape, decode: Shape, tokens: float) -> float:
        return 1e-3

    def origin(self, shape: Shape) -> str:
        return "modeled"


@dataclass(frozen=True, kw_only=True)
class ToyJudge:
    """A plan holds up to a capacity that depends on its settings in a lumpy way."""

    def capacity_per_s(self, plan: ServingPlan) -> float:
        total = float("inf")
        for pool in plan.pools:
            cut = pool.parallel
            budget = getattr(pool.policy, "token_budget", 1)
            each = cut.tp**0.9 * cut.pp**0.7 * (1 + 0.1 * np.log2(pool.max_num_seqs))
            each *= {"both": 1.0, "prefill": 2.2, "decode": 1.7}[pool.role]
            each *= 1 + 0.37 * (budget % 1000) / 1000
            total = min(total, each * pool.replicas)
        return total

    def __call__(self, plan: ServingPlan, workload: Workload) -> Verdict:
        capacity = self.capacity_per_s(plan)
        holds = workload.rate_per_s <= capacity
        return Verdict(
            holds=holds,
            missed="" if holds else "TTFT p95",
            shortfall=workload.rate_per_s / capacity,
            good_fraction=1.0 if holds else 0.5,
            requests_per_s=min(workload.rate_per_s, capacity),
            output_tokens_per_s=100 * min(workload.rate_per_s, capacity),
        )


def small_options(**changes: object) -> SpaceOptions:
    settings: dict[str, object] = {"budgets": (512, 2048), "max_num_seqs": (16, 64)}
    return SpaceOptions(**{**settings, **changes})


def demand(workload: Workload, promise: Slo, *, load: float = 0.0, **changes: object) -> Demand:
    settings: dict[str, object] = {"objective": "goodput"}
    return Demand(
        traffic=describe_traffic(workload),
        slo=promise,
        load_per_s=load,
        longest_tokens=int((workload.prompt_tokens + workload.output_tokens).max()),
        **{**settings, **changes},
    )
