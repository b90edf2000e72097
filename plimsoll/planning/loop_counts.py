"""What meets what in a closed loop, in counts of steps and requests; no seconds.

All K places start at once, so their prompts come back in a window of V steps: as wide as the
prompts took to run, and widened every round by how much output lengths differ, up to a whole
cycle. From V follow the prompts that share a step, the share of other places' prompts that a
request meets while it decodes (V / (V + w) for w steps from one request's end to the first token
of the next in its place), the decodes beside a prompt, and the steps a prompt queues for budget:
an excess of prompts over budget, or the wait of equal jobs that arrive at random in a window.
Where budget cannot keep K requests decoding, they are as many as it can.
Leaves out: preemption, prompts of different lengths.
Source: doi:10.1109/49.76642 (waits of equal periodic jobs, in its diffusion limit).
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
    ``met`` prompts are met while decoding, ``met_in_burst`` those of the burst. ``rounds`` are
    of a place; ``residual``: steps under way to wait for, 0 or 1.
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
    steps: Number
    met: Number
    met_steady: Number
    seen_steady: Number
    apart: Number
    met_in_burst: Number
    rounds: Number
    residual: Number


def loop_counts(
    *,
    in_flight: Number,
    running: Number,
    prompt: Number,
    output: Number,
    spread: Number,
    rounds: Number,
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
    several = most(others, 1.0)
    steps = least(output - 1.0, 1.0)
    rounds = least(rounds * in_flight / places, 1.0)
    residual = several * least(most(1.0 - in_flight + places, 1.0), 0.0)
    sustained = ranks * steps * budget / (prompt + steps)
    room = least(budget - xp.minimum(places, sustained) / ranks, 1.0)
    service = prompt / (room * ranks)
    prompt_steps = _mean_ceiling(prompt / room, spread, xp)
    short = least(2.0 - prompt_steps, 0.0)
    wait = residual + prompt_steps
    per_step = 1.0 / service
    alone = others / places
    # groups of the burst: the first prompt, then as many a step as fit
    group = least(per_step, 1.0)
    full = xp.floor(others / group)
    inside = xp.floor(full * group)
    grouped = (1.0 + inside**2 / least(full, 1.0) + (others - inside) ** 2) / places
    burst = short * places / grouped + (1.0 - short) * least(others * service, 1.0)
    jitter = spread * output
    middle = jitter * xp.sqrt((rounds + 1.0) / 3.0)
    cycle = steps + wait
    window = xp.minimum(xp.sqrt(burst**2 + middle**2), cycle)
    last = xp.minimum(xp.sqrt(burst**2 + rounds * jitter**2), steps)
    order = xp.minimum(burst / window, 1.0 + 0.0 * window) ** 2
    own = 1.0 + (places - order * burst - (1.0 - order)) / window
    own = xp.minimum(least(own, 1.0), least(per_step, ranks))
    busy = order * own * (1.0 - 1.0 / window) + (1.0 - order) * (own - 1.0)
    busy = several * xp.minimum(least(busy, 0.0), per_step * alone)
    long_beside = xp.maximum(alone, places - wait * places / (1.0 + window))
    beside = short * xp.maximum(places - own - residual * busy, alone) + (1.0 - short) * long_beside
    beside_plain = short * (places - own) + (1.0 - short) * beside
    beside_found = short * least(places - own - least(busy, 1.0), 0.0) + (1.0 - short) * beside
    load = most(places * service / window, 1.0)
    wide = short * window + (1.0 - short) * xp.maximum(window, wait)
    missed = places * (wait / wide - wait * (wait - 1.0) / (2.0 * wide**2))
    missed = missed - load - (1.0 - load) * wait / wide
    first_met = alone * (short + (1.0 - short) * (2.0 * service - 1.0) / prompt_steps)
    whole = xp.floor(rounds)
    partial = (whole + (rounds - whole) ** 2) / rounds
    kept = partial + (1.0 - partial) * window / cycle
    met = xp.minimum(xp.maximum(others - missed, first_met), xp.minimum(steps / service, others))
    at_first = (others - least(places / burst - 1.0, 0.0)) / 2.0
    at_first = xp.minimum(xp.maximum(at_first, first_met), steps / service)
    seen = 1.0 + others * (1.0 - met / least(others, 1.0) * wait / (steps + wait))
    steady = xp.minimum(least(seen, 1.0), sustained)
    seen = seen * (kept - (xp.minimum(burst, steps) + last) / (6.0 * steps * rounds))
    in_burst, later = at_first / rounds, met * kept * (1.0 - 1.0 / rounds)
    full_life = steps / service * (1.0 - xp.minimum(places, sustained) / (2.0 * places * rounds))
    kept_met = most(full_life / (in_burst + later + 1e-9), 1.0)
    slack = 1.0 - load
    free = places * middle / math.sqrt(12.0) / window + 1e-9
    queued = load / (slack + xp.sqrt(slack**2 + 8.0 / (math.pi * free))) * service
    over = least(places * service - steps - wait, 0.0)
    queued = xp.sqrt(queued**2 + over**2)
    roomy = prompt / (least(budget - xp.minimum(places, sustained) / ranks / 2.0, 1.0) * ranks)
    returned = xp.sqrt((others * roomy) ** 2 + jitter**2)
    late = least(xp.minimum(others * service, cycle) - returned, 0.0) / 2.0
    queued = queued + late / least(rounds - 1.0, 1.0)
    return LoopCounts(
        room=room,
        service=service,
        prompt_steps=prompt_steps,
        own_prompts=own,
        fills=several
        * (1.0 - short)
        * load
        * others
        / places
        * (prompt_steps * room / prompt - 1.0),
        busy=busy,
        queued_steps=queued,
        beside=xp.minimum(beside, sustained),
        beside_found=xp.minimum(beside_found, sustained),
        beside_plain=xp.minimum(beside_plain, sustained),
        seen=xp.minimum(least(seen, 1.0), sustained),
        steps=steps,
        met=kept_met * later,
        met_steady=met,
        seen_steady=steady,
        apart=window / cycle,
        met_in_burst=kept_met * in_burst,
        rounds=rounds,
        residual=residual,
    )


def _mean_ceiling(x: Number, spread: Number, xp: Any) -> Number:
    """Mean of the ceiling over lengths drawn evenly in a width of ``spread`` around ``x``."""
    half = x * (spread + 1e-6) / 2.0
    low, high = x - half, x + half

    def area(x: Number) -> Number:
        whole = xp.ceil(x)
        return whole * x - whole * (whole - 1.0) / 2.0

    return (area(high) - area(low)) / (high - low)
