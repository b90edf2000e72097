"""Stage one of an overlap search: order and sizes of the pieces, as a mixed-integer program.

Windows repeat every T seconds. Unknown are the start of each piece, the cuts (multiples of a
grain), who goes first in each pair of one lane, and T, which is minimised: at its lower bound
the compute lane has no gap. Interference is left out here, kernels run at full speed; a small
reward for waiting time after memory and network pieces leaves room for it. In a lane, all pieces
of a window come before those of the next.
Source: arXiv 2408.12757, section 4; solver: HiGHS through ``scipy.optimize.milp``.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from plimsoll.cost.overlap_profile import Lane, OpProfile
from plimsoll.planning.overlap_pattern import Structure

__all__ = ["Order", "order_pieces"]

_SLACK_REWARD = 0.05
_GAP = 2e-3


class Order(NamedTuple):
    """``sequence`` of the pieces in a window; ``cuts`` in tokens, from 0 to the batch; ``window_s``
    without interference. ``proven``: within the gap of the best there is."""

    sequence: tuple[int, ...]
    cuts: tuple[int, ...]
    window_s: float
    proven: bool


class _Rows:
    """Constraints ``low <= coefficients . x <= high``, gathered row by row."""

    def __init__(self) -> None:
        self.data: list[float] = []
        self.columns: list[int] = []
        self.starts: list[int] = [0]
        self.low: list[float] = []

    def at_least(self, low: float, *terms: tuple[int, float]) -> None:
        for column, value in terms:
            self.columns.append(column)
            self.data.append(value)
        self.starts.append(len(self.columns))
        self.low.append(low)

    def constraint(self, width: int) -> LinearConstraint:
        shape = (len(self.low), width)
        matrix = csr_array((self.data, self.columns, self.starts), shape=shape)
        matrix.sum_duplicates()
        return LinearConstraint(matrix, np.array(self.low), np.full(len(self.low), np.inf))


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
    pieces, count, num_cuts = pattern.pieces, len(pattern.pieces), pattern.num_cuts
    units = batch_tokens // grain_tokens
    total_s = sum(op.best_s * stretch.get(op.lane, 1.0) for op in operators)
    cut_at = {k: count + k - 1 for k in range(1, num_cuts)}
    period, slack = count + num_cuts - 1, count + num_cuts
    pairs = _open_pairs(pattern, operators)
    width = slack + 1 + len(pairs)

    def duration(i: int) -> tuple[float, list[tuple[int, float]]]:
        """Constant and terms of a piece's time, in units of ``total_s``."""
        op = operators[pieces[i].op]
        scale = stretch.get(op.lane, 1.0) / total_s
        fixed = op.fixed_s * scale
        slope = (op.best_s - op.fixed_s) * scale * grain_tokens / batch_tokens
        terms = []
        for cut, sign in ((pieces[i].high, 1.0), (pieces[i].low, -1.0)):
            if cut == num_cuts:
                fixed += slope * sign * batch_tokens / grain_tokens
            elif cut > 0:
                terms.append((cut_at[cut], slope * sign))
        return fixed, terms

    rows = _Rows()

    def no_sooner(
        later: int, earlier: int, windows: float, *extra: tuple[int, float], big: float = 0.0
    ) -> None:
        """start(later) + windows * T >= end(earlier) - big, with extra terms on the left."""
        fixed, terms = duration(earlier)
        rows.at_least(
            fixed - big,
            (later, 1.0),
            (earlier, -1.0),
            (period, windows),
            *((column, -value) for column, value in terms),
            *extra,
        )

    horizon = 3.0
    for parent, child, windows in pattern.edges:
        free = () if operators[pieces[parent].op].lane == "compute" else ((slack, -1.0),)
        no_sooner(child, parent, windows, *free)
    before = pattern.precedes()
    for i, j in _lane_pairs(pattern, operators):
        if j in before[i] or (i, j) not in pairs:
            no_sooner(j, i, 0.0)
            no_sooner(i, j, 1.0)
            continue
        first = slack + 1 + pairs[i, j]  # 1: i goes first
        no_sooner(j, i, 0.0, (first, -horizon), big=horizon)
        no_sooner(i, j, 1.0, (first, -horizon), big=horizon)
        no_sooner(i, j, 0.0, (first, horizon))
        no_sooner(j, i, 1.0, (first, horizon))
    for k in range(1, num_cuts - 1):
        rows.at_least(1.0, (cut_at[k + 1], 1.0), (cut_at[k], -1.0))
    lanes: dict[Lane, float] = {}
    for i in range(count):
        op = operators[pieces[i].op]
        fixed, terms = duration(i)
        rows.at_least(fixed, (period, 1.0), *((column, -value) for column, value in terms))
        lanes[op.lane] = lanes.get(op.lane, 0.0) + op.fixed_s * stretch.get(op.lane, 1.0)
    for op in operators:
        lanes[op.lane] += (op.best_s - op.fixed_s) * stretch.get(op.lane, 1.0)

    low, high = np.zeros(width), np.full(width, horizon - 1.0)
    for k, column in cut_at.items():
        low[column], high[column] = k, units - (num_cuts - k)
    low[period] = max(lanes.values()) / total_s
    high[slack], high[slack + 1 :] = 0.2, 1.0
    integrality = np.zeros(width, dtype=np.int64)
    integrality[list(cut_at.values())] = 1
    integrality[slack + 1 :] = 1
    objective = np.zeros(width)
    objective[period], objective[slack] = 1.0, -_SLACK_REWARD
    found = milp(
        objective,
        constraints=rows.constraint(width),
        bounds=Bounds(low, high),
        integrality=integrality,
        options={"node_limit": max_nodes, "time_limit": max(0.01, limit_s), "mip_rel_gap": _GAP},
    )
    if found.x is None:
        return None
    sequence = sorted(range(count), key=lambda i: (round(float(found.x[i]), 9), i))
    inner = (round(float(found.x[cut_at[k]])) * grain_tokens for k in range(1, num_cuts))
    return Order(
        tuple(sequence),
        (0, *inner, batch_tokens),
        float(found.x[period]) * total_s,
        found.status == 0,
    )


def _lane_pairs(pattern: Structure, operators: Sequence[OpProfile]) -> list[tuple[int, int]]:
    """Pairs of one lane, first the one that must go first, if either must."""
    before = pattern.precedes()
    found = []
    for i in range(len(pattern.pieces)):
        for j in range(i + 1, len(pattern.pieces)):
            if operators[pattern.pieces[i].op].lane == operators[pattern.pieces[j].op].lane:
                found.append((j, i) if i in before[j] else (i, j))
    return found


def _open_pairs(pattern: Structure, operators: Sequence[OpProfile]) -> dict[tuple[int, int], int]:
    """Pairs whose order is to be found, numbered. Pieces of one operator and layer run in token
    order: cuts are free, so nothing is lost but mirror images."""
    before = pattern.precedes()
    found: dict[tuple[int, int], int] = {}
    for i, j in _lane_pairs(pattern, operators):
        mine, other = pattern.pieces[i], pattern.pieces[j]
        alike = mine.op == other.op and mine.ahead == other.ahead
        if j not in before[i] and not alike:
            found[i, j] = len(found)
    return found
