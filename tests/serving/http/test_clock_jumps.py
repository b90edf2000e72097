"""The wall clock may jump by years: limits, quotas, timeouts and latencies keep their own time."""

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.serving.http.fake_engine import FakeEngine
from tests.serving.http.live_server import KEY, api_key, serving
from tests.serving.http.small_text import text_tools

ASK = {"model": "fake/model-1", "prompt": "abcd", "max_tokens": 4}
YEAR_S = 365 * 86_400.0
HEADERS = {"authorization": f"Bearer {KEY}"}


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the wall clock so many seconds off."""
    real = time.time
    off_s = 0.0
    monkeypatch.setattr(time, "time", lambda: real() + off_s)

    def to(seconds: float) -> None:
        nonlocal off_s
        off_s = seconds

    return to


def ask(url: str, **more: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/completions", json=ASK | more, headers=HEADERS)


@pytest.mark.parametrize("to_s", [YEAR_S, -YEAR_S])
def test_rates_and_quotas(jump: Callable[[float], None], to_s: float) -> None:
    engine = FakeEngine(text_tools())
    keys = (api_key(requests_per_minute=2), api_key("other", KEY + "2", tokens_per_day=20))
    with serving(engine, keys=keys) as live:
        assert [ask(live.url).status_code for _ in range(3)] == [200, 200, 429]
        jump(to_s)
        refused = ask(live.url)
        assert refused.status_code == 429 and 0 < int(refused.headers["retry-after"]) <= 60
        other = {"authorization": f"Bearer {KEY}2"}
        url = f"{live.url}/v1/completions"
        assert httpx.post(url, json=ASK, headers=other).status_code == 200
        jump(-to_s)
        assert httpx.post(url, json=ASK, headers=other).status_code == 200
        spent = httpx.post(url, json=ASK, headers=other)
        assert spent.status_code == 429 and 86_000 < int(spent.headers["retry-after"]) <= 86_400


@pytest.mark.parametrize("to_s", [YEAR_S, -YEAR_S])
def test_timeouts_latencies_and_dates(jump: Callable[[float], None], to_s: float) -> None:
    """A stream that runs over the jump is neither cut nor counted as a year long."""
    engine = FakeEngine(text_tools(), pace_s=0.02)
    limits = {"header_timeout_s": 1.0, "idle_timeout_s": 1.0, "write_timeout_s": 1.0}
    with serving(engine, **limits) as live, httpx.Client(base_url=live.url) as client:
        began_s = time.time()
        body = {**ASK, "max_tokens": 40, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as answer:
            lines = (line for line in answer.iter_lines() if line)
            created = [next(lines)]
            jump(to_s)
            created += list(lines)
        assert created[-1] == "data: [DONE]"
        stamps = {line.partition('"created":')[2].partition(",")[0] for line in created[:-1]}
        assert len(stamps) == 1 and abs(int(stamps.pop()) - began_s) < 5
        now_s = time.time()
        late = client.post("/v1/completions", json=ASK).json()["created"]
        assert abs(late - now_s) < 5 and abs(late - began_s - to_s) < 10
        for name in ("e2e_request_latency", "time_to_first_token", "inter_token_latency"):
            line = f"vllm:{name}_seconds_sum"
            (total,) = [t for t in client.get("/metrics").text.splitlines() if t.startswith(line)]
            assert 0 <= float(total.rpartition(" ")[2]) < 20
        with live.connect() as sock:
            since_s = time.monotonic()
            jump(2 * to_s)
            assert sock.recv(100) == b"" and 0.5 < time.monotonic() - since_s < 5
