"""Each request to the instance with the fewest tokens still to process; ties to the lower id."""

from collections.abc import Sequence
from dataclasses import dataclass

from plimsoll.serving.policy import Action, Event, InstView, View
from plimsoll.serving.routers.placing import EVENTS, place

__all__ = ["LeastWorkPolicy"]


@dataclass(slots=True)
class LeastWorkPolicy:
    """``LeastWorkRouter`` in a plan."""

    tick_s: float = 0.0
    events: frozenset[type] = EVENTS

    def on(self, view: View, event: Event) -> Sequence[Action]:
        """Admit to the least loaded instance."""
        return place(view, event, _least)


def _least(view: View, up: Sequence[InstView], request: int) -> InstView:
    best = up[0]
    least = best.outstanding_tokens
    for inst in up:
        work = inst.outstanding_tokens
        if work < least:
            best, least = inst, work
    return best
