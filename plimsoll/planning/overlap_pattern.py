"""How many pieces each operator is cut into, and which of them depend on each other.

A pattern cuts the batch at ``num_cuts`` unknown places; each operator uses all of them or every
second one, so ranges nest and it is known which pieces meet before any size is. The batch
falls into two halves at the middle cut; in the *first* half the leading ``rotation`` operators of
a layer run one layer ahead.
Source: arXiv 2408.12757.
"""

from collections.abc import Sequence
from typing import NamedTuple

from plimsoll.cost.overlap_profile import Dependency, OpProfile
from plimsoll.spec.errors import SpecError

__all__ = ["Edge", "PatternPiece", "Structure", "in_order_of_dependence", "structure"]


class PatternPiece(NamedTuple):
    """Operator number ``op`` on the batch between cuts ``low`` and ``high``."""

    op: int
    low: int
    high: int
    ahead: int


class Edge(NamedTuple):
    """Piece ``child`` waits for ``parent`` of the same window, or ``windows`` before."""

    parent: int
    child: int
    windows: int


class Structure(NamedTuple):
    """All pieces of a window; cuts are numbered 0 (first token) to ``num_cuts`` (batch end)."""

    pieces: tuple[PatternPiece, ...]
    edges: tuple[Edge, ...]
    num_cuts: int

    def precedes(self) -> list[set[int]]:
        """For each piece, those that any order of a window runs after it."""
        after: list[set[int]] = [set() for _ in self.pieces]
        for parent, child, windows in self.edges:
            if windows == 0:
                after[parent].add(child)
        changed = True
        while changed:
            changed = False
            for mine in after:
                more = set().union(*(after[child] for child in mine)) - mine
                if more:
                    mine |= more
                    changed = True
        return after


def in_order_of_dependence(
    operators: Sequence[OpProfile], dependencies: Sequence[Dependency]
) -> tuple[OpProfile, ...]:
    """``operators`` so that each follows what it depends on in its layer; else as given.

    Raises:
        SpecError: operators of one layer depend on each other in a circle.
    """
    waits = {
        operator.name: {
            d.parent for d in dependencies if d.child == operator.name and not d.next_layer
        }
        for operator in operators
    }
    placed: list[OpProfile] = []
    left = list(operators)
    while left:
        done = {operator.name for operator in placed}
        free = next((operator for operator in left if waits[operator.name] <= done), None)
        if free is None:
            names = ", ".join(operator.name for operator in left)
            raise SpecError(f"operators {names} wait for each other in one layer")
        placed.append(free)
        left.remove(free)
    return tuple(placed)


def structure(
    operators: Sequence[OpProfile],
    dependencies: Sequence[Dependency],
    *,
    fine: frozenset[str],
    num_halvings: int,
    rotation: int,
) -> Structure:
    """Operators in ``fine`` are cut in ``2**num_halvings`` pieces, all others in two.

    ``operators`` in order of dependence.
    """
    num_cuts = 2**num_halvings
    pieces = []
    for op, operator in enumerate(operators):
        step = 1 if operator.name in fine else num_cuts // 2
        for low in range(0, num_cuts, step):
            ahead = 1 if low < num_cuts // 2 and op < rotation else 0
            pieces.append(PatternPiece(op, low, low + step, ahead))
    edges = []
    for dependency in dependencies:
        for p, parent in enumerate(pieces):
            if operators[parent.op].name != dependency.parent:
                continue
            for c, child in enumerate(pieces):
                meets = parent.low < child.high and child.low < parent.high
                if operators[child.op].name == dependency.child and meets:
                    later = 1 if dependency.next_layer else 0
                    edges.append(Edge(p, c, later - child.ahead + parent.ahead))
    return Structure(tuple(pieces), tuple(edges), num_cuts)
