"""/v1/embeddings: pooled final hidden states, scaled to length 1 unless asked otherwise.

Source: OpenAI's API reference, by which embeddings have length 1 and base64 means float32.
"""

import array
import asyncio
import base64
import math
import sys
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from plimsoll.serving.http.errors import ApiError, context_length_exceeded, invalid, overloaded
from plimsoll.serving.http.limits import meter_of
from plimsoll.serving.http.logs import record_of
from plimsoll.serving.http.protocol import EmbeddingRequest
from plimsoll.serving.http.replies import Embedding, EmbeddingList, EmbeddingUsage
from plimsoll.serving.http.service import Service
from plimsoll.serving.http.stream import unless_gone

__all__ = ["embeddings_router"]


def embeddings_router(service: Service) -> APIRouter:
    """The endpoint, bound to a service."""
    router = APIRouter()

    @router.post("/v1/embeddings", response_model=EmbeddingList)
    async def create_embedding(body: EmbeddingRequest, request: Request) -> Response:
        """Vectors of one text or several."""
        service.check_model(body.model)
        record = record_of(request.scope)
        record.user = body.user or ""
        prompts = await service.token_lists(body.input)
        limit = service.settings.max_embedding_inputs
        if len(prompts) > limit:
            raise invalid(f"input: {len(prompts)} inputs are more than {limit}.", param="input")
        for prompt in prompts:
            _check(service, prompt)
        num_tokens = sum(map(len, prompts))
        meter_of(request.scope).reserve(num_tokens, service.clock())
        record.prompt_tokens = num_tokens
        pooling = body.pooling or service.settings.pooling
        queue: asyncio.Queue[tuple[int, Sequence[float] | str]] = asyncio.Queue()
        for index, prompt in enumerate(prompts):
            service.engine.embed(prompt, pooling, service.mailbox().sink(queue, index))
        vectors = await unless_gone(request.receive, _collect(service, queue, len(prompts)))
        as_text = body.encoding_format == "base64"
        answer = EmbeddingList(
            data=[
                Embedding(index=i, embedding=_written(v, body.normalize, as_text))
                for i, v in enumerate(vectors)
            ],
            model=body.model,
            usage=EmbeddingUsage(prompt_tokens=num_tokens, total_tokens=num_tokens),
        )
        return Response(answer.model_dump_json(), media_type="application/json")

    return router


def _check(service: Service, prompt: list[int]) -> None:
    engine = service.engine
    if not prompt:
        raise invalid("input: there are no tokens in the text.", param="input")
    if max(prompt) >= engine.vocab_size:
        raise invalid(f"input: token ids go up to {engine.vocab_size - 1}.", param="input")
    limit = min(engine.max_model_len, service.settings.max_prompt_tokens or engine.max_model_len)
    if len(prompt) > limit:
        asked = f"{len(prompt)} in the input"
        raise context_length_exceeded(len(prompt), limit, asked=asked, param="input")


async def _collect(
    service: Service, queue: "asyncio.Queue[tuple[int, Sequence[float] | str]]", count: int
) -> list[Sequence[float]]:
    vectors: dict[int, Sequence[float]] = {}
    while len(vectors) < count:
        index, vector = await queue.get()
        if isinstance(vector, str):
            if service.draining or not service.engine.healthy():
                raise overloaded(vector)
            raise ApiError(500, vector, code="engine_error")
        vectors[index] = vector
    return [vectors[index] for index in range(count)]


def _written(vector: Sequence[float], normalize: bool, as_text: bool) -> list[float] | str:
    values = [float(value) for value in vector]
    norm = math.sqrt(math.fsum(value * value for value in values))
    if normalize and norm > 0:
        values = [value / norm for value in values]
    if not as_text:
        return values
    packed = array.array("f", values)
    if sys.byteorder == "big":
        packed.byteswap()
    return base64.b64encode(packed.tobytes()).decode("ascii")
