"""What goes wrong: clients that leave, bytes that are no request, an engine that fails, the end."""

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from plimsoll.serving.http.app import create_app
from plimsoll.serving.http.settings import HttpSettings
from tests.serving.http.fake_engine import FakeEngine
from tests.serving.http.live_server import Live, serving
from tests.serving.http.small_text import text_tools

ROOT = Path(__file__).resolve().parents[3]
MODEL = "fake/model-1"
ASK = {"model": MODEL, "prompt": "abcd", "max_tokens": 4}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
INSIDE = re.compile(r"Traceback|File \"|\.py|/[a-z]+/[a-z]+/|plimsoll", re.IGNORECASE)


@pytest.fixture(scope="module")
def slow() -> Iterator[Live]:
    with serving(FakeEngine(text_tools(), pace_s=0.01, max_model_len=10**6)) as live:
        yield live


@pytest.fixture(scope="module")
def fast() -> Iterator[Live]:
    with serving(FakeEngine(text_tools()), idle_timeout_s=1.0, body_timeout_s=1.0) as live:
        yield live


@pytest.mark.parametrize("n", [1, 3])
def test_leaving_a_stream_cancels_at_once(slow: Live, n: int) -> None:
    engine = slow.engine
    before = len(engine.cancels)
    body = {**ASK, "max_tokens": 100_000, "stream": True, "n": n}
    with httpx.stream("POST", slow.url + "/v1/completions", json=body) as answer:
        next(answer.iter_lines())
    left_at_s = time.monotonic()
    assert engine.wait_for(lambda: len(engine.cancels) == before + n)
    assert max(at_s for _, at_s in engine.cancels[before:]) - left_at_s < 0.5
    assert engine.wait_for(lambda: engine.stats().running == 0)


def test_leaving_a_plain_request_cancels(slow: Live) -> None:
    engine = slow.engine
    before = len(engine.cancels)
    with pytest.raises(httpx.ReadTimeout):
        body = {**ASK, "max_tokens": 100_000}
        httpx.post(slow.url + "/v1/completions", json=body, timeout=0.3)
    assert engine.wait_for(lambda: len(engine.cancels) == before + 1)


def test_leaving_while_queued_cancels() -> None:
    engine = FakeEngine(text_tools())
    engine.hold()
    with serving(engine) as live:
        for stream in (False, True):
            seen = len(engine.cancels)
            with pytest.raises(httpx.ReadTimeout):
                body = {**ASK, "stream": stream}
                httpx.post(live.url + "/v1/completions", json=body, timeout=0.3)
            assert engine.wait_for(lambda seen=seen: len(engine.cancels) == seen + 1)


def test_the_openai_client_closing_its_stream_cancels(slow: Live) -> None:
    engine = slow.engine
    before = len(engine.cancels)
    with openai.OpenAI(base_url=f"{slow.url}/v1", api_key="x") as client:
        stream = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "x"}], stream=True
        )
        next(iter(stream))
        stream.close()
        assert engine.wait_for(lambda: len(engine.cancels) == before + 1)


def post_bytes(live: Live, body: bytes, path: str = "/v1/completions") -> httpx.Response:
    headers = {"content-type": "application/json"}
    return httpx.post(live.url + path, content=body, headers=headers)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b'{"model": "\xc3\x28", "prompt": "x"}',
        b'{"model": "fake/model-1", "prompt": "\\ud800"}',
        b'{"model": "\\ud800", "prompt": "x"}',
        b'{"model": "fake/model-1", "prompt": "x", "\\ud800": 1}',
        b'{"model": "fake/model-1", "prompt": "x", "temperature": NaN}',
        b'{"model": "fake/model-1", "prompt": "x", "seed": 1e999}',
        b'{"model": "fake/model-1", "prompt": "x", "seed": ' + b"9" * 5000 + b"}",
        b'{"model": "fake/model-1", "prompt": ' + b"[" * 100_000,
        b'{"model": "fake/model-1", "prompt": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"model": "fake/model-1", "prompt": "x", "n": true}',
        b'{"model": "fake/model-1", "prompt": []}',
        b'{"model": "fake/model-1", "prompt": [1, "x"]}',
        b'{"model": "fake/model-1", "prompt": [-1]}',
    ],
    ids=lambda body: repr(body[:50]),
)
def test_malformed_bodies_are_a_400(fast: Live, body: bytes) -> None:
    answer = post_bytes(fast, body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert not INSIDE.search(error["message"])


@pytest.mark.parametrize(
    "tools",
    [
        '[{"type": "function", "function": {"name": "f", "description": "\\ud800"}}]',
        '[{"type": "function", "function": {"name": "f", "parameters": {"a": "\\udfff"}}}]',
        '[{"type": "function", "function": {"name": "f", "parameters": {"a": DEEP}}}]'.replace(
            "DEEP", "[" * 700 + "]" * 700
        ),
    ],
    ids=["description", "parameters", "deep"],
)
def test_tools_that_cannot_be_written(fast: Live, tools: str) -> None:
    body = json.dumps(CHAT)[:-1] + f', "tools": {tools}}}'
    answer = post_bytes(fast, body.encode(), "/v1/chat/completions")
    assert answer.status_code in (200, 400) and not INSIDE.search(answer.text)
    if "udfff" in tools or "ud800" in tools:
        assert answer.status_code == 400


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"G\xff\xfeT / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\nzz",
    ],
)
def test_bytes_that_are_not_http(fast: Live, sent: bytes) -> None:
    with fast.connect() as sock:
        sock.sendall(sent)
        got = b""
        try:
            while piece := sock.recv(65_536):
                got += piece
        except ConnectionResetError:
            pass
    assert got.startswith(b"HTTP/1.1 4") and not INSIDE.search(got.decode())


def test_unknown_addresses_and_methods(fast: Live) -> None:
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("GET", "/docs", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("GET", "/page/index.html", 404),
        ("DELETE", "/v1/completions", 405),
    ):
        answer = httpx.request(method, fast.url + path)
        assert answer.status_code == status and answer.json()["error"]["message"]
    assert httpx.request("DELETE", fast.url + "/v1/completions").headers["allow"] == "POST"


@pytest.mark.parametrize("stream", [False, True])
def test_refusals_of_the_engine(stream: bool) -> None:
    engine = FakeEngine(text_tools(), refuse="The schema has a loop.")
    with serving(engine) as live:
        body = {**ASK, "stream": stream}
        answer = httpx.post(live.url + "/v1/completions", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == "The schema has a loop."
        engine.up = False
        answer = httpx.post(live.url + "/v1/completions", json=body)
        assert answer.status_code == 503 and answer.headers["retry-after"]
        assert httpx.get(live.url + "/health").status_code == 503


def test_failures_of_the_engine_are_a_500_or_a_frame() -> None:
    with serving(FakeEngine(text_tools(), fail_after=2)) as live:
        answer = httpx.post(live.url + "/v1/completions", json=ASK)
        assert answer.status_code == 500
        assert answer.json()["error"]["message"] == "A worker was lost."
        with openai.OpenAI(base_url=f"{live.url}/v1", api_key="x", max_retries=0) as client:
            stream = client.completions.create(model=MODEL, prompt="abcd", stream=True)
            got: list[str] = []
            with pytest.raises(openai.APIError, match="A worker was lost"):
                got.extend(chunk.choices[0].text for chunk in stream)
            assert len("".join(got)) == 2
        assert live.engine.wait_for(lambda: live.engine.stats().running == 0)


def test_one_failed_choice_ends_the_others() -> None:
    engine = FakeEngine(text_tools(), fail_after=2)
    with serving(engine) as live:
        body = {**ASK, "n": 4}
        assert httpx.post(live.url + "/v1/completions", json=body).status_code == 500
        assert engine.wait_for(lambda: engine.stats().running == 0)


def test_what_nobody_foresaw_says_nothing_of_the_inside(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(FakeEngine):
        def submit(self, *given: Any) -> int:
            raise RuntimeError("secret in /some/secret/path.py")

        def stats(self) -> Any:
            raise RuntimeError("secret")

    with caplog.at_level(logging.CRITICAL), serving(Broken(text_tools())) as live:
        for answer in (
            httpx.post(live.url + "/v1/completions", json=ASK),
            httpx.post(live.url + "/v1/completions", json={**ASK, "stream": True}),
            httpx.get(live.url + "/metrics"),
        ):
            assert answer.status_code == 500
            assert answer.json()["error"]["message"] == "Internal error."
            assert "secret" not in answer.text and not INSIDE.search(answer.text)
            assert answer.headers["x-request-id"]


def test_request_ids_are_echoed_or_made(fast: Live) -> None:
    url = fast.url + "/health"
    assert httpx.get(url, headers={"x-request-id": "job-7"}).headers["x-request-id"] == "job-7"
    for bad in ("a b", "x" * 200, "<script>", ""):
        made = httpx.get(url, headers={"x-request-id": bad}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", made)


def test_ten_thousand_queued_requests() -> None:
    """All are taken, none is lost, and the loop stays free for others meanwhile."""
    engine = FakeEngine(text_tools())
    engine.hold()
    settings = HttpSettings(max_concurrent_requests=20_000)
    app = create_app(engine, engine.text, settings)
    body = json.dumps({**ASK, "max_tokens": 1, "seed": 0}).encode()
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/completions",
        "raw_path": b"/v1/completions",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
    }

    async def one() -> int:
        status = 0
        sent = False

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if sent:
                await asyncio.Event().wait()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)

        await app(dict(scope), receive, send)
        return status

    async def main() -> list[int]:
        tasks = [asyncio.create_task(one()) for _ in range(10_000)]
        while len(engine.seen) < 10_000:
            await asyncio.sleep(0.01)
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.get("/health")).status_code == 200
            metrics = (await client.get("/metrics")).text
            assert 'vllm:num_requests_running{model_name="fake/model-1"} 10000' in metrics
        engine.hold(False)
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == [200] * 10_000
    engine.close()


