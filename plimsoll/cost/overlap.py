"""Nano-operations that share one device: when each starts and ends.

Fluid event model. Each lane (compute, memory, network) runs its nano-operations one at a time
in the order given, each as soon as what it waits for has ended. A running one holds a share of
the device and advances at the speed P(R) of its lane. Memory and network kernels get the share
they ask for; the compute lane gets what they leave, at most what it asks for. Shares never
exceed one: should memory and network ask for more, both are cut in proportion.
Leaves out launch gaps and cache effects. Source: arXiv 2408.12757.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from plimsoll.cost.overlap_profile import LANES, Curves, Lane, check_lane
from plimsoll.spec.errors import SpecError

__all__ = ["NanoOp", "OverlapRun", "Stretch", "simulate_overlap"]

_DONE = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class NanoOp:
    """A piece of an operator. ``work_s``: its time alone on the device; ``share`` of the device
    it asks for, in (0, 1]; ``after``: positions of the nano-operations it waits for."""

    name: str
    lane: Lane
    work_s: float
    share: float = 1.0
    after: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """From ``start_s`` to ``end_s`` operation ``op`` held ``share`` and ran at ``speed``."""

    op: int
    start_s: float
    end_s: float
    share: float
    speed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapRun:
    """Times of every nano-operation, in the order they were given."""

    start_s: tuple[float, ...]
    end_s: tuple[float, ...]
    makespan_s: float
    stretches: tuple[Stretch, ...]
    """Empty unless asked for."""


def simulate_overlap(
    operations: Sequence[NanoOp], curves: Curves, *, stretches: bool = False
) -> OverlapRun:
    """Run ``operations``; those of one lane run in the order of the sequence.

    Raises:
        SpecError: a lane without a curve, a share or time out of range, a wait for something
            that is not there, an order in which nothing can start, or shares at which nothing
            moves.
    """
    _check(operations, curves)
    count = len(operations)
    waits = [len(op.after) for op in operations]
    children: list[list[int]] = [[] for _ in operations]
    for i, op in enumerate(operations):
        for parent in op.after:
            children[parent].append(i)
    queues = [[i for i, op in enumerate(operations) if op.lane == lane] for lane in LANES]
    heads, running = [0, 0, 0], [-1, -1, -1]
    left = [op.work_s for op in operations]
    start_s, end_s = [0.0] * count, [0.0] * count
    rates: dict[tuple[float, float, float], tuple[tuple[float, float], ...]] = {}
    pieces: list[Stretch] = []
    now_s, done = 0.0, 0
    while done < count:
        for lane, queue in enumerate(queues):
            if running[lane] < 0 and heads[lane] < len(queue):
                i = queue[heads[lane]]
                if waits[i] == 0:
                    running[lane], start_s[i] = i, now_s
        asked = tuple(operations[i].share if i >= 0 else 0.0 for i in running)
        key = (asked[0], asked[1], asked[2])
        granted = rates.get(key)
        if granted is None:
            granted = rates[key] = _granted(key, curves)
        step_s = -1.0
        for i, (_, speed) in zip(running, granted, strict=True):
            if i >= 0 and speed > 0 and (step_s < 0 or left[i] < step_s * speed):
                step_s = left[i] / speed
        if step_s < 0:
            raise SpecError(_stuck(operations, running, queues, heads))
        later_s = now_s + step_s
        for lane, (share, speed) in enumerate(granted):
            i = running[lane]
            if i < 0:
                continue
            if stretches:
                piece = Stretch(op=i, start_s=now_s, end_s=later_s, share=share, speed=speed)
                pieces.append(piece)
            left[i] -= step_s * speed
            if left[i] <= _DONE * operations[i].work_s:
                end_s[i], running[lane] = later_s, -1
                heads[lane] += 1
                done += 1
                for child in children[i]:
                    waits[child] -= 1
        now_s = later_s
    return OverlapRun(
        start_s=tuple(start_s), end_s=tuple(end_s), makespan_s=now_s, stretches=tuple(pieces)
    )


def _granted(asked: tuple[float, float, float], curves: Curves) -> tuple[tuple[float, float], ...]:
    """(share, speed) of each lane in the order of ``LANES``; 0 where none asks."""
    compute, memory, network = asked
    scale = max(1.0, memory + network)
    memory, network = memory / scale, network / scale
    compute = max(0.0, min(compute, 1.0 - memory - network))
    shares = zip(LANES, (compute, memory, network), strict=True)
    return tuple((share, curves[lane].speed(share) if share > 0 else 0.0) for lane, share in shares)


def _check(operations: Sequence[NanoOp], curves: Curves) -> None:
    for i, op in enumerate(operations):
        check_lane(op.name, op.lane, curves)
        if not 0 < op.share <= 1:
            raise SpecError(f"{op.name}: a share of {op.share:g} is not above 0 and at most 1")
        if not 0 < op.work_s < float("inf"):
            raise SpecError(f"{op.name}: a time of {op.work_s:g} s; it must be above 0")
        for parent in op.after:
            if not 0 <= parent < len(operations) or parent == i:
                raise SpecError(
                    f"{op.name}: waits for number {parent}; there are {len(operations)}, counted "
                    "from 0, and none waits for itself"
                )


def _stuck(
    operations: Sequence[NanoOp],
    running: Sequence[int],
    queues: Sequence[Sequence[int]],
    heads: Sequence[int],
) -> str:
    """Why nothing moves, in a sentence."""
    moving = [operations[i].name for i in running if i >= 0]
    if moving:
        return f"{', '.join(moving)}: no speed at the shares given, so the run never ends"
    waiting = [
        operations[queue[head]].name
        for queue, head in zip(queues, heads, strict=True)
        if head < len(queue)
    ]
    return (
        f"{', '.join(waiting)}: first in its lane but waits for one that comes later, so the "
        "order never starts; order each lane by what depends on what"
    )
