"""Each request to the instance with the least demand for KV memory, what waits counted in.

Demand is the share of blocks that are held, and those that every waiting request will take.
Source: the load-aware dispatch that arXiv 2406.03243 compares with.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from plimsoll.serving.policy import Action, Event, InstView, View
from plimsoll.serving.routers.placing import EVENTS, place

__all__ = ["LeastDemandPolicy"]


@dataclass(slots=True)
class LeastDemandPolicy:
    """``LeastDemandRouter`` in a plan."""

    tick_s: float = 0.0
    events: frozenset[type] = EVENTS

    def on(self, view: View, event: Event) -> Sequence[Action]:
        """Admit where the smallest share of memory is wanted; ties to the lower id."""
        return place(view, event, _least)


def _least(view: View, up: Sequence[InstView], request: int) -> InstView:
    return min(up, key=lambda inst: (_demand(inst), inst.id))


def _demand(inst: InstView) -> float:
    pool = inst.pool
    wanted = sum(-(-(r.pending + 1) // pool.block_tokens) for r in inst.waiting if not r.computed)
    return (pool.total - pool.free + wanted) / pool.total
