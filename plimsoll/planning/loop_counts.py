"""What meets what in a closed loop, in counts of steps and requests; no seconds.

Requests finish by steps, so who shares a step with whom follows from counts alone. K places start
at once. Their prompts come back in a window of V steps: as wide as the burst took to run, widened
every round by how much output lengths differ, up to a whole cycle. In it

    prompts in a step that carries one   K / V, less as far as they keep out of each other's way
    places met while decoding            K - 1 - K (w / V - w (w - 1) / 2V²) + 1

for w steps from one request's end to the first token of the next in its place, the own one
included. Prompts queue for budget like equal jobs that arrive in order, but for what the differing
lengths disorder; where budget cannot keep K requests decoding, they decode as many as it can.
Leaves out: preemption, prompts of different lengths but for the steps they take.
Source: doi:10.1109/49.76642 (waits of equal periodic jobs, in its diffusion limit); agreement with
the simulator in tests/planning/test_closed_loop.py.
"""

import math
from typing import Any, NamedTuple

__all__ = ["LoopCounts", "loop_counts"]

Number = Any
"""A float, or an array of them from numpy or torch."""


class LoopCounts(NamedTuple):
    """``room``: prompt tokens a step takes beside decodes, of one rank.

    ``service`` steps' worth of room that one prompt fills, over ``prompt_steps`` steps;
    ``own_prompts`` prompts in a step that carries one, its own included, and ``fills`` what
    others add to the last step of a long one; ``busy`` prompts in the step that an arrival finds
    under way; ``queued_steps`` it waits for budget. ``beside`` decodes run in its own steps,
    ``beside_found`` in the step found and ``beside_plain`` in that step where it has no prompt;
    ``seen`` decodes in the mean step of a decode, of ``steps`` that a request takes part in.
    ``met`` prompts are met while decoding, ``met_in_burst`` those of the burst; ``seen_steady``
    and ``met_steady`` are the same away from both ends of the run. ``rounds`` are of a place;
    ``free``: whether arrivals find a place, ``residual`` steps under way to wait for, both 0 or 1;
    ``apart``: the window over the cycle.
    """

    room: Number
    service: Number
    prompt_steps: Number
    own_prompts: Number
    fills: Number
    busy: Number
    queued_steps: Number
    beside: Number
    beside_found: Number
    beside_plain: Number
    seen: Number
    seen_steady: Number
    steps: Number
    met: Number
    met_in_burst: Number
    met_steady: Number
    rounds: Number
    free: Number
    residual: Number
    apart: Number


