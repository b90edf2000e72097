"""The layers a request passes before anything reads it: record, host, headers, key, room, body.

Written against ASGI directly, outermost first:

- ``Recorder`` gives the request id, logs one line, counts the answer, and turns anything that
  was not foreseen into a 500 that says nothing about the inside;
- ``Doorman`` checks the Host header of a server without keys (a page on the web must not reach
  it by a name that resolves to loopback), the size of the headers, the API key and its rate;
- ``Room`` bounds how many requests are in progress, then the size and the time of each body.

Left out: what happens below HTTP (half-sent headers, readers that stall): see ``wire``.
"""

import asyncio
import logging
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plimsoll.serving.http.errors import ApiError, overloaded
from plimsoll.serving.http.keys import KeyRing, Meter
from plimsoll.serving.http.logs import SCOPE_KEY, RequestRecord, record_of, request_id
from plimsoll.serving.http.metrics import ServerMetrics
from plimsoll.serving.http.settings import HttpSettings, is_loopback

__all__ = ["Doorman", "Recorder", "Room", "meter_of"]

METER_KEY = "plimsoll.meter"
OPEN_PATHS = {"/", "/health", "/openapi.json"}
log = logging.getLogger(__name__)


def meter_of(scope: Scope) -> Meter:
    """The account of the caller that ``scope`` belongs to."""
    meter: Meter = scope[METER_KEY]
    return meter


class Recorder:
    """Outermost: id, log line, count, and the answer to what nobody foresaw."""

    def __init__(self, app: ASGIApp, *, metrics: ServerMetrics, clock: Callable[[], float]) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve and record."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(
            request_id=request_id(scope["headers"]),
            method=scope["method"],
            path=scope["path"],
            arrived_at_s=self._clock(),
        )
        scope[SCOPE_KEY] = record

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                given = (b"x-request-id", record.request_id.encode("ascii"))
                message = {**message, "headers": [*message["headers"], given, *SAFE_HEADERS]}
            await send(message)

        try:
            await self._answer(scope, receive, sending, record)
        finally:
            record.e2e_s = self._clock() - record.arrived_at_s
            self._metrics.answered(record.status)
            log.info("request", extra={"fields": record.fields()})

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, record: RequestRecord
    ) -> None:
        try:
            await self._app(scope, receive, send)
        except ApiError as error:
            record.error = error.message
            await error.response()(scope, receive, send)
        except Exception:
            log.exception("request failed", extra={"fields": record.fields()})
            record.error = "internal error"
            if record.status == 0:
                answer = ApiError(500, "Internal error.", code="internal_error").response()
                await answer(scope, receive, send)


SAFE_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class Doorman:
    """Who may come in, told from the headers alone."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: HttpSettings,
        keys: KeyRing,
        clock: Callable[[], float],
    ) -> None:
        self._app = app
        self._settings = settings
        self._keys = keys
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raise ApiError or pass on."""
        if scope["type"] == "http":
            self._check(scope)
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = scope["headers"]
        limit = self._settings.max_header_bytes
        size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        if size + sum(len(name) + len(value) for name, value in headers) > limit:
            raise ApiError(431, f"The headers are larger than {limit} bytes.")
        if len(self._keys) == 0 and not is_loopback(_host(headers)):
            raise ApiError(403, "This server answers to localhost only.", code="host_not_allowed")
        if scope["path"] in OPEN_PATHS:
            return
        given = [value for name, value in headers if name == b"authorization"]
        authorization = given[0].decode("latin-1") if len(given) == 1 else None
        meter = self._keys.meter(authorization)
        record_of(scope).key = meter.name
        meter.admit(self._clock())
        scope[METER_KEY] = meter


def _host(headers: list[tuple[bytes, bytes]]) -> str:
    """The host that the client believes it talks to, without a port."""
    value = next((value for name, value in headers if name == b"host"), b"").decode("latin-1")
    if value.startswith("["):
        return value[1:].partition("]")[0]
    return value.rpartition(":")[0] if ":" in value else value


class Room:
    """How many at once, and how large and how slow each body may be."""

    def __init__(self, app: ASGIApp, *, settings: HttpSettings) -> None:
        self._app = app
        self._settings = settings
        self._num_inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raise ApiError or pass on with the body read."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        limit = self._settings.max_concurrent_requests
        if self._num_inside >= limit:
            raise overloaded(f"{limit} requests are in progress; try again later.")
        self._num_inside += 1
        try:
            body = await self._body(scope, receive)
            await self._app(scope, _replay(body, receive), send)
        finally:
            self._num_inside -= 1

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        limit = self._settings.max_body_bytes
        too_large = ApiError(413, f"The body is larger than {limit} bytes.")
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value[:20]) > limit:
                raise too_large
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(499, "The client closed the connection.")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        raise too_large
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise ApiError(408, "The body took too long to arrive.") from None


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives the whole body first, then what the real one has to say."""
    waiting = [body]

    async def replayed() -> MutableMapping[str, Any]:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replayed
