"""State of one batch in flight: the run of equal decode steps under way, and when it ends.

Step j of a run (from 0) lasts ``step_s + j * growth_s``; the run's first j steps end at
``start_s + stall_s + j * step_s + growth_s * j * (j - 1) / 2``. A request that must be looked
at while a run is under way cuts it at the next step boundary.
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from heapq import heappop, heappush

from plimsoll.serving.executors.requests import SimRequest, TickCounter

__all__ = ["Slot"]


class Slot:
    """Private to the simulated executor: it knows when requests will end."""

    __slots__ = (
        "accounted",
        "busy",
        "changed",
        "chunks",
        "context",
        "counter",
        "departing",
        "end_s",
        "ends",
        "formed",
        "formed_context",
        "growth_s",
        "index",
        "joiners",
        "last_decode_s",
        "leaving",
        "limit",
        "num_decodes",
        "peak_gaps",
        "peak_ticks",
        "rounds",
        "stall_s",
        "start_s",
        "step_s",
        "steps",
        "version",
        "wake_s",
    )

    def __init__(self, index: int) -> None:
        self.index = index
        self.counter = TickCounter()
        self.busy = False
        self.version = 0
        self.start_s = 0.0
        self.stall_s = 0.0
        self.step_s = 0.0
        self.growth_s = 0.0
        self.steps = 0
        self.accounted = 0
        self.end_s = 0.0
        self.wake_s = -1.0
        self.num_decodes = 0
        """Decodes of the run under way."""
        self.chunks: list[tuple[SimRequest, int]] = []
        self.context = 0
        """Tokens held by all decoding requests."""
        self.ends: list[tuple[int, int, int, SimRequest]] = []
        """Heap of (tick, request id, serial, request): when each decode is done."""
        self.joiners: list[SimRequest] = []
        """Requests that started decoding after the last decode step."""
        self.leaving: list[tuple[SimRequest, int]] = []
        """Requests to drop at the next step boundary, and the status they end with."""
        self.departing: list[tuple[SimRequest, Callable[[float], None]]] = []
        """Requests to stop at the next step boundary for a move, and who is told."""
        self.last_decode_s = 0.0
        self.peak_ticks: list[int] = []
        self.peak_gaps: list[float] = []
        self.rounds = 0
        self.changed = False
        """Whether anything happened since the policy was asked that it must be asked about."""
        self.formed = 0
        """Decodes of the step after this one, if it is formed already."""
        self.formed_context = 0
        self.limit = 0
        """The tick at which one of the decodes reaches its limit on output tokens."""

    def end_of(self, steps: int) -> float:
        """When the first ``steps`` steps of the run have ended."""
        return (
            self.start_s
            + self.stall_s
            + steps * self.step_s
            + self.growth_s * (steps * (steps - 1) // 2)
        )

    def steps_until(self, now_s: float) -> int:
        """The fewest steps of the run, one at least, that end at ``now_s`` or later."""
        x = now_s - self.start_s - self.stall_s
        if x <= 0:
            return 1
        half = self.growth_s / 2
        b = self.step_s - half
        if half > 0:
            guess = (math.sqrt(b * b + 4 * half * x) - b) / (2 * half)
        else:
            guess = x / self.step_s if self.step_s > 0 else self.steps
        steps = min(max(1, math.ceil(guess)), self.steps)
        while steps > 1 and self.end_of(steps - 1) >= now_s:
            steps -= 1
        while steps < self.steps and self.end_of(steps) < now_s:
            steps += 1
        return steps

    def steps_done(self, now_s: float) -> int:
        """How many steps of the run have ended by ``now_s``."""
        steps = self.steps_until(now_s)
        return steps if self.end_of(steps) <= now_s else steps - 1

    def next_end(self) -> int:
        """The tick at which the next decode is done; stale entries are dropped on the way."""
        ends = self.ends
        while ends:
            tick, _, serial, request = ends[0]
            if request.serial == serial:
                return tick
            heappop(ends)
        return self.counter.tick + (1 << 40)

    def will_end(self, request: SimRequest, tick: int) -> None:
        """Remember the tick at which a request's last token comes."""
        heappush(self.ends, (tick, request.id, request.serial, request))

    def note_gap(self, tick: int, gap_s: float) -> None:
        """The step that ended at ``tick`` gave every request that decoded before this gap."""
        ticks, gaps = self.peak_ticks, self.peak_gaps
        while gaps and gaps[-1] <= gap_s:
            gaps.pop()
            ticks.pop()
        ticks.append(tick)
        gaps.append(gap_s)

    def worst_gap_after(self, tick: int) -> float:
        """The worst gap of steps that ended after ``tick``."""
        at = bisect_right(self.peak_ticks, tick)
        return self.peak_gaps[at] if at < len(self.peak_gaps) else 0.0
