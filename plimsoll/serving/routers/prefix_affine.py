"""To the instance that holds the longest prefix of the prompt, unless it is overloaded.

Score: prompt tokens the instance would have to compute, plus the work it has beyond
``max_load_ratio`` times the least loaded one's. Without a match this is least outstanding work.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from plimsoll.serving.policy import Action, Event, InstView, View
from plimsoll.serving.routers.placing import EVENTS, place

__all__ = ["PrefixAffinePolicy"]


@dataclass(slots=True)
class PrefixAffinePolicy:
    """``PrefixAffineRouter`` in a plan."""

    max_load_ratio: float = 1.5
    tick_s: float = 0.0
    events: frozenset[type] = EVENTS

    def on(self, view: View, event: Event) -> Sequence[Action]:
        """Admit where the least is left to compute."""
        return place(view, event, self._nearest)

    def _nearest(self, view: View, up: Sequence[InstView], request_id: int) -> InstView:
        request = view.request(request_id)
        least = min(inst.outstanding_tokens for inst in up)
        limit = self.max_load_ratio * (least + request.prompt_tokens)

        def score(inst: InstView) -> tuple[float, int, int]:
            work = inst.outstanding_tokens
            left = request.prompt_tokens - inst.pool.cached_tokens(request)
            return (left + max(0.0, work - limit), work, inst.id)

        return min(up, key=score)
