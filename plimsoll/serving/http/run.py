"""The application on a socket, until a signal; then what runs is finished and nothing is taken.

On SIGTERM or SIGINT the socket is closed, the engine drains while the open requests are
answered, and ``serve`` returns, so that the process can exit with 0; a second SIGINT does not
wait. Left out: several processes, TLS, reloading.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI

from plimsoll.serving.http.logs import log_to_stderr
from plimsoll.serving.http.service import Service
from plimsoll.serving.http.settings import HttpSettings
from plimsoll.serving.http.wire import connection_class
from plimsoll.spec.errors import ExecutionError

__all__ = ["HttpServer", "serve"]


class HttpServer(uvicorn.Server):
    """Uvicorn, with the engine drained as part of shutting down and no signal raised again."""

    def __init__(
        self, app: FastAPI, settings: HttpSettings, ready: Callable[[str], None] | None = None
    ) -> None:
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            http=connection_class(settings),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=4096,
            h11_max_incomplete_event_size=settings.max_header_bytes,
            timeout_keep_alive=settings.idle_timeout_s,  # type: ignore[arg-type]
            timeout_graceful_shutdown=settings.drain_timeout_s,  # type: ignore[arg-type]
        )
        super().__init__(config)
        self._service: Service = app.state.service
        self._settings = settings
        self._ready = ready
        self.drained = True

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Listen, and say where."""
        await super().startup()
        if self._ready is not None:
            self._ready(self.url)

    @property
    def url(self) -> str:
        """Where it listens, with the port that was free if none was asked for."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Close the socket, answer what is open, drain the engine; it stays the caller's."""
        self._service.draining = True
        engine = self._service.engine
        draining = asyncio.create_task(
            asyncio.to_thread(engine.drain, self._settings.drain_timeout_s)
        )
        await super().shutdown()
        if self.force_exit:
            await asyncio.to_thread(engine.close)  # else the drain below would wait on
        self.drained = await draining and not self.force_exit

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals ask for the end; they are not raised again after it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        wanted = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End in order; at a second SIGINT, now."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


def serve(
    app: FastAPI, settings: HttpSettings, *, ready: Callable[[str], None] | None = None
) -> bool:
    """Serve until a signal (blocks); whether everything that ran had ended in time.

    ``ready`` is called with the address once connections are taken.

    Raises:
        ExecutionError: the address cannot be listened on.
    """
    log_to_stderr()
    server = HttpServer(app, settings, ready)
    try:
        server.run()
    except SystemExit:
        where = f"{settings.host}:{settings.port}"
        raise ExecutionError(f"cannot listen on {where}; is another server there?") from None
    return server.drained
