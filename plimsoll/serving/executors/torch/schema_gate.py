"""Requests that wait until their JSON schema is compiled, which takes a thread of its own.

A schema that is new may take a good part of a second; the caller of ``submit`` is a server's event
loop and must not stand still so long. The bound on one schema's time is ``Grammars``'; here a
request is given up when the schemas before it took too long. Left out: more than one thread.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from plimsoll.serving.executors.torch.sampling.grammar import Grammars
from plimsoll.serving.generation import FinishReason
from plimsoll.spec.errors import PlimsollError

__all__ = ["SchemaGate"]

LONGEST_WAIT_S = 30.0
log = logging.getLogger(__name__)


class _Waiting:
    """One request at the gate; ``request`` is its number once it is through."""

    __slots__ = ("enter", "refuse", "request", "since_s")

    def __init__(
        self, enter: Callable[[], int], refuse: Callable[[FinishReason, str], None], since_s: float
    ) -> None:
        self.enter = enter
        self.refuse = refuse
        self.since_s = since_s
        self.request = -1


class SchemaGate:
    """Tickets are below -1, so that they are no request's number. ``announce`` hears of each new
    schema when its turn comes, so that others who will need it can compile it too."""

    def __init__(
        self,
        grammars: Grammars,
        announce: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._grammars = grammars
        self._announce = announce
        self._clock = clock
        self._tickets = count(2)
        self._here: dict[int, _Waiting] = {}
        self._num_waiting = 0
        self._closed = False
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="grammar")

    @property
    def num_waiting(self) -> int:
        """Requests whose schema is not compiled yet."""
        with self._changed:
            return self._num_waiting

    @property
    def num_here(self) -> int:
        """Requests whose tickets are known: waiting, or through and not over."""
        with self._changed:
            return len(self._here)

    def submit(
        self, schema: str, enter: Callable[[int], int], refuse: Callable[[FinishReason, str], None]
    ) -> int:
        """A ticket. ``enter(ticket)`` is called when the schema is good and returns the request's
        number, else ``refuse``; both from the gate's thread."""
        with self._changed:
            ticket = -next(self._tickets)
            one = _Waiting(lambda: enter(ticket), refuse, self._clock())
            self._here[ticket] = one
            self._num_waiting += 1
            if not self._closed:
                self._pool.submit(self._work, ticket, schema)
                return ticket
        self._give_up(ticket, "error", "the server is shutting down")
        return ticket

    def cancel(self, ticket: int) -> int:
        """End a request that waits; the number of one that is through, else -1."""
        with self._changed:
            one = self._here.get(ticket)
            if one is not None and one.request >= 0:
                return one.request
        self._give_up(ticket, "cancelled", "")
        return -1

    def over(self, ticket: int) -> None:
        """A request that was let through has ended."""
        with self._changed:
            self._here.pop(ticket, None)

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until no schema is left; whether that came in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._num_waiting == 0, timeout_s)

    def close(self) -> None:
        """Give up what waits."""
        with self._changed:
            self._closed = True
            tickets = [ticket for ticket, one in self._here.items() if one.request < 0]
        self._pool.shutdown(wait=False, cancel_futures=True)
        for ticket in tickets:
            self._give_up(ticket, "error", "the server is shutting down")

    def _work(self, ticket: int, schema: str) -> None:
        with self._changed:
            one = self._here.get(ticket)
        if one is None:
            return
        if self._clock() - one.since_s > LONGEST_WAIT_S:
            self._give_up(ticket, "error", "json_schema: too many schemas wait to be compiled")
            return
        try:
            if not self._grammars.knows(schema):
                self._announce(schema)
            self._grammars.compile(schema)
        except PlimsollError as error:
            self._give_up(ticket, "rejected", str(error))
        except Exception:
            log.exception("a schema could not be compiled")
            self._give_up(ticket, "error", "json_schema: could not be compiled")
        else:
            self._let_through(ticket)

    def _let_through(self, ticket: int) -> None:
        with self._changed:
            one = self._here.get(ticket)
            if one is None:
                return
            one.request = one.enter()
            self._num_waiting -= 1
            self._changed.notify_all()

    def _give_up(self, ticket: int, finish: FinishReason, why: str) -> None:
        with self._changed:
            one = self._here.get(ticket)
            if one is None or one.request >= 0:
                return
            del self._here[ticket]
            self._num_waiting -= 1
            self._changed.notify_all()
        one.refuse(finish, why)
