"""Finds how to overlap compute, memory and network inside one device.

The batch is cut into nano-batches so that while one waits for memory or the network another
computes. Stage one finds number, sizes and order of the pieces without interference; stage two
the shares of the device that make the iteration shortest with it. Starts with two pieces an
operator; where the compute lane then idles, the operators it waits for are cut finer, until
nothing gains. Only operators bound by different lanes overlap.
Leaves out: memory and network kernels whose share changes while they run.
Source: arXiv 2408.12757.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from plimsoll.cost.overlap import simulate_overlap
from plimsoll.cost.overlap_plan import iteration_s, sequential_s
from plimsoll.cost.overlap_profile import Curves, Dependency, OpProfile, check_operators
from plimsoll.planning.overlap_order import order_pieces
from plimsoll.planning.overlap_pattern import in_order_of_dependence, structure
from plimsoll.planning.overlap_shares import Judge, best_uniform_shares, descend
from plimsoll.spec.errors import SpecError
from plimsoll.spec.overlap import NanoPiece, OverlapPlan

__all__ = ["GRAIN_TOKENS", "Table", "search_overlap", "search_rewrites"]

GRAIN_TOKENS = 128
"""Sizes of nano-batches are multiples of this: the tile of a matrix multiply."""
_STRETCHES = {1: (1.0, 1.5, 2.0), 2: (1.5,)}
"""Waits for memory and network that stage one plans for, by how often the batch is halved."""
_FINALISTS = 3
_MAX_HALVINGS = 2
_MAX_NODES = 1000
_MAX_TRIALS = 40_000
_BUBBLE_FRACTION = 0.005

Pieces = tuple[NanoPiece, ...]


class Table(NamedTuple):
    """Operators of one layer and who depends on whom: one way to write the layer."""

    operators: tuple[OpProfile, ...]
    dependencies: tuple[Dependency, ...]


class _Found(NamedTuple):
    time_s: float
    pieces: Pieces


def search_overlap(
    operators: Sequence[OpProfile],
    dependencies: Sequence[Dependency],
    curves: Curves,
    *,
    batch_tokens: int,
    layers: int,
    grain_tokens: int = GRAIN_TOKENS,
    budget_s: float = 120.0,
    on_progress: Callable[[str], None] | None = None,
) -> OverlapPlan:
    """The plan with the shortest iteration found; never longer than operators one by one.

    ``operators`` are those of one layer on the whole batch. The answer is the same on every
    machine unless ``budget_s`` ends the search early; it then holds the best plan so far and a
    warning.

    Raises:
        SpecError: the dense batch is below two grains, an operator has no profile or its lane
            no curve, or operators wait for each other in a circle.
    """
    if grain_tokens < 1:
        raise SpecError(f"a grain of {grain_tokens} tokens; there must be at least 1")
    if batch_tokens < 2 * grain_tokens:
        raise SpecError(
            f"a dense batch of {batch_tokens} tokens cannot be cut; it needs at least "
            f"{2 * grain_tokens}, two nano-batches of {grain_tokens}"
        )
    if layers < 1:
        raise SpecError(f"{layers} layers; there must be at least 1")
    check_operators(operators, dependencies, curves)
    ordered = in_order_of_dependence(operators, dependencies)
    search = _Search(
        ordered,
        dependencies,
        Judge(
            operators=ordered,
            dependencies=dependencies,
            curves=curves,
            layers=layers,
            max_trials=_MAX_TRIALS,
            stop_at_s=time.monotonic() + budget_s,
        ),
        batch_tokens,
        grain_tokens,
        on_progress or (lambda _: None),
    )
    pieces, warnings = search.run()
    uncut_s = sequential_s(ordered, layers=layers)
    found_s = iteration_s(pieces, ordered, dependencies, curves, layers=layers)
    if found_s >= uncut_s:
        pieces, found_s = search.uncut(), uncut_s
        warnings = (*warnings, "no plan that overlaps is faster than operators one by one")
    return OverlapPlan(
        batch_tokens=batch_tokens,
        layers=layers,
        pieces=pieces,
        iteration_s=found_s,
        sequential_s=uncut_s,
        warnings=warnings,
    )


def search_rewrites(
    tables: Sequence[Table],
    curves: Curves,
    *,
    batch_tokens: int,
    layers: int,
    grain_tokens: int = GRAIN_TOKENS,
    budget_s: float = 120.0,
    on_progress: Callable[[str], None] | None = None,
) -> tuple[int, OverlapPlan]:
    """Which of several ways to write the same layer overlaps best, and its plan.

    For one, two all-gathers and an all-reduce a layer or two all-reduces. The budget is split
    evenly; see ``search_overlap`` for the rest.
    """
    plans = [
        search_overlap(
            table.operators,
            table.dependencies,
            curves,
            batch_tokens=batch_tokens,
            layers=layers,
            grain_tokens=grain_tokens,
            budget_s=budget_s / len(tables),
            on_progress=on_progress,
        )
        for table in tables
    ]
    best = min(range(len(plans)), key=lambda k: (plans[k].iteration_s, k))
    return best, plans[best]


class _Search:
    """One search: candidates of growing numbers of pieces, and what cut it short."""

    def __init__(
        self,
        operators: tuple[OpProfile, ...],
        dependencies: Sequence[Dependency],
        judge: Judge,
        batch_tokens: int,
        grain_tokens: int,
        say: Callable[[str], None],
    ) -> None:
        self.operators, self.dependencies, self.judge = operators, dependencies, judge
        self.batch_tokens, self.grain_tokens, self.say = batch_tokens, grain_tokens, say
        self.unproven = 0

    def run(self) -> tuple[Pieces, tuple[str, ...]]:
        """The best pieces, and warnings."""
        fine: frozenset[str] = frozenset()
        best = self._round(fine, 1, None)
        while best is not None and not self.judge.spent:
            more = fine | self._cut_finer(best.pieces)
            if more == fine or self.batch_tokens < 2**_MAX_HALVINGS * self.grain_tokens:
                break
            fine = more
            finer = self._round(fine, _MAX_HALVINGS, self._halved(best.pieces, fine))
            if finer is None or finer.time_s >= best.time_s:
                break
            best = finer
        warnings = []
        if self.judge.late:
            warnings.append("the time budget ended the search: this is the best plan so far")
        elif self.judge.spent:
            warnings.append("the search stopped after its number of trials")
        if self.unproven:
            warnings.append(f"{self.unproven} orders of stage one are the best found, not proven")
        if best is None:
            warnings.append("stage one found no order: operators run one by one")
            return self.uncut(), tuple(warnings)
        return best.pieces, tuple(warnings)

    def uncut(self) -> Pieces:
        """Every operator whole, in order of dependence."""
        return tuple(
            NanoPiece(operator=operator.name, first_token=0, end_token=self.batch_tokens)
            for operator in self.operators
        )

    def _round(
        self, fine: frozenset[str], num_halvings: int, known: Pieces | None
    ) -> _Found | None:
        """The best plan with operators in ``fine`` cut finer than in two; ``known`` is one."""
        found: list[_Found] = []
        seen = set()
        for rotation in self._rotations():
            for stretch in _STRETCHES[num_halvings]:
                if self.judge.spent:
                    break
                pieces = self._ordered(fine, num_halvings, rotation, stretch)
                if pieces is None or pieces in seen:
                    continue
                seen.add(pieces)
                shared, time_s = best_uniform_shares(pieces, self.judge)
                found.append(_Found(time_s, shared))
        found.sort(key=lambda candidate: candidate.time_s)
        finished = []
        if known is not None:
            found.insert(0, _Found(self.judge.of(known), known))
        for candidate in found[:_FINALISTS]:
            pieces, time_s = descend(
                candidate.pieces, candidate.time_s, self.judge, grain_tokens=self.grain_tokens
            )
            finished.append(_Found(time_s, pieces))
        best = min(finished, key=lambda candidate: candidate.time_s, default=None)
        if best is not None:
            self.say(f"{len(best.pieces)} pieces: {best.time_s * 1e3:.2f} ms")
        return best

    def _rotations(self) -> list[int]:
        """Where the half that runs ahead may stop: nowhere, or after a wait of the compute lane."""
        lanes = [operator.lane for operator in self.operators]
        return [0] + [
            k for k in range(1, len(lanes)) if lanes[k] == "compute" and lanes[k - 1] != "compute"
        ]

    def _ordered(
        self, fine: frozenset[str], num_halvings: int, rotation: int, stretch: float
    ) -> Pieces | None:
        pattern = structure(
            self.operators,
            self.dependencies,
            fine=fine,
            num_halvings=num_halvings,
            rotation=rotation,
        )
        order = order_pieces(
            pattern,
            self.operators,
            batch_tokens=self.batch_tokens,
            grain_tokens=self.grain_tokens,
            stretch={"memory": stretch, "network": stretch},
            max_nodes=_MAX_NODES,
            limit_s=self.judge.stop_at_s - time.monotonic(),
        )
        if order is None:
            return None
        self.unproven += not order.proven
        return tuple(
            NanoPiece(
                operator=self.operators[piece.op].name,
                first_token=order.cuts[piece.low],
                end_token=order.cuts[piece.high],
                ahead=piece.ahead,
            )
            for piece in (pattern.pieces[i] for i in order.sequence)
        )

    def _halved(self, pieces: Pieces, fine: frozenset[str]) -> Pieces:
        """``pieces`` with the two of every operator in ``fine`` cut once more, in place."""
        found: list[NanoPiece] = []
        for piece in pieces:
            whole = sum(other.operator == piece.operator for other in pieces) == 2
            tokens = piece.end_token - piece.first_token
            if piece.operator not in fine or not whole or tokens < 2 * self.grain_tokens:
                found.append(piece)
                continue
            middle = piece.first_token + tokens // 2 // self.grain_tokens * self.grain_tokens
            found.append(replace(piece, end_token=middle))
            found.append(replace(piece, first_token=middle))
        return tuple(found)

    def _cut_finer(self, pieces: Pieces) -> frozenset[str]:
        """Operators around the longest gap of the compute lane: the one it waits for, and those
        that one waits for in its layer. Empty if there is no gap to speak of."""
        unrolled = self.judge.unrolled(pieces)
        ops = unrolled.operations
        run = simulate_overlap(ops, self.judge.curves)
        compute = [i for i, op in enumerate(ops) if op.lane == "compute"]
        gaps = [
            (run.start_s[b] - run.end_s[a], b) for a, b in zip(compute, compute[1:], strict=False)
        ]
        middle = [gap for gap in gaps if 0 < unrolled.layer[gap[1]] < max(unrolled.layer)]
        longest_s, waiting = max(middle or gaps, key=lambda gap: gap[0], default=(0.0, 0))
        if longest_s <= _BUBBLE_FRACTION * run.makespan_s / (1 + max(unrolled.layer)):
            return frozenset()
        blocker = max(ops[waiting].after, key=lambda i: run.end_s[i], default=waiting)
        name = pieces[unrolled.piece[blocker]].operator
        parents = {d.parent for d in self.dependencies if d.child == name and not d.next_layer}
        return frozenset({name, *parents})
