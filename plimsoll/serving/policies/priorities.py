"""Where priorities come from that change while requests run.

A source is asked every so many iterations for the priority of every request of an instance, and
for those that come in between when they come; larger runs first. It draws from the view's stream
and keeps what it must remember in the view's memory, so that a run can be repeated.
Source: arXiv 2411.18424 (random and Markov patterns); 2401.00588 (counters of served tokens).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plimsoll.serving.policy import Phase, ReqView, View

__all__ = ["MarkovPriority", "PrioritySource", "RandomPriority", "ServedTokens"]

PrioritySource = Callable[[View, Sequence[ReqView]], Mapping[int, float]]
"""(view, requests, in order of their ids) to the priority of each, by id."""


@dataclass(frozen=True, slots=True)
class RandomPriority:
    """Anew each time, uniform in [0, 1)."""

    def __call__(self, view: View, requests: Sequence[ReqView]) -> Mapping[int, float]:
        """See ``PrioritySource``."""
        drawn = view.rng.random(len(requests)).tolist()
        return {r.id: value for r, value in zip(requests, drawn, strict=True)}


@dataclass(frozen=True, slots=True)
class MarkovPriority:
    """One of ``levels``, which a request keeps with chance ``stay``, else one up or down.

    Of equal levels the older request goes first.
    """

    levels: int = 8
    stay: float = 0.5

    def __call__(self, view: View, requests: Sequence[ReqView]) -> Mapping[int, float]:
        """See ``PrioritySource``."""
        before: Any = view.mem.get("markov levels", {})
        before = {i: level for i, level in before.items() if view.has(i)}
        moves = view.rng.random(len(requests)).tolist()
        starts = view.rng.integers(self.levels, size=len(requests)).tolist()
        now = {}
        for request, move, start in zip(requests, moves, starts, strict=True):
            level = before.get(request.id, start)
            if request.id in before and move >= self.stay:
                level += 1 if move >= (1 + self.stay) / 2 else -1
            now[request.id] = min(max(level, 0), self.levels - 1)
        view.mem["markov levels"] = before | now
        return now


@dataclass(frozen=True, slots=True)
class ServedTokens:
    """Requests of the tenant that was served least go first (virtual token counter).

    A tenant is a request class. Its counter grows by the tokens its requests got: ``prompt_weight``
    for each of the prompt, once any of it has run, ``output_weight`` for each of the output. One
    that comes (back) starts at the least of those that are there, so that it cannot claim the past.
    What a request gets after it was last looked at is not counted.
    """

    prompt_weight: float = 1.0
    output_weight: float = 2.0

    def __call__(self, view: View, requests: Sequence[ReqView]) -> Mapping[int, float]:
        """See ``PrioritySource``."""
        counters: Any = view.mem.setdefault("served tokens", {})
        seen: Any = {i: v for i, v in view.mem.get("served so far", {}).items() if view.has(i)}
        view.mem["served so far"] = seen
        there = {tenant for tenant, _ in seen.values()}
        least = min((counters[tenant] for tenant in there), default=0.0)
        for tenant in {r.request_class for r in requests} - there:
            counters[tenant] = max(counters.get(tenant, 0.0), least)
        for request in requests:
            served = self.output_weight * request.generated
            if request.generated or request.phase in (Phase.PREFILL, Phase.DECODE):
                served += self.prompt_weight * request.prompt_tokens
            if request.id in seen:
                served = max(served, seen[request.id][1])
            _, before = seen.get(request.id, ("", 0.0))
            counters[request.request_class] += served - before
            seen[request.id] = (request.request_class, served)
        return {r.id: -counters[r.request_class] for r in requests}
