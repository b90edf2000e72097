"""Disaggregated prefill and decode: prompts run on one pool, tokens are generated on another.

A prompt goes to the prefill instance with the fewest outstanding tokens. When it has run, its
KV stays there until the decode side pulls it: the least loaded decode instance is chosen, and
pulls in order of arrival while it has blocks for the context and while pulled but not yet
running requests hold less than ``unstarted_fraction`` of its blocks. Prefill memory full of
parked KV thus pushes back on admission. Instances with role "both" take part on either side.
Source: arXiv 2401.09670.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from plimsoll.serving.policy import (
    Action,
    Arrive,
    Cancel,
    Ended,
    Event,
    InstView,
    Join,
    Leave,
    Move,
    MoveDone,
    Phase,
    Refused,
    Reject,
    StageDone,
    View,
)
from plimsoll.serving.routers.least_work import _least
from plimsoll.serving.routers.placing import place

__all__ = ["DisaggPolicy"]


@dataclass(slots=True)
class DisaggPolicy:
    """``DisaggRouter`` in a plan; ``max_running`` bounds the requests of a decode instance."""

    unstarted_fraction: float = 0.5
    tick_s: float = 0.0
    events: frozenset[type] = frozenset(
        {Arrive, Leave, Join, StageDone, Ended, MoveDone, Refused, Cancel}
    )

    def on(self, view: View, event: Event) -> Sequence[Action]:
        """Prompts to prefill instances; finished prompts queue for a decode instance."""
        kind = type(event)
        if kind is Arrive:
            why = self._too_long(view, event.request)
            return [Reject(event.request, why)] if why else place(view, event, _least)
        queue = view.mem.setdefault("pull", deque())
        assert isinstance(queue, deque)
        if kind is StageDone:
            queue.append((event.request, event.instance))
        elif kind is Refused and isinstance(event.decision, Move):
            if view.has(event.decision.request):
                queue.append((event.decision.request, event.decision.source))
        elif kind is Leave:
            lost = set(event.requests)
            kept = [entry for entry in queue if entry[0] not in lost]
            queue.clear()
            queue.extend(kept)
        placed = place(view, event, _least) if kind in (Leave, Join) else ()
        return [*placed, *self._pull(view, queue)]

    def _too_long(self, view: View, request_id: int) -> str:
        """Why no decode instance could ever take the request's context, or ""."""
        sides = [inst.pool for inst in view.instances if inst.role != "prefill"]
        most = max((pool.total - pool.per_request) * pool.block_tokens for pool in sides)
        if view.request(request_id).prompt_tokens + 2 <= most:
            return ""
        return f"longer than the KV pool of {most:,} tokens of a decode instance"

    def _pull(self, view: View, queue: "deque[tuple[int, int]]") -> list[Action]:
        moves: list[Action] = []
        if not queue:
            return moves
        sides = [inst for inst in view.instances if inst.admits and inst.role != "prefill"]
        taken = {inst.id: 0 for inst in sides}
        while queue and sides:
            request_id, source = queue[0]
            if not view.has(request_id) or view.request(request_id).phase is not Phase.HANDED:
                queue.popleft()
                continue
            request = view.request(request_id)
            target = self._target(sides, taken, request.computed + 1)
            if target is None:
                break
            taken[target.id] += -(-(request.computed + 1) // target.pool.block_tokens)
            queue.popleft()
            moves.append(Move(request_id, source, target.id))
        return moves

    def _target(
        self, sides: Sequence[InstView], taken: dict[int, int], tokens: int
    ) -> InstView | None:
        best: InstView | None = None
        least = 0.0
        for inst in sides:
            pool = inst.pool
            blocks = -(-tokens // pool.block_tokens) + pool.per_request
            unstarted = taken[inst.id] + sum(
                -(-r.computed // pool.block_tokens) for r in inst.waiting
            )
            fits = taken[inst.id] + blocks <= pool.free
            few = unstarted == 0 or unstarted + blocks <= self.unstarted_fraction * pool.total
            load = inst.outstanding_tokens + taken[inst.id]
            if fits and few and (best is None or load < least):
                best, least = inst, load
        return best
