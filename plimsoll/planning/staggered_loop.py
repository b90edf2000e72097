"""Mean time to first token of a closed loop whose clients do not act in lockstep: real runs.

``planning/closed_loop.py`` counts which prompts share which steps, as the simulator does. Clients
of real runs are late by their own tokenizing and network, which breaks up such groups; what is
left is a mean field. A share 1/R of first tokens waits for the opening burst. Requests finish by
steps, not by time, so a burst of prompts comes back as one, spread only by how much output
lengths differ: lambda = N / (N + spread * output) prompts are met in a step then. A first token
waits for the steps before its prompt is admitted, each with lambda prompts in it, and for its
own. Where the cache holds fewer than N at once the rest queue (Little's law).
Leaves out: groups of prompts that start together, preemption, variance of single requests.
Sources: doi:10.1287/opre.9.3.383 (Little); errors against measured runs in docs/accuracy.md.
"""

from typing import Any

from plimsoll.planning.closed_loop import Admission, LoopLoad, LoopPieces, Number

__all__ = ["staggered_first_token_s"]


def staggered_first_token_s(
    load: LoopLoad, pieces: LoopPieces, tpot_s: Number, admission: Admission, *, xp: Any
) -> Number:
    """Mean TTFT of replicas that run both phases, given their TPOT; ``xp`` is numpy or torch."""
    rounds, running = load.rounds, pieces.running
    burst_s = xp.maximum((running + 1.0) / 2.0 * pieces.shared_prompt_s, pieces.alone_s)
    met = running / (running + load.spread * load.output_tokens)
    busy_step_s = pieces.step_s + met * pieces.prompt_s
    yielded = pieces.step_s / pieces.token_s
    later_s = (
        pieces.alone_s
        + (admission.steps + 0.5) * busy_step_s
        + admission.plain_steps * tpot_s * yielded
    )
    excess = load.in_flight - running
    excess = xp.maximum(excess, 0.0 * excess)
    stay_s = pieces.alone_s + load.output_tokens * tpot_s
    served = load.rounds * load.in_flight
    waiting = ((load.rounds - 1.0) * load.in_flight + excess / 2.0) / served
    queued_s = excess / running * stay_s * waiting
    return admission.fixed_s + burst_s / rounds + (1.0 - 1.0 / rounds) * later_s + queued_s
