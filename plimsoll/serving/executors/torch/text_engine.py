"""A live engine for servers: text in deltas, stop strings, counts; over one real run.

Implements ``serving.generation.LiveEngine``. A request with a JSON schema that was not seen lately
waits at a gate until it is compiled. Left out: beams.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Literal

from tokenizers import Tokenizer

from plimsoll.serving.executors.torch.engine import Conversation
from plimsoll.serving.executors.torch.live_run import LiveRun
from plimsoll.serving.executors.torch.messages import Embed
from plimsoll.serving.executors.torch.sampling.detokenize import TextStream
from plimsoll.serving.executors.torch.sampling.grammar import Grammars
from plimsoll.serving.executors.torch.schema_gate import SchemaGate
from plimsoll.serving.generation import (
    Delta,
    EngineStats,
    FinishReason,
    Generation,
    TokenLogprobs,
)

__all__ = ["TextEngine"]


class _Client:
    """Turns tokens of one request into deltas."""

    def __init__(
        self, tokenizer: Tokenizer, generation: Generation, deliver: Callable[[Delta], None]
    ) -> None:
        params = generation.params
        self._stream = TextStream(tokenizer, params.stop, min_tokens=params.min_tokens)
        self._deliver = deliver
        self._held: list[tuple[str, bool]] = []
        self._ended = False
        self.when_over: Callable[[], None] = lambda: None
        self.conversation = Conversation(
            generation.prompt,
            params,
            deliver=self._token,
            end=self._end,
            stops=self._stops if params.stop else None,
        )

    def _stops(self, token: int) -> bool:
        text, stopped = self._stream.push(token)
        self._held.append((text, stopped))
        return stopped

    def _token(self, token: int, logprobs: TokenLogprobs | None) -> None:
        text, stopped = self._held.pop(0) if self._held else self._stream.push(token)
        self._ended = self._ended or stopped
        self._deliver(
            Delta(tokens=(token,), text=text, logprobs=() if logprobs is None else (logprobs,))
        )

    def refuse(self, finish: FinishReason, why: str) -> None:
        """End it before it begins."""
        self._deliver(Delta(finish=finish, error=why))

    def _end(self, text: Conversation) -> None:
        assert text.finish is not None
        self.when_over()
        self._deliver(
            Delta(
                text="" if self._ended else self._stream.finish(),
                finish=text.finish,
                error=text.error,
                cached_tokens=text.cached_tokens,
            )
        )


class TextEngine:
    """See the module text; ``run`` is started and belongs to the engine from now on."""

    def __init__(
        self,
        run: LiveRun,
        *,
        model_name: str,
        max_model_len: int,
        vocab_size: int,
        tokenizer: Tokenizer,
        grammars: Grammars | None,
    ) -> None:
        self.model_name = model_name
        self.max_model_len = max_model_len
        self.vocab_size = vocab_size
        self._run = run
        self._tokenizer = tokenizer
        self._grammars = grammars
        self._gate = None if grammars is None else SchemaGate(grammars, run.prepare)
        self._draining = False
        self._embeds = count()

    def submit(self, generation: Generation, deliver: Callable[[Delta], None]) -> int:
        """See ``LiveEngine``."""
        why = self._refusal(generation)
        if why:
            deliver(Delta(finish="rejected", error=why))
            return -1
        room = self.max_model_len - len(generation.prompt)
        if generation.params.max_tokens > room:
            params = replace(generation.params, max_tokens=room)
            generation = replace(generation, params=params)
        client = _Client(self._tokenizer, generation, deliver)

        def enter(ticket: int = -1) -> int:
            if self._gate is not None and ticket < -1:
                client.when_over = partial(self._gate.over, ticket)
            return self._run.submit(
                client.conversation,
                priority=generation.priority,
                request_class=generation.request_class,
            )

        schema = generation.params.json_schema
        if schema is None or self._grammars is None or self._gate is None:
            return enter()
        if self._grammars.knows(schema):
            return enter()
        return self._gate.submit(schema, enter, client.refuse)

    def _refusal(self, generation: Generation) -> str:
        if self._draining or self._run.failure:
            return "the server is shutting down"
        prompt = generation.prompt
        if not prompt:
            return "the prompt is empty; it needs at least one token"
        if len(prompt) >= self.max_model_len:
            return (
                f"the prompt has {len(prompt):,} tokens, the model's limit is "
                f"{self.max_model_len:,} with the output"
            )
        if min(prompt) < 0 or max(prompt) >= self.vocab_size:
            return f"token ids must be 0 to {self.vocab_size - 1}"
        if generation.params.json_schema is not None and self._grammars is None:
            return "json_schema: this model has no end-of-sequence token to finish with"
        return ""

    def cancel(self, request: int) -> None:
        """See ``LiveEngine``."""
        if request < -1 and self._gate is not None:
            request = self._gate.cancel(request)
        if request >= 0:
            self._run.cancel(request)

    def embed(
        self,
        prompt: Sequence[int],
        pooling: Literal["mean", "last"],
        deliver: Callable[[Sequence[float] | str], None],
    ) -> None:
        """See ``LiveEngine``."""
        if not 0 < len(prompt) <= self.max_model_len:
            deliver(f"found {len(prompt):,} tokens, expected 1 to {self.max_model_len:,}")
            return
        self._run.embed(Embed(next(self._embeds), list(prompt), pooling), deliver)

    def stats(self) -> EngineStats:
        """See ``LiveEngine``."""
        run = self._run
        insts = [engine.inst for engine in run.engines]
        at_the_gate = 0 if self._gate is None else self._gate.num_waiting
        return EngineStats(
            running=sum(inst.num_running for inst in insts),
            waiting=sum(len(inst.waiting) for inst in insts) + at_the_gate,
            used_blocks=sum(inst._pool.held for inst in insts),
            total_blocks=sum(inst._pool.total for inst in insts),
            preemptions=run.num_preempted,
            prompt_tokens=run.num_prompt_tokens,
            cached_tokens=run.num_cached_tokens,
            generated_tokens=run.num_generated,
            finished=run.num_finished,
            failed=run.num_failed,
            replicas_up=sum(inst.up for inst in insts),
            replicas=len(insts),
        )

    def healthy(self) -> bool:
        """See ``LiveEngine``."""
        return not self._run.failure and any(e.inst.up for e in self._run.engines)

    def drain(self, timeout_s: float) -> bool:
        """See ``LiveEngine``."""
        self._draining = True
        until_s = time.monotonic() + timeout_s
        if self._gate is not None and not self._gate.wait_idle(timeout_s):
            return False
        return self._run.wait_idle(max(0.0, until_s - time.monotonic()))

    def close(self) -> None:
        """See ``LiveEngine``."""
        self._draining = True
        if self._gate is not None:
            self._gate.close()
        self._run.close()
