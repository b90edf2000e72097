"""Requests to instances in turn, skipping those that are down."""

from collections.abc import Sequence
from dataclasses import dataclass

from plimsoll.serving.policy import Action, Event, InstView, View
from plimsoll.serving.routers.placing import EVENTS, place

__all__ = ["RoundRobinPolicy"]


@dataclass(slots=True)
class RoundRobinPolicy:
    """``RoundRobinRouter`` in a plan. The turn is kept in ``view.mem``."""

    tick_s: float = 0.0
    events: frozenset[type] = EVENTS

    def on(self, view: View, event: Event) -> Sequence[Action]:
        """Admit to the next instance that is up."""
        return place(view, event, _next)


def _next(view: View, up: Sequence[InstView], request: int) -> InstView:
    turn = view.mem.get("turn", 0)
    assert isinstance(turn, int)
    view.mem["turn"] = turn + 1
    return up[turn % len(up)]
