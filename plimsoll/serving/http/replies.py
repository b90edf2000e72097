"""Answers of the OpenAI API: models of whole bodies, plain functions for a stream's chunks.

Source: OpenAI's API reference.
"""

import time
import uuid
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

__all__ = [
    "ChatChoice",
    "ChatCompletion",
    "ChatLogprobs",
    "Completion",
    "CompletionChoice",
    "CompletionLogprobs",
    "Embedding",
    "EmbeddingList",
    "FunctionCall",
    "Health",
    "ModelCard",
    "ModelList",
    "Reply",
    "TokenLogprob",
    "ToolCall",
    "TopLogprob",
    "Usage",
    "head",
]


class Answer(BaseModel):
    """Nothing but the declared fields."""

    model_config = ConfigDict(extra="forbid")


class PromptTokensDetails(Answer):
    """``cached_tokens`` were taken from the prefix cache."""

    cached_tokens: int


class Usage(Answer):
    """Tokens of all prompts and all choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> "Usage":
        """With the sum filled in."""
        return cls(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=cached_tokens),
        )


class CompletionLogprobs(Answer):
    """Parallel lists over tokens."""

    text_offset: list[int]
    token_logprobs: list[float]
    tokens: list[str]
    top_logprobs: list[dict[str, float]]


class CompletionChoice(Answer):
    """One completion of one prompt."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(Answer):
    """Answer of /v1/completions."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class TopLogprob(Answer):
    """An alternative token."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A drawn token and its alternatives."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer):
    """One entry a token."""

    content: list[TokenLogprob]


class FunctionCall(Answer):
    """``arguments`` is JSON text, as the model wrote it."""

    name: str
    arguments: str


class ToolCall(Answer):
    """A call the client is asked to make."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class Reply(Answer):
    """The assistant's message."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(Answer):
    """One answer to a chat."""

    index: int
    message: Reply
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(Answer):
    """Answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Embedding(Answer):
    """One vector; a string is base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Answer):
    """Tokens of all inputs."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Answer):
    """Answer of /v1/embeddings."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class ModelCard(Answer):
    """A model that is served; ``max_model_len`` is vLLM's field."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    max_model_len: int


class ModelList(Answer):
    """Answer of /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(Answer):
    """Whether requests are taken."""

    status: Literal["ok", "unavailable"]


def head(prefix: str, kind: str, model: str) -> dict[str, Any]:
    """The fields that all chunks of one answer share."""
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }
