"""Reasons to drop a shape before anything is estimated: memory, and latency at no load.

Memory is exact. The latency bounds are what the clock says of one request alone: its prompt in
one step, and a decode step of one; no policy, batch or rate makes these smaller. The capacity
bound is what a replica would carry with a full batch and no queue, so a plan whose bound is
below what another plan has shown can be skipped without a simulation.
"""

import numpy as np

from plimsoll.planning.physics import ReplicaRoom
from plimsoll.planning.step_table import StepTable
from plimsoll.planning.traffic import Traffic
from plimsoll.spec.slo import Slo, SloTarget

__all__ = ["alone_s", "capacity_bound_per_s", "latency_problem", "memory_problem", "unloaded_s"]


def memory_problem(room: ReplicaRoom, longest_tokens: int) -> str:
    """Why the replica cannot hold the model and one longest request, or ""."""
    if room.needed_bytes > room.available_bytes:
        return "weights and overheads do not fit in device memory"
    if room.longest_tokens < longest_tokens:
        return "memory left for KV is less than the longest request"
    return ""


def unloaded_s(table: StepTable, traffic: Traffic, percentile: float) -> float:
    """Seconds of the prompt at a percentile of length, alone, through all stages."""
    order = np.argsort(traffic.new_tokens)
    reached = np.cumsum(traffic.prompt_weight[order]) >= percentile / 100 - 1e-9
    length = traffic.new_tokens[order][int(np.argmax(reached))]
    alone = table.extra(np.array([length]), np.zeros(1))
    return float(alone[0]) * table.num_stages


def alone_s(table: StepTable, traffic: Traffic, target: SloTarget) -> float:
    """The least that one request alone takes of what ``target`` bounds; 0 where nothing is known.

    Groups of prompts are coarser than percentiles: the group below is a safe lower bound.
    """
    if target.metric == "ttft":
        least = max(0.0, target.percentile - 100 * float(traffic.prompt_weight[-1]))
        return unloaded_s(table, traffic, min(least, 99.0))
    if target.metric in ("tpot", "itl") and traffic.mean_output_tokens > 1:
        return float(table.decode(np.ones(1))[0]) * table.num_stages
    return 0.0


def latency_problem(
    table: StepTable, traffic: Traffic, slo: Slo, *, prefill: bool = True, decode: bool = True
) -> str:
    """Which bound one request alone already misses on this replica, or ""."""
    for target in slo.targets:
        first = target.metric == "ttft"
        if not (prefill if first else decode):
            continue
        if alone_s(table, traffic, target) > target.bound_s:
            what = "one prompt alone" if first else "a decode step of one request"
            return f"{what} exceeds the {target.metric.upper()} p{target.percentile:g} bound"
    return ""


def capacity_bound_per_s(table: StepTable, traffic: Traffic, most_batch: float) -> float:
    """Requests/s of one replica with a full batch, no queue and prompts packed without loss."""
    slot = max(most_batch / table.num_stages, 1.0)
    steps = max(traffic.mean_output_tokens - 1, 0.0)
    per_token = table.chunk_s[:, -1] / table.chunks
    prompt_s = float(np.maximum(per_token.min(), 0.0)) * traffic.mean_new_tokens
    decode_s = float(table.decode(np.array([slot]))[0]) * steps / slot
    return 1.0 / max(prompt_s + decode_s, 1e-12)
