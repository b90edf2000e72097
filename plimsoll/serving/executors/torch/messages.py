"""What an engine tells a worker, and what it hears back. Plain data that crosses processes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from plimsoll.serving.generation import SamplingParams, TokenLogprobs

__all__ = [
    "AS_DRAWN",
    "BringBack",
    "Copied",
    "Effect",
    "Embed",
    "Embedded",
    "Export",
    "Exported",
    "Failed",
    "Forget",
    "HandOn",
    "Held",
    "Host",
    "Hosted",
    "Import",
    "Prepare",
    "Ready",
    "Register",
    "SendOut",
    "StepDone",
    "StepWork",
    "SwapIn",
    "SwapOut",
    "Unhost",
    "Wipe",
    "Work",
]


AS_DRAWN = -1
"""In place of a token: the one that the step before drew for this request."""


@dataclass(frozen=True, slots=True)
class Register:
    """A request's tokens so far and how to draw more; before its first run on a worker."""

    request: int
    prompt: Sequence[int]
    generated: Sequence[int]
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class Forget:
    """The request is gone from this worker, with its states and swapped blocks."""

    request: int


@dataclass(frozen=True, slots=True)
class SwapOut:
    """Copy the first ``num_tokens`` tokens' KV out of these blocks, and the states."""

    request: int
    blocks: Sequence[int]
    num_tokens: int


@dataclass(frozen=True, slots=True)
class SwapIn:
    """Copy swapped KV back into these blocks."""

    request: int
    blocks: Sequence[int]


@dataclass(frozen=True, slots=True)
class SendOut:
    """Begin to copy these blocks, a request's from ``first`` on, to the host; ``Copied`` says when
    that is done."""

    event: int
    request: int
    blocks: Sequence[int]
    first: int


@dataclass(frozen=True, slots=True)
class BringBack:
    """Begin to copy a request's first blocks back into these, once the events ``after`` fired."""

    event: int
    request: int
    blocks: Sequence[int]
    after: Sequence[int]


@dataclass(frozen=True, slots=True)
class HandOn:
    """The first ``num_blocks`` blocks of a request's host copy are the heir's; 0: are dropped."""

    request: int
    heir: int
    num_blocks: int


@dataclass(frozen=True, slots=True)
class Copied:
    """A copy ended; ``why`` it failed, if it did."""

    event: int
    why: str


@dataclass(frozen=True, slots=True)
class Wipe:
    """Zero the blocks of a request that is broken: they may hold what is not a number."""

    request: int
    blocks: Sequence[int]


Effect = Register | Forget | SwapOut | SwapIn | SendOut | BringBack | HandOn | Wipe


@dataclass(frozen=True, slots=True)
class Held:
    """``blocks`` of a request that another instance holds as a loan."""

    instance: int
    loan: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Work:
    """Run ``tokens`` of a request, whose first is at position ``start``, over its block table.

    ``draw`` is the index of the token to draw afterwards, -1 for none. A step that was formed
    before the last one was over has ``AS_DRAWN`` for a token. ``held``: what others hold of it;
    those places of the table are -1.
    """

    request: int
    tokens: Sequence[int]
    start: int
    blocks: Sequence[int]
    draw: int
    held: Sequence[Held] = ()


@dataclass(frozen=True, slots=True)
class StepWork:
    """One engine step: effects first, then one pass over ``work``; decodes are last.

    The pass waits for the copies ``waits``; work of a request in ``returning``, by the event of its
    copy, is left out if that failed.
    """

    serial: int
    slot: int
    effects: Sequence[Effect]
    work: Sequence[Work]
    waits: Sequence[int] = ()
    returning: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepDone:
    """Tokens by request, log-probabilities where asked for; ``broken`` maps a request that must
    fail to a sentence; ``busy_s`` is the worker's own time in the pass. ``unread`` are requests
    whose lent KV could not be read, for which the step did nothing; ``exchanged`` bytes and
    queries (times layers and creditors) went to and from other workers."""

    serial: int
    slot: int
    tokens: Mapping[int, int]
    logprobs: Mapping[int, TokenLogprobs]
    broken: Mapping[int, str]
    busy_s: float
    unread: Sequence[int] = ()
    exchanged: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Export:
    """Send a request's KV and states back, for another worker."""

    request: int
    blocks: Sequence[int]
    num_tokens: int
    tag: Any


@dataclass(frozen=True, slots=True)
class Exported:
    """The answer to ``Export``."""

    tag: Any
    payload: Any


@dataclass(frozen=True, slots=True)
class Import:
    """Put KV and states of another worker into these blocks."""

    request: int
    blocks: Sequence[int]
    payload: Any


@dataclass(frozen=True, slots=True)
class Host:
    """Put KV of another worker's request into these blocks, and attend to it for that worker."""

    loan: int
    blocks: Sequence[int]
    payload: Any
    serial: int


@dataclass(frozen=True, slots=True)
class Hosted:
    """The answer to ``Host``."""

    serial: int


@dataclass(frozen=True, slots=True)
class Unhost:
    """A loan is over; its blocks may be written."""

    loan: int


@dataclass(frozen=True, slots=True)
class Embed:
    """Pool the final hidden states of a prompt."""

    request: int
    tokens: Sequence[int]
    pooling: Literal["mean", "last"]


@dataclass(frozen=True, slots=True)
class Embedded:
    """The answer to ``Embed``: a vector, or a sentence."""

    request: int
    vector: Sequence[float] | str


@dataclass(frozen=True, slots=True)
class Prepare:
    """A request with this JSON schema may come: compile it beside the steps. No answer."""

    schema: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has its model and memory."""

    process: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker cannot go on; a sentence."""

    why: str
