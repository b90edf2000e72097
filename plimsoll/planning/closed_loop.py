"""Mean TTFT and TPOT of a closed loop in closed form: a fixed number of requests in flight.

N requests are in flight; each that ends is replaced at once, R times a place. All N arrive
together at first, so a share 1/R of first tokens waits for a burst of prompts. After it

    TPOT = step(n) + (met * prompt + met in the burst * prompt there) / output
    TTFT = 1/R * burst + (1 - 1/R) * (step under way + own steps + wait for budget)

for n decodes in the mean step, and ``prompt`` what one prompt adds to the steps it shares with
others. Requests finish by steps, not by time, so which prompts share a step, and how many a
request meets, are counts that no step time enters (``loop_counts``): prompts of a burst come back
as a burst, spread only by how much output lengths differ. A request that ends is replaced just
after the next step began, so the new one waits for that step, and for what it takes the engine
to pass a request on where that is longer. The burst is summed over its own steps, packed to the
budget. The mean step has less than N decodes while prompts run, in the burst, and when the last
requests end one by one. Where the engine holds fewer than N at once, the rest queue: all of them
wait for completions, which come by rounds. With prefill apart the slower side sets the rate, what
decode cannot keep in flight waits for prefill, and prompts that ran together come back together,
but for the first of them, which finds its worker idle. Times are linear in the pieces' seconds.
Leaves out: preemption (it moves waits into TPOT), how groups of equal lengths that are late, or
run on several workers, meet again, variance of single requests.
Sources: doi:10.1287/opre.9.3.383 (Little); agreement with the simulator in
tests/planning/test_closed_loop.py.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from plimsoll.planning.loop_counts import LoopCounts, loop_counts
from plimsoll.planning.prompt_packing import (
    StepTimes,
    between,
    burst_first_token_s,
    chunk_starts,
    several,
    step_s,
)

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

_MOST_ROUNDS = 16
"""Rounds after which prompts that ran together have come apart."""

Number = Any
"""A float, or an array of them from numpy or torch."""


class LoopLoad(NamedTuple):
    """``in_flight`` requests a replica; lengths are means, ``spread`` their width over it.

    Clients that are late by different times send one after another: ``apart_steps`` lie between
    requests whose places were freed together, 0 where all are replaced within the instant. Each
    leaves its place empty for ``late_steps`` before it reaches the scheduler.
    """

    in_flight: Number
    prompt_tokens: Number
    output_tokens: Number
    spread: Number
    rounds: Number
    apart_steps: Number = 0.0
    late_steps: Number = 0.0


class LoopPieces(NamedTuple):
    """Seconds that the closed form is made of.

    ``token_s`` per output token of a step of decodes alone, ``step_s`` of that step (more than
    ``token_s`` where it yields several tokens); what a prompt adds beside decodes
    (``prompt_s``), takes where many share a step (``shared_prompt_s``), and its own steps take
    (``alone_s``); ``running``: requests that run at once.

    The rest has defaults. ``budget`` tokens a step of each of ``ranks`` bound prompts; seconds
    correct what the clock does between and beyond the points above (``aggregated_pieces`` asks
    it): ``absent_s`` off the mean step for decodes that do not run in it, ``found_s`` for the
    step that an arrival finds under way, ``own_s`` for its own steps, ``burst_s`` for the mean
    first token of the burst, ``crowd_s`` for a prompt of the burst beside decodes.
    """

    token_s: Number
    step_s: Number
    prompt_s: Number
    shared_prompt_s: Number
    alone_s: Number
    running: Number
    budget: Number = 8192.0
    ranks: Number = 1.0
    workers: Number = 1.0
    absent_s: Number = 0.0
    found_s: Number = 0.0
    own_s: Number = 0.0
    burst_s: Number = 0.0
    crowd_s: Number = 0.0


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
    context = beside * prompt
    if prompt < budget:
        share = max(1.0, min(budget / prompt, float(most)))
        together = several(prompt, share) * ranks
        return clock.step_s(together, beside, context) / (share * ranks)
    full = [chunk for chunk in chunk_starts(prompt, budget) if chunk[0] == budget]
    full_s = sum(clock.step_s((chunk,) * ranks, beside, context) for chunk in full)
    return full_s / len(full) * prompt / (budget * ranks)


def aggregated_pieces(
    clock: StepTimes, load: LoopLoad, *, running: int, budget: int, ranks: int = 1
) -> LoopPieces:
    """The pieces of a replica that runs prompts and decodes, one token a step."""
    prompt = max(1, round(load.prompt_tokens))
    context = load.prompt_tokens + load.output_tokens / 2
    half, token_s = running // 2, decode_step_s(clock, running, context)
    simple = LoopPieces(
        token_s=token_s,
        step_s=token_s,
        prompt_s=prompt_beside_s(clock, running, prompt, budget, context),
        shared_prompt_s=shared_prompt_s(
            clock, prompt, budget, most=max(1, running // ranks), ranks=ranks, beside=half
        ),
        alone_s=prompt_alone_s(clock, prompt, budget),
        running=running,
        budget=budget,
        ranks=ranks,
    )
    counts = LoopCounts(*(float(count) for count in _counts(load, simple, np)))
    chunks = chunk_starts(prompt, int(counts.room))
    own_steps, many = len(chunks), min(max(1.0, 1.0 / counts.service), running)

    def plain_s(decodes: float) -> Number:
        return between(lambda n: step_s(clock, (), n, context), decodes)

    def prompts_s(share: float, decodes: float) -> Number:
        """Steps that carry a prompt, ``share`` of it and others where it takes one step."""
        steps = [several(prompt, share)] if own_steps == 1 else [(chunk,) for chunk in chunks]
        return between(lambda n: sum(step_s(clock, s, n, context) for s in steps), decodes)

    own_s = prompts_s(counts.own_prompts, counts.beside)
    prompt_s = (own_s - own_steps * plain_s(counts.beside)) / counts.own_prompts
    if own_steps == 1:
        some = min(1.0, counts.busy) or 1e-9
        found_s = (1.0 - some) * plain_s(counts.beside_plain)
        found_s = found_s + some * prompts_s(counts.busy / some, counts.beside_found)
    else:
        found_s = plain_s(counts.beside) + counts.busy * prompt_s
    more_steps = counts.prompt_steps - own_steps
    own_s = own_s + counts.fills * prompt_s + more_steps * plain_s(max(1.0, counts.beside))
    pieces = simple._replace(prompt_s=prompt_s)
    return pieces._replace(
        absent_s=token_s - plain_s(counts.seen),
        found_s=found_s - _found_s(pieces, counts),
        own_s=own_s - _own_s(pieces, counts),
        burst_s=burst_first_token_s(
            clock, prompt, load.output_tokens, budget, places=running, ranks=ranks
        )
        - _first_s(pieces, counts, np),
        crowd_s=(prompts_s(many, half) - own_steps * plain_s(half)) / many - prompt_s,
    )


def _counts(load: LoopLoad, pieces: LoopPieces, xp: Any) -> LoopCounts:
    return loop_counts(
        in_flight=load.in_flight,
        running=pieces.running,
        prompt=load.prompt_tokens,
        output=load.output_tokens,
        spread=load.spread,
        rounds=load.rounds,
        apart_steps=load.apart_steps,
        late_steps=load.late_steps,
        budget=pieces.budget,
        ranks=pieces.ranks,
        xp=xp,
    )


def _found_s(pieces: LoopPieces, counts: LoopCounts) -> Number:
    """The step that an arrival finds under way."""
    return pieces.step_s + counts.busy * pieces.prompt_s + pieces.found_s


def _own_s(pieces: LoopPieces, counts: LoopCounts) -> Number:
    """A prompt's own steps: alone, or with all decodes, in proportion to those that run."""
    beside_s = counts.prompt_steps * pieces.step_s + counts.own_prompts * pieces.prompt_s
    part = counts.beside / pieces.running
    return (1.0 - part) * pieces.alone_s + part * beside_s + pieces.own_s


