"""What overlapping needs to know of operators and of the device's lanes.

An operator is bound by one lane: compute, memory or network. A *speed curve* of a lane says how
fast its kernels run, relative to running alone, when they get a share R of the device. Cutting an
operator along the token batch divides its work, but each piece pays once more what does not
follow its tokens: for a multiply, reading the weights.
Leaves out cache effects between kernels. Source: arXiv 2408.12757, its tables of operators and of
shares and speeds.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from plimsoll.spec.errors import SpecError, suggest

__all__ = [
    "LANES",
    "PROPORTIONAL",
    "Curves",
    "Dependency",
    "Lane",
    "OpProfile",
    "SpeedCurve",
    "check_lane",
    "check_operators",
]

Lane = Literal["compute", "memory", "network"]
LANES: tuple[Lane, ...] = ("compute", "memory", "network")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedCurve:
    """Speed P(R) at the ``shares`` R, linear in between; both run from 0 to 1.

    Raises:
        SpecError: the table does not start at (0, 0), end at (1, 1), or rise in both columns.
    """

    lane: Lane
    shares: tuple[float, ...]
    speeds: tuple[float, ...]

    def __post_init__(self) -> None:
        where = f"speed curve of the {self.lane} lane"
        if len(self.shares) != len(self.speeds) or len(self.shares) < 2:
            raise SpecError(f"{where}: needs as many speeds as shares, and at least two of each")
        for share, later in zip(self.shares, self.shares[1:], strict=False):
            if not later > share:
                raise SpecError(f"{where}: share {later:g} does not lie above {share:g}")
        for k in range(1, len(self.speeds)):
            if not self.speeds[k] >= self.speeds[k - 1]:
                raise SpecError(
                    f"{where}: not monotone, speed falls from {self.speeds[k - 1]:g} to "
                    f"{self.speeds[k]:g} at share {self.shares[k]:g}"
                )
        if self.shares[0] != 0 or self.speeds[0] != 0:
            raise SpecError(
                f"{where}: P({self.shares[0]:g}) is {self.speeds[0]:g}; a kernel without a share "
                "does not run, so the first row must be P(0) = 0"
            )
        if self.shares[-1] != 1 or self.speeds[-1] != 1:
            raise SpecError(f"{where}: speeds are relative to running alone, so P(1) must be 1")

    def speed(self, share: float) -> float:
        """P at ``share`` in [0, 1]."""
        k = min(bisect_right(self.shares, share), len(self.shares) - 1)
        low, high = self.shares[k - 1], self.shares[k]
        part = (share - low) / (high - low)
        return self.speeds[k - 1] + part * (self.speeds[k] - self.speeds[k - 1])

    def cheapest(self) -> float:
        """Least share-seconds that a second of work takes: the minimum of R / P(R)."""
        points = zip(self.shares, self.speeds, strict=True)
        return min(share / speed for share, speed in points if speed > 0)


PROPORTIONAL = SpeedCurve(lane="compute", shares=(0.0, 1.0), speeds=(0.0, 1.0))
"""Matrix multiplies: speed equals share."""

Curves = Mapping[Lane, SpeedCurve]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpProfile:
    """An operator on the whole dense batch, running alone.

    ``best_s`` is its time; ``fixed_s`` the part of it that every piece pays again when the batch
    is cut, however small the piece.

    Raises:
        SpecError: a time is negative, or the fixed part is more than the whole.
    """

    name: str
    lane: Lane
    best_s: float
    fixed_s: float = 0.0

    def __post_init__(self) -> None:
        if self.lane not in LANES:
            raise SpecError(f"operator {self.name}: no lane {self.lane}; use {', '.join(LANES)}")
        if not 0 < self.best_s < float("inf"):
            raise SpecError(
                f"operator {self.name}: a time of {self.best_s:g} s; it must be above 0"
            )
        if not 0 <= self.fixed_s <= self.best_s:
            raise SpecError(
                f"operator {self.name}: {self.fixed_s:g} s paid by every piece, which is not "
                f"between 0 and its whole time of {self.best_s:g} s"
            )

    def piece_s(self, batch_fraction: float) -> float:
        """Time, alone on the device, of a piece with this fraction of the batch."""
        return self.fixed_s + (self.best_s - self.fixed_s) * batch_fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """``child`` reads what ``parent`` wrote for the same tokens; ``next_layer``: of the layer
    before."""

    parent: str
    child: str
    next_layer: bool = False


def check_operators(
    operators: Iterable[OpProfile], dependencies: Iterable[Dependency], curves: Curves
) -> None:
    """Every operator that is named has a profile, and every lane in use a curve.

    Raises:
        SpecError: names the operator or lane.
    """
    operators = tuple(operators)
    names = [operator.name for operator in operators]
    if not names:
        raise SpecError("no operators; the table must hold at least one")
    for name in names:
        if names.count(name) > 1:
            raise SpecError(f"operator {name} has {names.count(name)} profiles; it must have one")
    for dependency in dependencies:
        for name in (dependency.parent, dependency.child):
            if name not in names:
                raise SpecError(f"operator {name} has no profile.{suggest(name, names)}")
    for operator in operators:
        check_lane(operator.name, operator.lane, curves)


def check_lane(name: str, lane: Lane, curves: Curves) -> None:
    """The lane of the operator ``name`` has a speed curve.

    Raises:
        SpecError: it has none.
    """
    if lane not in curves:
        raise SpecError(f"operator {name} has no profile: no speed curve for the {lane} lane")
