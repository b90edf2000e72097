"""KV blocks that instances hold for each other: the books of both sides, recalls, losses.

A loan is a copy of a request's oldest full blocks on a creditor; when it is complete the debtor's
own become free, and from then on the creditor attends to them. Whether it has room is the
creditor's decision at once, from its own free blocks, and it hands nothing on. A request that
gives up its KV gives back what others hold. When a creditor is lost, or does not get back in time
what it recalled, the requests that had blocks there are computed again.
What a step takes longer by is ``lent_steps``'s matter.
Left out: pipelines; a decode step under way when a creditor is lost ends as if it were there.
Source: arXiv 2401.02669 (rManager).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from plimsoll.serving.executors.engine import Engine
from plimsoll.serving.executors.lent_steps import LentSteps
from plimsoll.serving.executors.requests import SimRequest
from plimsoll.serving.executors.slots import Slot
from plimsoll.serving.executors.transfers import Transfers
from plimsoll.serving.kv.paged import PagedPool
from plimsoll.serving.policy import Lend, Phase, Recall
from plimsoll.spec.errors import PolicyError

__all__ = ["Flight", "Loans"]

Later = Callable[[float, Callable[..., object], tuple[Any, ...]], None]


@dataclass(frozen=True, slots=True, eq=False)
class Flight:
    """Blocks on their way for ``lend``; ``debtor`` is the instance of the request."""

    request: SimRequest
    lend: Lend
    debtor: int
    serial: int


class Loans:
    """``later(time, call, arguments)`` calls back; ``done`` is told of a ``Lend`` that is through,
    ``failed(lend, why)`` of one that was given up. ``steps`` None: a real engine takes its time."""

    def __init__(
        self,
        engines: list[Engine],
        transfers: Transfers,
        steps: LentSteps | None,
        *,
        later: Later,
        done: Callable[[Lend], None],
        failed: Callable[[Lend, str], None],
    ) -> None:
        self._engines = engines
        self._transfers = transfers
        self._steps = steps
        self._later = later
        self._done = done
        self._failed = failed
        self._serial = 0
        self._flights: dict[int, Flight] = {}
        self._lost: set[tuple[int, int]] = set()
        """(request, creditor) whose blocks are gone while the request has not stopped yet."""
        self._lives = [0] * len(engines)
        """How often each instance was lost."""
        self._recalls = [0] * len(engines)
        """Recalls of each instance that are not due yet."""
        for engine in engines:
            engine.inst._pool.on_release = self._released

    def step_s(
        self, engine: Engine, slot: Slot, chunks: Sequence[tuple[int, int]], context: int
    ) -> tuple[float, float]:
        """Seconds of a step of an instance that lends or borrows, and those it is held up by
        what it does for others."""
        if self._steps is None:
            return engine.inst.clock.step_s(chunks, slot.num_decodes, context), 0.0
        return self._steps.step_s(engine, slot, chunks, context)

    def concern(self, request_id: int) -> bool:
        """Whether blocks of a request are elsewhere or on their way."""
        away = any(request_id in engine.inst._pool.away for engine in self._engines)
        return away or any(f.request.id == request_id for f in self._flights.values())

    # What the policy decides

    def start(self, request: SimRequest, lend: Lend, now_s: float) -> str:
        """Begin a loan, or a move of one; a reason if it cannot be done any more."""
        self._check(lend)
        why = self._overtaken(request, lend) or self._no_room(request, lend)
        if why:
            return why
        self._serial += 1
        flight = Flight(request, lend, request.instance, self._serial)
        self._flights[self._serial] = flight
        self._pool(lend.source).leaving += lend.blocks
        self._pool(lend.target).host(request.id, lend.blocks)
        self._engines[lend.target].wake(now_s)
        self._send(flight, now_s)
        return ""

    def recall(self, recall: Recall, now_s: float) -> None:
        """See ``Recall``; until it is due the creditor grants nothing."""
        if (
            not 0 <= recall.instance < len(self._engines)
            or recall.blocks < 1
            or recall.within_s < 0
        ):
            raise PolicyError(
                f"{recall}: name an instance below {len(self._engines)}, 1 block or more, a time "
                "not negative"
            )
        goal = max(0, self._pool(recall.instance).lent - recall.blocks)
        self._recalls[recall.instance] += 1
        due = (recall.instance, goal, self._lives[recall.instance], now_s + recall.within_s)
        self._later(now_s + recall.within_s, self._due, due)

    def _due(self, creditor: int, goal: int, life: int, now_s: float) -> None:
        if self._lives[creditor] != life:
            return
        self._recalls[creditor] -= 1
        excess = self._pool(creditor).lent - goal
        debtors = [
            (request, engine)
            for engine in self._engines
            for request_id, held in engine.inst._pool.away.items()
            if creditor in held and (request := engine.alive.get(request_id)) is not None
        ]
        for request, engine in sorted(debtors, key=lambda d: (-d[0].arrival_s, -d[0].id)):
            if excess <= 0:
                return
            excess -= engine.inst._pool.away[request.id][creditor]
            self._start_over(request, engine, now_s)

    # What is allowed and what there is room for

    def _check(self, lend: Lend) -> None:
        num = len(self._engines)
        if not (0 <= lend.source < num and 0 <= lend.target < num) or lend.source == lend.target:
            raise PolicyError(f"{lend}: there are instances 0 to {num - 1}, and it takes two")
        if type(lend.blocks) is not int or lend.blocks < 1:
            raise PolicyError(f"{lend}: lend whole blocks, one or more")
        source, target = (self._engines[i].inst for i in (lend.source, lend.target))
        if source.num_slots > 1 or target.num_slots > 1:
            raise PolicyError(f"{lend}: pipelines do not lend")
        if source.role != "both" or target.role != "both":
            raise PolicyError(f"{lend}: instances that only prefill or only decode do not lend")
        if source._pool.block_tokens != target._pool.block_tokens:
            raise PolicyError(f"{lend}: the instances have blocks of different sizes")

    def _overtaken(self, request: SimRequest, lend: Lend) -> str:
        if request.phase not in (Phase.DECODE, Phase.PREFILL):
            return f"the request is {request.phase.value}; only what runs has blocks to lend"
        if self._transfers.live.get(request.id) is not None:
            return "the request is moving"
        if not self._engines[lend.target].inst.up:
            return f"instance {lend.target} is down"
        if lend.source == request.instance:
            have = self._engines[lend.source].inst.lendable(request)
        else:
            have = self._pool(request.instance).away.get(request.id, {}).get(lend.source, 0)
            if (request.id, lend.source) in self._lost:
                have = 0
        have -= sum(
            f.lend.blocks
            for f in self._flights.values()
            if f.request is request and f.lend.source == lend.source
        )
        if lend.blocks > have:
            return f"instance {lend.source} has {have} full blocks of the request to send"
        return ""

    def _no_room(self, request: SimRequest, lend: Lend) -> str:
        """The target's answer. What its own decodes and prompts under way need comes first."""
        inst = self._engines[lend.target].inst
        pool = inst.pool
        begun = sum(pool.blocks_for(r, r.pending) for r in inst._prefilling[0].values())
        if lend.target == request.instance:
            begun = 0
        room = pool.free - self._next_blocks(lend.target) - begun
        if lend.blocks > room:
            return f"instance {lend.target} has {max(room, 0)} blocks to spare"
        if lend.target == request.instance:
            return ""
        if self._recalls[lend.target]:
            return f"instance {lend.target} recalls what it has lent"
        if lend.blocks > pool.most_lent - pool.lent:
            return f"instance {lend.target} lends at most {pool.most_lent} blocks"
        return ""

    def _next_blocks(self, index: int) -> int:
        """What the step after the one under way takes for decodes."""
        slot, pool = self._engines[index].slots[0], self._pool(index)
        done = slot.accounted if slot.busy and slot.num_decodes else 0
        return pool.blocks_of_steps(0, done, done + 1)

    # How it goes on

    def _send(self, flight: Flight, now_s: float) -> None:
        """Start the copy; ``arrived`` is due when it is through."""
        lend = flight.lend
        tokens = lend.blocks * self._pool(lend.source).block_tokens
        end_s = self._transfers.arrival_s(lend.source, lend.target, tokens, now_s)
        self._later(end_s, self.arrived, (flight.serial, end_s))

    def arrived(self, serial: int, now_s: float) -> bool:
        """A copy is complete; False if it was given up meanwhile."""
        flight = self._flights.pop(serial, None)
        if flight is None:
            return False
        lend, i = flight.lend, flight.request.id
        source, owner = self._pool(lend.source), self._pool(flight.debtor)
        source.leaving -= lend.blocks
        if lend.source == flight.debtor:
            owner.send_away(i, lend.target, lend.blocks)
        else:
            if lend.target == flight.debtor:
                owner.bring_home(i, lend.source, lend.blocks)
            else:
                owner.pass_on(i, lend.source, lend.target, lend.blocks)
            source.unhost(i, lend.blocks)
        for index in (lend.source, lend.target):
            self._engines[index].wake(now_s)
        self._done(lend)
        return True

    def _released(self, request_id: int) -> None:
        """A request gives its KV up: what is on its way stops, creditors are told."""
        for flight in [f for f in self._flights.values() if f.request.id == request_id]:
            self._call_off(flight)
        for engine in self._engines:
            for creditor, blocks in engine.inst._pool.away.get(request_id, {}).items():
                if (request_id, creditor) in self._lost:
                    self._lost.remove((request_id, creditor))
                else:
                    self._tell(creditor, request_id, blocks)

    def _call_off(self, flight: Flight) -> None:
        lend = flight.lend
        del self._flights[flight.serial]
        self._failed(lend, "the request gave its KV up")
        if self._engines[lend.source].inst.up:
            self._pool(lend.source).leaving -= lend.blocks
        if lend.target == flight.debtor:
            self._pool(lend.target).unhost(flight.request.id, lend.blocks)
        elif self._engines[lend.target].inst.up:
            self._tell(lend.target, flight.request.id, lend.blocks)

    def _tell(self, creditor: int, request_id: int, blocks: int) -> None:
        """Give blocks back, in an event of its own: other books may be open now."""
        now_s = self._engines[creditor]._now()
        self._later(now_s, self._back, (creditor, request_id, blocks, self._lives[creditor], now_s))

    def _back(self, creditor: int, request_id: int, blocks: int, life: int, now_s: float) -> None:
        if self._lives[creditor] == life:
            self._pool(creditor).unhost(request_id, blocks)
            self._engines[creditor].wake(now_s)

    def lose(self, index: int, now_s: float) -> list[Lend]:
        """An instance is about to be lost, with all it holds for others; what it has on its way
        to others goes with its requests. Returns the loans on their way to it."""
        self._lives[index] += 1
        self._recalls[index] = 0
        refused = []
        for flight in list(self._flights.values()):
            lend = flight.lend
            if index in (lend.source, lend.target) and flight.debtor != index:
                del self._flights[flight.serial]
                if lend.source == index:
                    if lend.target == flight.debtor:
                        self._pool(lend.target).unhost(flight.request.id, lend.blocks)
                    else:
                        self._tell(lend.target, flight.request.id, lend.blocks)
                else:
                    self._pool(lend.source).leaving -= lend.blocks
                    refused.append(lend)
        for engine in self._engines:
            if engine.inst.id == index:
                continue
            for request_id, held in list(engine.inst._pool.away.items()):
                if index in held and (request_id, index) not in self._lost:
                    self._lost.add((request_id, index))
                    self._start_over(engine.alive[request_id], engine, now_s)
        return refused

    def _start_over(self, request: SimRequest, engine: Engine, now_s: float) -> None:
        """A request cannot go on with the KV it has; a decode stops at the end of its step."""
        if request.phase is Phase.DECODE:
            engine.depart(request, lambda at_s: engine.start_over(request, at_s), now_s)
        else:
            engine.start_over(request, now_s)
            engine.wake(now_s)

    def _pool(self, index: int) -> PagedPool:
        return self._engines[index].inst._pool
