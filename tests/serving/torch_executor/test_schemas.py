"""Schemas are compiled beside everything else, in bounded time, and refused in words."""

import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from tokenizers import Tokenizer

from plimsoll.models.loading import load
from plimsoll.serving.executors.torch.kv_store import KvStore
from plimsoll.serving.executors.torch.messages import Prepare, Register, StepWork, Work
from plimsoll.serving.executors.torch.runner import Runner
from plimsoll.serving.executors.torch.sampling.grammar import Constraint, Grammars
from plimsoll.serving.executors.torch.text_engine import TextEngine
from plimsoll.serving.generation import Delta, Generation, SamplingParams
from plimsoll.serving.http.tokens import TextTools
from plimsoll.serving.policies import ChunkedPrefillPolicy
from tests.serving.http.live_server import serving_at
from tests.serving.torch_executor.tiny_llama import make_folder, open_run, spec
from tests.serving.torch_executor.tiny_text import END, text_engine, write_tokenizer

SLOW: dict[str, Any] = {"title": "slow", "enum": [1, 2]}
WIDE = {"type": "object", "properties": {f"p{i}": {} for i in range(9000)}}
DEEP = json.loads('{"items":' * 300 + "{}" + "}" * 300)


class Held(Grammars):
    """Takes its time over every schema called slow, until released."""

    released: threading.Event

    def compile(self, schema_json: str, tokens: Sequence[int] = ()) -> Constraint:
        if "slow" in schema_json:
            assert self.released.wait(60)
        return super().compile(schema_json, tokens)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_folder(tmp_path_factory.mktemp("schemas"))
    write_tokenizer(made)
    return made


@pytest.fixture
def held(folder: Path) -> Iterator[tuple[TextEngine, threading.Event]]:
    """An engine whose slow schemas wait for the event."""
    released = threading.Event()
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    policy = ChunkedPrefillPolicy(token_budget=128)
    run = open_run(folder, [spec(policy, 300)], eos_ids=(END,), tokenizer=text)

    def grammars(tokenizer: Tokenizer, eos_ids: tuple[int, ...]) -> Grammars:
        made = Held(tokenizer, eos_ids)
        made.released = released
        return made

    engine = text_engine(run, folder, grammars)
    yield engine, released
    released.set()
    engine.close()


def asked(schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    shape = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 40}
    return {**chat, "response_format": shape, **more}


def test_a_slow_schema_delays_no_other_stream(
    held: tuple[TextEngine, threading.Event], folder: Path
) -> None:
    engine, released = held
    long = {"model": "tiny", "prompt": "a", "max_tokens": 900, "stream": True, "ignore_eos": True}
    with serving_at(engine, TextTools.read(folder)) as url, ThreadPoolExecutor(2) as pool:
        with httpx.stream("POST", f"{url}/v1/completions", json=long, timeout=5) as answer:
            lines = (line for line in answer.iter_lines() if line.startswith("data: {"))
            next(lines)
            waiting = pool.submit(
                httpx.post, f"{url}/v1/chat/completions", json=asked(SLOW), timeout=60
            )
            until_s = time.monotonic() + 10
            while engine.stats().waiting == 0:
                assert time.monotonic() < until_s
                time.sleep(0.005)
            for _ in range(200):  # each must come within the five seconds
                next(lines)
            assert httpx.get(f"{url}/health", timeout=5).status_code == 200
            assert not waiting.done()
            released.set()
            given = waiting.result()
        assert given.status_code == 200, given.text
        assert json.loads(given.json()["choices"][0]["message"]["content"]) in (1, 2)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "foo"}, "Invalid type"),
        ({"enum": []}, "Unsatisfiable"),
        (WIDE, "json_schema: found 115,924 characters, the most is 65,536"),
        (DEEP, "json_schema: cannot be read: recursion limit"),
    ],
)
def test_a_bad_schema_is_a_400(
    held: tuple[TextEngine, threading.Event],
    folder: Path,
    schema: dict[str, Any],
    message: str,
    stream: bool,
) -> None:
    engine, _ = held
    with serving_at(engine, TextTools.read(folder), first_delta_wait_s=10.0) as url:
        body = asked(schema, stream=stream, n=2)
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=20)
        assert answer.status_code == 400, answer.text
        assert re.search(message, answer.json()["error"]["message"])
        assert "\n" not in answer.json()["error"]["message"]


def generation(schema: dict[str, Any]) -> Generation:
    params = SamplingParams(max_tokens=30, json_schema=json.dumps(schema))
    return Generation(prompt=[1, 2, 3], params=params)


def test_leaving_ends_and_shutting_down_while_a_schema_is_compiled(
    held: tuple[TextEngine, threading.Event],
) -> None:
    engine, released = held
    got: list[list[Delta]] = [[] for _ in range(4)]
    tickets = [engine.submit(generation(SLOW), got[i].append) for i in range(3)]
    assert len(set(tickets)) == 3
    engine.cancel(tickets[1])
    engine.cancel(tickets[1])
    assert [delta.finish for delta in got[1]] == ["cancelled"]
    assert not engine.drain(0.05)
    engine.submit(generation({}), got[3].append)
    assert [delta.finish for delta in got[3]] == ["rejected"]
    assert engine.stats().waiting == 2
    released.set()
    assert engine.drain(30)
    for one in (got[0], got[2]):
        assert one[-1].finish in ("stop", "length")
        assert sum(delta.finish is not None for delta in one) == 1
    assert engine.stats().used_blocks == engine.stats().waiting == 0
    engine.close()
    engine.cancel(tickets[0])
    assert len(got[1]) == 1


def test_closing_ends_what_waits(held: tuple[TextEngine, threading.Event]) -> None:
    engine, released = held
    got: list[Delta] = []
    engine.submit(generation(SLOW), got.append)
    engine.close()
    assert [(delta.finish, delta.error) for delta in got] == [
        ("error", "the server is shutting down")
    ]
    engine.submit(generation({}), got.append)
    assert got[-1].finish == "rejected"
    released.set()


def test_a_worker_steps_while_it_compiles(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    grammars = Held(tokenizer, (END,))
    grammars.released = threading.Event()
    model = load(folder)
    store = KvStore(
        model.kv_shapes,
        num_blocks=4,
        block_tokens=16,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    runner = Runner(model, store, grammars=grammars, eos_ids=(END,))
    runner.prepare(Prepare(json.dumps(SLOW)))
    begin = Register(0, [1, 2], [], SamplingParams(temperature=0.0))
    done = runner.step(StepWork(1, 0, [begin], [Work(0, [1, 2], 0, [0], 0)]))
    assert len(done.tokens) == 1 and not grammars.knows(json.dumps(SLOW))
    grammars.released.set()
    until_s = time.monotonic() + 20
    while not grammars.knows(json.dumps(SLOW)):
        assert time.monotonic() < until_s
        time.sleep(0.002)
