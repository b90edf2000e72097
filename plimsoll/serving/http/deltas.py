"""From the engine's threads to the event loop: deltas of all the sequences of one HTTP request.

Engine threads append to one mailbox and wake the loop once for everything that has arrived
since, so a step over hundreds of sequences costs one wake-up. A batch is the sequences of one
request: it hands out their deltas in order of arrival, measures them, turns refusals and
failures into errors, and on closing cancels whatever has not ended.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from plimsoll.serving.generation import Delta, Generation, LiveEngine
from plimsoll.serving.http.errors import ApiError, invalid, overloaded
from plimsoll.serving.http.keys import Meter
from plimsoll.serving.http.logs import RequestRecord
from plimsoll.serving.http.metrics import ServerMetrics

__all__ = ["Batch", "Mailbox"]


class Mailbox:
    """Items for queues of one event loop, from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._items: deque[tuple[asyncio.Queue[tuple[int, Any]], int, Any]] = deque()
        self._woken = False

    def sink(self, queue: "asyncio.Queue[tuple[int, Any]]", index: int) -> Callable[[Any], None]:
        """A callback that puts (index, item) into ``queue`` on the loop's thread."""

        def deliver(item: Any) -> None:
            self._items.append((queue, index, item))
            if self._woken:
                return
            self._woken = True
            try:
                self.loop.call_soon_threadsafe(self._flush)
            except RuntimeError:  # the loop is closed, nobody is left to hear it
                self._items.clear()

        return deliver

    def _flush(self) -> None:
        # Cleared before the first look: what is appended later wakes the loop again.
        self._woken = False
        while self._items:
            queue, index, item = self._items.popleft()
            queue.put_nowait((index, item))


class Running:
    """One sequence of a batch as the server sees it."""

    __slots__ = (
        "cached_tokens",
        "first_at_s",
        "last_at_s",
        "num_tokens",
        "prompt_tokens",
        "ticket",
    )

    def __init__(self, ticket: int, prompt_tokens: int) -> None:
        self.ticket = ticket
        self.prompt_tokens = prompt_tokens
        self.num_tokens = 0
        self.cached_tokens = 0
        self.first_at_s: float | None = None
        self.last_at_s = 0.0


class Batch:
    """Sequences that run for one HTTP request; iterate for (index, delta), then close."""

    def __init__(
        self,
        generations: Sequence[Generation],
        *,
        engine: LiveEngine,
        mailbox: Mailbox,
        metrics: ServerMetrics,
        record: RequestRecord,
        meter: Meter,
        clock: Callable[[], float],
        draining: Callable[[], bool],
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._record = record
        self._clock = clock
        self._draining = draining
        self._meter = meter
        self._reserved = sum(len(g.prompt) + g.params.max_tokens for g in generations)
        meter.reserve(self._reserved, clock())
        self._queue: asyncio.Queue[tuple[int, Delta]] = asyncio.Queue()
        self._head: tuple[int, Delta] | None = None
        self._sequences: list[Running] = []
        self._open: set[int] = set()
        self._closed = False
        try:
            for index, generation in enumerate(generations):
                ticket = engine.submit(generation, mailbox.sink(self._queue, index))
                self._sequences.append(Running(ticket, len(generation.prompt)))
                self._open.add(index)
        except BaseException:
            self.close()
            raise

    async def head(self, wait_s: float) -> None:
        """Wait a moment for the first delta, which stays first.

        Raises:
            ApiError: the engine refused it or failed.
        """
        try:
            async with asyncio.timeout(wait_s):
                self._head = await self._queue.get()
        except TimeoutError:
            return
        self._check(self._head[1])

    def __aiter__(self) -> "Batch":
        return self

    async def __anext__(self) -> tuple[int, Delta]:
        if self._head is not None:
            (index, delta), self._head = self._head, None
        elif self._open:
            index, delta = await self._queue.get()
        else:
            raise StopAsyncIteration
        self._check(delta)
        self._measure(index, delta)
        return index, delta

    @property
    def output_tokens(self) -> int:
        """Tokens delivered so far."""
        return sum(one.num_tokens for one in self._sequences)

    def cached_tokens(self, *, every: int) -> int:
        """Prompt tokens from the cache: of the first of every ``every`` sequences."""
        return sum(one.cached_tokens for one in self._sequences[::every])

    def close(self) -> None:
        """Cancel what has not ended, settle the account; may be called again."""
        if self._closed:
            return
        self._closed = True
        for index in self._open:
            self._engine.cancel(self._sequences[index].ticket)
            self._metrics.finished("cancelled")
        self._open.clear()
        used = self.output_tokens + sum(one.prompt_tokens for one in self._sequences)
        self._meter.settle(self._reserved, used)
        self._record.output_tokens += self.output_tokens
        self._record.cached_tokens += sum(one.cached_tokens for one in self._sequences)

    def _check(self, delta: Delta) -> None:
        if delta.finish == "rejected":
            if self._draining() or not self._engine.healthy():
                raise overloaded(delta.error or "The server takes no requests now.")
            raise invalid(delta.error or "The engine refused the request.")
        if delta.finish == "error":
            raise ApiError(500, delta.error or "The request failed.", code="engine_error")
        if delta.finish == "cancelled":
            raise ApiError(500, delta.error or "The request was cancelled.", code="cancelled")

    def _measure(self, index: int, delta: Delta) -> None:
        one = self._sequences[index]
        one.cached_tokens = max(one.cached_tokens, delta.cached_tokens)
        now_s = self._clock()
        metrics, arrived_at_s = self._metrics, self._record.arrived_at_s
        if delta.tokens:
            if one.first_at_s is None:
                one.first_at_s = now_s
                metrics.ttft_s.observe(now_s - arrived_at_s)
                if self._record.ttft_s is None:
                    self._record.ttft_s = now_s - arrived_at_s
            else:
                metrics.itl_s.observe(now_s - one.last_at_s)
            one.last_at_s = now_s
            one.num_tokens += len(delta.tokens)
        if delta.finish is not None:
            self._open.discard(index)
            metrics.finished(delta.finish)
            metrics.prompt_tokens.observe(one.prompt_tokens)
            metrics.output_tokens.observe(one.num_tokens)
            metrics.e2e_s.observe(now_s - arrived_at_s)
            if one.first_at_s is not None and one.num_tokens > 1:
                tpot_s = (one.last_at_s - one.first_at_s) / (one.num_tokens - 1)
                metrics.tpot_s.observe(tpot_s)
