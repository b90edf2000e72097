"""Instances lend each other KV memory: who asks whom for how much, who pays back, who recalls.

Requests go where the least memory is asked for. At ticks an instance short of room has old blocks
of its longest requests held by others, asked for in order of locality and free space by reports
that may be old; who refuses is taken for empty and the next one asked, a bounded number of times.
``ledger``: it borrows whenever decodes, prompts or what waits lack room. ``throughput``: for what
waits only where a loan raises the tokens per second of both sides, smallest batches first.
An instance with room to spare brings its blocks home; debts in a circle go home in equal parts. A
creditor short of room recalls with a deadline. A context longer than an instance is admitted one
at a time, one longer than all of them together is refused.
Source: arXiv 2401.02669, first version (ledger, circles), second version (throughput).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal

from plimsoll.serving.kv.debts import DebtCircle, DebtGraph
from plimsoll.serving.kv.ledger import Candidate, Heartbeat, Ledger
from plimsoll.serving.policy import (
    Action,
    Admit,
    Arrive,
    Event,
    InstView,
    Join,
    Leave,
    Lend,
    MoveDone,
    Recall,
    Refused,
    Reject,
    ReqView,
    Tick,
    View,
)
from plimsoll.serving.routers.lending_gain import Side, best_loan
from plimsoll.serving.routers.placing import place
from plimsoll.spec.errors import SpecError

__all__ = ["KvPoolPolicy"]

_MOST_WAITING = 32
"""Requests in line that are looked at."""
_LEAST_BLOCKS = 16
"""Smaller loans are not worth their messages, except to a request that cannot do without."""
_PATIENCE_S = 30.0


@dataclass(slots=True)
class _State:
    """What the policy remembers, in ``view.mem``."""

    ledger: Ledger
    heard_at_s: float = float("-inf")
    flights: list[Lend] = field(default_factory=list)
    """Loans asked for and not answered."""
    tries: dict[int, int] = field(default_factory=dict)
    recalled: dict[int, float] = field(default_factory=dict)
    """Creditors that wait for blocks, and until when."""
    held_back: list[tuple[int, float]] = field(default_factory=list)
    """Contexts longer than an instance, and since when they wait for room in the pool."""
    circle: set[int] = field(default_factory=set)
    """Instances whose debts go home in a circle now."""


@dataclass(slots=True)
class KvPoolPolicy:
    """``KvPoolRouter`` in a plan. An instance is short with less than ``reserve_fraction`` of its
    blocks free; twice as much is what it aims at, and what a creditor keeps. It lends up to
    ``lent_fraction`` of its blocks, more only to contexts longer than an instance. ``heartbeat_s``
    is how old reports may get; ``per_node`` instances in a row share a node, 0: all do.

    Raises:
        SpecError: an unknown mode, or a number out of range.
    """

    mode: Literal["ledger", "throughput"] = "throughput"
    reserve_fraction: float = 0.05
    lent_fraction: float = 0.25
    heartbeat_s: float = 0.5
    recall_s: float = 2.0
    most_tries: int = 4
    per_node: int = 0
    tick_s: float = 0.1
    events: frozenset[type] = frozenset({Arrive, Join, Leave, MoveDone, Refused, Tick})

    def __post_init__(self) -> None:
        if self.mode not in ("ledger", "throughput"):
            raise SpecError(f"kv-pool: mode is {self.mode!r}; use ledger or throughput")
        if not 0 <= self.reserve_fraction < 0.5 or not 0 <= self.lent_fraction <= 1:
            raise SpecError(
                f"kv-pool: reserve_fraction {self.reserve_fraction:g} must be from 0 to below 0.5, "
                f"lent_fraction {self.lent_fraction:g} from 0 to 1"
            )
        if self.tick_s <= 0 or self.heartbeat_s < 0 or self.recall_s < 0:
            raise SpecError(
                f"kv-pool: tick_s {self.tick_s:g} must be above 0, heartbeat_s "
                f"{self.heartbeat_s:g} and recall_s {self.recall_s:g} not below"
            )
        if self.most_tries < 1 or self.per_node < 0:
            raise SpecError(
                f"kv-pool: most_tries {self.most_tries} must be 1 or more, per_node "
                f"{self.per_node} not negative"
            )

    def on(self, view: View, event: Event) -> Sequence[Action]:
        """Place what has no place; at ticks look after everyone's room."""
        state = self._state(view)
        if isinstance(event, MoveDone):
            self._answered(state, event.request, event.source, event.target)
            return ()
        if isinstance(event, Refused):
            return self._refused(view, state, event)
        if isinstance(event, Tick):
            return self._look_after(view, state)
        if isinstance(event, Leave):
            state.ledger.lose(event.instance)
            state.recalled.pop(event.instance, None)
        return self._place(view, state, event)

    def _state(self, view: View) -> _State:
        state = view.mem.get("pool")
        if state is None:
            num = len(view.instances)
            per_node = self.per_node or num
            state = _State(Ledger({i: i // per_node for i in range(num)}))
            view.mem["pool"] = state
        assert isinstance(state, _State)
        return state

    # Where requests go

    def _place(self, view: View, state: _State, event: Event) -> list[Action]:
        found: list[Action] = []
        for action in place(view, event, self._least_demand):
            assert isinstance(action, Admit)
            request = view.request(action.request)
            needed = _blocks_of(view.instances[action.instance], request)
            members = _members(view)
            alone = max((inst.pool.total for inst in members), default=0)
            most = _most_blocks(members) if members else 0
            if not members or needed <= alone:
                found.append(replace(action, borrows=most))
            elif needed > most:
                found.append(Reject(request.id, _too_long(members[0], request, needed, most)))
            else:
                state.held_back.append((request.id, view.now_s))
        return found + self._admit_long(view, state)

    def _least_demand(self, view: View, up: Sequence[InstView], request: int) -> InstView:
        needed = _blocks_of(up[0], view.request(request))
        fits = [inst for inst in up if needed <= inst.pool.total] or up
        return min(fits, key=lambda inst: (_demand(inst), inst.id))

    def _admit_long(self, view: View, state: _State) -> list[Action]:
        """The first context held back, when no other is still on its way in and there is room."""
        state.held_back = [entry for entry in state.held_back if view.has(entry[0])]
        members = _members(view)
        if not state.held_back or not members:
            return []
        for inst in members:
            if any(_is_long(inst, r) for r in (*inst.waiting, *inst.prefilling(0))):
                return []
        i, since_s = state.held_back[0]
        request = view.request(i)
        needed = _blocks_of(members[0], request)
        room = sum(inst.pool.free for inst in members)
        idle = not any(inst.num_running or inst.waiting for inst in members)
        if needed > room and view.now_s - since_s < _PATIENCE_S and not idle:
            return []
        state.held_back.pop(0)
        best = max(members, key=lambda inst: (inst.pool.free, -inst.id))
        return [Admit(i, best.id, borrows=_most_blocks(members))]

    # Ticks

    def _look_after(self, view: View, state: _State) -> list[Action]:
        members = _members(view)
        if view.now_s - state.heard_at_s >= self.heartbeat_s:
            state.heard_at_s = view.now_s
            for inst in members:
                state.ledger.hear(self._heartbeat(view, inst))
        found = self._admit_long(view, state)
        state.tries.clear()
        found += self._circles(view, state)
        order = sorted(members, key=lambda inst: (_batch(inst), inst.id))
        for inst in order if self.mode == "throughput" else members:
            if inst.id in state.circle:
                continue
            missing = self._missing(inst)
            if missing > 0 and inst.pool.lent > 0:
                found += self._recall(view, state, inst, missing)
            elif missing > 0:
                found += self._borrow(view, state, inst, missing)
            elif not self._for_waiting(view, state, inst, found):
                found += self._repay(view, state, inst)
        return found

    def _heartbeat(self, view: View, inst: InstView) -> Heartbeat:
        owes: dict[int, int] = {}
        for held in inst.pool.away.values():
            for creditor, blocks in held.items():
                owes[creditor] = owes.get(creditor, 0) + blocks
        begun = sum(inst.pool.blocks_for(r, r.pending) for r in inst.prefilling(0))
        free = inst.pool.free - begun - sum(_fitting(inst))
        lendable = min(free, inst.pool.most_lent - inst.pool.lent)
        return Heartbeat(
            instance=inst.id, sent_at_s=view.now_s, free_blocks=max(0, lendable), owes=owes
        )

    def _reserve(self, inst: InstView) -> int:
        return int(self.reserve_fraction * inst.pool.total)

    def _spare(self, creditor: InstView, candidate: Candidate) -> int:
        """What a creditor may be asked for: not its reserve, and a share of its blocks in all."""
        pool = creditor.pool
        cap = int(self.lent_fraction * pool.total) - pool.lent
        return min(candidate.free_blocks - 2 * self._reserve(creditor), cap)

    def _missing(self, inst: InstView) -> int:
        """Blocks short for what runs, up to twice the reserve; 0 or less if nothing is."""
        pool, reserve = inst.pool, self._reserve(inst)
        started = sum(pool.blocks_for(r, r.pending) for r in inst.prefilling(0))
        if any(_is_long(inst, r) for r in inst.prefilling(0)):
            return started - pool.free - pool.leaving
        room = pool.free + pool.leaving - min(started, 2 * reserve)
        if not inst.num_running or room >= reserve:
            return 0
        return 2 * reserve - room

    def _borrow(self, view: View, state: _State, inst: InstView, missing: int) -> list[Action]:
        """Have the longest requests' oldest blocks held by others, ``missing`` in all."""
        found: list[Action] = []
        heard = state.ledger.candidates(inst.id, now_s=view.now_s)
        spare = {c.instance: self._spare(view.instances[c.instance], c) for c in heard}
        sizes = sorted(((-inst.lendable(r), r.id, r) for r in _running(inst)), key=_first_two)
        for size, _, request in sizes:
            there = sum(inst.pool.away.get(request.id, {}).values())
            long = there - size >= inst.pool.total
            long = long or (request.pending > 1 and _is_long(inst, request))
            least = 1 if long else min(_LEAST_BLOCKS, missing)
            have = -size - _on_the_way(state, request.id, inst.id)
            for candidate in heard:
                i = candidate.instance
                blocks = min(missing, have, candidate.free_blocks if long else spare[i])
                if blocks < least:
                    continue
                if len(found) >= self.most_tries:
                    return found
                found.append(self._ask(state, Lend(request.id, blocks, inst.id, i)))
                missing, have = missing - blocks, have - blocks
                spare[i] -= blocks
                if missing <= 0:
                    return found
            if -size < least:
                break
        return found

    def _ask(self, state: _State, lend: Lend) -> Lend:
        state.flights.append(lend)
        state.ledger.lent(lend.source, lend.target, lend.blocks)
        return lend

    def _for_waiting(self, view: View, state: _State, inst: InstView, found: list[Action]) -> bool:
        """Whether what waits lacks room; then ``found`` gets loans that make some."""
        waiting, pool = _waiting_blocks(inst), inst.pool
        free = pool.free + pool.leaving - self._reserve(inst)
        if not waiting or waiting[0] <= free:
            return False
        if self.mode == "ledger":
            found += self._borrow(view, state, inst, waiting[0] - free)
        else:
            found += self._gaining(view, state, inst, waiting, free)
        return True

    def _gaining(
        self, view: View, state: _State, inst: InstView, waiting: list[int], free: int
    ) -> list[Action]:
        """The loan of the longest request that gains most, from the creditors with most room."""
        request = max(_running(inst), key=lambda r: (inst.lendable(r), -r.id), default=None)
        if request is None:
            return []
        found: list[Action] = []
        have = inst.lendable(request) - _on_the_way(state, request.id, inst.id)
        heard = state.ledger.candidates(inst.id, now_s=view.now_s)
        for candidate in sorted(heard, key=lambda c: (-c.free_blocks, c.instance)):
            creditor = view.instances[candidate.instance]
            most = min(have, self._spare(creditor, candidate))
            if most < _LEAST_BLOCKS or len(found) >= self.most_tries:
                break
            blocks, _ = best_loan(
                _side(inst),
                _side(creditor),
                waiting=waiting,
                free_blocks=free,
                most_blocks=most,
                block_tokens=inst.pool.block_tokens,
            )
            if blocks:
                found.append(self._ask(state, Lend(request.id, blocks, inst.id, creditor.id)))
                have, free = have - blocks, free + blocks
        return found

    def _repay(self, view: View, state: _State, inst: InstView) -> list[Action]:
        """Bring blocks home into what is free beyond twice what the instance aims at."""
        pool = inst.pool
        spare = pool.free - sum(_waiting_blocks(inst)) - 4 * self._reserve(inst)
        for i, held in pool.away.items():
            for creditor, blocks in held.items():
                num = min(spare, blocks - _on_the_way(state, i, creditor))
                if num >= min(_LEAST_BLOCKS, blocks) and num > 0:
                    lend = Lend(i, num, creditor, inst.id)
                    state.flights.append(lend)
                    return [lend]
        return []

    def _recall(self, view: View, state: _State, inst: InstView, missing: int) -> list[Action]:
        """Want back what finds room at home or with another creditor, in time; all that is
        missing where nothing else runs that could make room."""
        if state.recalled.get(inst.id, 0.0) > view.now_s:
            return []
        left = missing = min(missing, inst.pool.lent)
        found: list[Action] = []
        for debtor in _members(view):
            room = debtor.pool.free - self._reserve(debtor)
            for i, held in debtor.pool.away.items():
                blocks = min(left, held.get(inst.id, 0) - _on_the_way(state, i, inst.id))
                if blocks <= 0:
                    continue
                target = (
                    debtor.id
                    if blocks <= room
                    else self._other(view, state, debtor, blocks, inst.id)
                )
                if target is None:
                    continue
                lend = Lend(i, blocks, inst.id, target)
                state.flights.append(lend)
                found.append(lend)
                left -= blocks
                room -= blocks if target == debtor.id else 0
        if inst.num_decoding(0) > 1:
            missing -= left  # the rest it gets cheaper by putting its newest request aside
        if missing:
            state.recalled[inst.id] = view.now_s + self.recall_s
            state.ledger.refused(inst.id)
            found.insert(0, Recall(inst.id, missing, self.recall_s))
        return found

    def _other(
        self, view: View, state: _State, debtor: InstView, blocks: int, creditor: int
    ) -> int | None:
        for candidate in state.ledger.candidates(debtor.id, now_s=view.now_s):
            if candidate.instance == creditor:
                continue
            if self._spare(view.instances[candidate.instance], candidate) >= blocks:
                state.ledger.lent(debtor.id, candidate.instance, blocks)
                return candidate.instance
        return None

    def _circles(self, view: View, state: _State) -> list[Action]:
        """Debts that run in a circle go home by the same number of blocks, where all have room."""
        if state.circle:
            if any(lend.target in state.circle for lend in state.flights):
                return []
            state.circle.clear()
        found: list[Action] = []

        def settle(circle: DebtCircle) -> bool:
            ends = (*circle.members[1:], circle.members[0])
            moves = [
                lend
                for debtor, creditor in zip(circle.members, ends, strict=True)
                if (lend := self._home(view, state, debtor, creditor, circle.blocks)) is not None
            ]
            if len(moves) < len(ends):
                return False
            for lend in moves:
                state.flights.append(lend)
            state.circle.update(circle.members)
            found.extend(moves)
            return True

        DebtGraph(state.ledger.debts().debts).reduce_cycles(settle=settle)
        return found

    def _home(
        self, view: View, state: _State, debtor: int, creditor: int, blocks: int
    ) -> Lend | None:
        inst = view.instances[debtor]
        room = min(blocks, inst.pool.free - self._reserve(inst))
        for i, held in inst.pool.away.items():
            num = min(room, held.get(creditor, 0) - _on_the_way(state, i, creditor))
            if num > 0:
                return Lend(i, num, creditor, debtor)
        return None

    # Answers

    def _answered(self, state: _State, request: int, source: int, target: int) -> None:
        for i, lend in enumerate(state.flights):
            if (lend.request, lend.source, lend.target) == (request, source, target):
                del state.flights[i]
                return

    def _refused(self, view: View, state: _State, event: Refused) -> Sequence[Action]:
        decision = event.decision
        if isinstance(decision, Admit) and view.has(decision.request):
            return self._place(view, state, Arrive(decision.request))
        if not isinstance(decision, Lend):
            return ()
        if decision in state.flights:
            state.flights.remove(decision)
        if not view.has(decision.request):
            return ()
        request = view.request(decision.request)
        if decision.source != request.instance:
            return ()  # a debt stays where it is; the next tick looks again
        state.ledger.refused(decision.target)
        tries = state.tries[request.id] = state.tries.get(request.id, 0) + 1
        if tries >= self.most_tries:
            return ()
        inst = view.instances[request.instance]
        for candidate in state.ledger.candidates(inst.id, now_s=view.now_s):
            have = inst.lendable(request) - _on_the_way(state, request.id, inst.id)
            blocks = min(decision.blocks, have, candidate.free_blocks)
            if blocks >= min(_LEAST_BLOCKS, decision.blocks):
                return [self._ask(state, Lend(request.id, blocks, inst.id, candidate.instance))]
        return ()


def _members(view: View) -> list[InstView]:
    """The instances that can lend and borrow now."""
    return [i for i in view.instances if i.up and i.role == "both" and i.num_slots == 1]


def _running(inst: InstView) -> Iterator[ReqView]:
    yield from inst.decoding(0)
    yield from inst.prefilling(0)


def _first_two(entry: tuple[int, int, ReqView]) -> tuple[int, int]:
    return entry[:2]


def _batch(inst: InstView) -> int:
    return inst.num_decoding(0)


def _blocks_of(inst: InstView, request: ReqView) -> int:
    return -(-(request.pending + request.computed + 1) // inst.pool.block_tokens) + (
        inst.pool.per_request
    )


def _is_long(inst: InstView, request: ReqView) -> bool:
    """Whether it cannot be on one instance alone."""
    return _blocks_of(inst, request) > inst.pool.total


def _most_blocks(members: Sequence[InstView]) -> int:
    """The longest context, with everything that all but one lend."""
    lent = sum(inst.pool.most_lent for inst in members)
    return max(lent - inst.pool.most_lent + inst.pool.total for inst in members)


def _too_long(inst: InstView, request: ReqView, needed: int, most: int) -> str:
    size = inst.pool.block_bytes
    unit = "bytes" if size else "blocks"
    return (
        f"longer than the KV memory of all instances: {request.pending + 1:,} tokens need "
        f"{needed * (size or 1):,.0f} {unit}, {most * (size or 1):,.0f} are available"
    )


def _waiting_blocks(inst: InstView) -> list[int]:
    """Blocks that each of the first in line takes; contexts longer than the instance apart."""
    room = max(0, inst.max_num_seqs - inst.num_running)
    return [
        inst.pool.blocks_for(r, r.pending - inst.pool.cached_tokens(r))
        for r in islice(inst.waiting, min(room, _MOST_WAITING))
        if not _is_long(inst, r)
    ]


def _fitting(inst: InstView) -> list[int]:
    """Blocks of the first in line that have room now: the instance's own use for what is free."""
    free, found = inst.pool.free, []
    for blocks in _waiting_blocks(inst):
        if blocks > free:
            break
        found.append(blocks)
        free -= blocks
    return found


def _demand(inst: InstView) -> float:
    pool = inst.pool
    wanted = sum(-(-(r.pending + 1) // pool.block_tokens) for r in inst.waiting if not r.computed)
    return (pool.total - pool.free + wanted) / pool.total


def _side(inst: InstView) -> Side:
    pool = inst.pool
    tokens = (pool.total - pool.free) * pool.block_tokens
    return Side(clock=inst.clock, batch=_batch(inst), context=max(tokens, _batch(inst)))


def _on_the_way(state: _State, request: int, source: int) -> int:
    return sum(
        lend.blocks for lend in state.flights if lend.request == request and lend.source == source
    )
