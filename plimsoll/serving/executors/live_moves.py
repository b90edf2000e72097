"""Requests that move while they run: the books of both sides and what happens when one fails.

The stages are ``kv.migrate.LiveMigration``'s; here blocks are taken on the target before each
copy, the request is stopped between two steps for the last one, and goes on at the target. Until
then it is the source's: it may end, be put aside or cancelled there, or the target may be lost,
and the move is given up with nothing held.
Source: arXiv 2406.03243.
"""

from collections.abc import Callable, Iterable, Sequence

from plimsoll.serving.executors.engine import Engine
from plimsoll.serving.executors.requests import SimRequest
from plimsoll.serving.kv.migrate import Copy, LiveMigration
from plimsoll.serving.kv.paged import Holder
from plimsoll.serving.policy import Move, Phase
from plimsoll.spec.errors import PolicyError

__all__ = ["Hold", "LiveMove", "LiveMoves"]


class Hold:
    """Blocks of a request on an instance it is leaving."""

    __slots__ = ("has_blocks", "id", "num_blocks", "num_units", "prefix_keys")

    def __init__(self, request: SimRequest) -> None:
        self.id = request.id
        self.num_blocks = request.num_blocks
        self.num_units = request.num_units
        self.prefix_keys = request.prefix_keys
        self.has_blocks = True


class _Landing:
    """Blocks kept for a request on the instance it is moving to."""

    __slots__ = ("computed", "has_blocks", "id", "num_blocks", "num_units", "pending")

    prefix_keys: Sequence[int] = ()

    def __init__(self, request_id: int) -> None:
        self.id = request_id
        self.num_blocks = self.num_units = self.computed = 0
        self.pending = 1
        self.has_blocks = False


class LiveMove:
    """One move under way. ``hold``: the request has stopped, its blocks wait at the source."""

    __slots__ = ("copy", "hold", "landing", "move", "preemptions", "request", "serial", "stages")

    def __init__(self, request: SimRequest, move: Move, stages: LiveMigration, serial: int) -> None:
        self.request = request
        self.move = move
        self.stages = stages
        self.landing = _Landing(request.id)
        self.preemptions = request.preemptions
        self.hold: Hold | None = None
        self.copy = Copy(0, 0, last=False)
        self.serial = serial


