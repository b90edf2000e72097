"""Loans between workers: the books are ``executors.loans``', here the blocks have numbers.

The debtor's worker copies pages out, the engine passes them on, the creditor's worker keeps them
under the loan's number and answers queries over them, in threads beside its steps. A loan counts
from when the creditor says that it has it.
Left out: bringing blocks home or to another creditor while the request runs; they come back when
it ends or starts over. A worker that was started again lends and borrows no more.
"""

from collections.abc import Sequence
from typing import Any

from plimsoll.serving.executors.loans import Flight, Loans
from plimsoll.serving.executors.requests import SimRequest
from plimsoll.serving.executors.torch.engine import TorchEngine
from plimsoll.serving.executors.torch.messages import Export, Exported, Held, Host, Unhost
from plimsoll.serving.policy import Lend

__all__ = ["WorkerLoans"]


class WorkerLoans(Loans):
    """See the module text."""

    def __init__(self, engines: list[Any], *rest: Any, **more: Any) -> None:
        super().__init__(engines, *rest, **more)
        self._names: dict[int, int] = {}
        """The loan number of each request that has lent blocks, new when it starts over."""
        self._sent: dict[tuple[int, int], int] = {}
        """Blocks passed on, by loan and creditor."""
        self._alone: set[int] = set()
        """Workers that were lost: they know no peers any more."""
        for engine in engines:
            engine.held = self._held

    def _real(self, index: int) -> TorchEngine:
        engine = self._engines[index]
        assert isinstance(engine, TorchEngine)
        return engine

    def _held(self, request_id: int) -> Sequence[Held]:
        for engine in self._engines:
            away = engine.inst._pool.away.get(request_id)
            if away:
                name = self._names[request_id]
                return [Held(creditor, name, blocks) for creditor, blocks in away.items()]
        return ()

    def _overtaken(self, request: SimRequest, lend: Lend) -> str:
        for index in (lend.source, lend.target):
            if index in self._alone:
                return f"instance {index} was started again and knows no peers"
        if lend.source != request.instance:
            return "workers give loans back when a request ends, not before"
        return super()._overtaken(request, lend)

    def _send(self, flight: Flight, now_s: float) -> None:
        lend, i = flight.lend, flight.request.id
        source = self._real(lend.source)
        numbers = source.numbers.set_apart(flight.request, lend.target, lend.blocks)
        self._names.setdefault(i, flight.serial)
        tokens = lend.blocks * source.numbers.block_tokens
        source.tell(Export(-1, numbers, tokens, (i, lend, flight.serial)))

    def exported(self, message: Exported, now_s: float) -> None:
        """A debtor's worker has copied blocks out: pass them on."""
        request_id, lend, serial = message.tag
        if serial not in self._flights:
            return
        target = self._real(lend.target)
        name = self._names[request_id]
        first = self._sent.get((name, lend.target), 0)
        self._sent[name, lend.target] = first + lend.blocks
        numbers = target.numbers.guests[request_id][first : first + lend.blocks]
        target.tell(Host(name, numbers, message.payload, serial))

    def hosted(self, serial: int, now_s: float) -> None:
        """The creditor's worker has them: only now may a step rest on it, since one that waited
        for a worker in a step that waits in turn could wait for ever."""
        self.arrived(serial, now_s)

    def _released(self, request_id: int) -> None:
        super()._released(request_id)
        name = self._names.pop(request_id, None)
        for key in [key for key in self._sent if key[0] == name]:
            del self._sent[key]
        for engine in self._engines:
            self._real(engine.inst.id).numbers.forget_apart(request_id)
            if name is not None and engine.inst.up:
                self._real(engine.inst.id).tell(Unhost(name))

    def lose(self, index: int, now_s: float) -> list[Lend]:
        """See ``Loans``."""
        self._alone.add(index)
        refused = super().lose(index, now_s)
        for lend in refused:
            self._real(lend.source).numbers.put_back(lend.request, lend.target)
        return refused
