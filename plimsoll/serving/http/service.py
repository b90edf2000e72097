"""What the endpoints share: the engine, the tokenizer, the settings, and running a batch.

One object an application. Encoding runs in worker threads, so that one long prompt does not hold
up the streams of the others.
"""

import asyncio
from collections.abc import Callable, Sequence

from starlette.requests import Request

from plimsoll.serving.generation import Generation, LiveEngine, SamplingParams
from plimsoll.serving.http.deltas import Batch, Mailbox
from plimsoll.serving.http.errors import ApiError, invalid, overloaded
from plimsoll.serving.http.limits import meter_of
from plimsoll.serving.http.logs import record_of
from plimsoll.serving.http.metrics import ServerMetrics
from plimsoll.serving.http.settings import HttpSettings
from plimsoll.serving.http.tokens import TextTools

__all__ = ["Service"]

SHORT_TEXT = 2_000


class Service:
    """The state of an application."""

    def __init__(
        self,
        *,
        engine: LiveEngine,
        text: TextTools,
        settings: HttpSettings,
        metrics: ServerMetrics,
        clock: Callable[[], float],
    ) -> None:
        self.engine = engine
        self.text = text
        self.settings = settings
        self.metrics = metrics
        self.clock = clock
        self.draining = False
        self._mailbox: Mailbox | None = None

    def check_model(self, name: str) -> None:
        """Whether ``name`` is the model served here.

        Raises:
            ApiError: 404 if not, 503 when the server is about to stop.
        """
        if name != self.engine.model_name:
            message = f"The model {name[:200]!r} does not exist; {self.engine.model_name!r} does."
            raise ApiError(404, message, param="model", code="model_not_found")
        if self.draining:
            raise overloaded("The server is shutting down.")

    def check_sequences(self, num_prompts: int, n: int) -> None:
        """Bound what one call may set off.

        Raises:
            ApiError: 400 when it is more than the settings allow.
        """
        limit = self.settings.max_sequences_per_request
        if num_prompts * n > limit:
            raise invalid(f"{num_prompts} prompts times n = {n} is more than {limit} sequences.")

    async def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of plain prompts."""

        def work() -> list[list[int]]:
            return [self.text.encode(text) for text in texts]

        if sum(map(len, texts)) < SHORT_TEXT:
            return work()
        return await asyncio.to_thread(work)

    async def token_lists(
        self, given: str | list[int] | list[str] | list[list[int]]
    ) -> list[list[int]]:
        """Prompts in any of the four ways they may be written, as token ids."""
        if isinstance(given, str):
            return await self.encode([given])
        if isinstance(given[0], int):
            return [[token for token in given if isinstance(token, int)]]
        if isinstance(given[0], str):
            return await self.encode([text for text in given if isinstance(text, str)])
        return [tokens for tokens in given if isinstance(tokens, list)]

    def mailbox(self) -> Mailbox:
        """The mailbox of the running loop."""
        loop = asyncio.get_running_loop()
        if self._mailbox is None or self._mailbox.loop is not loop:
            self._mailbox = Mailbox(loop)
        return self._mailbox

    def start(
        self, request: Request, prompts: Sequence[list[int]], params: Sequence[SamplingParams]
    ) -> Batch:
        """Submit every prompt with each of its parameters, prompt by prompt."""
        each = len(params) // len(prompts)
        generations = [
            Generation(prompt=prompts[i // each], params=one) for i, one in enumerate(params)
        ]
        record = record_of(request.scope)
        record.prompt_tokens += sum(map(len, prompts))
        return Batch(
            generations,
            engine=self.engine,
            mailbox=self.mailbox(),
            metrics=self.metrics,
            record=record,
            meter=meter_of(request.scope),
            clock=self.clock,
            draining=lambda: self.draining,
        )
