"""Sessions of one machine at its peak: rounds of reading and writing, swapped when they crowd.

Every user keeps one long context. A session is one prefill of the context and then rounds:
follow-up prompt (not in the first), decode of one answer, time to read it. A user's context is
*new*, *resident* or *swapped*; a resident user with something to do waits for, or holds, the one
compute lane (*prefilling*, *decoding*); contexts move over the one link lane. Capacity is the
closed-form user count. A user without room waits in line; the first in line takes the place of
the resident reader that finished longest ago, whose context goes out before the other comes in.
Finished sessions leave without traffic. Contexts keep the size that capacity reserves for them.

Leaves out batched decoding (a lane serves one user at a time), overlap of the two directions of
a link, and every inefficiency: it is the peak that a serving engine is compared with.
Source: arXiv 2405.08944 section 2 (session throughput).
"""

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from plimsoll.cost.peak import peak
from plimsoll.spec.errors import InfeasibleError, SpecError
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import ModelSpec

__all__ = [
    "SessionCosts",
    "SessionResult",
    "SessionWorkload",
    "session_costs",
    "session_s",
    "simulate_sessions",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionWorkload:
    """What users do: ``num_users`` of them, each ``sessions_per_user`` sessions in a row.

    ``answer_tokens`` are decoded in every round; ``followup_tokens`` are read in every round
    but the first; ``think_s`` passes after every round but a session's last.
    """

    num_users: int
    context_tokens: int
    num_rounds: int = 1
    answer_tokens: int = 250
    followup_tokens: int = 100
    think_s: float = 0.0
    sessions_per_user: int = 1

    def __post_init__(self) -> None:
        counts = ("num_users", "context_tokens", "num_rounds", "answer_tokens", "sessions_per_user")
        for name in counts:
            if getattr(self, name) < 1:
                raise SpecError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if self.followup_tokens < 0:
            raise SpecError(f"followup_tokens is {self.followup_tokens}; expected 0 or more")
        if not (math.isfinite(self.think_s) and self.think_s >= 0):
            raise SpecError(f"think_s is {self.think_s}; expected a finite time, zero or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionCosts:
    """What one user's work costs the machine, alone on it.

    ``move_s`` is the time one context takes over the link in one direction; ``capacity`` how
    many contexts are resident at most.
    """

    prefill_s: float
    followup_s: float
    decode_s: float
    move_s: float
    capacity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionResult:
    """What happened. ``sessions_per_s`` is completed sessions over the time all took.

    ``timeline`` rows: (time, resident, swapped, waiting for room), one a change.
    """

    num_sessions: int
    num_rounds: int
    end_s: float
    compute_busy_s: float
    link_busy_s: float
    num_moves: int
    session_s: tuple[float, ...]
    timeline: tuple[tuple[float, int, int, int], ...] = field(repr=False, default=())

    @property
    def sessions_per_s(self) -> float:
        """Completed sessions over the time all took."""
        return self.num_sessions / self.end_s

    @property
    def rounds_per_s(self) -> float:
        """Completed rounds over the time all took."""
        return self.num_rounds / self.end_s


def session_costs(
    model: ModelSpec, device: Device, workload: SessionWorkload, **options: Any
) -> SessionCosts:
    """The closed-form costs of ``workload``; ``options`` are those of ``cost.peak.peak``."""
    base = peak(
        model,
        device,
        workload.context_tokens,
        decode_tokens=workload.answer_tokens,
        **options,
    )
    longer = peak(model, device, workload.context_tokens + workload.followup_tokens, **options)
    return SessionCosts(
        prefill_s=base.prefill_s,
        followup_s=longer.prefill_s - base.prefill_s,
        decode_s=base.decode_s,
        move_s=base.switch_s / 2,
        capacity=base.num_users,
    )


def session_s(workload: SessionWorkload, costs: SessionCosts) -> float:
    """Closed form of one session of a user alone."""
    rounds = workload.num_rounds
    return (
        costs.prefill_s
        + rounds * costs.decode_s
        + (rounds - 1) * (costs.followup_s + workload.think_s)
    )


class _Lane:
    """Serves jobs one at a time, first come first served."""

    def __init__(self, schedule: Callable[[float, Callable[[], None]], None]) -> None:
        self.schedule = schedule
        self.jobs: deque[tuple[float, Callable[[], None]]] = deque()
        self.busy = False
        self.busy_s = 0.0

    def add(self, duration_s: float, done: Callable[[], None], *, first: bool = False) -> None:
        """Queue a job, at the head of the line if ``first``; it starts now if nothing runs."""
        (self.jobs.appendleft if first else self.jobs.append)((duration_s, done))
        if not self.busy:
            self.start()

    def start(self) -> None:
        duration_s, done = self.jobs.popleft()
        self.busy = True
        self.busy_s += duration_s

        self.schedule(duration_s, partial(self.end, done))

    def end(self, done: Callable[[], None]) -> None:
        self.busy = False
        done()
        if self.jobs and not self.busy:
            self.start()


class _Sessions:
    """The state of one simulation: an event heap, two lanes, and who is where."""

    def __init__(self, workload: SessionWorkload, costs: SessionCosts) -> None:
        self.workload, self.costs = workload, costs
        self.now_s = 0.0
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.serial = 0
        self.compute, self.link = _Lane(self.after), _Lane(self.after)
        self.free = costs.capacity
        self.readers: OrderedDict[int, None] = OrderedDict()  # resident and idle, oldest first
        self.swapped: set[int] = set()
        self.line: deque[int] = deque()  # ready, but without room
        self.rounds_left = [0] * workload.num_users
        self.sessions_left = [workload.sessions_per_user] * workload.num_users
        self.started_s = [0.0] * workload.num_users
        self.session_s: list[float] = []
        self.num_rounds = self.num_moves = 0
        self.timeline: list[tuple[float, int, int, int]] = []

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        self.serial += 1
        heapq.heappush(self.heap, (self.now_s + delay_s, self.serial, action))

    def run(self) -> None:
        for user in range(self.workload.num_users):
            self.begin(user)
        while self.heap:
            self.now_s, _, action = heapq.heappop(self.heap)
            action()

    def note(self) -> None:
        resident = self.costs.capacity - self.free
        self.timeline.append((self.now_s, resident, len(self.swapped), len(self.line)))

    def begin(self, user: int) -> None:
        self.rounds_left[user] = self.workload.num_rounds
        self.started_s[user] = self.now_s
        self.ready(user)

    def ready(self, user: int) -> None:
        """The user has read the last answer, or has just come: the next round may start."""
        if user in self.readers:
            del self.readers[user]
            self.work(user)
        else:
            self.line.append(user)
            self.make_room()
        self.note()

    def make_room(self) -> None:
        """Give the first in line a free place, or that of the longest idle reader."""
        while self.line and (self.free or self.readers):
            user = self.line.popleft()
            if self.free:
                self.free -= 1
                self.come_in(user, next_on_link=False)
                continue
            leaver, _ = self.readers.popitem(last=False)
            self.swapped.add(leaver)
            self.num_moves += 1
            self.link.add(self.costs.move_s, partial(self.come_in, user, next_on_link=True))

    def come_in(self, user: int, *, next_on_link: bool) -> None:
        """Bring the context in if it was swapped out; ``next_on_link``: room was just moved out
        for it, so that the pair moves together."""
        if user not in self.swapped:
            self.work(user)
            return
        self.num_moves += 1
        self.link.add(self.costs.move_s, partial(self.arrive, user), first=next_on_link)

    def arrive(self, user: int) -> None:
        self.swapped.remove(user)
        self.work(user)

    def work(self, user: int) -> None:
        first = self.rounds_left[user] == self.workload.num_rounds
        read_s = self.costs.prefill_s if first else self.costs.followup_s
        self.compute.add(read_s + self.costs.decode_s, partial(self.finish, user))

    def finish(self, user: int) -> None:
        self.num_rounds += 1
        self.rounds_left[user] -= 1
        if self.rounds_left[user]:
            self.readers[user] = None
            self.make_room()
            self.after(self.workload.think_s, partial(self.ready, user))
        else:
            self.session_s.append(self.now_s - self.started_s[user])
            self.free += 1
            self.make_room()
            self.sessions_left[user] -= 1
            if self.sessions_left[user]:
                self.begin(user)
        self.note()


def simulate_sessions(workload: SessionWorkload, costs: SessionCosts) -> SessionResult:
    """Run ``workload`` to its end on one machine; the same input gives the same result.

    Raises:
        InfeasibleError: not one context fits beside the weights.
    """
    if costs.capacity < 1:
        raise InfeasibleError(
            f"no context of {workload.context_tokens:,} tokens fits beside the weights; use more "
            "devices, a shorter context or a compressed cache",
            binding="memory",
        )
    sessions = _Sessions(workload, costs)
    sessions.run()
    return SessionResult(
        num_sessions=len(sessions.session_s),
        num_rounds=sessions.num_rounds,
        end_s=sessions.now_s,
        compute_busy_s=sessions.compute.busy_s,
        link_busy_s=sessions.link.busy_s,
        num_moves=sessions.num_moves,
        session_s=tuple(sessions.session_s),
        timeline=tuple(sessions.timeline),
    )
