"""FastSwitch's setting: LLaMA-3-8B on an A10, sessions of several turns, changing priorities.

Step times come from the cost model, copies from ``pcie_copy_s``: 10 us a launch, 32 GB/s each way,
60 GB of host memory, pieces of one layer's keys or values. Sessions have 5.5 turns on average; a
turn's prompt is all that was said before and the new text, as ShareGPT's are. No prefix cache, as
in the paper's vLLM 0.3.3; prompts are cut into chunks beside the decodes, which it did not do.
Source: arXiv 2411.18424 section 4; lengths of a turn of the order of ShareGPT's.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from plimsoll.cost.kv import kv_bytes_per_token
from plimsoll.cost.memory import kv_capacity
from plimsoll.cost.step import ReplicaClock, replica_clock
from plimsoll.serving.executors.simulated import InstanceSpec, SimulatedExecutor
from plimsoll.serving.kv.swap_manager import SwapSpec
from plimsoll.serving.policies.fairswap import FairSwapPolicy
from plimsoll.serving.routers import RoundRobinPolicy
from plimsoll.spec.dtype import DType
from plimsoll.spec.fleet import load_device
from plimsoll.spec.generators import (
    Conversations,
    Lengths,
    LognormalLength,
    PoissonArrivals,
    Recipe,
    generate,
)
from plimsoll.spec.model_files import load_model
from plimsoll.spec.plan import Parallel
from plimsoll.spec.record import RunRecord
from plimsoll.spec.workload import Workload

__all__ = [
    "ALL",
    "PLAIN",
    "RATE_PER_S",
    "Figures",
    "figures",
    "serve",
    "served_tokens",
    "sessions",
    "tenants",
]

BLOCK_TOKENS = 16
HOST_BYTES = 60e9
FREQUENCY = 0.04
RATE_PER_S = 0.25
"""Session starts at which plain paging with swaps that the step waits for falls behind."""
_MAX_LEN = 4096
_CROWD_PER_S = 1.2
_SPAN_S = 600.0

PLAIN: tuple[str, ...] = ()
ALL = ("groups", "asynchronous", "reuse")


@functools.lru_cache(maxsize=1)
def _machine() -> tuple[ReplicaClock, int, SwapSpec]:
    """Clock, KV blocks, and swaps of single blocks that the step waits for."""
    model, device = load_model("llama-3-8b"), load_device("a10")
    clock = replica_clock(model, device, Parallel(), weight_dtype=DType.FP16)
    capacity = kv_capacity(
        model,
        device,
        Parallel(),
        weight_dtype=DType.FP16,
        max_batched_tokens=512,
        max_num_seqs=256,
        block_tokens=BLOCK_TOKENS,
    )
    swaps = SwapSpec(
        block_bytes=int(kv_bytes_per_token(model, DType.FP16) * BLOCK_TOKENS),
        pieces_per_block=2 * sum(group.count for group in model.layers),
        launch_s=10e-6,
        bytes_per_s=32e9,
    )
    return clock, capacity.num_blocks, swaps


def sessions(rate_per_s: float, seed: int, *, num_turns: int, mean_turns: float = 5.5) -> Workload:
    """``num_turns`` turns of sessions that start at that rate and wait for each answer."""
    recipe = Recipe(
        name="sessions",
        num_requests=num_turns,
        arrivals=PoissonArrivals(rate_per_s=rate_per_s),
        lengths=Lengths(
            prompt=LognormalLength(median=60, sigma=1.0, low=4, high=1024),
            output=LognormalLength(median=180, sigma=0.8, low=4, high=1024),
            stratified=True,
        ),
        sharing=Conversations(
            mean_turns=mean_turns,
            think_median_s=10.0,
            think_sigma=1.0,
            block_tokens=BLOCK_TOKENS,
            max_context_tokens=_MAX_LEN,
        ),
    )
    return generate(recipe, seed=seed)


def tenants(seed: int) -> Workload:
    """Four tenants, two of them with twice the sessions, each of which asks for more than a quarter
    of what the device can do in ten minutes."""
    num = int(_CROWD_PER_S * 5.5 * _SPAN_S)
    load = sessions(_CROWD_PER_S, seed, num_turns=num)
    owner = np.array([0, 1, 2, 2, 3, 3])[load.session_id % 6]
    return load.with_changes(class_index=owner, classes=("a", "b", "c", "d"))


def served_tokens(
    load: Workload,
    parts: Sequence[str],
    priorities: Literal["random", "served-tokens"],
    seed: int,
) -> list[int]:
    """Tokens of each tenant in the first ten minutes, as their counter counts them: the prompt
    of every request that began, and twice the output."""
    policy = FairSwapPolicy(update_frequency=FREQUENCY, priorities=priorities)
    found = serve(load, parts, policy=policy, seed=seed, until_s=_SPAN_S).requests
    began = ~np.isnan(found.first_token_s)
    tokens = np.where(began, found.prompt_tokens, 0) + 2 * found.output_tokens
    return [int(tokens[found.class_index == i].sum()) for i in range(len(load.classes))]


def serve(
    workload: Workload,
    parts: Sequence[str],
    *,
    launch_s: float = 10e-6,
    policy: FairSwapPolicy | None = None,
    seed: int = 0,
    until_s: float = float("inf"),
    host_bytes: float = HOST_BYTES,
) -> RunRecord:
    """The run of a workload with some of the three parts on."""
    clock, num_blocks, swaps = _machine()
    swaps = replace(swaps, launch_s=launch_s, **dict.fromkeys(parts, True))
    spec = InstanceSpec(
        clock=clock,
        policy=policy or FairSwapPolicy(update_frequency=FREQUENCY),
        num_blocks=num_blocks,
        block_tokens=BLOCK_TOKENS,
        host_blocks=int(host_bytes / swaps.block_bytes),
        max_num_seqs=256,
        max_model_len=_MAX_LEN,
        prefix_caching=False,
        swapping=swaps,
    )
    return SimulatedExecutor([spec], RoundRobinPolicy(), seed=seed).run(workload, until_s=until_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """P99 of first tokens, P99.9 of the time between tokens, output tokens a second, blocks sent
    to the host, and seconds steps waited for copies, over all runs."""

    ttft_p99_s: float
    tbt_p999_s: float
    tokens_per_s: float
    sent_blocks: int
    whole_blocks: int
    wait_share: float


def figures(runs: Sequence[RunRecord]) -> Figures:
    """Over the requests and gaps of all runs together."""
    ttft = np.concatenate([run.requests.ttft_s for run in runs])
    pairs = [run.itl_samples() for run in runs]
    gaps = np.concatenate([gap for gap, _ in pairs])
    counts = np.concatenate([count for _, count in pairs])
    order = np.argsort(gaps)
    below = np.cumsum(counts[order])
    place = int(np.searchsorted(below, 0.999 * below[-1]))
    span_s = sum(run.meta["end_s"] for run in runs)
    return Figures(
        ttft_p99_s=float(np.quantile(ttft, 0.99)),
        tbt_p999_s=float(gaps[order][place]),
        tokens_per_s=sum(int(run.requests.output_tokens.sum()) for run in runs) / span_s,
        sent_blocks=sum(run.meta["swap_out_blocks"] for run in runs),
        whole_blocks=sum(run.meta["swap_out_blocks_whole"] for run in runs),
        wait_share=sum(run.meta["swap_wait_s"] for run in runs) / span_s,
    )
