"""The swap manager's copies of one instance, made by its worker beside the steps.

The books are ``executors.swaps.Swaps``'. A copy goes to the worker as an effect of the next step;
its event fires when the worker says so, or, where the step waits for it, when the step is sent.
"""

from collections.abc import Callable, Sequence
from typing import Any

from plimsoll.serving.executors.requests import SimRequest
from plimsoll.serving.executors.swaps import Swaps
from plimsoll.serving.executors.torch.messages import BringBack, Effect, HandOn, SendOut
from plimsoll.serving.kv.swap_manager import Copy

__all__ = ["WorkerSwaps"]


class WorkerSwaps(Swaps):
    """``emit`` adds an effect to the next step's. ``ended`` collects, by event, when a copy beside
    the steps was heard to have ended, and whether it failed."""

    def __init__(self, *rest: Any, emit: Callable[[Effect], None], **more: Any) -> None:
        self._emit = emit
        self._named: set[int] = set()
        self._sync: dict[int, int] = {}
        self.waits: list[int] = []
        """Events that the next step waits for."""
        self.returning: dict[int, int] = {}
        """Of those, the requests that run in it."""
        self.ended: dict[int, tuple[float, bool]] = {}
        super().__init__(*rest, **more)

    def _cut(self, names: Sequence[int]) -> None:
        for name in names:
            tokens = self.manager.host_tokens(name)
            if tokens:
                self._rename(name, name, tokens)
            else:
                self._forget(name)

    def heard(self, event: int, now_s: float, *, failed: bool) -> int | None:
        """The worker says that a copy ended; the request of one that a step waited for in vain."""
        request = self._sync.pop(event, None)
        if request is None:
            self.ended[event] = (now_s, failed)
        return request if failed else None

    def drop(self, request: int) -> None:
        """See ``Swaps``."""
        super().drop(request)
        self._forget(request)

    def hand_on(self, request: SimRequest, num_tokens: int) -> None:
        """See ``Swaps``."""
        super().hand_on(request, num_tokens)
        tokens = self.manager.session_tokens(request.session_id)
        if request.id in self._named and tokens:
            self._rename(request.id, -2 - request.session_id, tokens)

    def adopt(self, request: SimRequest, num_tokens: int) -> int:
        """See ``Swaps``."""
        tokens = super().adopt(request, num_tokens)
        if tokens:
            self._rename(-2 - request.session_id, request.id, tokens)
        elif request.session_id >= 0:
            self._forget(-2 - request.session_id)
        return tokens

    def copied(self, event: int, now_s: float, *, failed: bool = False) -> int | None:
        """See ``Swaps``; a copy that is not kept is dropped."""
        landed = super().copied(event, now_s, failed=failed)
        if landed is not None and not self.spec.reuse:
            self._forget(landed)
        return landed

    def clear(self) -> None:
        """See ``Swaps``; a new worker has nothing."""
        super().clear()
        self._named.clear()
        self._sync.clear()
        self.waits.clear()
        self.returning.clear()

    def _launch(self, copy: Copy, sync: bool, now_s: float) -> None:
        if copy.way == "out":
            self._named.add(copy.request)
            self._emit(SendOut(copy.event, copy.request, copy.blocks, copy.first))
        else:
            # What the step waits for is done in the books, not yet in the worker's other lane.
            after = (*copy.after, *self.waits)
            self._emit(BringBack(copy.event, copy.request, copy.blocks, after))
        if not sync and self.spec.asynchronous:
            return
        self.waits.append(copy.event)
        self._sync[copy.event] = copy.request
        if copy.way == "back":
            self.returning[copy.event] = copy.request
        self.copied(copy.event, now_s)
        if copy.way == "back" and not self.spec.reuse:
            self._forget(copy.request)

    def _hold(self, events: tuple[int, ...], now_s: float) -> None:
        self.waits += events

    def _rename(self, name: int, heir: int, tokens: int) -> None:
        self._named.discard(name)
        self._named.add(heir)
        self._emit(HandOn(name, heir, -(-tokens // self._pool.block_tokens)))

    def _forget(self, name: int) -> None:
        if name in self._named:
            self._named.remove(name)
            self._emit(HandOn(name, name, 0))
