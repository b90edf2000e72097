"""Successive halving: cheap looks at many candidates, long looks at the few that lead.

Each round judges all that are left, in order and independently, then keeps the better half. The
last round's order is the answer. Results of a round may be used by the next (a bracket narrows),
so nothing is thrown away. Ties keep the earlier candidate, which makes the outcome the same at
any number of workers.
Source: arXiv 1502.07943 (successive halving).
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from plimsoll.planning.workers import Workers

__all__ = ["halve"]

State = TypeVar("State")


def halve(
    states: Sequence[State],
    rounds: Sequence[Callable[[State], State]],
    key: Callable[[State], float],
    workers: Workers,
    *,
    keep_last: int = 1,
    seen: Callable[[State], None] = lambda _: None,
) -> list[State]:
    """States after the last round they took part in, best first.

    ``rounds`` are picklable and return an updated state; ``key`` says how good a state is;
    at least ``keep_last`` reach the last round; ``seen`` is told each result as it arrives.
    States dropped early follow, best first, those that stayed longer.
    """
    left = list(states)
    dropped: list[State] = []
    for number, look in enumerate(rounds):
        looked = []
        for state in workers.map(look, left):
            looked.append(state)
            seen(state)
        order = sorted(range(len(looked)), key=lambda i: (-key(looked[i]), i))
        last = number == len(rounds) - 1
        keep = len(order) if last else min(len(order), max(keep_last, (len(order) + 1) // 2))
        left = [looked[i] for i in order[:keep]]
        dropped = [looked[i] for i in order[keep:]] + dropped
    return left + dropped
