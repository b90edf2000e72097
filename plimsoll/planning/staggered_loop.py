"""Mean TTFT and TPOT of a closed loop whose clients do not act in lockstep: real runs.

``planning/closed_loop.py`` counts exactly which prompts share which steps, as the simulator
does, where every request that ends is replaced within the same instant. Clients of real runs
are late by their own tokenizing and network, which breaks up such groups. What is left is a mean
field: N requests in flight, replaced R times a place,

    TPOT = step(N) + (1 - 1/2R) * N / output * prompt

for a step of N decodes, and ``prompt`` what one prompt adds to the steps it shares with them:
over its life a request meets every other place's prompt once, at the two ends of the run half of
them. A share 1/R of first tokens waits for the opening burst. Requests finish by steps, not by
time, so a burst of prompts comes back as one, spread only by how much output lengths differ:
lambda = N / (N + spread * output) prompts are met in a step then. A first token waits for the
steps before its prompt is admitted, each with lambda prompts in it, and for its own. Where the
cache holds fewer than N at once the rest queue (Little's law). With prefill apart the slower side
sets the rate: what decode cannot keep in flight waits for prefill.
Leaves out: groups of prompts that start together, preemption, variance of single requests.
Sources: doi:10.1287/opre.9.3.383 (Little); errors against measured runs in docs/accuracy.md.
"""

from typing import Any, NamedTuple

from plimsoll.planning.closed_loop import (
    Admission,
    LoopLoad,
    LoopTimes,
    Number,
    StepTimes,
    decode_step_s,
    prompt_alone_s,
    prompt_beside_s,
    shared_prompt_s,
)

__all__ = ["StaggeredPieces", "staggered_apart_times", "staggered_pieces", "staggered_times"]


class StaggeredPieces(NamedTuple):
    """Seconds that the mean field is made of.

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


def staggered_pieces(
    clock: StepTimes, load: LoopLoad, *, running: int, budget: int, ranks: int = 1
) -> StaggeredPieces:
    """The pieces of a replica that runs prompts and decodes, one token a step."""
    prompt = max(1, round(load.prompt_tokens))
    context = load.prompt_tokens + load.output_tokens / 2
    step_s = decode_step_s(clock, running, context)
    return StaggeredPieces(
        token_s=step_s,
        step_s=step_s,
        prompt_s=prompt_beside_s(clock, running, prompt, budget, context),
        shared_prompt_s=shared_prompt_s(
            clock,
            prompt,
            budget,
            most=max(1, running // ranks),
            ranks=ranks,
            beside=running // 2,
        ),
        alone_s=prompt_alone_s(clock, prompt, budget),
        running=running,
    )


def staggered_times(
    load: LoopLoad, pieces: StaggeredPieces, admission: Admission, *, xp: Any
) -> LoopTimes:
    """The mean field for replicas that run both; ``xp`` is numpy or torch."""
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
    stay_s = pieces.alone_s + load.output_tokens * tpot_s
    queued_s = _queued_s(load, running, stay_s, xp)
    ttft_s = admission.fixed_s + burst_s / rounds + (1.0 - 1.0 / rounds) * later_s + queued_s
    return LoopTimes(tpot_s, ttft_s)


def _queued_s(load: LoopLoad, running: Number, stay_s: Number, xp: Any) -> Number:
    """Mean wait for a place: the excess over the rate, half of it in the first round."""
    excess = load.in_flight - running
    excess = xp.maximum(excess, 0.0 * excess)
    served = load.rounds * load.in_flight
    waiting = ((load.rounds - 1.0) * load.in_flight + excess / 2.0) / served
    return excess / running * stay_s * waiting


def staggered_apart_times(
    load: LoopLoad, pieces: StaggeredPieces, admission: Admission, *, xp: Any
) -> LoopTimes:
    """The mean field with prefill apart; ``load.in_flight`` is of the whole deployment.

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
