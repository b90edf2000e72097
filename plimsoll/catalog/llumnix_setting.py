"""The Llumnix evaluation on stated times: instances, lengths, arrivals, what is read off a run.

Sixteen instances of LLaMA-7B on A10-24G, 851 blocks of 16 tokens each; decode and prefill steps,
and copies, take the linear times below. Prompt and output lengths follow the quantiles of the
paper's long and medium distributions, straight in the logarithm between them; arrivals are
Poisson, or Gamma for bursts.
Source: arXiv 2406.03243 section 6; times as in the acceptance setting of its reproduction.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plimsoll.cost.fits import DecodeLine, PrefillDecodeFit, PrefillLine
from plimsoll.serving.executors.simulated import InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies import PrefillFirstPolicy
from plimsoll.serving.policy import ClusterPolicy
from plimsoll.spec.generators import stream
from plimsoll.spec.record import RunRecord
from plimsoll.spec.workload import Workload

__all__ = ["LENGTHS", "Figures", "figures", "lengths_of", "serve", "traffic"]

NUM_INSTANCES = 16
NUM_BLOCKS = 851
BLOCK_TOKENS = 16
_COPY_S = 30e-3
_COPY_TOKEN_S = 65e-6
_LONGEST = 6000
LENGTHS = {
    "M": (32, 173, 1288, 4208),
    "L": (55, 582, 3113, 5166),
    "S": (16, 87, 644, 2104),
}
"""Tokens at the 50th, 80th, 95th and 99th percentile; S is half of M, as its mean is."""
_SHARES = (0.0, 0.5, 0.8, 0.95, 0.99, 1.0)

_DECODE = DecodeLine(base_s=23.5e-3, context_s=0.87e-6, request_s=20e-6)
CLOCK = PrefillDecodeFit(
    prefill=PrefillLine(base_s=22.5e-3, token_s=0.216e-3, square_s=0.0),
    decode_small=_DECODE,
    decode_large=_DECODE,
    decode_switch_batch=1 << 30,
    swap_token_s=_COPY_TOKEN_S,
)


def lengths_of(kind: str, num: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """[num] tokens: the logarithm is straight between the quantiles, from 1 to 6,000.

    One from each of ``num`` equal shares in random order, so that every seed asks for the same
    work: with free draws the longest 1 % alone would shift the load by several percent.
    """
    knots = np.log([1, *LENGTHS[kind], _LONGEST])
    share = (rng.permutation(num) + rng.random(num)) / num
    drawn = np.exp(np.interp(share, _SHARES, knots))
    return np.maximum(drawn.astype(np.int64), 1)


def traffic(
    kind: str,
    rate_per_s: float,
    seed: int,
    *,
    num: int = 5000,
    cv: float = 1.0,
    high_share: float = 0.0,
) -> Workload:
    """``num`` requests with gaps of that coefficient of variation; ``high_share`` of them of
    priority 1."""
    shape = 1 / cv**2
    gaps = stream(seed, "llumnix arrivals").gamma(shape, 1 / (rate_per_s * shape), num)
    rng = stream(seed, f"llumnix lengths {kind}")
    high = stream(seed, "llumnix priorities").random(num) < high_share
    return Workload(
        name=f"{kind}-{kind} at {rate_per_s:g}/s",
        arrival_s=np.cumsum(gaps),
        prompt_tokens=lengths_of(kind, num, rng),
        output_tokens=lengths_of(kind, num, rng),
        priority=high.astype(np.int64),
    )


def serve(
    workload: Workload,
    router: ClusterPolicy,
    *,
    num_instances: int = NUM_INSTANCES,
    start_s: float = 0.0,
) -> RunRecord:
    """The run of a workload on the instances of the setting, all up at first; one that is started
    later takes ``start_s``."""
    spec = InstanceSpec(
        clock=CLOCK,
        policy=PrefillFirstPolicy(max_batched_tokens=8192),
        num_blocks=NUM_BLOCKS,
        block_tokens=BLOCK_TOKENS,
        prefix_caching=False,
        start_s=start_s,
    )
    executor = SimulatedExecutor(
        [spec] * num_instances,
        router,
        transfer_s=lambda source, target, tokens: _COPY_S + _COPY_TOKEN_S * tokens,
    )
    return executor.run(workload)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """First token mean and P99, P99 over requests of the mean time per token, and seconds lost
    to preemption a request."""

    ttft_s: float
    ttft_p99_s: float
    tpot_p99_s: float
    loss_s: float


def figures(runs: Sequence[RunRecord]) -> Figures:
    """Over the requests of all runs together."""
    ttft = np.concatenate([run.requests.ttft_s for run in runs])
    tpot = np.concatenate([run.requests.tpot_s for run in runs])
    lost_s = sum(float((run.park_end_s - run.park_start_s).sum()) for run in runs)
    return Figures(
        ttft_s=float(np.mean(ttft)),
        ttft_p99_s=float(np.quantile(ttft, 0.99)),
        tpot_p99_s=float(np.nanquantile(tpot, 0.99)),
        loss_s=lost_s / len(ttft),
    )