def _first_s(pieces: LoopPieces, counts: LoopCounts, xp: Any) -> Number:
    """Mean first token of the burst: the first arrival alone, then the others, packed."""
    others = pieces.running - 1.0
    before = xp.minimum(others, (others + 1.0 / counts.service) / 2.0)
    return pieces.alone_s + before * pieces.shared_prompt_s + pieces.burst_s


def aggregated_times(
    load: LoopLoad, pieces: LoopPieces, admission: Admission, *, xp: Any
) -> LoopTimes:
    """The closed form for replicas that run both; ``xp`` is numpy or torch."""
    counts, prompt_s = _counts(load, pieces, xp), pieces.prompt_s
    met_s = counts.met * prompt_s + counts.met_in_burst * (prompt_s + pieces.crowd_s)
    tpot_s = pieces.token_s - pieces.absent_s + met_s / counts.steps
    found_s, own_s = _found_s(pieces, counts), _own_s(pieces, counts)
    under_way_s = counts.residual * found_s
    reached_s = xp.maximum(under_way_s, counts.free * admission.fixed_s + 0.5 * under_way_s)
    budget_s = counts.queued_steps * (pieces.step_s - pieces.absent_s + prompt_s / counts.service)
    later_s = (
        reached_s
        + own_s
        + budget_s
        + admission.steps * found_s
        + admission.plain_steps * tpot_s * pieces.step_s / pieces.token_s
    )
    burst_s = _first_s(pieces, counts, xp)
    first_s = admission.fixed_s + burst_s
    absent = (pieces.running - counts.seen_steady) / (pieces.running - counts.seen + 1e-9)
    steady_s = (
        pieces.token_s - absent * pieces.absent_s + counts.met_steady * prompt_s / counts.steps
    )
    stay_s = own_s + budget_s + counts.steps * steady_s
    queued_s = _queued_s(load, pieces.running, stay_s, burst_s - own_s, counts.apart, xp)
    share = 1.0 / counts.rounds
    return LoopTimes(tpot_s, share * first_s + (1.0 - share) * later_s + queued_s)


