"""How far the simulator is from the real engine: same plan, same requests, one machine.

Settings are models times loads times step policies. Two loads are open (Poisson arrivals at a share
of the rate the simulator says is the most), the third keeps as many requests in flight as the
engine may run. A setting's error in a figure is simulated over real, less one. Figures are
those of docs/metrics.md; throughput is output tokens over the time from the first arrival to the
last end. Leaves out: prefix hits, several replicas, HTTP.
Source: serving/executors, both sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from plimsoll.serving.executors.coordinator import InstanceSpec
from plimsoll.serving.executors.simulated import SimulatedExecutor
from plimsoll.serving.policy import ClusterPolicy
from plimsoll.spec.io import PLAIN
from plimsoll.spec.plan import ChunkedPrefill, Pool, PrefillFirst, ServingPlan, StepPolicyConfig
from plimsoll.spec.record import RunRecord
from plimsoll.spec.workload import Workload

__all__ = [
    "FIGURES",
    "LOADS",
    "MODELS",
    "POLICIES",
    "Cell",
    "Figures",
    "Load",
    "error_summary",
    "figures_of",
    "plan_of",
    "saturated_rate",
    "simulated_run",
    "traffic",
]

MAX_LEN = 1024
_SEQUENCES = 16
_PROBE_REQUESTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """``fraction`` of the most requests a second that the simulator serves; 0: ``_SEQUENCES``
    clients, each with its next request when the last has ended."""

    name: str
    fraction: float


LOADS = (
    Load(name="30 %", fraction=0.3),
    Load(name="60 %", fraction=0.6),
    Load(name="full", fraction=0),
)
POLICIES: tuple[StepPolicyConfig, ...] = (
    ChunkedPrefill(token_budget=256),
    PrefillFirst(max_batched_tokens=1024),
)


def _llama(
    hidden: int, intermediate: int, heads: tuple[int, int], layers: int, vocabulary: int
) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "head_dim": 64,
        "vocab_size": vocabulary,
        "max_position_embeddings": MAX_LEN,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "torch_dtype": "float32",
    }


MODELS: dict[str, dict[str, Any]] = {
    "llama-10m": _llama(320, 896, (5, 5), 6, 4096),
    "llama-53m": _llama(640, 1728, (10, 2), 10, 8192),
    "llama-175m": _llama(1024, 2816, (16, 8), 12, 16384),
}
"""Random weights; sizes that no calibration measures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a user sees of a run."""

    __pydantic_config__: ClassVar = PLAIN
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_p50_s: float
    tpot_p99_s: float
    tokens_per_s: float


FIGURES = ("ttft_p50_s", "ttft_p99_s", "tpot_p50_s", "tpot_p99_s", "tokens_per_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One setting, served twice."""

    __pydantic_config__: ClassVar = PLAIN
    model: str
    load: str
    policy: str
    num_requests: int
    real_s: float
    real: Figures
    simulated: Figures

    def error(self, figure: str) -> float:
        """Simulated over real, less one."""
        found: float = getattr(self.simulated, figure) / getattr(self.real, figure) - 1.0
        return found


def error_summary(cells: Sequence[Cell], figure: str) -> tuple[float, float]:
    """Median and largest absolute error of a figure over settings."""
    errors = [abs(cell.error(figure)) for cell in cells]
    return float(np.median(errors)), max(errors)


def plan_of(model: str, policy: StepPolicyConfig) -> ServingPlan:
    """One replica that runs up to sixteen requests at once."""
    pool = Pool(device="here", policy=policy, max_num_seqs=_SEQUENCES, prefix_caching=False)
    return ServingPlan(model=model, fleet="1xhere", pools=(pool,), max_model_len=MAX_LEN)


def traffic(num: int, *, rate: float, seed: int) -> Workload:
    """``num`` requests: prompts of 16 to 480 tokens (median 110), outputs of 4 to 128 (median 36).

    ``rate`` in requests/s; 0: a closed loop.
    """
    lengths, times = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    prompts = np.clip(lengths.lognormal(np.log(110), 0.8, num), 16, 480).astype(np.int64)
    outputs = np.clip(lengths.lognormal(np.log(36), 0.7, num), 4, 128).astype(np.int64)
    gaps = times.exponential(1.0 / rate, num) if rate else np.zeros(num)
    return Workload(
        name="fidelity",
        arrival_s=np.cumsum(gaps) - gaps[0],
        prompt_tokens=prompts,
        output_tokens=outputs,
        num_in_flight=0 if rate else _SEQUENCES,
    )


def simulated_run(
    specs: Sequence[InstanceSpec], router: ClusterPolicy, workload: Workload, *, request_s: float
) -> RunRecord:
    """``workload`` on the simulated clock; a request takes ``request_s`` to reach the router."""
    executor = SimulatedExecutor(specs, router, reach_s=lambda _: request_s)
    return executor.run(workload)


def saturated_rate(specs: Sequence[InstanceSpec], router: ClusterPolicy) -> float:
    """Requests/s of a closed loop in the simulator."""
    workload = traffic(_PROBE_REQUESTS, rate=0.0, seed=99)
    requests = simulated_run(specs, router, workload, request_s=0.0).requests
    return _PROBE_REQUESTS / float(np.max(requests.finished_s))


def figures_of(record: RunRecord, *, skip: int = 0) -> Figures:
    """Figures of all requests but the first ``skip``, every one of which must have finished."""
    requests = record.requests
    assert np.all(requests.status[skip:] == 0)
    ttft_s, tpot_s = requests.ttft_s[skip:], requests.tpot_s[skip:]
    took_s = np.max(requests.finished_s[skip:]) - np.min(requests.arrival_s[skip:])
    return Figures(
        ttft_p50_s=float(np.median(ttft_s)),
        ttft_p99_s=float(np.quantile(ttft_s, 0.99)),
        tpot_p50_s=float(np.nanmedian(tpot_s)),
        tpot_p99_s=float(np.nanquantile(tpot_s, 0.99)),
        tokens_per_s=float(np.sum(requests.output_tokens[skip:]) / took_s),
    )
