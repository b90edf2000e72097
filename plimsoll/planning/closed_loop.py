"""Mean TTFT and TPOT of a closed loop in closed form: a fixed number of requests in flight.

N requests are in flight; each that ends is replaced at once, R times a place. All N arrive
together at first, so a share 1/R of first tokens waits for a burst of prompts. In steady state

    TPOT = step(N) + (1 - 1/2R) * N / output * prompt

for a step of N decodes, and ``prompt`` what one prompt adds to the steps it shares with them:
over its life a request meets every other place's prompt once, at the two ends of the run half of
them. Requests finish by steps, not by time, so a burst of prompts comes back as a burst, spread
only by how much output lengths differ: lambda = N / (N + spread * output) prompts are met in a
step then. A first token waits for the steps before its prompt is admitted, each with lambda
prompts in it, and for its own. Where the cache or the engine holds fewer than N at once, the rest
queue, and the wait follows from Little's law. With prefill apart the slower side sets the rate:
what decode cannot keep in flight waits for prefill.
Leaves out: preemption, variance of single requests, ends of runs other than the factor above.
Sources: doi:10.1287/opre.9.3.383 (Little); agreement with the simulator in
tests/planning/test_closed_loop.py.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

__all__ = [
    "Admission",
    "LoopLoad",
    "LoopPieces",
    "LoopTimes",
    "StepTimes",
    "aggregated_pieces",
    "aggregated_times",
    "chunk_starts",
    "decode_step_s",
    "disaggregated_times",
    "prompt_alone_s",
    "prompt_beside_s",
    "shared_prompt_s",
]

Number = Any
"""A float, or an array of them from numpy or torch."""


class StepTimes(Protocol):
    """Step times of one replica, as ``StepClock``."""

    def step_s(
        self, chunks: Sequence[tuple[int, int]], num_decodes: int, decode_context: int
    ) -> float:
        """See ``StepClock``."""
        ...


class LoopLoad(NamedTuple):
    """``in_flight`` requests a replica; lengths are means, ``spread`` their width over it."""

    in_flight: Number
    prompt_tokens: Number
    output_tokens: Number
    spread: Number
    rounds: Number


class LoopPieces(NamedTuple):
    """Seconds that the closed form is made of.

    ``token_s`` per output token of a step of decodes alone, ``step_s`` of that step (more than
    ``token_s`` where it yields several tokens); what a prompt adds beside decodes
    (``prompt_s``), takes where many share a step (``shared_prompt_s``), and takes alone
    (``alone_s``); ``running``: requests that run at once.
    """

    token_s: Number
    step_s: Number
    prompt_s: Number
    shared_prompt_s: Number
    alone_s: Number
    running: Number


class Admission(NamedTuple):
    """What a first token waits for beside: seconds, and steps with and without prompts."""

    fixed_s: Number = 0.0
    steps: Number = 0.0
    plain_steps: Number = 0.0


class LoopTimes(NamedTuple):
    """Mean seconds of an output token and to the first one."""

    tpot_s: Number
    ttft_s: Number


def decode_step_s(clock: StepTimes, running: int, context_tokens: float) -> float:
    """A step of ``running`` decodes at a mean context."""
    return clock.step_s((), running, round(running * context_tokens))


def chunk_starts(prompt: int, budget: int) -> list[tuple[int, int]]:
    """(new tokens, tokens cached before them) of each step that carries the prompt."""
    starts = range(0, prompt, budget)
    return [(min(budget, prompt - start), start) for start in starts]


def prompt_beside_s(
    clock: StepTimes, running: int, prompt: int, budget: int, context_tokens: float
) -> float:
    """What a prompt adds to the steps of ``running`` decodes that carry its chunks."""
    context = round(running * context_tokens)
    plain_s = clock.step_s((), running, context) if running else 0.0
    return sum(
        clock.step_s((chunk,), running, context) - plain_s for chunk in chunk_starts(prompt, budget)
    )


def prompt_alone_s(clock: StepTimes, prompt: int, budget: int) -> float:
    """A prompt's own steps with nothing beside."""
    return sum(clock.step_s((chunk,), 0, 0) for chunk in chunk_starts(prompt, budget))


