"""/v1/completions: prompts as text or tokens, one or many, whole or streamed.

Choices are numbered prompt by prompt, ``n`` each. Source: OpenAI's API reference.
"""

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response

from plimsoll.serving.generation import Delta
from plimsoll.serving.http.deltas import Batch
from plimsoll.serving.http.logprobs import completion_logprobs
from plimsoll.serving.http.logs import record_of
from plimsoll.serving.http.protocol import CompletionRequest
from plimsoll.serving.http.replies import Completion, CompletionChoice, Usage, head
from plimsoll.serving.http.sampling import check_prompt, choices, sampling_params
from plimsoll.serving.http.service import Service
from plimsoll.serving.http.stream import EventStream, frame, unless_gone

__all__ = ["completions_router"]

DEFAULT_MAX_TOKENS = 16
_EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": _EVENT}}}
}


def completions_router(service: Service) -> APIRouter:
    """The endpoint, bound to a service."""
    router = APIRouter()

    @router.post("/v1/completions", response_model=Completion, responses=STREAMED)
    async def create_completion(body: CompletionRequest, request: Request) -> Response:
        """Continue one prompt or several."""
        service.check_model(body.model)
        record_of(request.scope).user = body.user or ""
        prompts = await service.token_lists(body.prompt)
        n = body.n or 1
        service.check_sequences(len(prompts), n)
        params = []
        for prompt in prompts:
            max_tokens = check_prompt(
                prompt,
                max_tokens=body.max_tokens or DEFAULT_MAX_TOKENS,
                max_prompt_tokens=service.settings.max_prompt_tokens,
                engine=service.engine,
                param="prompt",
            )
            one = sampling_params(
                body, max_tokens=max_tokens, logprobs=body.logprobs, engine=service.engine
            )
            params += choices(one, n)
        job = _Job(service, body, prompts)
        batch = service.start(request, prompts, params)
        try:
            if body.stream:
                wait_s = service.settings.first_delta_wait_s
                await unless_gone(request.receive, batch.head(wait_s))
                return EventStream(job.frames(batch), batch.close)
            answer = await unless_gone(request.receive, job.whole(batch))
        except BaseException:
            batch.close()
            raise
        batch.close()
        return Response(answer.model_dump_json(), media_type="application/json")

    return router


class _Job:
    """One request's way from deltas to its answer."""

    def __init__(self, service: Service, body: CompletionRequest, prompts: list[list[int]]) -> None:
        self._text = service.text
        self._body = body
        self._prompts = prompts
        self._n = body.n or 1
        self._head = head("cmpl", "text_completion", body.model)
        self._offsets = [len(echo) for echo in self._echoes()]

    def _echoes(self) -> list[str]:
        """What goes before each choice's text."""
        if not self._body.echo:
            return [""] * (len(self._prompts) * self._n)
        given = self._body.prompt
        if isinstance(given, str):
            texts = [given]
        else:
            texts = [one for one in given if isinstance(one, str)]
            texts = texts or [self._text.decode(prompt) for prompt in self._prompts]
        return [text for text in texts for _ in range(self._n)]

    def _usage(self, batch: Batch) -> Usage:
        num_prompt_tokens = sum(map(len, self._prompts))
        cached = batch.cached_tokens(every=self._n)
        return Usage.of(num_prompt_tokens, batch.output_tokens, cached)

    async def whole(self, batch: Batch) -> Completion:
        """The answer once every choice has ended."""
        deltas: list[list[Delta]] = [[] for _ in self._offsets]
        async for index, delta in batch:
            deltas[index].append(delta)
        wanted = self._body.logprobs is not None
        given = [
            CompletionChoice(
                index=index,
                text=echo + "".join(delta.text for delta in parts),
                logprobs=completion_logprobs(parts, self._text) if wanted else None,
                finish_reason="length" if parts[-1].finish == "length" else "stop",
            )
            for index, (echo, parts) in enumerate(zip(self._echoes(), deltas, strict=True))
        ]
        return Completion(**self._head, choices=given, usage=self._usage(batch))

    async def frames(self, batch: Batch) -> AsyncIterator[bytes]:
        """Chunks as tokens come."""
        options = self._body.stream_options
        shared = dict(self._head)
        if options is not None and options.include_usage:
            shared["usage"] = None
        if self._body.echo:
            for index, echo in enumerate(self._echoes()):
                choice = {"index": index, "text": echo, "logprobs": None, "finish_reason": None}
                yield frame({**shared, "choices": [choice]})
        async for index, delta in batch:
            if not delta.text and not delta.logprobs and delta.finish is None:
                continue
            logprobs = None
            if self._body.logprobs is not None:
                offset = self._offsets[index]
                logprobs = completion_logprobs([delta], self._text, offset=offset).model_dump()
                self._offsets[index] += sum(map(len, logprobs["tokens"]))
            choice = {
                "index": index,
                "text": delta.text,
                "logprobs": logprobs,
                "finish_reason": delta.finish,
            }
            chunk = {**shared, "choices": [choice]}
            if options is not None and options.continuous_usage_stats:
                chunk["usage"] = self._usage(batch).model_dump()
            yield frame(chunk)
        if options is not None and options.include_usage:
            usage = self._usage(batch).model_dump()
            yield frame({**self._head, "choices": [], "usage": usage})
