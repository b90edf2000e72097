"""Numbers and log lines: names, sums that must agree, and what must never be in them."""

import itertools
import json
import logging
import re
import time
from collections.abc import Iterator

import httpx
import pytest

from plimsoll.serving.http.logs import JsonLines
from plimsoll.serving.http.metrics import Histogram, ServerMetrics
from tests.serving.http.fake_engine import FakeEngine
from tests.serving.http.live_server import KEY, Live, api_key, serving
from tests.serving.http.small_text import text_tools

ASK = {"model": "fake/model-1", "prompt": "a secret prompt", "max_tokens": 5, "seed": 0}
SAMPLE = re.compile(r'([a-z0-9:_]+)(?:\{((?:[a-z_]+="(?:[^"\\]|\\.)*",?)*)\})? (\S+)')
HEADERS = {"authorization": f"Bearer {KEY}"}


@pytest.fixture
def live() -> Iterator[Live]:
    with serving(FakeEngine(text_tools(), pace_s=0.001), keys=(api_key(),)) as server:
        yield server


def scrape(live: Live) -> dict[str, float]:
    answer = httpx.get(live.url + "/metrics", headers=HEADERS)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = {}
    for line in answer.text.splitlines():
        if not line.startswith("#"):
            match = SAMPLE.fullmatch(line)
            assert match, line
            labels = match[2].replace('model_name="fake/model-1"', "").strip(",")
            found[f"{match[1]}{{{labels}}}"] = float(match[3])
    return found


def request_records(
    live: Live, caplog: pytest.LogCaptureFixture, count: int
) -> list[logging.LogRecord]:
    """Records of requests, which are written just after their answers."""

    def found() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.getMessage() == "request"]

    assert live.engine.wait_for(lambda: len(found()) == count)
    return found()


def test_metrics_add_up(live: Live) -> None:
    for n in (1, 2):
        body = {**ASK, "n": n}
        httpx.post(live.url + "/v1/completions", json=body, headers=HEADERS)
    with httpx.stream(
        "POST",
        live.url + "/v1/completions",
        json={**ASK, "max_tokens": 1000, "stream": True},
        headers=HEADERS,
    ) as answer:
        next(answer.iter_lines())
    assert live.engine.wait_for(lambda: live.engine.stats().running == 0)
    got = scrape(live)
    assert got['vllm:request_success_total{finished_reason="length"}'] == 3
    assert got['vllm:request_success_total{finished_reason="abort"}'] == 1
    assert got["vllm:prompt_tokens_total{}"] == 4 * len(ASK["prompt"])
    assert got["vllm:generation_tokens_total{}"] >= 16
    assert got["vllm:e2e_request_latency_seconds_count{}"] == 3
    assert got["vllm:request_time_per_output_token_seconds_count{}"] == 3
    assert got["vllm:time_to_first_token_seconds_count{}"] == 4
    assert got["vllm:inter_token_latency_seconds_count{}"] >= 3 * 4
    assert got["vllm:request_generation_tokens_sum{}"] == 15
    assert got["vllm:num_requests_running{}"] == got["vllm:num_requests_waiting{}"] == 0
    assert got["vllm:kv_cache_usage_perc{}"] == 0
    for name in ("num_preemptions", "prefix_cache_queries", "prefix_cache_hits"):
        assert f"vllm:{name}_total{{}}" in got
    buckets = [v for k, v in got.items() if k.startswith("vllm:time_to_first_token_seconds_bucket")]
    assert buckets == sorted(buckets) and buckets[-1] == 4
    ttft = got["vllm:time_to_first_token_seconds_sum{}"]
    assert 0 < ttft < got["vllm:e2e_request_latency_seconds_sum{}"] + ttft


def test_a_clock_that_jumps_changes_no_number(
    live: Live, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Times of day go into answers and log lines; durations come from the monotonic clock."""
    now_s = itertools.count(2e9, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(now_s)))
    with caplog.at_level(logging.INFO, logger="plimsoll.serving.http"):
        answer = httpx.post(live.url + "/v1/completions", json=ASK, headers=HEADERS)
        (record,) = request_records(live, caplog, 1)
    assert answer.status_code == 200
    assert 0 < record.fields["ttft_s"] <= record.fields["e2e_s"] < 60


def test_every_sample_has_a_type(live: Live) -> None:
    httpx.get(live.url + "/health")
    text = httpx.get(live.url + "/metrics", headers=HEADERS).text
    typed = set(re.findall(r"# TYPE (\S+) (?:counter|gauge|histogram)\n", text))
    named = {re.match(r"[a-z0-9:_]+", line)[0] for line in text.splitlines() if line[0] != "#"}
    assert {re.sub("_(bucket|sum|count)$", "", n) if n not in typed else n for n in named} == typed


def test_histogram_bounds_are_inclusive() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (1.0, 1.5, 2.0, 3.0):
        histogram.observe(value)
    assert [line.split()[-1] for line in histogram.lines("x", 'a="b"')] == [
        *("1", "3", "4"),
        *("7.5", "4"),
    ]


def test_model_names_are_escaped() -> None:
    text = ServerMetrics('a"b\\c\nd').text(FakeEngine(text_tools()).stats())
    assert r'{model_name="a\"b\\c\nd"}' in text


def test_log_line_of_a_request(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="plimsoll.serving.http"):
        body = {**ASK, "user": "u-1"}
        headers = {**HEADERS, "x-request-id": "r-1"}
        httpx.post(live.url + "/v1/completions?api_key=x", json=body, headers=headers)
        httpx.post(live.url + "/v1/completions", json={}, headers=HEADERS)
        records = request_records(live, caplog, 2)
    texts = [JsonLines().format(record) for record in records]
    line, refused = (json.loads(text) for text in texts)
    assert (line["request_id"], line["key"], line["user"]) == ("r-1", "tester", "u-1")
    assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/completions", 200)
    assert (line["prompt_tokens"], line["output_tokens"]) == (len(ASK["prompt"]), 5)
    assert 0 < line["ttft_s"] <= line["e2e_s"]
    assert refused["status"] == 400 and refused["error"]
    assert KEY not in "".join(texts) and "secret" not in "".join(texts)


def test_log_lines_cannot_be_forged() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, 'a\n{"b": %s}', ("\n1",), None)
    record.fields = {"path": "/x\r\n{}"}
    text = JsonLines().format(record)
    assert "\n" not in text and json.loads(text)["path"] == "/x\r\n{}"


def test_traceback_goes_to_the_log() -> None:
    try:
        raise ValueError("inner")
    except ValueError:
        record = logging.getLogger("x").makeRecord(
            "x", logging.ERROR, "", 0, "failed", (), sys_exc_info()
        )
    assert "ValueError: inner" in json.loads(JsonLines().format(record))["traceback"]


def sys_exc_info() -> object:
    import sys

    return sys.exc_info()
