"""Prompts packed into steps of a token budget: several in one step, a burst over many.

Steps are filled to the budget, the last prompt of each in part; decodes take their token of it
first. A burst is summed over its own steps. Of many steps only some are timed, and the others lie
between them, so the sum stays linear in the clock's seconds.
Leaves out: prompts of different lengths.
Source: arXiv 2403.02310 (chunked prefill).
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

__all__ = ["StepTimes", "between", "burst_first_token_s", "chunk_starts", "several", "step_s"]

_MOST_TIMED = 24
"""Steps of a burst whose time is asked for."""


class StepTimes(Protocol):
    """Step times of one replica, as ``StepClock``."""

    def step_s(
        self, chunks: Sequence[tuple[int, int]], num_decodes: int, decode_context: int
    ) -> float:
        """See ``StepClock``."""
        ...


def chunk_starts(prompt: int, budget: int) -> list[tuple[int, int]]:
    """(new tokens, tokens cached before them) of each step that carries the prompt."""
    starts = range(0, prompt, budget)
    return [(min(budget, prompt - start), start) for start in starts]


def several(prompt: int, count: float) -> tuple[tuple[int, int], ...]:
    """Chunks of ``count`` prompts in one step, the last in part."""
    whole = int(count)
    rest = round((count - whole) * prompt)
    return ((prompt, 0),) * whole + (((rest, 0),) if rest else ())


def step_s(
    clock: StepTimes, chunks: Sequence[tuple[int, int]], decodes: int, context_tokens: float
) -> float:
    """A step of ``decodes`` at a mean context; no time where nothing runs in it."""
    if not chunks and not decodes:
        return 0.0
    return clock.step_s(chunks, decodes, round(decodes * context_tokens))


def between(time_s: Callable[[int], Any], count: float) -> Any:
    """Times at the whole counts around ``count``, in proportion."""
    low = int(count)
    part = count - low
    return (1.0 - part) * time_s(low) + part * time_s(low + 1) if part else time_s(low)


def burst_first_token_s(
    clock: StepTimes, prompt: int, output: float, budget: int, *, places: int, ranks: int = 1
) -> float:
    """Mean first token of ``places`` prompts that arrive at once.

    The first arrival starts a step of its own, since the engine is idle. Ranks run alike.
    """
    each, life = -(-places // ranks), max(1, round(output) - 1)
    begins = _step_begins(prompt, budget, each, life)
    count = len(begins) - 1
    total_s = 0.0
    for step, weight in _timed_steps([1.0 - done / each for done, _ in begins[:count]]):
        done, begun = begins[step]
        decodes = _decoding(begins, step, life)
        room = max(1, budget - decodes) if step else min(budget, prompt)
        chunks: list[tuple[int, int]] = []
        while room > 0 and done + len(chunks) < each:
            chunks.append((min(room, prompt - begun), begun))
            room, begun = room - chunks[-1][0], 0
        running = min(places, decodes * ranks)
        total_s = total_s + weight * step_s(clock, tuple(chunks) * ranks, running, prompt + 1.0)
    return total_s


def _step_begins(prompt: int, budget: int, each: int, life: int) -> list[tuple[int, int]]:
    """(prompts done, tokens of the next one done) at the start of each step, and at the end."""
    done, begun = 0, min(budget, prompt)
    begins = [(0, 0)]
    while done < each:
        if len(begins) > 1:
            begun += max(1, budget - _decoding(begins, len(begins) - 1, life))
        done, begun = min(each, done + begun // prompt), begun % prompt
        begins.append((done, begun))
    return begins


def _decoding(begins: Sequence[tuple[int, int]], step: int, life: int) -> int:
    """Prompts done by a step less those done ``life`` steps before, which have ended."""
    return begins[step][0] - begins[max(0, step - life)][0]


def _timed_steps(weights: Sequence[float]) -> list[tuple[int, float]]:
    """Steps to time, with the weight of those around each: linear in between."""
    last = len(weights) - 1
    nodes = sorted({round(i * last / (_MOST_TIMED - 1)) for i in range(_MOST_TIMED)})
    found = []
    for at, node in enumerate(nodes):
        left, right = nodes[max(0, at - 1)], nodes[min(len(nodes) - 1, at + 1)]
        weight = weights[node]
        weight += sum(weights[i] * (i - left) / (node - left) for i in range(left + 1, node))
        weight += sum(weights[i] * (right - i) / (right - node) for i in range(node + 1, right))
        found.append((node, weight))
    return found
