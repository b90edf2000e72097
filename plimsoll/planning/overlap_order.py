"""Stage one of an overlap search: order and sizes of the pieces, as a mixed-integer program.

Windows repeat every T seconds. Unknown are the start of each piece, the cuts (multiples of a
grain), who goes first in each pair of one lane, and T, which is minimised: at its lower bound
the compute lane has no gap. Interference is left out here, kernels run at full speed; a small
reward for waiting time after memory and network pieces leaves room for it. In a lane, all pieces
of a window come before those of the next.
Source: arXiv 2408.12757; solver: HiGHS through ``scipy.optimize.milp``.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from plimsoll.cost.overlap_profile import Lane, OpProfile
from plimsoll.planning.overlap_pattern import Structure

__all__ = ["Order", "order_pieces"]

_SLACK_REWARD = 0.05
_MOST_SLACK = 0.2
_GAP = 2e-3
_LATEST = 2.0
_NEVER_BINDS = 3.0
"""In units of all pieces one by one: no piece starts after the first, and a constraint that is
the second too generous is none."""

Term = tuple[int, float]


class Order(NamedTuple):
    """``sequence`` of the pieces in a window; ``cuts`` in tokens, from 0 to the batch; ``window_s``
    without interference. ``proven``: within the gap of the best there is."""

    sequence: tuple[int, ...]
    cuts: tuple[int, ...]
    window_s: float
    proven: bool


def order_pieces(
    pattern: Structure,
    operators: Sequence[OpProfile],
    *,
    batch_tokens: int,
    grain_tokens: int,
    stretch: Mapping[Lane, float],
    max_nodes: int,
    limit_s: float,
) -> Order | None:
    """The order with the shortest window found, None if none was found within the limits.

    ``stretch`` multiplies the times of a lane's pieces: 1 is full speed. ``max_nodes`` bounds the
    search alike on every machine, ``limit_s`` by the clock.
    """
    program = _Program(pattern, operators, batch_tokens, grain_tokens, stretch)
    program.add_waits()
    program.add_lanes()
    program.add_sizes()
    found = milp(
        program.objective(),
        constraints=program.constraint(),
        bounds=program.bounds(),
        integrality=program.integrality(),
        options={"node_limit": max_nodes, "time_limit": max(0.01, limit_s), "mip_rel_gap": _GAP},
    )
    if found.x is None:
        return None
    count = len(pattern.pieces)
    sequence = sorted(range(count), key=lambda i: (round(float(found.x[i]), 9), i))
    inner = (round(float(found.x[column])) * grain_tokens for column in program.cuts.values())
    return Order(
        tuple(sequence),
        (0, *inner, batch_tokens),
        float(found.x[program.window]) * program.layer_s,
        found.status == 0,
    )


class _Program:
    """Columns: a start a piece, the inner cuts, the window, the slack, 1 or 0 an open pair.

    Rows: each a sum of terms that must be at least a number.
    """

    def __init__(
        self,
        pattern: Structure,
        operators: Sequence[OpProfile],
        batch_tokens: int,
        grain_tokens: int,
        stretch: Mapping[Lane, float],
    ) -> None:
        self.pattern, self.operators = pattern, operators
        self.batch_tokens, self.grain_tokens = batch_tokens, grain_tokens
        self.scale = {op.lane: stretch.get(op.lane, 1.0) for op in operators}
        self.layer_s = sum(op.best_s * self.scale[op.lane] for op in operators)
        self.in_turn = sum(self._lane_work().values())
        self.must_precede = pattern.precedes()
        count = len(pattern.pieces)
        self.cuts = {k: count + k - 1 for k in range(1, pattern.num_cuts)}
        self.window = count + pattern.num_cuts - 1
        self.slack = self.window + 1
        open_pairs = (pair for pair in self._pairs() if self._is_open(*pair))
        self.first = {pair: self.slack + 1 + k for k, pair in enumerate(open_pairs)}
        self.width = self.slack + 1 + len(self.first)
        self.values: list[float] = []
        self.columns: list[int] = []
        self.starts: list[int] = [0]
        self.low: list[float] = []

    def add_waits(self) -> None:
        """A piece starts after what it waits for, of this window or the one before."""
        for parent, child, windows in self.pattern.edges:
            waits = self._op(parent).lane != "compute"
            self._no_sooner(child, parent, windows, (self.slack, -1.0 if waits else 0.0))

    def add_lanes(self) -> None:
        """Pieces of one lane do not overlap, nor with those of the next window."""
        for i, j in self._pairs():
            column = self.first.get((i, j))
            if column is None:
                self._no_sooner(j, i, 0.0)
                self._no_sooner(i, j, 1.0)
                continue
            never = _NEVER_BINDS * self.in_turn
            i_first: Term = (column, -never)
            self._no_sooner(j, i, 0.0, i_first, allow=never)
            self._no_sooner(i, j, 1.0, i_first, allow=never)
            j_first: Term = (column, never)
            self._no_sooner(i, j, 0.0, j_first)
            self._no_sooner(j, i, 1.0, j_first)

    def add_sizes(self) -> None:
        """Cuts rise by a grain at least, and no piece is longer than a window."""
        for k in range(1, self.pattern.num_cuts - 1):
            self._at_least(1.0, (self.cuts[k + 1], 1.0), (self.cuts[k], -1.0))
        for i in range(len(self.pattern.pieces)):
            self._no_sooner(i, i, 1.0)

    def objective(self) -> list[float]:
        """The window, less a little for slack."""
        found = [0.0] * self.width
        found[self.window], found[self.slack] = 1.0, -_SLACK_REWARD
        return found

    def bounds(self) -> Bounds:
        """Of all columns; the window holds at least the work of the fullest lane."""
        low, high = np.zeros(self.width), np.full(self.width, _LATEST * self.in_turn)
        grains = self.batch_tokens // self.grain_tokens
        for k, column in self.cuts.items():
            low[column], high[column] = k, grains - (self.pattern.num_cuts - k)
        low[self.window] = max(self._lane_work().values())
        high[self.slack], high[self.slack + 1 :] = _MOST_SLACK, 1.0
        return Bounds(low, high)

    def integrality(self) -> NDArray[np.int64]:
        """1 for cuts and pairs: they are whole numbers."""
        found = np.zeros(self.width, dtype=np.int64)
        found[[*self.cuts.values(), *self.first.values()]] = 1
        return found

    def constraint(self) -> LinearConstraint:
        """All rows."""
        shape = (len(self.low), self.width)
        matrix = csr_array((self.values, self.columns, self.starts), shape=shape)
        matrix.sum_duplicates()
        return LinearConstraint(matrix, np.array(self.low), np.full(len(self.low), np.inf))

    def _op(self, piece: int) -> OpProfile:
        return self.operators[self.pattern.pieces[piece].op]

    def _time(self, piece: int) -> tuple[float, list[Term]]:
        """Time of a piece: a number, and terms in the cuts at its ends."""
        op, low, high = self._op(piece), *self.pattern.pieces[piece][1:3]
        scale = self.scale[op.lane] / self.layer_s
        fixed, rest = op.fixed_s * scale, (op.best_s - op.fixed_s) * scale
        if high == self.pattern.num_cuts:
            fixed += rest
        grain = rest * self.grain_tokens / self.batch_tokens
        terms = [(cut, sign * grain) for cut, sign in ((high, 1.0), (low, -1.0))]
        return fixed, [(self.cuts[cut], value) for cut, value in terms if cut in self.cuts]

    def _lane_work(self) -> dict[Lane, float]:
        """What a window holds in each lane, however the cuts fall."""
        found: dict[Lane, float] = {}
        for op in self.operators:
            own = (op.best_s - op.fixed_s) * self.scale[op.lane] / self.layer_s
            found[op.lane] = found.get(op.lane, 0.0) + own
        for i in range(len(self.pattern.pieces)):
            op = self._op(i)
            found[op.lane] += op.fixed_s * self.scale[op.lane] / self.layer_s
        return found

    def _pairs(self) -> list[tuple[int, int]]:
        """Pairs of pieces in one lane, first the one that must go first, if either must."""
        count = len(self.pattern.pieces)
        return [
            (j, i) if i in self.must_precede[j] else (i, j)
            for i in range(count)
            for j in range(i + 1, count)
            if self._op(i).lane == self._op(j).lane
        ]

    def _is_open(self, i: int, j: int) -> bool:
        """Whether the order of a pair is to be found. Pieces of one operator and layer run in
        token order: cuts are free, so nothing is lost but mirror images."""
        mine, other = self.pattern.pieces[i], self.pattern.pieces[j]
        alike = mine.op == other.op and mine.ahead == other.ahead
        return j not in self.must_precede[i] and not alike

    def _no_sooner(
        self, later: int, earlier: int, windows: float, *more: Term, allow: float = 0.0
    ) -> None:
        """``later``, so many windows on, starts when ``earlier`` has ended, or ``allow`` before."""
        fixed, terms = self._time(earlier)
        self._at_least(
            fixed - allow,
            (later, 1.0),
            (earlier, -1.0),
            (self.window, windows),
            *((column, -value) for column, value in terms),
            *more,
        )

    def _at_least(self, low: float, *terms: Term) -> None:
        for column, value in terms:
            self.columns.append(column)
            self.values.append(value)
        self.starts.append(len(self.columns))
        self.low.append(low)
