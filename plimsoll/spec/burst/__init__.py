"""Burst models: fit one to a trace, draw traffic from it, scale a trace."""

from plimsoll.spec.burst.fit import fit
from plimsoll.spec.burst.model import (
    BurstModel,
    BurstWindow,
    Drift,
    Failures,
    Idle,
    RequestKind,
    SessionHabit,
)
from plimsoll.spec.transforms import scale_rate
from plimsoll.spec.workload import Workload

__all__ = [
    "BurstModel",
    "BurstWindow",
    "Drift",
    "Failures",
    "Idle",
    "RequestKind",
    "SessionHabit",
    "fit",
    "scale",
]


def scale(workload: Workload, factor: float) -> Workload:
    """The workload ``factor`` times as fast: times divided, burst shape kept."""
    return scale_rate(workload, factor)
