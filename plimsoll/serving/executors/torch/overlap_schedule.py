"""In which order one process issues the pieces of an overlap plan.

Kernels of the compute and memory lanes run here one by one, in the plan's order; collectives are
started as soon as what they send is there and waited for where their sum is read. A piece whose
turn it is but that waits for one not issued yet lets the next one go first. Prompt attention
reads the keys of earlier tokens of its own sequences, so its pieces keep the order of tokens.
Every rank computes the same order, so that collectives match.
Source: arXiv 2408.12757.
"""

from collections.abc import Sequence
from typing import NamedTuple

from plimsoll.cost.overlap_layer import layer_dependencies
from plimsoll.cost.overlap_plan import check_pieces
from plimsoll.cost.overlap_profile import OpProfile
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.overlap import NanoPiece

__all__ = ["OPERATORS", "Issue", "schedule"]

OPERATORS = (
    "kqv",
    "prefill attention",
    "decode attention",
    "o",
    "reduce attention",
    "ug",
    "d",
    "reduce output",
)
"""What a layer of a tensor parallel decoder is made of here."""


class Issue(NamedTuple):
    """Piece number ``piece`` of ``layer``; ``after`` are the places, in the schedule, of the
    collectives that it waits for."""

    piece: int
    layer: int
    after: tuple[int, ...]


def schedule(pieces: Sequence[NanoPiece], *, layers: int) -> tuple[Issue, ...]:
    """Every piece of every layer once, each behind what it depends on.

    Raises:
        UnsupportedError: a piece of an operator that is not in ``OPERATORS``.
        SpecError: pieces that leave tokens of an operator out.
    """
    for piece in pieces:
        if piece.operator not in OPERATORS:
            raise UnsupportedError(
                f"overlap plan: operator {piece.operator!r} is not carried out here; plan with two "
                f"all-reduces a layer: {', '.join(OPERATORS)}"
            )
    check_pieces(pieces, [OpProfile(name=name, lane="compute", best_s=1.0) for name in OPERATORS])
    parents = _parents(pieces)
    left = [
        (i, window + piece.ahead)
        for window in range(-1, layers)
        for i, piece in enumerate(pieces)
        if 0 <= window + piece.ahead < layers
    ]
    place: dict[tuple[int, int], int] = {}
    issues: list[Issue] = []
    while left:
        waits = [
            [(p, layer - back) for p, back in parents[i] if layer >= back] for i, layer in left
        ]
        ready = [k for k, needed in enumerate(waits) if all(one in place for one in needed)]
        assert ready, "a layer's operators follow one another, and tokens theirs"
        sends = [k for k in ready if _sends(pieces[left[k][0]])]
        k = (sends or ready)[0]
        piece, layer = left.pop(k)
        sums = tuple(place[one] for one in waits[k] if _sends(pieces[one[0]]))
        place[piece, layer] = len(issues)
        issues.append(Issue(piece, layer, sums))
    return tuple(issues)


def _sends(piece: NanoPiece) -> bool:
    return piece.operator.startswith("reduce")


def _parents(pieces: Sequence[NanoPiece]) -> list[list[tuple[int, int]]]:
    """(piece, layers back) that each piece waits for."""
    found: list[list[tuple[int, int]]] = [[] for _ in pieces]
    for dependency in layer_dependencies(OPERATORS):
        for c, child in enumerate(pieces):
            for p, parent in enumerate(pieces):
                names_match = (parent.operator, child.operator) == (
                    dependency.parent,
                    dependency.child,
                )
                if names_match and parent.meets(child):
                    found[c].append((p, 1 if dependency.next_layer else 0))
    for c, child in enumerate(pieces):
        if child.operator == "prefill attention":
            found[c] += [
                (p, 0)
                for p, parent in enumerate(pieces)
                if parent.operator == child.operator and parent.first_token < child.first_token
            ]
    return found