SERVER = """
import sys, threading
from plimsoll.serving.http.app import create_app
from plimsoll.serving.http.run import serve
from plimsoll.serving.http.settings import HttpSettings
from tests.serving.http.fake_engine import FakeEngine
from tests.serving.http.small_text import text_tools

settings = HttpSettings(port=0, drain_timeout_s=float(sys.argv[1]))
engine = FakeEngine(text_tools(), pace_s=0.02, max_model_len=10**6)
app = create_app(engine, engine.text, settings)
drained = serve(app, settings, ready=lambda url: print(url, flush=True))
print("drained" if drained else "cut off", engine.drained_at_s is not None, len(engine.cancels))
"""


def start(drain_timeout_s: float) -> tuple["subprocess.Popen[str]", str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(drain_timeout_s)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_sigterm_drains() -> None:
    """What runs is answered to its end, nothing new is taken, the exit code is 0."""
    process, url = start(20)
    body = {**ASK, "max_tokens": 60, "stream": True}
    with httpx.stream("POST", url + "/v1/completions", json=body, timeout=20) as answer:
        lines = answer.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.4)
        with pytest.raises(httpx.ConnectError):
            httpx.get(url + "/health")
        got = [line for line in lines if line]
    assert got[-1] == "data: [DONE]" and len(got) >= 59
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0 and out.strip() == "drained True 0"
    logged = [json.loads(line) for line in err.splitlines()]
    (line,) = [line for line in logged if line["message"] == "request"]
    assert line["status"] == 200 and line["output_tokens"] == 60


def test_a_request_that_arrives_while_draining_is_sent_elsewhere() -> None:
    """Its upload had begun before the signal; 503 says that another server may take it."""
    process, url = start(20)
    host, _, port = url.removeprefix("http://").rpartition(":")
    body = json.dumps(ASK).encode()
    head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body[:5])
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.4)
        sock.sendall(body[5:])
        assert sock.recv(65_536).startswith(b"HTTP/1.1 503")
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_sigterm_does_not_wait_forever() -> None:
    process, url = start(0.5)
    body = {**ASK, "max_tokens": 100_000, "stream": True}
    with httpx.stream("POST", url + "/v1/completions", json=body, timeout=20) as answer:
        lines = answer.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=10)
    assert process.returncode == 0 and out.startswith("cut off") and out.strip().endswith("1")
