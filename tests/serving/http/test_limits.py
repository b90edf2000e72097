"""Size, time and number limits, each tried from the wrong side over a real socket."""

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.serving.http.fake_engine import FakeEngine
from tests.serving.http.live_server import Live, serving
from tests.serving.http.small_text import text_tools

ASK = {"model": "fake/model-1", "prompt": "abcd", "max_tokens": 4}
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@pytest.fixture(scope="module")
def tight() -> Iterator[Live]:
    limits = {
        "max_body_bytes": 20_000,
        "max_header_bytes": 4_000,
        "max_prompt_tokens": 100,
        "max_connections": 12,
        "max_sequences_per_request": 6,
        "max_embedding_inputs": 3,
        "header_timeout_s": 0.5,
        "body_timeout_s": 0.5,
        "idle_timeout_s": 0.5,
        "write_timeout_s": 0.5,
    }
    with serving(FakeEngine(text_tools(), max_model_len=10**9), **limits) as live:
        yield live


def post(live: Live, path: str = "/v1/completions", **body: object) -> httpx.Response:
    return httpx.post(live.url + path, json={**ASK, **body})


def rest(live: Live, sent: bytes, *, pause_s: float = 0.0) -> tuple[bytes, float]:
    """What comes back until the server closes, and after how long."""
    with live.connect() as sock:
        began_s = time.monotonic()
        sock.sendall(sent)
        time.sleep(pause_s)
        got = b""
        try:
            while piece := sock.recv(65_536):
                got += piece
        except ConnectionResetError:
            pass
        return got, time.monotonic() - began_s


def test_body_size(tight: Live) -> None:
    assert post(tight, user="x" * 200).status_code == 200
    answer = post(tight, prompt="x" * 20_000)
    assert answer.status_code == 413
    assert answer.json()["error"]["message"] == "The body is larger than 20000 bytes."


def test_body_size_without_a_length(tight: Live) -> None:
    """A chunked body is counted as it comes, and who keeps sending it is cut off."""
    sent = 0
    began_s = time.monotonic()

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(10_000):
            sent += 1_000
            time.sleep(0.001)
            yield b" " * 1_000

    try:
        answer = httpx.post(
            tight.url + "/v1/completions",
            content=pieces(),
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == 413
    except (httpx.WriteError, httpx.ReadError):
        pass  # the server had answered and closed
    assert sent < 10_000_000 and time.monotonic() - began_s < 5


def test_an_announced_body_is_refused_before_it_is_sent(tight: Live) -> None:
    with tight.connect() as sock:
        sock.sendall(HEAD + b"content-length: 20001\r\n\r\n")
        assert sock.recv(65_536).startswith(b"HTTP/1.1 413")


def test_an_absurd_content_length(tight: Live) -> None:
    got, _ = rest(tight, HEAD + b"content-length: " + b"9" * 200 + b"\r\n\r\n")
    assert got.startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))


def test_header_size(tight: Live) -> None:
    answer = httpx.get(tight.url + "/health", headers={"x-much": "y" * 4_000})
    assert answer.status_code in (400, 431) and answer.json()["error"]["message"]
    long = httpx.get(tight.url + "/health?" + "q" * 4_000)
    assert long.status_code in (400, 431)
    got, _ = rest(tight, b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"x-a: " + b"y" * 300_000)
    assert got.startswith(b"HTTP/1.1 400") or got == b""


def test_prompt_length(tight: Live) -> None:
    answer = post(tight, prompt="x" * 101)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    answer = post(tight, "/v1/embeddings", prompt=None, max_tokens=None)
    vector = {"model": ASK["model"], "input": "x" * 101}
    answer = httpx.post(tight.url + "/v1/embeddings", json=vector)
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_sequences_of_one_call(tight: Live) -> None:
    assert post(tight, prompt=["a", "b", "c"], n=2).status_code == 200
    answer = post(tight, prompt=["a", "b", "c"], n=3)
    assert answer.status_code == 400 and "more than 6" in answer.json()["error"]["message"]
    vectors = {"model": ASK["model"], "input": ["a"] * 4}
    assert httpx.post(tight.url + "/v1/embeddings", json=vectors).status_code == 400


