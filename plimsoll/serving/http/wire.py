"""One HTTP/1.1 connection, with the limits that uvicorn's own protocol does not have.

A connection must bring its first header block, and each later one once begun, within a time;
so it must end a body that was answered before its end. One that stops reading for too long is
dropped, which frees its requests' blocks; beyond a number of connections new ones are closed at
once. What is not HTTP gets an error in the usual shape.
Left out: HTTP/2, WebSockets, TLS.
"""

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from plimsoll.serving.http.errors import invalid
from plimsoll.serving.http.settings import HttpSettings

__all__ = ["connection_class"]


def connection_class(settings: HttpSettings) -> type[H11Protocol]:
    """The protocol class for ``uvicorn.Config(http=...)``."""

    class Connection(H11Protocol):
        """A connection under these settings."""

        _head_timer: asyncio.TimerHandle | None = None
        _stall_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            """Count it, and give it its time for a first request."""
            super().connection_made(transport)
            if len(self.connections) > settings.max_connections:
                transport.abort()
                return
            self._watch_head()

        def data_received(self, data: bytes) -> None:
            """Once headers have begun, they must end in time."""
            super().data_received(data)
            self._watch_head()

        def connection_lost(self, exc: Exception | None) -> None:
            """Forget the timers."""
            self._stop_head()
            self._stop_stall()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            """The client reads too slowly: start the clock."""
            super().pause_writing()
            if self._stall_timer is None:
                limit_s = settings.write_timeout_s
                self._stall_timer = self.loop.call_later(limit_s, self.transport.abort)

        def resume_writing(self) -> None:
            """It caught up."""
            self._stop_stall()
            super().resume_writing()

        def send_400_response(self, msg: str) -> None:
            """What came is not HTTP, or its headers do not end."""
            body = json.dumps(invalid(msg).body()).encode("ascii")
            headers = [("content-type", "application/json"), ("connection", "close")]
            events: list[Any] = [
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ]
            try:
                for event in events:
                    self.transport.write(self.conn.send(event) or b"")
            except h11.LocalProtocolError:  # an answer was under way
                pass
            self.transport.close()

        def _watch_head(self) -> None:
            if self.conn.their_state is h11.SEND_BODY:  # is it still sending what was refused?
                waits = self.conn.our_state in (h11.DONE, h11.MUST_CLOSE)
            else:
                waits = self.conn.their_state is h11.IDLE
            waits = waits and self.timeout_keep_alive_task is None
            if not waits or self.transport.is_closing():
                self._stop_head()
            elif self._head_timer is None:
                limit_s = settings.header_timeout_s
                self._head_timer = self.loop.call_later(limit_s, self.transport.abort)

        def _stop_head(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _stop_stall(self) -> None:
            if self._stall_timer is not None:
                self._stall_timer.cancel()
                self._stall_timer = None

    return Connection