class LiveMoves:
    """``send(move, now)`` starts the copy of ``move.copy``; ``copied`` is due when it has arrived.
    ``done(move)`` and ``failed(move, why)`` are told how a move ends. ``last_blocks`` as in
    ``LiveMigration``; without bound, a move is one copy for which the request stops."""

    last_blocks = 16

    def __init__(
        self,
        engines: list[Engine],
        send: Callable[[LiveMove, float], None],
        done: Callable[[Move], None],
        failed: Callable[[Move, str], None],
    ) -> None:
        self._engines = engines
        self._send = send
        self._done = done
        self._failed = failed
        self._moves: dict[int, LiveMove] = {}
        self._serial = 0

    def start(self, request: SimRequest, move: Move, now_s: float) -> str:
        """Begin; a reason if it cannot be done any more."""
        source, target = self._engines[move.source], self._engines[move.target]
        if request.instance != move.source:
            return f"the request is on instance {request.instance}"
        if request.id in self._moves:
            raise PolicyError(f"{move}: the request is moving already")
        if source.inst.num_slots > 1 or target.inst.num_slots > 1:
            raise PolicyError(f"{move}: requests do not move live between pipelines")
        if source.inst.pool.block_tokens != target.inst.pool.block_tokens:
            raise PolicyError(f"{move}: the instances have blocks of different sizes")
        if target.inst.role == "prefill":
            raise PolicyError(f"{move}: the target only runs prompts")
        if not target.inst.admits:
            return f"instance {move.target} is {target.inst.life}"
        if request.phase is Phase.WAITING and not request.has_blocks:
            source.detach(request)
            source.alive.pop(request.id)
            source.inst.outstanding_tokens -= request.pending
            target.admit(request, now_s)
            source.wake(now_s)
            self._done(move)
            return ""
        if source.loans is not None and source.loans.concern(request.id):
            return "part of its KV is on other instances, or on its way there"
        if request.phase is not Phase.DECODE:
            return f"the request is {request.phase.value}; only what waits or decodes moves live"
        self._serial += 1
        stages = LiveMigration(
            block_tokens=source.inst.pool.block_tokens, last_blocks=self.last_blocks
        )
        live = LiveMove(request, move, stages, self._serial)
        self._moves[request.id] = live
        target.inst.pool.attach(live.landing)  # type: ignore[arg-type]
        return self._next(live, now_s)

    def copied(self, request_id: int, serial: int, now_s: float) -> bool:
        """A copy has arrived; False if the move was given up meanwhile."""
        live = self._moves.get(request_id)
        if live is None or live.serial != serial:
            return False
        live.stages.made(live.copy)
        if live.hold is not None:
            self._commit(live, now_s)
            return True
        why = self._next(live, now_s)
        if why:
            self._failed(live.move, why)
        return True

    def _next(self, live: LiveMove, now_s: float) -> str:
        """Make the next copy, or wait for the request to stop; why not, and then it is over."""
        request, source = live.request, self._engines[live.move.source]
        why = self._strayed(live)
        if not why:
            copy = live.stages.next_copy(source.held_tokens(request, now_s))
            if copy is None:
                why = "it writes faster than it is copied"
            elif not self._keep(live, copy.stop):
                why = self._full(live)
            elif copy.last:
                source.depart(request, lambda at_s: self._stopped(live, at_s), now_s)
            else:
                live.copy = copy
                self._send(live, now_s)
        if why:
            self._drop(live, now_s)
        return why

    def _stopped(self, live: LiveMove, now_s: float) -> None:
        """The request has stopped at the source, or it ended in that step."""
        request, source = live.request, self._engines[live.move.source]
        if self._moves.get(request.id) is not live:
            if request.phase is Phase.MOVING:
                source.land(request)  # the move was given up while the step ran
            return
        why = "" if request.phase is Phase.MOVING else "the request ended or was put aside"
        if not why:
            live.copy = live.stages.final_copy(request.computed)
            if not self._keep(live, request.computed):
                why = self._full(live)
        if why:
            self._drop(live, now_s)
            if request.phase is Phase.MOVING:
                source.land(request)
            self._failed(live.move, why)
            return
        source.alive.pop(request.id)
        source.inst.outstanding_tokens -= request.pending
        live.hold = Hold(request)
        self._send(live, now_s)

    def _commit(self, live: LiveMove, now_s: float) -> None:
        request, landing, hold = live.request, live.landing, live.hold
        del self._moves[request.id]
        assert hold is not None
        self._engines[live.move.source].inst.pool.release(hold)
        request.num_blocks, request.num_units = landing.num_blocks, 0
        request.has_blocks = True
        self._engines[live.move.target].land(request)
        for index in (live.move.source, live.move.target):
            self._engines[index].wake(now_s)
        self._done(live.move)

    def cancel(self, request: SimRequest, now_s: float) -> bool:
        """Give a move up since the request is not wanted; whether it was between the two."""
        live = self._moves.get(request.id)
        if live is None:
            return False
        self._drop(live, now_s)
        self._failed(live.move, "the request was cancelled")
        if live.hold is None:
            return False
        self._engines[live.move.source].inst.pool.release(live.hold)
        request.has_blocks = False
        for index in (live.move.source, live.move.target):
            self._engines[index].wake(now_s)
        return True

    def lose(self, index: int, now_s: float) -> list[Move]:
        """An instance is lost: its moves are given up, each request is its source's again."""
        lost = []
        for live in list(self._moves.values()):
            if index not in (live.move.source, live.move.target):
                continue
            self._drop(live, now_s, wake=index != live.move.target)
            lost.append(live.move)
            if live.hold is not None:
                source = self._engines[live.move.source]
                source.land(live.request)
                if index == live.move.target:
                    source.wake(now_s)
        return lost

    def holds(self, index: int) -> Iterable[Holder]:
        """Everything that holds blocks of an instance for a move."""
        for live in self._moves.values():
            if live.move.source == index and live.hold is not None:
                yield live.hold
            if live.move.target == index:
                yield live.landing

    def get(self, request_id: int) -> LiveMove | None:
        """The move of a request."""
        return self._moves.get(request_id)

    def _strayed(self, live: LiveMove) -> str:
        request, source = live.request, self._engines[live.move.source]
        if source.alive.get(request.id) is not request:
            return "the request ended"
        if request.phase is not Phase.DECODE or request.preemptions != live.preemptions:
            return "the request was put aside"
        return ""

    def _keep(self, live: LiveMove, num_tokens: int) -> bool:
        """Take blocks for so many tokens on the target, if it has them and one token's more."""
        pool, landing = self._engines[live.move.target].inst.pool, live.landing
        if num_tokens // pool.block_tokens + 1 - landing.num_blocks > pool.free:
            return False
        pool.grow(landing, num_tokens)  # type: ignore[arg-type]
        return True

    def _full(self, live: LiveMove) -> str:
        pool = self._engines[live.move.target].inst.pool
        return f"instance {live.move.target} has {pool.free} free blocks"

    def _drop(self, live: LiveMove, now_s: float, *, wake: bool = True) -> None:
        """Give the target's blocks back; what waits there may have waited for them."""
        del self._moves[live.request.id]
        target = self._engines[live.move.target]
        target.inst.pool.release(live.landing)
        if wake:
            target.wake(now_s)
