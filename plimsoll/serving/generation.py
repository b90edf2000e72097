"""What clients ask of a live engine and what they get back; the border between server and engine.

Plain data and one protocol. A request is tokens and sampling parameters; answers come as deltas,
one for every step that gave the request a token, the last of them with a reason.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

__all__ = [
    "Delta",
    "EngineStats",
    "FinishReason",
    "Generation",
    "LiveEngine",
    "SamplingParams",
    "TokenLogprobs",
]

FinishReason = Literal["stop", "length", "cancelled", "rejected", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are drawn; the defaults draw from the model's own distribution.

    ``temperature`` 0 is greedy. ``top_k`` 0 and ``top_p`` 1 are off; ``min_p`` keeps tokens whose
    probability is at least that share of the best one's. Penalties are OpenAI's (presence,
    frequency: over generated tokens) and CTRL's (repetition: over prompt and generated tokens, 1
    is off). ``logprobs`` is how many alternatives to report, None for no report at all.
    ``json_schema`` constrains the output (JSON text of the schema; "{}" is any JSON object).
    The n-th token of a request depends on ``seed``, n and its logits alone.
    """

    max_tokens: int = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    logprobs: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    json_schema: str | None = None

    @property
    def plain_greedy(self) -> bool:
        """Whether the next token is the largest logit and nothing else is wanted."""
        return (
            self.temperature == 0
            and self.presence_penalty == self.frequency_penalty == 0
            and self.repetition_penalty == 1
            and self.logprobs is None
            and not self.logit_bias
            and self.json_schema is None
            and self.min_tokens == 0
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobs:
    """Log-probability of a drawn token and the best alternatives, (token id, logprob) each."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One request. ``prompt`` token ids, at least one."""

    prompt: Sequence[int]
    params: SamplingParams = field(default_factory=SamplingParams)
    priority: int = 0
    request_class: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What one step gave a request. ``text`` is held back while it may belong to a stop string
    or an unfinished character. ``error`` is a sentence fit for the client's eyes."""

    tokens: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish: FinishReason | None = None
    error: str = ""
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Gauges now, counters since the start. Blocks are summed over replicas."""

    running: int
    waiting: int
    used_blocks: int
    total_blocks: int
    preemptions: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    finished: int
    failed: int
    replicas_up: int
    replicas: int


class LiveEngine(Protocol):
    """A running engine. All methods may be called from any thread and return at once.

    ``deliver`` is called from the engine's own thread, in order, and must not block; the last
    call has ``finish`` set. ``submit`` after ``drain`` delivers a rejection.
    """

    model_name: str
    max_model_len: int
    vocab_size: int

    def submit(self, generation: Generation, deliver: Callable[[Delta], None]) -> int:
        """Queue a request; its id."""
        ...

    def cancel(self, request: int) -> None:
        """The client is gone: the request's blocks are freed at the next step boundary."""
        ...

    def embed(
        self,
        prompt: Sequence[int],
        pooling: Literal["mean", "last"],
        deliver: Callable[[Sequence[float] | str], None],
    ) -> None:
        """Deliver a prompt's pooled final hidden state, [hidden size]; a string is an error."""
        ...

    def stats(self) -> EngineStats:
        """How it stands."""
        ...

    def healthy(self) -> bool:
        """Whether any replica can serve."""
        ...

    def drain(self, timeout_s: float) -> bool:
        """Take nothing more and wait for what runs (blocks); whether all of it ended in time."""
        ...

    def close(self) -> None:
        """Stop now; what is unfinished gets an error (blocks)."""
        ...