def _queued_s(
    load: LoopLoad, running: Number, stay_s: Number, lag_s: Number, apart: Number, xp: Any
) -> Number:
    """Mean wait for a place.

    A request waits from the completion at which it came to the one that frees its place, as many
    later as wait. Summed over the run what is left is when the last of them start. Completions
    come by rounds, or as ``apart`` nears 1, evenly.
    """
    excess = load.in_flight - running
    excess = xp.maximum(excess, 0.0 * excess)
    each = load.rounds * load.in_flight
    first = (each - load.in_flight) / running
    last = first + excess / running + 1e-6
    middle = (first + last) / 2.0
    whole = (_floor_sum(last, xp) - _floor_sum(first, xp)) / (last - first)
    stays = middle + 0.5 + (1.0 - apart) * (0.5 + whole - middle)
    return excess / each * (stays * stay_s + lag_s)


def _floor_sum(x: Number, xp: Any) -> Number:
    """Integral of the floor from 0 to x."""
    whole = xp.floor(x)
    return whole * (x - whole) + whole * (whole - 1.0) / 2.0


def disaggregated_times(
    load: LoopLoad, pieces: LoopPieces, admission: Admission, *, xp: Any
) -> LoopTimes:
    """The closed form with prefill apart; ``load.in_flight`` is of the whole deployment.

    ``pieces.shared_prompt_s`` is per prompt over all ``pieces.workers`` that prefill,
    ``pieces.running`` the requests all decode workers hold at once.
    """
    rounds, stay_s = load.rounds, load.output_tokens * pieces.token_s
    each = load.in_flight / pieces.workers
    others = each - 1.0
    others = xp.maximum(others, 0.0 * others)
    one_s = pieces.shared_prompt_s * pieces.workers
    fit = pieces.budget * pieces.ranks / load.prompt_tokens
    fit = xp.maximum(fit, 0.0 * fit + 1.0)
    before = xp.minimum(others, (others + fit) / 2.0)
    burst_s = pieces.alone_s + before * one_s
    all_s = load.in_flight * pieces.shared_prompt_s
    jitter_s = load.spread * stay_s
    batch = xp.minimum(others + 1.0, fit)
    batch_s = batch * one_s
    sent_s = xp.sqrt(batch_s**2 + jitter_s**2 + (batch * load.apart_steps * pieces.step_s) ** 2)
    kept = (batch_s / sent_s) ** 2
    group, waiting = xp.minimum(others, fit - 1.0), 0.0 * others
    for round_index in range(1, _MOST_ROUNDS):
        group = kept * group - 1.0
        group = xp.maximum(group, 0.0 * group)
        left = rounds - round_index
        waiting = waiting + group * xp.minimum(xp.maximum(left, 0.0 * left), 0.0 * left + 1.0)
    later_rounds = xp.maximum(rounds - 1.0, 0.0 * rounds + 1.0)
    group_s = waiting / later_rounds * one_s
    middle_s = jitter_s * xp.sqrt((rounds + 1.0) / 3.0)
    window_s = xp.minimum(xp.sqrt(all_s**2 + middle_s**2), stay_s + pieces.alone_s)
    busy = xp.minimum(all_s / window_s, 0.0 * all_s + 1.0)
    slack, free = 1.0 - busy, load.in_flight * middle_s / math.sqrt(12.0) / window_s + 1e-9
    line = busy / (slack + xp.sqrt(slack**2 + 8.0 / (math.pi * free)))
    line_s = line * pieces.shared_prompt_s
    late_s = all_s - stay_s - pieces.alone_s
    late_s = xp.maximum(late_s, 0.0 * late_s)
    later_s = pieces.alone_s + group_s + line_s + late_s
    queued_s = _queued_s(load, pieces.running, stay_s, 0.0 * stay_s, 0.0 * stay_s + 1.0, xp)
    ttft_s = (
        admission.fixed_s
        + xp.maximum(burst_s, late_s) / rounds
        + (1.0 - 1.0 / rounds) * later_s
        + queued_s
    )
    return LoopTimes(pieces.token_s, ttft_s)
