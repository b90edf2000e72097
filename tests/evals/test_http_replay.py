"""Replays keep the times of the workload, its clients' patience, and say what came back."""

import json
import time

import numpy as np
import pytest

from plimsoll.evals.http_replay import prompt_tokens, replay_http
from plimsoll.spec.errors import ExecutionError, SpecError
from plimsoll.spec.workload import Workload
from tests.serving.http.fake_engine import FakeEngine
from tests.serving.http.live_server import KEY, api_key, serving
from tests.serving.http.small_text import text_tools


def workload(num: int = 40, *, rate: float = 100.0, **more: object) -> Workload:
    rng = np.random.default_rng(0)
    return Workload(
        **{
            "name": "w",
            "arrival_s": np.cumsum(rng.exponential(1 / rate, num)),
            "prompt_tokens": rng.integers(1, 50, num),
            "output_tokens": rng.integers(1, 20, num),
            **more,
        }
    )


def test_all_are_sent_when_due_and_come_back_whole() -> None:
    sent = workload()
    with serving(FakeEngine(text_tools(), pace_s=0.002)) as live:
        found = replay_http(sent, live.url)
        assert sorted(len(g.prompt) for g in live.engine.seen) == sorted(sent.prompt_tokens)
    assert (found.status == 0).all(), found.errors
    assert (found.output_tokens == sent.output_tokens).all()
    assert (found.late_s >= 0).all()
    assert np.quantile(found.late_s, 0.1) < 0.02  # beside other work many may be late
    assert (found.first_token_s >= found.sent_s).all()
    assert (found.finished_s >= found.first_token_s).all()


def test_clients_give_up() -> None:
    patience = np.where(np.arange(20) % 4 == 0, 0.05, np.inf)
    sent = workload(20, output_tokens=np.full(20, 30), cancel_after_s=patience)
    with serving(FakeEngine(text_tools(), pace_s=0.01)) as live:
        found = replay_http(sent, live.url)
        deadline = time.monotonic() + 20  # the server hears of a client gone at its next write
        while len(live.engine.cancels) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(live.engine.cancels) == 5
    assert (found.status == np.where(np.isfinite(patience), 1, 0)).all()


def test_a_closed_loop_keeps_so_many_in_flight() -> None:
    sent = workload(24, arrival_s=np.zeros(24), num_in_flight=3)
    with serving(FakeEngine(text_tools(), pace_s=0.002)) as live:
        found = replay_http(sent, live.url)
    order = np.argsort(found.sent_s)
    for place, row in enumerate(order):
        running = np.sum(
            (found.sent_s <= found.sent_s[row]) & (found.finished_s > found.sent_s[row])
        )
        assert running <= 3, place
    assert (found.status == 0).all()


def test_failures_are_told() -> None:
    with serving(FakeEngine(text_tools(), refuse="the prompt is odd")) as live:
        found = replay_http(workload(3), live.url)
    assert (found.status == 2).all()
    assert "the prompt is odd" in found.errors[0]
    with serving(FakeEngine(text_tools()), keys=(api_key(),)) as live:
        assert (replay_http(workload(3), live.url, key=KEY).status == 0).all()
        with pytest.raises(ExecutionError, match="check address and key"):
            replay_http(workload(3), live.url)
    with pytest.raises(ExecutionError, match="plimsoll serve"):
        replay_http(workload(3), "http://127.0.0.1:9")
    chained = workload(3, session_id=np.zeros(3, dtype=np.int64), sessions_wait=True)
    with pytest.raises(SpecError, match="sessions"):
        replay_http(chained, "http://127.0.0.1:9")


def test_equal_prefix_keys_are_equal_tokens() -> None:
    sent = workload(
        3,
        prompt_tokens=np.array([40, 40, 20]),
        prefix_keys=np.array([7, 8, 7, 9, 7]),
        prefix_start=np.array([0, 2, 4, 5]),
        prefix_block_tokens=16,
    )
    prompts = [prompt_tokens(sent, i, vocab_size=100, seed=0) for i in range(3)]
    assert [len(p) for p in prompts] == [40, 40, 20]
    assert prompts[0][:16] == prompts[1][:16] == prompts[2][:16]
    assert prompts[0][16:32] != prompts[1][16:32]
    assert json.dumps(prompts[0]) == json.dumps(prompt_tokens(sent, 0, vocab_size=100, seed=0))
