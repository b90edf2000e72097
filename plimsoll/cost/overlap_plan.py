"""How a plan of overlap unrolls into layers, and how long it takes.

Two pieces depend on each other only if their operators do and their token ranges meet.
Source: arXiv 2408.12757.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from plimsoll.cost.overlap import NanoOp, OverlapRun, simulate_overlap
from plimsoll.cost.overlap_profile import Curves, Dependency, OpProfile, check_operators
from plimsoll.spec.errors import SpecError
from plimsoll.spec.overlap import NanoPiece, OverlapPlan

__all__ = [
    "SAMPLE_LAYERS",
    "Unrolled",
    "check_pieces",
    "extrapolated_s",
    "hand_made_plan",
    "in_turn_s",
    "iteration_s",
    "sequential_s",
    "unroll",
    "with_shares",
]


SAMPLE_LAYERS = 6
"""Layers to simulate where the rest is extrapolated."""


class Unrolled(NamedTuple):
    """Nano-operations of several layers; ``piece`` and ``layer`` of each."""

    operations: tuple[NanoOp, ...]
    piece: tuple[int, ...]
    layer: tuple[int, ...]


def unroll(
    pieces: Sequence[NanoPiece],
    operators: Sequence[OpProfile],
    dependencies: Sequence[Dependency],
    *,
    layers: int,
) -> Unrolled:
    """``layers`` layers of the plan in the order its lanes run them; pieces must be valid."""
    profile = {operator.name: operator for operator in operators}
    batch = max(piece.end_token for piece in pieces)
    parents: list[list[tuple[int, int]]] = [[] for _ in pieces]
    for dependency in dependencies:
        for c, child in enumerate(pieces):
            if child.operator != dependency.child:
                continue
            for p, parent in enumerate(pieces):
                if parent.operator == dependency.parent and parent.meets(child):
                    parents[c].append((p, 1 if dependency.next_layer else 0))
    order = [
        (i, window + piece.ahead)
        for window in range(-1, layers)
        for i, piece in enumerate(pieces)
        if 0 <= window + piece.ahead < layers
    ]
    position = {instance: k for k, instance in enumerate(order)}
    operations = []
    for i, layer in order:
        piece = pieces[i]
        op = profile[piece.operator]
        operations.append(
            NanoOp(
                name=f"{piece.operator} {piece.first_token}-{piece.end_token} of layer {layer}",
                lane=op.lane,
                work_s=op.piece_s((piece.end_token - piece.first_token) / batch),
                share=piece.share,
                after=tuple(
                    position[p, layer - back] for p, back in parents[i] if layer - back >= 0
                ),
            )
        )
    return Unrolled(tuple(operations), tuple(i for i, _ in order), tuple(k for _, k in order))


def with_shares(unrolled: Unrolled, shares: Sequence[float]) -> tuple[NanoOp, ...]:
    """The operations with other shares, one a piece."""
    return tuple(
        op if op.share == shares[i] else replace(op, share=shares[i])
        for op, i in zip(unrolled.operations, unrolled.piece, strict=True)
    )


def iteration_s(
    pieces: Sequence[NanoPiece],
    operators: Sequence[OpProfile],
    dependencies: Sequence[Dependency],
    curves: Curves,
    *,
    layers: int,
) -> float:
    """Simulated time of all layers.

    Raises:
        SpecError: the pieces do not cover the batch, or their order never starts.
    """
    check_pieces(pieces, operators)
    unrolled = unroll(pieces, operators, dependencies, layers=layers)
    return simulate_overlap(unrolled.operations, curves).makespan_s


def extrapolated_s(unrolled: Unrolled, run: OverlapRun, *, layers: int) -> float:
    """Seconds of all layers from a run of ``SAMPLE_LAYERS``, or of all if they are fewer: the rest
    goes at the pace of the middle ones."""
    if layers <= SAMPLE_LAYERS:
        return run.makespan_s
    ends = [0.0] * (max(unrolled.layer) + 1)
    for layer, end_s in zip(unrolled.layer, run.end_s, strict=True):
        ends[layer] = max(ends[layer], end_s)
    pace_s = (ends[SAMPLE_LAYERS - 2] - ends[SAMPLE_LAYERS - 4]) / 2
    return run.makespan_s + (layers - SAMPLE_LAYERS) * pace_s


def sequential_s(operators: Sequence[OpProfile], *, layers: int) -> float:
    """Time of all layers, operators uncut and one by one."""
    return layers * sum(operator.best_s for operator in operators)


def in_turn_s(pieces: Sequence[NanoPiece], operators: Sequence[OpProfile], *, layers: int) -> float:
    """Time of all layers if the pieces ran one by one: what cutting costs by itself."""
    profile = {operator.name: operator for operator in operators}
    batch = max(piece.end_token for piece in pieces)
    return layers * sum(
        profile[piece.operator].piece_s((piece.end_token - piece.first_token) / batch)
        for piece in pieces
    )


def check_pieces(pieces: Sequence[NanoPiece], operators: Sequence[OpProfile]) -> None:
    """Every operator's pieces cover the same batch, each token once.

    Raises:
        SpecError: names the operator whose pieces do not.
    """
    if not pieces:
        raise SpecError("an overlap plan without pieces")
    batch = max(piece.end_token for piece in pieces)
    names = {operator.name for operator in operators}
    for piece in pieces:
        if piece.operator not in names:
            raise SpecError(f"operator {piece.operator} has no profile")
        if piece.ahead not in (0, 1):
            raise SpecError(f"{piece.operator}: ahead is {piece.ahead}; it must be 0 or 1")
    for name in sorted(names):
        at = 0
        mine = (piece for piece in pieces if piece.operator == name)
        for piece in sorted(mine, key=lambda piece: piece.first_token):
            if piece.first_token != at or piece.end_token <= at:
                raise SpecError(
                    f"operator {name}: a piece {piece.first_token}-{piece.end_token} where one "
                    f"from {at} was expected; pieces must cover every token once"
                )
            at = piece.end_token
        if at != batch:
            raise SpecError(f"operator {name}: its pieces end at token {at} of {batch}")


def hand_made_plan(
    operators: Sequence[OpProfile],
    dependencies: Sequence[Dependency],
    curves: Curves,
    *,
    cuts: Mapping[str, Sequence[int]],
    shares: Mapping[str, float],
    batch_tokens: int,
    layers: int,
) -> OverlapPlan:
    """A plan laid out by hand: operators in table order, each cut at its ``cuts``, token order.

    Raises:
        SpecError: a cut outside the batch, an operator without a profile or curve.
    """
    check_operators(operators, dependencies, curves)
    pieces = []
    for operator in operators:
        edges = (0, *cuts.get(operator.name, ()), batch_tokens)
        for first, end in zip(edges, edges[1:], strict=False):
            share = shares.get(operator.name, 1.0)
            piece = NanoPiece(operator=operator.name, first_token=first, end_token=end, share=share)
            pieces.append(piece)
    return OverlapPlan(
        batch_tokens=batch_tokens,
        layers=layers,
        pieces=tuple(pieces),
        iteration_s=iteration_s(pieces, operators, dependencies, curves, layers=layers),
        sequential_s=sequential_s(operators, layers=layers),
    )
