"""/v1/chat/completions: messages through the model's template, tools, JSON, whole or streamed.

Developer messages go to templates as system messages, which is what templates know. Arguments
of past tool calls go to them as objects. Source: OpenAI's API reference.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response

from plimsoll.serving.generation import Delta
from plimsoll.serving.http.completions import STREAMED
from plimsoll.serving.http.deltas import Batch
from plimsoll.serving.http.errors import invalid
from plimsoll.serving.http.logprobs import chat_logprobs
from plimsoll.serving.http.logs import record_of
from plimsoll.serving.http.protocol import ChatMessage, ChatRequest
from plimsoll.serving.http.replies import (
    ChatChoice,
    ChatCompletion,
    ChatLogprobs,
    Reply,
    ToolCall,
    Usage,
    head,
)
from plimsoll.serving.http.sampling import check_prompt, choices, sampling_params
from plimsoll.serving.http.service import Service
from plimsoll.serving.http.stream import EventStream, frame, unless_gone
from plimsoll.serving.http.tools import (
    ForcedCall,
    ToolText,
    forced_call,
    new_call,
    parse_tool_calls,
)

__all__ = ["chat_router", "template_messages"]


def chat_router(service: Service) -> APIRouter:
    """The endpoint, bound to a service."""
    router = APIRouter()

    @router.post("/v1/chat/completions", response_model=ChatCompletion, responses=STREAMED)
    async def create_chat_completion(body: ChatRequest, request: Request) -> Response:
        """Answer a chat."""
        service.check_model(body.model)
        record_of(request.scope).user = body.user or ""
        n = body.n or 1
        service.check_sequences(1, n)
        forced = forced_call(body)
        if forced is not None and body.response_format is not None:
            raise invalid(
                "response_format: a forced tool call has a format already.",
                param="response_format",
            )
        prompt = await asyncio.to_thread(_prompt, service, body)
        max_tokens = check_prompt(
            prompt,
            max_tokens=body.max_completion_tokens or body.max_tokens,
            max_prompt_tokens=service.settings.max_prompt_tokens,
            engine=service.engine,
            param="messages",
        )
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        params = sampling_params(
            body, max_tokens=max_tokens, logprobs=logprobs, engine=service.engine
        )
        if forced is not None:
            params = replace(params, json_schema=forced.json_schema)
        job = _Job(service, body, len(prompt), forced)
        batch = service.start(request, [prompt], choices(params, n))
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


def _prompt(service: Service, body: ChatRequest) -> list[int]:
    """Token ids of the rendered chat; without tools when none may be called."""
    tools = None if body.tool_choice == "none" else body.tools
    return service.text.chat_prompt(
        template_messages(body.messages),
        tools=[tool.model_dump(exclude_none=True) for tool in tools] if tools else None,
        add_generation_prompt=body.add_generation_prompt is not False,
        variables=body.chat_template_kwargs,
    )


def template_messages(messages: list[ChatMessage]) -> list[dict[str, Any]]:
    """Messages as templates expect them: text joined, arguments as objects.

    Raises:
        ApiError: 400 when past arguments are not a JSON object.
    """
    given = []
    for message in messages:
        plain: dict[str, Any] = {"role": message.role, "content": message.content or ""}
        if message.role == "developer":
            plain["role"] = "system"
        if isinstance(message.content, list):
            plain["content"] = "".join(part.text for part in message.content)
        for field in ("name", "tool_call_id", "reasoning_content"):
            value = getattr(message, field)
            if value is not None:
                plain[field] = value
        if message.tool_calls:
            plain["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {
                        "name": call.function.name,
                        "arguments": _arguments(call.function.arguments),
                    },
                }
                for call in message.tool_calls
            ]
        given.append(plain)
    return given


def _arguments(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise invalid("messages: arguments of a tool call are not a JSON object.", param="messages")
    return value


class _Job:
    """One request's way from deltas to its answer."""

    def __init__(
        self, service: Service, body: ChatRequest, num_prompt_tokens: int, forced: ForcedCall | None
    ) -> None:
        self._text = service.text
        self._body = body
        self._num_prompt_tokens = num_prompt_tokens
        self._forced = forced
        self._n = body.n or 1
        tools = None if body.tool_choice == "none" else body.tools
        self._names = {tool.function.name for tool in tools or ()}

    def _usage(self, batch: Batch) -> Usage:
        cached = batch.cached_tokens(every=self._n)
        return Usage.of(self._num_prompt_tokens, batch.output_tokens, cached)

    def _allowed(self, calls: list[ToolCall]) -> list[ToolCall]:
        return calls[:1] if self._body.parallel_tool_calls is False else calls

    async def whole(self, batch: Batch) -> ChatCompletion:
        """The answer once every choice has ended."""
        deltas: list[list[Delta]] = [[] for _ in range(self._n)]
        async for index, delta in batch:
            deltas[index].append(delta)
        shared = head("chatcmpl", "chat.completion", self._body.model)
        given = [self._choice(index, parts) for index, parts in enumerate(deltas)]
        return ChatCompletion(**shared, choices=given, usage=self._usage(batch))

    def _choice(self, index: int, parts: list[Delta]) -> ChatChoice:
        content: str | None = "".join(delta.text for delta in parts)
        calls: list[ToolCall] = []
        if self._forced is not None:
            content, calls = self._forced.read(content or "")
        elif self._names:
            content, calls = parse_tool_calls(content or "", self._names)
            calls = self._allowed(calls)
        logprobs = None
        if self._body.logprobs:
            entries = [e for delta in parts for e in chat_logprobs(delta, self._text).content]
            logprobs = ChatLogprobs(content=entries)
        cut = parts[-1].finish == "length"
        return ChatChoice(
            index=index,
            message=Reply(content=content, tool_calls=calls or None),
            logprobs=logprobs,
            finish_reason="length" if cut else "tool_calls" if calls else "stop",
        )

    async def frames(self, batch: Batch) -> AsyncIterator[bytes]:
        """Chunks as tokens come: the role first, text, tool calls, the reason."""
        options = self._body.stream_options
        shared = head("chatcmpl", "chat.completion.chunk", self._body.model)
        last = dict(shared)
        if options is not None and options.include_usage:
            shared["usage"] = None
        writers = [_ChoiceWriter(self, index) for index in range(self._n)]
        for writer in writers:
            yield frame({**shared, "choices": [writer.opening()]})
        async for index, delta in batch:
            for choice in writers[index].chunks(delta):
                chunk = {**shared, "choices": [choice]}
                if options is not None and options.continuous_usage_stats:
                    chunk["usage"] = self._usage(batch).model_dump()
                yield frame(chunk)
        if options is not None and options.include_usage:
            yield frame({**last, "choices": [], "usage": self._usage(batch).model_dump()})


