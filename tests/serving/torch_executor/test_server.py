"""The whole server in a process of its own, asked by the official client."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.serving.torch_executor.tiny_llama import make_folder
from tests.serving.torch_executor.tiny_text import write_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_folder(tmp_path_factory.mktemp("served"))
    write_tokenizer(made)
    return made


@pytest.fixture
def server(folder: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    command = [sys.executable, "-m", "plimsoll.cli.main", "serve", str(folder), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--kv-memory", "8MiB", "--replicas", "2"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    lines = process.stderr
    address = ""
    for line in lines:
        found = re.search(r"on (http://\S+) \(chat", line)
        if found:
            address = found.group(1)
            break
    assert address, "the server did not start"
    reader = threading.Thread(target=lambda: [None for _ in lines], daemon=True)
    reader.start()
    try:
        yield address, process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)
        reader.join(30)
        lines.close()


def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def until(holds: object, seconds: float = 30.0) -> None:
    """Wait until ``holds()``."""
    end = time.monotonic() + seconds
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.1)


def gauge(address: str, name: str) -> float:
    text = httpx.get(f"{address}/metrics").text
    found = re.search(rf"^vllm:{name}{{[^}}]*}} (\S+)$", text, re.M)
    assert found is not None
    return float(found.group(1))


def workers(process: "subprocess.Popen[str]") -> list[int]:
    """Worker processes of the server."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    found = [pid for task in tasks for pid in task.read_text().split()]
    lines = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in found}
    return [pid for pid, line in lines.items() if b"spawn_main" in line]


def test_official_client(server: tuple[str, "subprocess.Popen[str]"], folder: Path) -> None:
    address, process = server
    with client(address) as api:
        assert api.models.list().data[0].id == folder.name
        asked = {"model": folder.name, "prompt": "The ship", "max_tokens": 12, "temperature": 0.0}
        first = api.completions.create(**asked)  # type: ignore[call-overload]
        again = api.completions.create(**asked)  # type: ignore[call-overload]
        assert first.choices[0].text == again.choices[0].text
        assert first.usage.completion_tokens <= 12 and first.usage.prompt_tokens == 8
        parts = list(api.completions.create(**asked, stream=True))  # type: ignore[call-overload]
        assert "".join(p.choices[0].text for p in parts if p.choices) == first.choices[0].text
        chat = api.chat.completions.create(
            model=folder.name,
            messages=[{"role": "user", "content": "a point"}],
            max_tokens=100,
            seed=3,
            response_format={
                "type": "json_schema",
                "json_schema": {
                    "name": "point",
                    "schema": {
                        "type": "object",
                        "properties": {"x": {"enum": [1, 2]}, "y": {"type": "boolean"}},
                        "required": ["x", "y"],
                        "additionalProperties": False,
                    },
                },
            },
        )
        found = json.loads(chat.choices[0].message.content or "")
        assert found["x"] in (1, 2) and isinstance(found["y"], bool)
        logprobs = api.completions.create(**asked, logprobs=2)  # type: ignore[call-overload]
        assert len(logprobs.choices[0].logprobs.token_logprobs) == first.usage.completion_tokens
        more = asked | {"n": 2, "temperature": 1.0, "seed": 5}
        two = api.completions.create(**more)  # type: ignore[call-overload]
        assert len(two.choices) == 2
        vectors = api.embeddings.create(model=folder.name, input=["one", "two"]).data
        assert len(vectors[0].embedding) == 64
        with pytest.raises(openai.BadRequestError, match="maximum context"):
            api.completions.create(model=folder.name, prompt="x" * 2000)
        with pytest.raises(openai.NotFoundError):
            api.completions.create(model="another", prompt="x")
    assert "Plimsoll" in httpx.get(address).text
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_worker_killed_and_client_gone(server: tuple[str, "subprocess.Popen[str]"]) -> None:
    address, process = server
    long = {"model": "", "prompt": "a", "max_tokens": 900, "extra_body": {"ignore_eos": True}}
    with client(address) as api:
        long["model"] = api.models.list().data[0].id
        stream = api.completions.create(**long, stream=True)  # type: ignore[call-overload]
        next(iter(stream))
        assert gauge(address, "num_requests_running") == 1
        stream.close()
        until(lambda: gauge(address, "num_requests_running") == 0)
        until(lambda: gauge(address, "kv_cache_usage_perc") == 0)

        outcomes: list[str] = []

        def ask() -> None:
            try:
                api.completions.create(**long)  # type: ignore[call-overload]
                outcomes.append("finished")
            except openai.InternalServerError as error:
                outcomes.append(str(error))

        threads = [threading.Thread(target=ask) for _ in range(2)]  # one on each replica
        for thread in threads:
            thread.start()
        until(lambda: gauge(address, "num_requests_running") == 2)
        os.kill(workers(process)[0], signal.SIGKILL)
        for thread in threads:
            thread.join(60)
        assert sorted(outcomes)[1] == "finished", outcomes
        assert "the worker that served this request stopped" in sorted(outcomes)[0]
        assert gauge(address, "kv_cache_usage_perc") == 0
        until(lambda: len(workers(process)) == 2)
        assert httpx.get(f"{address}/health").status_code == 200
        short = long | {"max_tokens": 8, "temperature": 0}
        answers = [api.completions.create(**short) for _ in range(4)]  # type: ignore[call-overload]
        assert len({answer.choices[0].text for answer in answers}) == 1
