"""What an operator costs: seconds, FLOPs, bytes, and which of them binds.

Roofline with a soft corner: time = launch + (compute^p + memory^p)^(1/p). p near 1 means the two
do not overlap, p large the classic maximum. Every operator function works on whole arrays of
sizes at once, so the same formula serves calibration, tables and single answers.
Leaves out clock droop and cache reuse between neighboring kernels.
Source: doi:10.1145/1498765.1498785.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "OpCost", "Work", "op_cost", "soft_maximum"]

Floats: TypeAlias = NDArray[np.float64]


class Work(NamedTuple):
    """An operator at one or many sizes. ``time_s`` is the answer; the rest explains it."""

    time_s: Floats
    flops: Floats
    bytes: Floats
    compute_s: Floats
    memory_s: Floats
    launch_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OpCost:
    """One operator of one step, all its layers together.

    ``bound`` is what takes most of the time: arithmetic, traffic, links, or fixed latency.
    """

    name: str
    time_s: float
    flops: float
    bytes: float
    bound: Literal["compute", "memory", "network", "launch"]
    count: float = 1.0


def soft_maximum(compute_s: Floats, memory_s: Floats, sharpness: float) -> Floats:
    """(compute^p + memory^p)^(1/p), evaluated without overflow."""
    top = np.maximum(compute_s, memory_s)
    safe = np.maximum(top, 1e-30)
    ratio = np.minimum(compute_s, memory_s) / safe
    result: Floats = top * (1.0 + ratio**sharpness) ** (1.0 / sharpness)
    return result


def op_cost(name: str, work: Work, *, count: float = 1.0, network: bool = False) -> OpCost:
    """``work`` at a single size as an ``OpCost``; ``count`` equal operators run one by one."""
    compute_s, memory_s = float(work.compute_s), float(work.memory_s)
    bound: Literal["compute", "memory", "network", "launch"]
    if work.launch_s >= max(compute_s, memory_s):
        bound = "launch"
    elif compute_s >= memory_s:
        bound = "compute"
    else:
        bound = "network" if network else "memory"
    return OpCost(
        name=name,
        time_s=float(work.time_s) * count,
        flops=float(work.flops) * count,
        bytes=float(work.bytes) * count,
        bound=bound,
        count=count,
    )
