"""The real server on a free loopback port, in a thread, for the length of a test."""

import contextlib
import hashlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from plimsoll.serving.generation import LiveEngine
from plimsoll.serving.http.app import create_app
from plimsoll.serving.http.keys import ApiKey
from plimsoll.serving.http.run import HttpServer
from plimsoll.serving.http.settings import HttpSettings
from plimsoll.serving.http.tokens import TextTools
from tests.serving.http.fake_engine import FakeEngine

KEY = "sk-test-0123456789abcdef"


@dataclass(frozen=True)
class Live:
    """A server that answers."""

    url: str
    engine: FakeEngine

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def connect(self, timeout_s: float = 10.0) -> socket.socket:
        """A plain connection."""
        return socket.create_connection(self.address, timeout=timeout_s)


def api_key(name: str = "tester", key: str = KEY, **limits: Any) -> ApiKey:
    """A key as it is stored."""
    return ApiKey(name=name, digest=hashlib.sha256(key.encode()).digest(), **limits)


@contextlib.contextmanager
def serving(
    engine: FakeEngine, *, keys: tuple[ApiKey, ...] = (), **settings: Any
) -> Iterator[Live]:
    """Serve until the block ends."""
    with serving_at(engine, engine.text, keys=keys, **settings) as url:
        try:
            yield Live(url, engine)
        finally:
            engine.hold(False)


@contextlib.contextmanager
def serving_at(
    engine: LiveEngine, text: TextTools, *, keys: tuple[ApiKey, ...] = (), **settings: Any
) -> Iterator[str]:
    """The address of any engine's server, until the block ends; closes the engine."""
    chosen = HttpSettings(**{"port": 0, "drain_timeout_s": 5.0, **settings})
    app = create_app(engine, text, chosen, keys=keys)
    listening = threading.Event()
    urls: list[str] = []

    def ready(url: str) -> None:
        urls.append(url)
        listening.set()

    server = HttpServer(app, chosen, ready)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert listening.wait(20)
        yield urls[0]
    finally:
        server.should_exit = True
        thread.join(20)
        engine.close()
        assert not thread.is_alive()