def loop_counts(
    *,
    in_flight: Number,
    running: Number,
    prompt: Number,
    output: Number,
    spread: Number,
    rounds: Number,
    apart_steps: Number,
    late_steps: Number,
    budget: Number,
    ranks: Number,
    xp: Any,
) -> LoopCounts:
    """Counts of a replica of ``running`` places; ``budget`` tokens a step of each rank."""

    def most(value: Number, bound: Number) -> Number:
        return xp.minimum(value, bound + 0.0 * value)

    def least(value: Number, bound: Number) -> Number:
        return xp.maximum(value, bound + 0.0 * value)

    places, others = running * 1.0, running - 1.0
    any_other, other_share = most(others, 1.0), others / places
    steps = least(output - 1.0, 1.0)
    rounds = least(rounds * in_flight / places, 1.0)
    # a request that had to queue for a place starts with the next step
    free = least(most(1.0 - in_flight + places, 1.0), 0.0)
    residual = any_other * free

    # room for prompts, and what one takes of it
    sustained = ranks * steps * budget / (prompt + steps)
    decoding = xp.minimum(places, sustained)
    room = least(budget - decoding / ranks, 1.0)
    service = prompt / (room * ranks)
    prompt_steps = _mean_ceiling(prompt / room, spread, xp)
    short = least(2.0 - prompt_steps, 0.0)
    late = free * late_steps
    wait = xp.maximum(residual, late + 0.5 * residual) + prompt_steps
    cycle = steps + wait

    # the window in which a round's prompts come back
    queue = least(in_flight - places, 0.0)  # of these as many start a step before the rest
    split = xp.minimum(xp.maximum(queue, places - queue), places)
    burst = short * _groups(places, others, xp.minimum(least(1.0 / service, 1.0), split), xp)
    burst = burst + (1.0 - short) * least(others * service, 1.0)
    jitter = spread * output
    middle = jitter * xp.sqrt((rounds + 1.0) / 3.0)
    sent = xp.maximum(burst, others * apart_steps)
    window = xp.minimum(xp.sqrt(sent**2 + middle**2), cycle)
    order = most(burst / window, 1.0) ** 2

    # prompts in one's own steps and in the step found under way, and decodes beside them
    own = 1.0 + (places - order * burst - (1.0 - order)) / window
    own = xp.minimum(least(own, 1.0), least(1.0 / service, ranks))
    busy = order * own * (1.0 - 1.0 / window) + (1.0 - order) * (own - 1.0)
    busy = any_other * xp.minimum(least(busy, 0.0), other_share / service)
    long_beside = xp.maximum(other_share, places - wait * places / (1.0 + window))
    away = own + residual * busy + places * late / xp.maximum(window, late)
    short_beside = xp.maximum(other_share, places - away)
    beside = short * short_beside + (1.0 - short) * long_beside
    gone = own + places * late / xp.maximum(window, late)
    plain = short * xp.maximum(other_share, places - gone) + (1.0 - short) * beside
    found = short * least(places - gone - least(busy, 1.0), 0.0) + (1.0 - short) * beside

    # prompts met while decoding: in a round, in the burst, and in all
    load = most(places * service / window, 1.0)
    near = xp.minimum(wait, window)
    missed = places * (near / window - near * (near - 1.0) / (2.0 * window**2))
    missed = missed - load - (1.0 - load) * near / window
    fewest = other_share * (short + (1.0 - short) * (2.0 * service - 1.0) / prompt_steps)
    full_life = steps / service
    met = xp.minimum(xp.maximum(others - missed, fewest), xp.minimum(full_life, others))
    at_first = (others - least(places / burst - 1.0, 0.0)) / 2.0
    at_first = xp.minimum(xp.maximum(at_first, fewest), full_life) / rounds
    whole = xp.floor(rounds)
    filled = (whole + (rounds - whole) ** 2) / rounds
    filled = filled + (1.0 - filled) * window / cycle
    later = met * filled * (1.0 - 1.0 / rounds)
    bound = full_life * (1.0 - decoding / (2.0 * places * rounds))
    kept = most(bound / (at_first + later + 1e-9), 1.0)

    # decodes in the mean step: absent while their prompts run, and at both ends of the run
    steady = least(1.0 + others * (1.0 - met / least(others, 1.0) * wait / cycle), 1.0)
    last = xp.minimum(xp.sqrt(burst**2 + rounds * jitter**2), steps)
    ends = filled - (xp.minimum(burst, steps) + last) / (6.0 * steps * rounds)

    # steps queued for budget: disorder, more prompts than fit, a burst run faster than it returns
    loose = places * middle / math.sqrt(12.0) / window + 1e-9
    line = service * load / (1.0 - load + xp.sqrt((1.0 - load) ** 2 + 8.0 / (math.pi * loose)))
    over = least(places * service - steps - wait, 0.0)
    roomy = prompt / (least(budget - decoding / ranks / 2.0, 1.0) * ranks)
    returned = xp.sqrt((others * roomy) ** 2 + jitter**2)
    late = least(xp.minimum(others * service, cycle) - returned, 0.0) / 2.0
    queued = xp.sqrt(line**2 + over**2) + late / least(rounds - 1.0, 1.0)
    return LoopCounts(
        room=room,
        service=service,
        prompt_steps=prompt_steps,
        own_prompts=own,
        fills=(1.0 - short) * load * other_share * (prompt_steps * room / prompt - 1.0),
        busy=busy,
        queued_steps=queued,
        beside=xp.minimum(beside, sustained),
        beside_found=xp.minimum(found, sustained),
        beside_plain=xp.minimum(plain, sustained),
        seen=xp.minimum(least(steady * ends, 1.0), sustained),
        seen_steady=xp.minimum(steady, sustained),
        steps=steps,
        met=kept * later,
        met_in_burst=kept * at_first,
        met_steady=met,
        rounds=rounds,
        free=free,
        residual=residual,
        apart=window / cycle,
    )


def _groups(places: Number, others: Number, group: Number, xp: Any) -> Number:
    """Places over the mean size, as its members see it, of groups that share a step in a burst.

    The first prompt runs alone, the others as many a step as fit, ``group`` of them.
    """
    full = xp.floor(others / group)
    inside = xp.floor(full * group)
    squares = 1.0 + inside**2 / xp.maximum(full, 0.0 * full + 1.0) + (others - inside) ** 2
    return places**2 / squares


def _mean_ceiling(x: Number, spread: Number, xp: Any) -> Number:
    """Mean of the ceiling over lengths drawn evenly in a width of ``spread`` around ``x``."""
    half = x * (spread + 1e-6) / 2.0
    return (_ceiling_sum(x + half, xp) - _ceiling_sum(x - half, xp)) / (2.0 * half)


def _ceiling_sum(x: Number, xp: Any) -> Number:
    """Integral of the ceiling from 0 to x."""
    whole = xp.ceil(x)
    return whole * x - whole * (whole - 1.0) / 2.0
