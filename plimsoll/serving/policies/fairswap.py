"""FastSwitch's scheduler: priorities change while requests run, and what runs changes with them.

Every 1/``update_frequency`` iterations each request gets a priority from a source. The highest
that fit run, with room to grow until the next change; the rest are swapped out, and what was out
and fits now comes back. In between nobody is put aside for another, but what ends makes room for
the highest that wait. Prompts are cut into chunks beside the decodes, highest first. When the pool
runs out the lowest that run are swapped out. Requests are computed again where the host is full.
Source: arXiv 2411.18424; chunks as in 2403.02310.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from plimsoll.serving.policies.priorities import (
    MarkovPriority,
    PrioritySource,
    RandomPriority,
    ServedTokens,
)
from plimsoll.serving.policy import (
    Action,
    InstView,
    Park,
    Phase,
    ReqView,
    Resume,
    Run,
    Step,
    View,
)
from plimsoll.spec.errors import PolicyError, SpecError

__all__ = ["FairSwapPolicy"]

_SOURCES: dict[str, type] = {
    "random": RandomPriority,
    "markov": MarkovPriority,
    "served-tokens": ServedTokens,
}


_DECODE = Step(decode_all=True)


@dataclass(slots=True)
class _State:
    """``due`` is the iteration at which priorities change; ``chosen`` are to run until then;
    ``queues`` what waited and ran when room was last given away; ``settled`` the same of a step
    that only decoded and that nothing chosen waited for."""

    iteration: int = 0
    due: int = 0
    ranks: dict[int, float] = field(default_factory=dict)
    chosen: set[int] = field(default_factory=set)
    queues: tuple[int, ...] = ()
    settled: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class FairSwapPolicy:
    """``FairSwap`` in a plan, where ``priorities`` is a name; it may be any ``PrioritySource``."""

    update_frequency: float = 0.04
    token_budget: int = 512
    priorities: Literal["random", "markov", "served-tokens"] | PrioritySource = "random"
    resumes_prompts: ClassVar[bool] = True
    """A session's turn may begin swapped out, with what the host has of the turn before."""

    def __post_init__(self) -> None:
        if not 0 < self.update_frequency <= 1 or self.token_budget < 1:
            raise SpecError(
                f"update_frequency {self.update_frequency} and token_budget {self.token_budget}: "
                "expected above 0 and at most 1, and 1 or more"
            )
        if isinstance(self.priorities, str):
            if self.priorities not in _SOURCES:
                raise SpecError(
                    f"priorities = {self.priorities!r}; expected one of {', '.join(_SOURCES)}"
                )
            object.__setattr__(self, "priorities", _SOURCES[self.priorities]())

    @property
    def period(self) -> int:
        """Iterations from one change of priorities to the next."""
        return max(1, round(1 / self.update_frequency))

    def step(self, view: View, inst: InstView, slot: int) -> Step:
        """What was chosen runs; every so often, choose."""
        state = view.mem.setdefault(f"fairswap {slot}", _State())
        assert isinstance(state, _State)
        waiting, parked = inst.waiting, inst.parked(slot)
        newest = next(reversed(waiting)).id if waiting else -1
        num, begun = inst.num_decoding(slot), len(inst.prefilling(slot))
        queues = (newest, len(waiting), len(parked), num, begun, len(inst.returning))
        if queues == state.settled and state.iteration < state.due:
            pool = inst.pool
            if pool.decode_blocks(slot) <= pool.free:
                state.iteration += 1
                return _DECODE
        running = (*inst.decoding(slot), *inst.prefilling(slot))
        asleep = (*waiting, *parked)
        if not running and not asleep:
            return Step()
        if state.iteration >= state.due:
            self._choose(view, inst, state, (*running, *inst.returning, *asleep))
            state.queues = ()
        elif queues != state.queues:
            new = [r for r in asleep if r.id not in state.ranks]
            if new:
                self._rank(view, state, new)
            self._give_room(inst, state, (*running, *inst.returning), asleep)
            state.queues = queues
        step = self._carry_out(inst, slot, state)
        alone = {r.id for r in running} >= state.chosen
        state.settled = queues if step == _DECODE and alone else ()
        if step.runs or step.decode_all:
            state.iteration += 1
        return step

    # Who runs

    def _rank(self, view: View, state: _State, requests: Sequence[ReqView]) -> None:
        """Ask the source; what it says must be a number for each of them and nobody else."""
        source = self.priorities
        assert not isinstance(source, str)
        asked = sorted(requests, key=lambda r: r.id)
        given = source(view, asked)
        ids = {r.id for r in asked}
        for i, value in given.items():
            if i not in ids:
                raise PolicyError(
                    f"the priority source named request {i}, which it was not asked about"
                )
            if math.isnan(value):
                raise PolicyError(f"the priority source gave request {i} a priority that is NaN")
        missing = ids - given.keys()
        if missing:
            raise PolicyError(f"the priority source gave request {min(missing)} no priority")
        state.ranks.update(given)

    def _choose(
        self, view: View, inst: InstView, state: _State, requests: Sequence[ReqView]
    ) -> None:
        """New priorities for all; the highest that fit are chosen."""
        state.due = state.iteration + self.period
        state.ranks.clear()
        self._rank(view, state, requests)
        state.chosen.clear()
        self._give_room(inst, state, tuple(inst.returning), requests)

    def _give_room(
        self,
        inst: InstView,
        state: _State,
        holders: Sequence[ReqView],
        others: Sequence[ReqView],
    ) -> None:
        """Choose the highest of ``others`` for which there is room beside ``holders``."""
        kept = [r for r in holders if r.id in state.chosen or r.phase is Phase.RETURNING]
        state.chosen = {r.id for r in kept}
        room = inst.pool.total - sum(self._blocks(inst, r) for r in kept)
        seats = inst.max_num_seqs - len(kept)
        ranks, chosen = state.ranks, state.chosen
        found = [(r, self._blocks(inst, r)) for r in others if r.id not in chosen]
        fitting = [pair for pair in found if pair[1] <= room]
        for request, blocks in sorted(fitting, key=lambda pair: _order(ranks, pair[0])):
            if seats <= 0:
                return
            if blocks <= room:
                chosen.add(request.id)
                room -= blocks
                seats -= 1

    def _blocks(self, inst: InstView, request: ReqView) -> int:
        """What a request holds when priorities change again, at most."""
        pool = inst.pool
        tokens = request.computed + request.pending + self.period
        return min(-(-tokens // pool.block_tokens) + pool.per_request, pool.total)

    # What that takes

    def _carry_out(self, inst: InstView, slot: int, state: _State) -> Step:
        pool = inst.pool
        block, ranks, chosen = pool.block_tokens, state.ranks, state.chosen
        free, host = pool.free, pool.host_free
        need = pool.decode_blocks(slot)
        actions: list[Action] = []
        gone: set[int] = set()

        def park(request: ReqView) -> None:
            nonlocal free, host, need
            blocks = -(-request.computed // block)
            swap = 0 < blocks <= host
            host -= blocks if swap else 0
            free += pool.blocks_freed(request)
            if request.phase is Phase.DECODE:
                need -= request.computed % block == 0
            gone.add(request.id)
            chosen.discard(request.id)
            actions.append(Park(request.id, "swap" if swap else "recompute"))

        running = [*inst.decoding(slot), *inst.prefilling(slot)]
        for request in running:
            if request.id not in chosen:
                park(request)
        if need > free:
            lowest = sorted(running, key=lambda r: _order(ranks, r), reverse=True)
            for request in [r for r in lowest if r.id not in gone]:
                if need <= free:
                    break
                park(request)
        if actions:  # asked again at once, with the blocks that this really frees
            return Step(actions=tuple(actions))
        free -= need
        num = inst.num_decoding(slot)
        seats = inst.max_num_seqs - len(running) - len(inst.returning)
        awake = sum(r.id in chosen for r in running) + len(inst.returning)
        asleep = len(chosen) > awake
        if asleep and inst.parked(slot):
            for request in self._in_order(state, inst.parked(slot)):
                blocks = pool.blocks_for(request, request.computed + 1)
                if seats <= 0 or blocks > free:
                    break
                free -= blocks
                seats -= 1
                num += 1
                actions.append(Resume(request.id))
        clean = free - pool.busy if num and pool.busy else free
        runs: tuple[Run, ...] = ()
        if asleep or inst.prefilling(slot):
            runs = self._chunks(inst, slot, state, clean, self.token_budget - num, seats)
        if not runs and not num and not actions and len(inst.returning) == 0:
            return self._unblock(inst, slot, state)
        return Step(actions=tuple(actions), runs=runs, decode_all=num > 0)

    def _chunks(
        self,
        inst: InstView,
        slot: int,
        state: _State,
        free: int,
        budget: int,
        seats: int,
    ) -> tuple[Run, ...]:
        """Chunks of chosen prompts in order of priority, as far as budget and blocks reach."""
        pool = inst.pool
        runs: list[Run] = []
        for request in self._in_order(state, (*inst.prefilling(slot), *inst.waiting)):
            waits = request.phase is Phase.WAITING
            if budget <= 0:
                break
            if waits and seats <= 0:
                continue
            left = request.pending - (pool.cached_tokens(request) if waits else 0)
            tokens = min(left, budget)
            blocks = pool.blocks_for(request, tokens)
            if blocks > free:
                held = -(-request.computed // pool.block_tokens) * pool.block_tokens
                tokens = min(tokens, free * pool.block_tokens + held - request.computed)
                if waits or tokens <= 0:
                    break
                blocks = pool.blocks_for(request, tokens)
            free -= blocks
            budget -= tokens
            seats -= waits
            runs.append(Run(request.id, tokens))
        return tuple(runs)

    def _in_order(self, state: _State, requests: Sequence[ReqView]) -> list[ReqView]:
        ranks, chosen = state.ranks, state.chosen
        found = [r for r in requests if r.id in chosen]
        return sorted(found, key=lambda r: _order(ranks, r))

    def _unblock(self, inst: InstView, slot: int, state: _State) -> Step:
        """Nothing can run for want of blocks: the lowest that holds some gives them up."""
        holders = [*inst.prefilling(slot), *(r for r in inst.waiting if r.computed)]
        if not holders:
            return Step()
        lowest = max(holders, key=lambda r: _order(state.ranks, r))
        return Step(actions=(Park(lowest.id, "recompute"),))


def _order(ranks: Mapping[int, float], request: ReqView) -> tuple[float, float, int]:
    """Highest first; of equal priorities the older."""
    return -ranks[request.id], request.arrival_s, request.id
