"""KV on its way between instances: who holds which blocks meanwhile, and when links are free.

A transfer takes blocks on the target at once and keeps those on the source until it is done.
An instance sends one transfer at a time and receives one at a time.
"""

from collections.abc import Callable, Iterable
from typing import Any

from plimsoll.serving.executors.engine import Engine
from plimsoll.serving.executors.live_moves import Hold, LiveMove, LiveMoves
from plimsoll.serving.executors.requests import SimRequest
from plimsoll.serving.policy import Move, Phase
from plimsoll.spec.errors import PolicyError

__all__ = ["Transfers"]


class Transfers:
    """All moves under way."""

    def __init__(
        self,
        engines: list[Engine],
        transfer_s: Callable[[int, int, int], float] | None,
        push: Callable[[float, tuple[Any, ...]], None],
        *,
        done: Callable[[Move], None],
        failed: Callable[[Move, str], None],
    ) -> None:
        self._engines = engines
        self._transfer_s = transfer_s
        self._push = push
        self._out_free_s: dict[int, float] = {}
        self._in_free_s: dict[int, float] = {}
        self._moves: dict[int, tuple[Move, Hold, SimRequest, int]] = {}
        self._serial = 0
        self.live = LiveMoves(engines, self._send_live, done, failed)

    def start(self, request: SimRequest, move: Move, now_s: float) -> str:
        """Begin a move; a reason if it cannot be done any more."""
        if not 0 <= move.target < len(self._engines) or move.target == move.source:
            raise PolicyError(f"{move}: no such target instance")
        if not self._linked():
            raise PolicyError(f"{move}: this run has no links between instances")
        if move.mode == "live":
            return self.live.start(request, move, now_s)
        if request.phase is not Phase.HANDED or request.instance != move.source:
            raise PolicyError(
                f"{move}: the request is {request.phase.value}, not handed over there"
            )
        target = self._engines[move.target]
        pool = target.inst.pool
        tokens = request.computed
        if not target.inst.admits:
            return f"instance {move.target} is {target.inst.life}"
        if -(-(tokens + 1) // pool.block_tokens) + pool.per_request > pool.free:
            return f"instance {move.target} has {pool.free} free blocks"
        source = self._engines[move.source]
        hold = Hold(request)
        source.alive.pop(request.id)
        source.inst.outstanding_tokens -= request.pending
        request.num_blocks = 0
        request.num_units = 0
        request.has_blocks = False
        pool.attach(request)
        pool.grow(request, tokens)
        target.inst.outstanding_tokens += request.pending
        request.phase = Phase.MOVING
        self._serial += 1
        self._moves[request.id] = (move, hold, request, self._serial)
        self._launch(request, move, self._serial, now_s)
        target.wake(now_s)
        return ""

    def _linked(self) -> bool:
        return self._transfer_s is not None

    def _launch(self, request: SimRequest, move: Move, serial: int, now_s: float) -> None:
        """Start the transfer; ``finish`` is due when it is through."""
        end_s = self.arrival_s(move.source, move.target, request.computed, now_s)
        self._push(end_s, (request, move, serial))

    def _send_live(self, live: LiveMove, now_s: float) -> None:
        """Start a copy of a request that moves live; ``live.copied`` is due when it is through."""
        move, num_tokens = live.move, live.copy.stop - live.copy.first
        end_s = self.arrival_s(move.source, move.target, num_tokens, now_s)
        self._push(end_s, (live.request, live.move, live.serial))

    def arrival_s(self, source: int, target: int, num_tokens: int, now_s: float) -> float:
        """When so many tokens' KV has arrived, behind what the two links carry already."""
        assert self._transfer_s is not None
        begin_s = max(now_s, self._out_free_s.get(source, 0.0), self._in_free_s.get(target, 0.0))
        end_s = begin_s + self._transfer_s(source, target, num_tokens)
        self._out_free_s[source] = self._in_free_s[target] = end_s
        return end_s

    def finish(self, request: SimRequest, move: Move, serial: int, now_s: float) -> bool:
        """The KV has arrived: the request waits at the target. False if it was called off."""
        entry = self._moves.get(request.id)
        if entry is None or entry[3] != serial:
            return False
        _, hold, _, _ = self._moves.pop(request.id)
        self._engines[move.source].inst.pool.release(hold)
        target = self._engines[move.target]
        target.inst.outstanding_tokens -= request.pending  # admit counts it again
        target.admit(request, now_s)
        return True

    def cancel(self, request: SimRequest, now_s: float) -> bool:
        """Call a move off and give both sides' blocks back; False if the request is not moving."""
        if self.live.cancel(request, now_s):
            return True
        entry = self._moves.pop(request.id, None)
        if entry is None:
            return False
        move, hold, _, _ = entry
        self._engines[move.source].inst.pool.release(hold)
        self._leave_target(request, move)
        for index in (move.source, move.target):
            self._engines[index].wake(now_s)
        return True

    def lose(self, index: int, now_s: float) -> list[Move]:
        """An instance is lost. Moves out of it lose their KV and go back to its requests;
        moves into it are called off, their requests stay handed over at the source."""
        refused = self.live.lose(index, now_s)
        for move, hold, request, _ in list(self._moves.values()):
            if index not in (move.source, move.target):
                continue
            del self._moves[request.id]
            self._leave_target(request, move)
            source = self._engines[move.source]
            request.num_blocks = hold.num_blocks
            request.num_units = hold.num_units
            request.has_blocks = True
            request.phase = Phase.HANDED
            request.instance = move.source
            source.alive[request.id] = request
            source.inst.outstanding_tokens += request.pending
            if index == move.target:
                refused.append(move)
            else:
                self._engines[move.target].wake(now_s)  # what waits there may lack the blocks
        return refused

    def holds(self, index: int) -> Iterable[Any]:
        """Everything that holds blocks of an instance for a transfer."""
        yield from self.live.holds(index)
        for move, hold, request, _ in self._moves.values():
            if move.source == index:
                yield hold
            if move.target == index:
                yield request

    def _leave_target(self, request: SimRequest, move: Move) -> None:
        target = self._engines[move.target]
        if request.has_blocks:
            target.inst.pool.release(request)
        target.inst.outstanding_tokens -= request.pending