def test_half_a_header_is_not_waited_for(tight: Live) -> None:
    for sent in (b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nhost: local"):
        got, took_s = rest(tight, sent)
        assert got == b"" and 0.3 < took_s < 5


def test_half_a_second_header_is_not_waited_for(tight: Live) -> None:
    """The idle timer of a kept connection ends with its first byte; another takes over."""
    with tight.connect() as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        got = b""
        while not got.endswith(b"}"):
            got += sock.recv(65_536)
        began_s = time.monotonic()
        sock.sendall(b"GET /hea")
        assert sock.recv(65_536) == b"" and time.monotonic() - began_s < 5


def test_drops_of_a_header_do_not_extend_it(tight: Live) -> None:
    with tight.connect() as sock:
        began_s = time.monotonic()
        sock.sendall(b"GET /health HTTP/1.1\r\n")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while time.monotonic() - began_s < 5:
                sock.sendall(b"x: y\r\n")
                time.sleep(0.05)


def test_idle_connections_are_closed(tight: Live) -> None:
    got, took_s = rest(tight, b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200") and 0.3 < took_s < 5


def test_a_slow_body_is_cut_off(tight: Live) -> None:
    got, took_s = rest(tight, HEAD + b"content-length: 100\r\n\r\n{")
    assert got.startswith(b"HTTP/1.1 408") and took_s < 5
    assert json.loads(got.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


def test_connections_are_bounded(tight: Live) -> None:
    time.sleep(0.7)  # those of other tests run out
    held = [tight.connect() for _ in range(12)]
    with tight.connect() as one_more:
        try:
            one_more.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert one_more.recv(100) == b""
        except (ConnectionResetError, BrokenPipeError):
            pass
    for sock in held:
        sock.close()
    assert httpx.get(tight.url + "/health").status_code == 200


def test_a_reader_that_stalls_is_dropped_and_its_blocks_freed(tight: Live) -> None:
    engine = tight.engine
    before = len(engine.cancels)
    body = json.dumps({**ASK, "max_tokens": 10**8, "stream": True, "logprobs": 20}).encode()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(tight.address)
        sock.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
        assert engine.wait_for(lambda: len(engine.cancels) > before, 20)


def test_a_client_that_resets_is_heard_at_once(
    tight: Live, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is written to its connection afterwards, which asyncio would complain of."""
    body = json.dumps({**ASK, "max_tokens": 10**8, "stream": True}).encode()
    engine = tight.engine
    for _ in range(5):
        before = len(engine.cancels)
        with tight.connect() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
            assert sock.recv(100).startswith(b"HTTP/1.1 200")
            time.sleep(0.1)
        assert engine.wait_for(lambda: len(engine.cancels) > before)  # noqa: B023
    assert not [r for r in caplog.records if "socket.send" in r.getMessage()]


def test_requests_in_progress_are_bounded() -> None:
    engine = FakeEngine(text_tools())
    engine.hold()
    with serving(engine, max_concurrent_requests=3) as live, ThreadPoolExecutor(3) as pool:
        running = [pool.submit(post, live) for _ in range(3)]
        assert engine.wait_for(lambda: len(engine.seen) == 3)
        refused = post(live)
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "overloaded"
        assert httpx.get(live.url + "/health").status_code == 200
        engine.hold(False)
        assert [one.result().status_code for one in running] == [200] * 3
        assert post(live).status_code == 200


def test_uploads_count_as_in_progress() -> None:
    """A body that is still coming holds its place, so that waiting uploads cannot pile up."""
    with serving(FakeEngine(text_tools()), max_concurrent_requests=1) as live, live.connect() as s:
        s.sendall(HEAD + b"content-length: 100\r\n\r\n{")
        done = threading.Event()
        until_s = time.monotonic() + 10
        while not done.is_set() and time.monotonic() < until_s:
            if post(live).status_code == 503:
                done.set()
        assert done.is_set()
