"""What a step costs when part of its KV is on other instances, and whom it costs.

The debtor attends to what it has and waits for the slowest creditor's answer; queries and partial
results cross the link on its critical path. Every second a creditor attends for others is taken
from its own next step, or from its idle time where it has no step to run.
Left out: a debtor that waits longer because its creditor is in a step of its own.
Source: arXiv 2401.02669 (DistAttention), 2401.02669v2 (the creditor's time).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from plimsoll.cost.clock import StepClock
from plimsoll.serving.executors.engine import Engine
from plimsoll.serving.executors.slots import Slot
from plimsoll.serving.policy import Phase

__all__ = ["Lending", "LentSteps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lending:
    """``exchange_s(instance, {creditor: queries})`` is what a step spends on sending queries and
    getting partial results, all layers. ``charge_creditors`` False: their time is free, which
    it is not; for comparison."""

    exchange_s: Callable[[int, Mapping[int, int]], float]
    charge_creditors: bool = True


@dataclass(slots=True)
class _Asked:
    """What a step asks of one creditor: decodes, their tokens there, chunks as (new, there)."""

    num_decodes: int = 0
    tokens: int = 0
    chunks: list[tuple[int, int]] = field(default_factory=list)

    @property
    def num_queries(self) -> int:
        return self.num_decodes + sum(new for new, _ in self.chunks)


class LentSteps:
    """Keeps what each creditor has done for others and not paid for yet."""

    def __init__(self, engines: Sequence[Engine], lending: Lending) -> None:
        self._engines = engines
        self._lending = lending
        self._owed_s = [0.0] * len(engines)
        """Done while a step ran, to be added to the next."""
        self._until_s = [0.0] * len(engines)
        """When what was asked of an idle instance is done."""

    def step_s(
        self, engine: Engine, slot: Slot, chunks: Sequence[tuple[int, int]], context: int
    ) -> tuple[float, float]:
        """See ``Loans``."""
        held_up_s = self._collect(engine, slot)
        num, clock = slot.num_decodes, engine.inst.clock
        asked, chunks, context = self._split(engine, slot, chunks, context)
        own_s = clock.step_s(chunks, num, context)
        if not asked:
            return own_s, held_up_s
        alone_s = own_s - clock.step_s([(new, 0) for new, _ in chunks], num, num)
        slowest_s = 0.0
        for creditor, work in asked.items():
            work_s = _attention_s(self._engines[creditor].inst.clock, work)
            slowest_s = max(slowest_s, work_s)
            if self._lending.charge_creditors:
                self._charge(creditor, work_s, slot.start_s)
        queries = {creditor: work.num_queries for creditor, work in asked.items()}
        exchange_s = self._lending.exchange_s(engine.inst.id, queries)
        return own_s + exchange_s + max(0.0, slowest_s - alone_s), held_up_s

    def _split(
        self, engine: Engine, slot: Slot, chunks: Sequence[tuple[int, int]], context: int
    ) -> tuple[dict[int, _Asked], Sequence[tuple[int, int]], int]:
        """What is asked of each creditor, and the chunks and context that are left here."""
        pool = engine.inst._pool
        asked: dict[int, _Asked] = {}
        left = list(chunks)
        places = {request.id: i for i, (request, _) in enumerate(slot.chunks)} if chunks else {}
        for request_id, held in pool.away.items():
            request = engine.alive[request_id]
            decodes = request.phase is Phase.DECODE and slot.num_decodes > 0
            place = places.get(request_id)
            if not decodes and place is None:
                continue
            for creditor, blocks in held.items():
                work = asked.setdefault(creditor, _Asked())
                tokens = blocks * pool.block_tokens
                if place is not None:
                    new, cached = left[place]
                    left[place] = (new, cached - tokens)
                    work.chunks.append((new, tokens))
                else:
                    work.num_decodes += 1
                    work.tokens += tokens
                    context -= tokens
        return asked, left, context

    def _charge(self, creditor: int, work_s: float, now_s: float) -> None:
        if any(slot.busy for slot in self._engines[creditor].slots):
            self._owed_s[creditor] += work_s
        else:
            self._until_s[creditor] = max(self._until_s[creditor], now_s) + work_s

    def _collect(self, engine: Engine, slot: Slot) -> float:
        """Seconds that a step beginning now is held up; an idle while has paid for them."""
        i, now_s = engine.inst.id, slot.start_s
        owed_s = max(0.0, self._owed_s[i] - max(0.0, now_s - slot.end_s))
        self._owed_s[i] = 0.0
        return owed_s + max(0.0, self._until_s[i] - now_s)


def _attention_s(clock: StepClock, work: _Asked) -> float:
    """Seconds for attention alone to what is held for others."""
    num, total_s = work.num_decodes, 0.0
    if num:
        total_s = clock.step_s((), num, num + work.tokens) - clock.step_s((), num, num)
    for new, there in work.chunks:
        total_s += clock.step_s([(new, there)], 0, 0) - clock.step_s([(new, 0)], 0, 0)
    return max(total_s, 0.0)
