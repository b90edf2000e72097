"""Clients of a soak: each call does one random thing to a server and says how it ended.

An outcome is one word; whatever is not among those foreseen raises. Left out: TLS, proxies.
"""

import json
import random
import re
import socket
import string
import time
from collections.abc import Callable
from typing import Any

import httpx

LOST = re.compile("the worker that served this request stopped|no worker is left|outgrew the KV")
SCHEMA = {
    "type": "object",
    "properties": {"x": {"enum": [1, 2]}, "y": {"type": "boolean"}},
    "required": ["x", "y"],
    "additionalProperties": False,
}
BROKEN = (
    b'{"model": "tiny", "prompt": "\xff\xfe"}',
    b'{"model": "tiny", "prompt": "\xc3\x28", "max_tokens": 3}',
    b'{"model": "tiny", "prompt": "\\ud800"}',
    b'{"model": "tiny", "prompt": ',
    b"\x00\x01",
    b'{"model": "tiny", "prompt": "x", "max_tokens": 100000}',
    b'{"model": "tiny", "prompt": "x", "response_format": {"type": "json_schema", "json_schema": '
    b'{"name": "x", "schema": {"type": "nothing"}}}}',
)


class Client:
    """One caller with its own stream of random numbers."""

    def __init__(self, url: str, seed: int) -> None:
        self._url = url
        self._rng = random.Random(seed)
        self._http = httpx.Client(base_url=url, timeout=120)

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    def act(self) -> str:
        """Do one thing; how it ended."""
        actions: list[tuple[Callable[[], str], int]] = [
            (self._whole, 6),
            (self._streamed, 8),
            (self._leave_stream, 3),
            (self._leave_whole, 1),
            (self._malformed, 2),
            (self._embed, 1),
            (self._stall, 1),
        ]
        pick = self._rng.choices([a for a, _ in actions], [weight for _, weight in actions])[0]
        return pick()

    def _text(self) -> str:
        letters = string.ascii_lowercase + " é日😀"
        size = self._rng.choice((3, 20, 80, 200))
        shared = "A preamble that many of the prompts begin with, word for word. " * 2
        return shared * self._rng.randrange(2) + "".join(self._rng.choices(letters, k=size))

    def _question(self, **more: Any) -> tuple[str, dict[str, Any]]:
        rng = self._rng
        body: dict[str, Any] = {
            "model": "tiny",
            "max_tokens": rng.choice((1, 8, 40, 150, 300)),
            "temperature": rng.choice((0, 1)),
            "seed": rng.randrange(1000),
            "n": rng.choice((1, 1, 1, 3)),
            "ignore_eos": True,
        }
        if rng.random() < 0.15:
            body |= {"stop": ["ab", "z"], "logit_bias": {"5": 3}}
        if rng.random() < 0.1:
            shape = {"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA}}
            body |= {"response_format": shape, "ignore_eos": False}
        if rng.random() < 0.5:
            body["messages"] = [{"role": "user", "content": self._text()}]
            return "/v1/chat/completions", body | more
        body["prompt"] = self._text()
        return "/v1/completions", body | more

    def _whole(self) -> str:
        path, body = self._question()
        answer = self._http.post(path, json=body)
        if answer.status_code != 200:
            return _failure(answer.status_code, answer.text)
        found = answer.json()
        assert len(found["choices"]) == body["n"]
        assert all(choice["finish_reason"] for choice in found["choices"])
        assert found["usage"]["completion_tokens"] <= body["n"] * body["max_tokens"]
        return "finished"

    def _streamed(self) -> str:
        path, body = self._question(stream=True)
        ended: dict[int, int] = {}
        failed = ""
        with self._http.stream("POST", path, json=body) as answer:
            if answer.status_code != 200:
                return _failure(answer.status_code, answer.read().decode())
            lines = [line for line in answer.iter_lines() if line]
        assert lines[-1] == "data: [DONE]" and lines.count("data: [DONE]") == 1
        for line in lines[:-1]:
            data = json.loads(line.removeprefix("data: "))
            if "error" in data:
                failed = _failure(data["error"].get("status", 500), line)
                continue
            for choice in data["choices"]:
                if choice["finish_reason"]:
                    ended[choice["index"]] = ended.get(choice["index"], 0) + 1
        if failed:
            return failed
        assert ended == dict.fromkeys(range(body["n"]), 1)
        return "finished"

    def _leave_stream(self) -> str:
        path, body = self._question(stream=True, max_tokens=450)
        wanted = self._rng.randrange(20)
        with self._http.stream("POST", path, json=body) as answer:
            if answer.status_code != 200:
                return _failure(answer.status_code, answer.read().decode())
            for number, _ in enumerate(answer.iter_lines()):
                if number >= wanted:
                    break
        return "left"

    def _leave_whole(self) -> str:
        path, body = self._question(max_tokens=450)
        try:
            answer = self._http.post(path, json=body, timeout=self._rng.random() / 2)
        except httpx.TimeoutException:
            return "left"
        return "finished" if answer.status_code == 200 else _failure(500, answer.text)

    def _malformed(self) -> str:
        headers = {"content-type": "application/json"}
        body = self._rng.choice(BROKEN)
        answer = self._http.post("/v1/completions", content=body, headers=headers)
        assert answer.status_code in (400, 503), answer.text
        assert answer.json()["error"]["message"]
        return "refused"

    def _embed(self) -> str:
        body = {"model": "tiny", "input": [self._text(), self._text()]}
        answer = self._http.post("/v1/embeddings", json=body)
        if answer.status_code != 200:
            return _failure(answer.status_code, answer.text)
        assert len(answer.json()["data"]) == 2
        return "embedded"

    def _stall(self) -> str:
        """Ask for much, read nothing until the server hangs up."""
        asked = {"model": "tiny", "prompt": "x", "max_tokens": 900, "stream": True}
        more = {"logprobs": 5, "ignore_eos": True, "n": 2}
        body = json.dumps(asked | more).encode()
        host, _, port = self._url.removeprefix("http://").rpartition(":")
        head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json"
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(120)
            sock.connect((host, int(port)))
            sock.sendall(f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
            time.sleep(self._rng.uniform(2, 5))
        return "stalled"


def _failure(status: int, text: str) -> str:
    assert status in (500, 503), (status, text)
    assert status == 503 or LOST.search(text), text
    return "failed"
