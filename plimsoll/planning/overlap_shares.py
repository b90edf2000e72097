"""Stage two of an overlap search: shares of the device, then small moves, judged with interference.

Every candidate is simulated for a few layers; the rest of the iteration is extrapolated at the
rate the middle layers keep. First all pieces of a lane get one share, by the grid; then each
piece its own; then cuts move by a grain and pieces of a lane change places, as long as something
gains. Every accepted change shortens the iteration, so the descent ends.
Source: arXiv 2408.12757.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from plimsoll.cost.overlap import simulate_overlap
from plimsoll.cost.overlap_plan import SAMPLE_LAYERS, Unrolled, extrapolated_s, unroll, with_shares
from plimsoll.cost.overlap_profile import Curves, Dependency, OpProfile
from plimsoll.spec.errors import SpecError
from plimsoll.spec.overlap import NanoPiece

__all__ = ["SHARES", "Judge", "best_uniform_shares", "descend"]

SHARES = tuple(k / 10 for k in range(1, 11))
_GAIN = 1e-6
_PLACES = 3
Pieces = tuple[NanoPiece, ...]


@dataclass(slots=True, kw_only=True)
class Judge:
    """Time of an iteration of ``layers`` layers; counts ``trials`` and knows when to stop.

    ``stop_at_s`` is a time of the monotonic clock; ``max_trials`` stops alike on every machine.
    """

    operators: Sequence[OpProfile]
    dependencies: Sequence[Dependency]
    curves: Curves
    layers: int
    max_trials: int
    stop_at_s: float
    trials: int = field(default=0)

    @property
    def spent(self) -> bool:
        """Nothing more is to be tried."""
        return self.trials >= self.max_trials or time.monotonic() >= self.stop_at_s

    @property
    def late(self) -> bool:
        """It was the clock that ended the search."""
        return time.monotonic() >= self.stop_at_s

    def unrolled(self, pieces: Pieces) -> Unrolled:
        """The layers that are simulated."""
        layers = min(self.layers, SAMPLE_LAYERS)
        return unroll(pieces, self.operators, self.dependencies, layers=layers)

    def iteration_s(self, unrolled: Unrolled, shares: Sequence[float]) -> float:
        """Seconds of all layers; infinite for an order that never starts."""
        self.trials += 1
        try:
            run = simulate_overlap(with_shares(unrolled, shares), self.curves)
        except SpecError:
            return float("inf")
        return extrapolated_s(unrolled, run, layers=self.layers)

    def of(self, pieces: Pieces) -> float:
        """Seconds of all layers of these pieces as they are."""
        return self.iteration_s(self.unrolled(pieces), [piece.share for piece in pieces])


def best_uniform_shares(pieces: Pieces, judge: Judge) -> tuple[Pieces, float]:
    """The pieces with one share for each of memory and network, the best of the grid."""
    lane = {operator.name: operator.lane for operator in judge.operators}
    lanes = [lane[piece.operator] for piece in pieces]
    unrolled = judge.unrolled(pieces)
    grids = [SHARES if name in lanes else (1.0,) for name in ("memory", "network")]
    best_s, best = float("inf"), tuple(1.0 for _ in pieces)
    for memory, network in itertools.product(*grids):
        if judge.spent and best_s < float("inf"):
            break
        of = {"compute": 1.0, "memory": memory, "network": network}
        shares = tuple(of[name] for name in lanes)
        time_s = judge.iteration_s(unrolled, shares)
        if time_s < best_s:
            best_s, best = time_s, shares
    found = tuple(replace(piece, share=share) for piece, share in zip(pieces, best, strict=True))
    return found, best_s


def descend(
    pieces: Pieces, best_s: float, judge: Judge, *, grain_tokens: int
) -> tuple[Pieces, float]:
    """The pieces after every change that gains; ``best_s`` is their time as given."""
    gained = True
    while gained and not judge.spent:
        started_s = best_s
        pieces, best_s = _own_shares(pieces, best_s, judge)
        for moves in (_moved_cuts, _reordered):
            for candidate in moves(pieces, judge, grain_tokens):
                if judge.spent:
                    break
                time_s = judge.of(candidate)
                if time_s < best_s * (1 - _GAIN):
                    pieces, best_s = candidate, time_s
                    break
        gained = best_s < started_s * (1 - _GAIN)
    return pieces, best_s


def _own_shares(pieces: Pieces, best_s: float, judge: Judge) -> tuple[Pieces, float]:
    """Each memory and network piece in turn gets the share that is best given the others."""
    lane = {operator.name: operator.lane for operator in judge.operators}
    unrolled = judge.unrolled(pieces)
    shares = [piece.share for piece in pieces]
    for i, piece in enumerate(pieces):
        if lane[piece.operator] == "compute":
            continue
        for share in SHARES:
            if share == shares[i] or judge.spent:
                continue
            tried = [*shares[:i], share, *shares[i + 1 :]]
            time_s = judge.iteration_s(unrolled, tried)
            if time_s < best_s * (1 - _GAIN):
                best_s, shares = time_s, tried
    found = tuple(replace(piece, share=share) for piece, share in zip(pieces, shares, strict=True))
    return found, best_s


def _moved_cuts(pieces: Pieces, judge: Judge, grain_tokens: int) -> Iterator[Pieces]:
    """One cut moved by one or two grains, for all operators that use it."""
    cuts = sorted({piece.first_token for piece in pieces} - {0})
    edges = [0, *cuts, max(piece.end_token for piece in pieces)]
    for k, cut in enumerate(cuts, start=1):
        for grains in (1, -1, 2, -2):
            moved = cut + grains * grain_tokens
            if edges[k - 1] + grain_tokens <= moved <= edges[k + 1] - grain_tokens:
                yield tuple(
                    replace(
                        piece,
                        first_token=moved if piece.first_token == cut else piece.first_token,
                        end_token=moved if piece.end_token == cut else piece.end_token,
                    )
                    for piece in pieces
                )


def _reordered(pieces: Pieces, judge: Judge, _: int) -> Iterator[Pieces]:
    """One piece a few places earlier or later in its lane; orders that never start judge
    themselves."""
    lane = {operator.name: operator.lane for operator in judge.operators}
    for name in ("compute", "memory", "network"):
        mine = [i for i, piece in enumerate(pieces) if lane[piece.operator] == name]
        for at, to in itertools.permutations(range(len(mine)), 2):
            if abs(at - to) <= _PLACES and at - to != 1:  # two neighbors change places once
                order = mine[:at] + mine[at + 1 :]
                order.insert(to, mine[at])
                changed = list(pieces)
                for place, source in zip(mine, order, strict=True):
                    changed[place] = pieces[source]
                yield tuple(changed)