def shared_prompt_s(
    clock: StepTimes, prompt: int, budget: int, *, most: int, ranks: int = 1, beside: int = 0
) -> float:
    """Seconds a prompt where as many as fit, at most ``most`` a rank, share steps."""
    share = max(1, min(budget // prompt, most)) if prompt < budget else 1
    together = share * ranks
    if prompt <= budget:
        context = beside * prompt
        return clock.step_s(((prompt, 0),) * together, beside, context) / together
    chunks = chunk_starts(prompt, budget)
    return sum(clock.step_s((chunk,) * ranks, beside, beside * prompt) for chunk in chunks) / ranks


def aggregated_pieces(
    clock: StepTimes, load: LoopLoad, *, running: int, budget: int, ranks: int = 1
) -> LoopPieces:
    """The pieces of a replica that runs prompts and decodes, one token a step."""
    prompt = max(1, round(load.prompt_tokens))
    context = load.prompt_tokens + load.output_tokens / 2
    step_s = decode_step_s(clock, running, context)
    most = max(1, running // ranks)
    return LoopPieces(
        token_s=step_s,
        step_s=step_s,
        prompt_s=prompt_beside_s(clock, running, prompt, budget, context),
        shared_prompt_s=shared_prompt_s(
            clock, prompt, budget, most=most, ranks=ranks, beside=running // 2
        ),
        alone_s=prompt_alone_s(clock, prompt, budget),
        running=running,
    )


def aggregated_times(
    load: LoopLoad, pieces: LoopPieces, admission: Admission, *, xp: Any
) -> LoopTimes:
    """The closed form for replicas that run both; ``xp`` is numpy or torch."""
    rounds, running = load.rounds, pieces.running
    ends = 1.0 - 0.5 / rounds
    tpot_s = pieces.token_s + ends * running / load.output_tokens * pieces.prompt_s
    burst_s = xp.maximum((running + 1.0) / 2.0 * pieces.shared_prompt_s, pieces.alone_s)
    met = running / (running + load.spread * load.output_tokens)
    busy_step_s = pieces.step_s + met * pieces.prompt_s
    yielded = pieces.step_s / pieces.token_s
    later_s = (
        pieces.alone_s
        + (admission.steps + 0.5) * busy_step_s
        + admission.plain_steps * tpot_s * yielded
    )
    queued_s = _queued_s(load, running, pieces.alone_s + load.output_tokens * tpot_s, xp)
    ttft_s = admission.fixed_s + burst_s / rounds + (1.0 - 1.0 / rounds) * later_s + queued_s
    return LoopTimes(tpot_s, ttft_s)


def _queued_s(load: LoopLoad, running: Number, stay_s: Number, xp: Any) -> Number:
    """Mean wait for a place: the excess over the rate, half of it in the first round."""
    excess = load.in_flight - running
    excess = xp.maximum(excess, 0.0 * excess)
    each = load.rounds * load.in_flight
    share = ((load.rounds - 1.0) * load.in_flight + excess / 2.0) / each
    return excess / running * stay_s * share


def disaggregated_times(
    load: LoopLoad, pieces: LoopPieces, admission: Admission, *, xp: Any
) -> LoopTimes:
    """The closed form with prefill apart; ``load.in_flight`` is of the whole deployment.

    ``pieces.shared_prompt_s`` is per prompt over all prefill workers, ``pieces.running`` the
    requests all decode workers hold at once.
    """
    rounds, stay_s = load.rounds, load.output_tokens * pieces.token_s
    burst_s = xp.maximum((load.in_flight + 1.0) / 2.0 * pieces.shared_prompt_s, pieces.alone_s)
    late_s = load.in_flight * pieces.shared_prompt_s - stay_s - pieces.alone_s
    late_s = xp.maximum(late_s, 0.0 * late_s)
    later_s = pieces.alone_s + 0.5 * pieces.step_s + late_s
    queued_s = _queued_s(load, pieces.running, stay_s, xp)
    ttft_s = (
        admission.fixed_s
        + xp.maximum(burst_s, late_s) / rounds
        + (1.0 - 1.0 / rounds) * later_s
        + queued_s
    )
    return LoopTimes(pieces.token_s, ttft_s)
