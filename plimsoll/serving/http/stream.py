"""Server-sent events, and noticing at once that a client has gone.

A stream watches for the disconnect while it writes, so a writer stuck on a full socket does not
delay it: the batch is closed first, then the writer is stopped. A writer with much to write lets
the loop go on after every few frames, so that others are served and the disconnect is heard. An
error after the first frame is a frame of its own. Every stream ends with ``[DONE]``.
Source: the WHATWG event-stream format; OpenAI's API reference for ``[DONE]``.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from plimsoll.serving.http.errors import ApiError
from plimsoll.serving.http.logs import record_of

__all__ = ["CLIENT_GONE", "EventStream", "frame", "unless_gone"]

CLIENT_GONE = 499
FRAMES_AT_ONCE = 4
T = TypeVar("T")
log = logging.getLogger(__name__)
_compact = json.JSONEncoder(separators=(",", ":")).encode


def frame(data: Mapping[str, Any]) -> bytes:
    """One event."""
    return b"data: " + _compact(data).encode("ascii") + b"\n\n"


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled when the client disconnects.

    Raises:
        ApiError: 499, which nobody will read, when the client has gone.
    """
    doing = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({doing, watching}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise ApiError(CLIENT_GONE, "The client closed the connection.")
    finally:
        await _stop(doing, watching)


async def _stop(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class EventStream(Response):
    """Frames as they come; ``close`` is called once, at the end or when the client goes."""

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncIterator[bytes], close: Callable[[], None]) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._frames = frames
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write until the frames end or the client is gone."""
        writing = asyncio.ensure_future(self._write(scope, send))
        watching = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({writing, watching}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._close()
            record_of(scope).disconnected = not writing.done()
            await _stop(writing, watching)
        if not writing.cancelled():
            writing.result()

    async def _write(self, scope: Scope, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        num_sent = 0
        try:
            async for data in self._frames:
                await send({"type": "http.response.body", "body": data, "more_body": True})
                num_sent += 1
                if num_sent % FRAMES_AT_ONCE == 0:  # neither wait may have let the loop go on
                    await asyncio.sleep(0)
        except ApiError as error:
            record_of(scope).error = error.message
            data = frame(error.body())
            await send({"type": "http.response.body", "body": data, "more_body": True})
        except Exception:
            log.exception("stream failed", extra={"fields": record_of(scope).fields()})
            data = frame(ApiError(500, "Internal error.", code="internal_error").body())
            await send({"type": "http.response.body", "body": data, "more_body": True})
        done = b"data: [DONE]\n\n"
        with contextlib.suppress(OSError):  # the client went just before the end
            await send({"type": "http.response.body", "body": done, "more_body": False})
