"""Instances by need: start one while room is short, drain one while there is too much.

The measure is the freeness of the cluster (``routers.freeness``): the room of all instances that
take requests over the requests they hold, in decode steps. Below ``low_steps`` for ``hold_s`` one
instance is started, above ``high_steps`` for as long the one with the fewest requests is drained;
after either nothing is done for ``cooldown_s``. Any router places the requests. One that moves them
live empties a draining instance in seconds; under the others its last request decides.
Left out: forecasts of the load; more than one instance at a time; taking a draining one back.
Source: arXiv 2406.03243 section 4.4.3 and 6.5; marks and interval by its public code's defaults.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from plimsoll.serving.policy import (
    Action,
    Admit,
    Arrive,
    ClusterPolicy,
    Event,
    InstView,
    Leave,
    Life,
    Refused,
    Retire,
    Scale,
    Tick,
    View,
)
from plimsoll.serving.routers.freeness import freeness
from plimsoll.spec.errors import SpecError

__all__ = ["AutoscaledPolicy", "Watch", "cluster_steps"]

_SAMPLE_S = 1.0


def cluster_steps(instances: Sequence[InstView]) -> float:
    """Decode steps until the memory of instances that take requests is full, taken together.

    An idle instance adds its room, where a mean of each one's freeness would be infinite.
    """
    room, num = 0.0, 0
    for inst in instances:
        if not inst.admits:
            continue
        held = inst.num_running + len(inst.waiting)
        num += held
        pool = inst.pool
        room += freeness(inst) * held if held else pool.free * pool.block_tokens
    return room / num if num else math.inf


@dataclass(slots=True)
class Watch:
    """Since when the measure has been beyond a mark, and until when nothing is done."""

    beyond: int = 0
    since_s: float = 0.0
    rest_until_s: float = -math.inf

    def look(self, beyond: int, now_s: float, hold_s: float, cooldown_s: float) -> int:
        """What to do, by one reading: 1 to start one, -1 to drain one, 0 nothing.

        ``beyond``: 1 below the low mark, -1 above the high one, 0 between.
        """
        if beyond != self.beyond:
            self.beyond, self.since_s = beyond, now_s
        if not beyond or now_s < self.rest_until_s or now_s - self.since_s < hold_s - 1e-9:
            return 0
        self.rest_until_s, self.since_s = now_s + cooldown_s, now_s
        return beyond


@dataclass(slots=True)
class AutoscaledPolicy:
    """``Scaling`` in a plan, around the plan's router.

    Raises:
        SpecError: the low mark is not below the high one, or a time or count makes no sense.
    """

    router: ClusterPolicy
    min_instances: int = 1
    low_steps: float = 10.0
    high_steps: float = 60.0
    hold_s: float = 10.0
    cooldown_s: float = 10.0
    tick_s: float = field(init=False)
    events: frozenset[type] = field(init=False)

    def __post_init__(self) -> None:
        if not self.low_steps < self.high_steps:
            raise SpecError(
                f"scaling: low_steps {self.low_steps:g} must be below high_steps "
                f"{self.high_steps:g}; between them the number of instances stays"
            )
        if self.min_instances < 1:
            raise SpecError(
                f"scaling: min_instances {self.min_instances} leaves nobody to serve; use 1 or more"
            )
        if self.hold_s < 0 or self.cooldown_s < 0:
            raise SpecError(
                f"scaling: hold_s {self.hold_s:g} and cooldown_s {self.cooldown_s:g} must be 0 or "
                "more seconds"
            )
        self.tick_s = self.router.tick_s or _SAMPLE_S
        self.events = self.router.events | {Tick, Refused, Leave}

    def on(self, view: View, event: Event) -> Sequence[Action]:
        """What the router says, and at ticks what the number of instances asks for."""
        kind = type(event)
        found: list[Action] = []
        if isinstance(event, Refused) and isinstance(event.decision, Scale | Retire):
            return ()
        if kind is Tick:
            if self.router.tick_s:
                found.extend(self.router.on(view, event))
            found.extend(self._scaling(view))
        elif kind in self.router.events or kind in (Arrive, Leave):
            found.extend(self.router.on(view, event))
        elif kind is Refused and (request := _turned_down(view, event)) is not None:
            found.extend(self.router.on(view, Arrive(request)))  # it does not listen itself
        if kind is Leave:
            found.extend(self._missing(view))
        return found

    def _missing(self, view: View) -> list[Action]:
        """Start what is short of the least number at once."""
        lives = [inst.life for inst in view.instances]
        short = self.min_instances - lives.count(Life.UP) - lives.count(Life.STARTING)
        short = min(short, lives.count(Life.STOPPED))
        return [Scale(short)] if short > 0 else []

    def _scaling(self, view: View) -> list[Action]:
        missing = self._missing(view)
        if missing:
            return missing
        watch = view.mem.setdefault("scaling", Watch())
        assert isinstance(watch, Watch)
        steps = cluster_steps(view.instances)
        lives = [inst.life for inst in view.instances]
        up, starting = lives.count(Life.UP), lives.count(Life.STARTING)
        beyond = 0
        if steps < self.low_steps and Life.STOPPED in lives:
            beyond = 1
        elif steps > self.high_steps and up > self.min_instances and not starting:
            beyond = -1
        act = watch.look(beyond, view.now_s, self.hold_s, self.cooldown_s)
        if act > 0:
            return [Scale(1)]
        if act < 0:
            return [Retire(self._fewest(view))]
        return []

    def _fewest(self, view: View) -> int:
        """The instance with the fewest requests, the last of equals."""
        open_ones = [inst for inst in view.instances if inst.admits]
        return min(open_ones, key=lambda i: (i.num_running + len(i.waiting), -i.id)).id


def _turned_down(view: View, event: Event) -> int | None:
    """The request of an admission that was refused, if it still wants a place."""
    decision = event.decision if isinstance(event, Refused) else None
    if isinstance(decision, Admit) and view.has(decision.request):
        return decision.request
    return None
