"""Llumnix: requests go where most decode steps are left, and move there while they run.

The freeness of an instance is the decode steps it can make before its KV memory is full: free
blocks, less what waiting requests need, over the requests that run. A new request goes to the
freest instance, all that waits counted. For moves only the first waiting request counts, as if
it had its memory: that turns making room for it into a matter of balance. At every tick the least
free instances below ``low_steps`` are paired with the freest above ``high_steps``, and the
shortest request of low priority moves live, one at a time a pair, until a mark is crossed.
High-priority requests keep ``headroom_tokens`` free beside them. A draining instance is as if it
held a request that wants infinite memory, so that everything leaves it.
Left out: starting and stopping instances (``routers.autoscaled``); moves between pipelines, and
between instances whose blocks differ in size, which are only dispatched to.
Source: arXiv 2406.03243; marks and tick by its public code's defaults and figures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from plimsoll.serving.policy import (
    Action,
    Admit,
    Arrive,
    Event,
    InstView,
    Join,
    Leave,
    Move,
    MoveDone,
    Refused,
    ReqView,
    Tick,
    View,
)
from plimsoll.serving.routers.placing import place
from plimsoll.spec.errors import SpecError

__all__ = ["FreenessPolicy", "freeness"]


def freeness(inst: InstView, *, headroom_tokens: int = 0, num_waiting: int | None = None) -> float:
    """Decode steps until the KV memory of an instance is full; infinite where nothing runs.

    ``num_waiting`` of the waiting requests count, from the front; None: all. Of a draining
    instance it is minus infinity.
    """
    if not inst.admits:
        return -math.inf
    pool = inst.pool
    block = pool.block_tokens
    waiting = list(islice(inst.waiting, num_waiting))
    running = inst.num_running
    if not waiting and not running:
        return math.inf
    room = pool.free * block
    for request in waiting:
        own = request.pending + 1 - pool.cached_tokens(request)
        room -= pool.blocks_for(request, own) * block
    if headroom_tokens and any(r.priority > 0 for r in _running(inst)):
        room -= headroom_tokens
    return room / (running + len(waiting))


def _running(inst: InstView) -> list[ReqView]:
    return [
        request
        for slot in range(inst.num_slots)
        for request in (*inst.decoding(slot), *inst.prefilling(slot))
    ]


@dataclass(slots=True)
class FreenessPolicy:
    """``FreenessRouter`` in a plan. ``low_steps`` and ``high_steps`` are in decode steps;
    ``migrate`` False only dispatches.

    Raises:
        SpecError: the low mark is not below the high one, or the headroom is negative.
    """

    low_steps: float = 10.0
    high_steps: float = 60.0
    headroom_tokens: int = 0
    migrate: bool = True
    tick_s: float = 0.1
    events: frozenset[type] = frozenset({Arrive, Leave, Join, Tick, MoveDone, Refused})

    def __post_init__(self) -> None:
        if not self.low_steps < self.high_steps:
            raise SpecError(
                f"freeness: low_steps {self.low_steps:g} must be below high_steps "
                f"{self.high_steps:g}; what is short of room moves to what has it"
            )
        if self.headroom_tokens < 0:
            raise SpecError(
                f"freeness: headroom_tokens {self.headroom_tokens} is negative; use 0 or more"
            )
        if self.tick_s <= 0:
            raise SpecError(f"freeness: tick_s {self.tick_s:g} must be above 0")

    def on(self, view: View, event: Event) -> Sequence[Action]:
        """Place what has no place; at ticks and when a move has ended, look for pairs."""
        kind = type(event)
        if kind in (Arrive, Leave, Join):
            return place(view, event, self._freest)
        moving = view.mem.setdefault("moving", {})
        assert isinstance(moving, dict)
        if kind is MoveDone:
            moving.pop(event.request, None)
        elif kind is Refused:
            decision = event.decision
            if isinstance(decision, Move):
                moving.pop(decision.request, None)
                return ()  # the next tick looks again
            if isinstance(decision, Admit) and view.has(decision.request):
                return place(view, Arrive(decision.request), self._freest)
            return ()
        return self._moves(view, moving) if self.migrate else ()

    def _freest(self, view: View, up: Sequence[InstView], request: int) -> InstView:
        return max(up, key=lambda i: (self._steps(i, None), -i.outstanding_tokens, -i.id))

    def _steps(self, inst: InstView, num_waiting: int | None) -> float:
        return freeness(inst, headroom_tokens=self.headroom_tokens, num_waiting=num_waiting)

    def _moves(self, view: View, moving: dict[int, tuple[int, int]]) -> list[Action]:
        steps = [
            (self._steps(inst, 1), inst.id, inst)
            for inst in view.instances
            if inst.up and inst.role == "both" and inst.num_slots == 1
        ]
        busy = {side for pair in moving.values() for side in pair}
        steps.sort(key=lambda entry: entry[:2])
        short = [e for e in steps if e[0] < self.low_steps and e[1] not in busy]
        roomy = [e for e in reversed(steps) if e[0] > self.high_steps and e[1] not in busy]
        found: list[Action] = self._leaving(view, moving)
        for (before, source_id, source), (_, target_id, target) in zip(short, roomy, strict=False):
            request = self._pick(source, target, before)
            if request is not None:
                moving[request.id] = (source_id, target_id)
                found.append(Move(request.id, source_id, target_id, "live"))
        return found

    def _leaving(self, view: View, moving: dict[int, tuple[int, int]]) -> list[Action]:
        """The first request that waits on each draining instance goes at once: it has no KV."""
        found: list[Action] = []
        homes = [i for i in view.instances if i.admits and i.role == "both" and i.num_slots == 1]
        for inst in view.instances:
            if not inst.up or inst.admits or inst.role != "both" or inst.num_slots > 1 or not homes:
                continue
            request = next((r for r in inst.waiting if not r.computed and r.id not in moving), None)
            target = self._freest(view, homes, -1)
            if request is not None and target.pool.block_tokens == inst.pool.block_tokens:
                moving[request.id] = (inst.id, target.id)
                found.append(Move(request.id, inst.id, target.id, "live"))
        return found

    def _pick(self, source: InstView, target: InstView, before: float) -> ReqView | None:
        """The shortest request of the lowest priority that leaves the target freer than the
        source was."""
        if target.num_running >= target.max_num_seqs:
            return None
        if source.pool.block_tokens != target.pool.block_tokens:
            return None
        best = min(
            (r for slot in range(source.num_slots) for r in source.decoding(slot)),
            key=lambda r: (r.priority, r.computed, r.id),
            default=None,
        )
        if best is None:
            return None
        block = target.pool.block_tokens
        room = (target.pool.free - source.held_tokens(best) // block - 1) * block
        after = room / (target.num_running + len(target.waiting) + 1)
        return best if after > max(before, self.low_steps) else None