class _ChoiceWriter:
    """Chunks of one choice."""

    def __init__(self, job: _Job, index: int) -> None:
        self._job = job
        self._index = index
        self._forced = job._forced
        self._filter = ToolText(job._names) if job._names and self._forced is None else None
        self._call = None
        if self._forced is not None and self._forced.only is not None:
            self._call = new_call(self._forced.only, "")
        self._text = ""
        self._called = False

    def _chunk(self, delta: dict[str, Any], logprobs: Any = None, finish: str | None = None) -> Any:
        return {
            "index": self._index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish,
        }

    def opening(self) -> Any:
        """The role, and the name of the only function that can be called."""
        delta: dict[str, Any] = {"role": "assistant", "content": ""}
        if self._call is not None:
            self._called = True
            delta |= {"content": None, "tool_calls": [{"index": 0, **self._call.model_dump()}]}
        return self._chunk(delta)

    def chunks(self, delta: Delta) -> list[Any]:
        """What a delta adds."""
        given: dict[str, Any] = {}
        calls: list[ToolCall] = []
        if self._call is not None:
            if delta.text:
                given["tool_calls"] = [{"index": 0, "function": {"arguments": delta.text}}]
        elif self._forced is not None:
            self._text += delta.text
            if delta.finish is not None:
                content, calls = self._forced.read(self._text)
                given |= {"content": content} if content else {}
        elif self._filter is not None:
            shown = self._filter.feed(delta.text)
            if delta.finish is not None:
                rest, calls = self._filter.finish()
                shown += rest
            given |= {"content": shown} if shown else {}
        elif delta.text:
            given["content"] = delta.text
        if calls:
            self._called = True
            calls = self._job._allowed(calls)
            given["tool_calls"] = [{"index": i, **c.model_dump()} for i, c in enumerate(calls)]
        logprobs = None
        if self._job._body.logprobs and delta.logprobs:
            logprobs = chat_logprobs(delta, self._job._text).model_dump()
        out = [self._chunk(given, logprobs)] if given or logprobs else []
        if delta.finish is not None:
            ended = "tool_calls" if self._called else "stop"
            finish = "length" if delta.finish == "length" else ended
            out.append(self._chunk({}, None, finish))
        return out
