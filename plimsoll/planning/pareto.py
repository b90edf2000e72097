"""Points that no other point beats in both speed for a user and yield of a device."""

from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["pareto_front"]

Point = TypeVar("Point")


def pareto_front(
    points: Sequence[Point], x: Callable[[Point], float], y: Callable[[Point], float]
) -> list[Point]:
    """The points not dominated (larger is better in both), by rising ``x``.

    A point is dominated when another is at least as good in both and better in one; of equal
    points the first is kept.
    """
    order = sorted(range(len(points)), key=lambda i: (-x(points[i]), -y(points[i]), i))
    front: list[Point] = []
    best = float("-inf")
    for index in order:
        if y(points[index]) > best:
            best = y(points[index])
            front.append(points[index])
    return front[::-1]
