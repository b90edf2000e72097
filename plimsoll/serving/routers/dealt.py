"""Requests to the instances they were dealt to; others, and those of an instance that is down, to
the one with the least work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plimsoll.serving.policy import Action, Event, InstView, View
from plimsoll.serving.routers.placing import EVENTS, place

__all__ = ["DealtPolicy"]


@dataclass(slots=True)
class DealtPolicy:
    """``owner`` maps requests to instances."""

    owner: Mapping[int, int]
    tick_s: float = 0.0
    events: frozenset[type] = EVENTS

    def on(self, view: View, event: Event) -> Sequence[Action]:
        """Admit to the owner if it is up."""
        return place(view, event, self._choose)

    def _choose(self, view: View, up: Sequence[InstView], request: int) -> InstView:
        owner = self.owner.get(request, -1)
        least = min(up, key=lambda inst: (inst.outstanding_tokens, inst.id))
        return next((inst for inst in up if inst.id == owner), least)
