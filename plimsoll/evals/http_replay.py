"""Send a workload to an OpenAI-compatible server at its own times, and note what came back.

Open loop: each request leaves when it is due, whatever the server does. Closed loop: clients send
their next request when the last has ended. A client that gives up closes its stream. Prompts are
token ids: equal prefix keys give equal blocks, the rest is drawn from the seed. Times are of this
process's monotonic clock. Leaves out: sessions that wait, retries, chat.
"""

import asyncio
import json
import math
import time

import httpx
import numpy as np

from plimsoll.evals.replay_outcomes import Outcomes
from plimsoll.spec.errors import ExecutionError, SpecError
from plimsoll.spec.workload import Workload

__all__ = ["prompt_tokens", "replay_http"]

_LEAD_S = 0.2
_SPIN_S = 0.002
_STATUS = {"finished": 0, "cancelled": 1, "failed": 2}


def prompt_tokens(workload: Workload, row: int, *, vocab_size: int, seed: int) -> list[int]:
    """Token ids of a row's prompt: blocks by their prefix key, then by row."""
    length, size = int(workload.prompt_tokens[row]), workload.prefix_block_tokens
    found: list[int] = []
    if size and len(workload.prefix_start):
        first, last = workload.prefix_start[row : row + 2]
        for key in workload.prefix_keys[first:last]:
            block = np.random.default_rng([seed, 1, abs(int(key))])
            found += block.integers(0, vocab_size, size).tolist()
    rest = np.random.default_rng([seed, 2, row])
    found += rest.integers(0, vocab_size, max(0, length - len(found))).tolist()
    return found[:length]


def replay_http(
    workload: Workload,
    url: str,
    *,
    model: str = "",
    key: str = "",
    vocab_size: int = 256,
    seed: int = 0,
) -> Outcomes:
    """Replay ``workload`` against the server at ``url`` (its root, without /v1).

    ``model`` "": the first that the server lists.

    Raises:
        ExecutionError: no server answers there. SpecError: the workload has sessions that wait.
    """
    if workload.sessions_wait:
        raise SpecError(
            "trace replay: sessions that wait for answers are not replayed; draw others"
        )
    return asyncio.run(_Replay(workload, url, model, key, vocab_size, seed).run())


class _Replay:
    def __init__(
        self, workload: Workload, url: str, model: str, key: str, vocab_size: int, seed: int
    ) -> None:
        num = len(workload)
        self._workload = workload
        self._url = url.rstrip("/").removesuffix("/v1")
        self._model = model
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._prompts = [
            prompt_tokens(workload, i, vocab_size=vocab_size, seed=seed) for i in range(num)
        ]
        self._due = np.array(workload.arrival_s, dtype=float)
        self._sent, self._first, self._ended = (np.full(num, math.nan) for _ in range(3))
        self._tokens = np.zeros(num, dtype=np.int64)
        self._status = np.full(num, _STATUS["failed"], dtype=np.int64)
        self._errors: dict[int, str] = {}
        self._begun_s = 0.0

    def _now(self) -> float:
        return time.monotonic() - self._begun_s

    async def run(self) -> Outcomes:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        timeout = httpx.Timeout(600.0, connect=10.0)
        async with httpx.AsyncClient(
            headers=self._headers, limits=limits, timeout=timeout, trust_env=False
        ) as client:
            self._model = self._model or await self._first_model(client)
            self._begun_s = time.monotonic() + _LEAD_S
            if self._workload.num_in_flight:
                await self._closed_loop(client)
            else:
                await asyncio.gather(*(self._when_due(client, i) for i in range(len(self._due))))
        return Outcomes(
            due_s=self._due,
            sent_s=self._sent,
            first_token_s=self._first,
            finished_s=self._ended,
            output_tokens=self._tokens,
            status=self._status,
            errors=self._errors,
        )

    async def _first_model(self, client: httpx.AsyncClient) -> str:
        try:
            answer = await client.get(f"{self._url}/v1/models")
            answer.raise_for_status()
            return str(answer.json()["data"][0]["id"])
        except (httpx.HTTPError, ValueError, KeyError, IndexError) as error:
            raise ExecutionError(
                f"trace replay: {self._url}/v1/models gives no model ({error}); start one with "
                "`plimsoll serve`, or check address and key"
            ) from None

    async def _closed_loop(self, client: httpx.AsyncClient) -> None:
        left = iter(range(len(self._due)))

        async def one_client() -> None:
            for row in left:
                self._due[row] = self._now()
                await self._send(client, row)

        await asyncio.gather(*(one_client() for _ in range(self._workload.num_in_flight)))

    async def _when_due(self, client: httpx.AsyncClient, row: int) -> None:
        wait_s = self._due[row] - self._now()
        if wait_s > _SPIN_S:
            await asyncio.sleep(wait_s - _SPIN_S)
        while self._now() < self._due[row]:
            await asyncio.sleep(0)
        await self._send(client, row)

    async def _send(self, client: httpx.AsyncClient, row: int) -> None:
        patience_s = math.inf
        if len(self._workload.cancel_after_s):
            patience_s = float(self._workload.cancel_after_s[row])
        self._sent[row] = self._now()
        try:
            async with asyncio.timeout(None if math.isinf(patience_s) else patience_s):
                await self._stream(client, row)
        except TimeoutError:
            self._status[row] = _STATUS["cancelled"]
        except httpx.HTTPError as error:
            self._errors[row] = f"{type(error).__name__}: {error}"

    async def _stream(self, client: httpx.AsyncClient, row: int) -> None:
        wanted = int(self._workload.output_tokens[row])
        body = {
            "model": self._model,
            "prompt": self._prompts[row],
            "max_tokens": wanted,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        async with client.stream("POST", f"{self._url}/v1/completions", json=body) as answer:
            if answer.status_code != httpx.codes.OK:
                text = (await answer.aread()).decode(errors="replace")
                self._errors[row] = f"{answer.status_code}: {text[:200]}"
                return
            finished = False
            async for line in answer.aiter_lines():
                if not line.startswith("data:") or line.endswith("[DONE]"):
                    continue
                chunk = json.loads(line[5:])
                if "error" in chunk:
                    self._errors[row] = str(chunk["error"])[:200]
                    return
                if chunk.get("usage"):
                    self._tokens[row] = chunk["usage"]["completion_tokens"]
                if chunk["choices"]:
                    if math.isnan(self._first[row]):
                        self._first[row] = self._now()
                    finished = finished or chunk["choices"][0].get("finish_reason") is not None
        if finished:
            self._ended[row] = self._now()
            self._status[row] = _STATUS["finished"]
        else:
            self._errors[row] = "the stream ended without a reason"
