"""When more samples stop paying: the share of questions solved, its gains, the last worth buying.

Parallel: each of N samples is right with probability p, and a share F of questions can be solved
at all: F(N) = F·(1 − (1 − p)^N). Sequential rethinking, where right answers stay, is the same
expression with N rounds. Two extensions: p that differs between questions, Beta(a, b), whose tail
is a power of N; and answers that also turn from right to wrong with probability q, a chain that
ends at p/(p + q).
Gain(N) is what one sample adds after N, F(N + 1) − F(N). Saturation at ε is the smallest N whose
gain is at most ε. "At least one is right" needs a selector that knows: a majority vote tends to
the share of questions whose most frequent answer is right, which is another F.
Source: arXiv 2505.20522 (one p); the two extensions are ours.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import betaln

from plimsoll.laws.forms.contract import Floats
from plimsoll.spec.errors import SpecError

__all__ = ["TTSPM", "BetaTTSPM", "SaturationCurve", "TwoRate", "affordable", "saturation"]

_FAR = 2**40


class SaturationCurve(Protocol):
    """A share of solved questions by number of samples or rounds."""

    def curve(self, n: npt.ArrayLike) -> Floats:
        """F(N)."""
        ...

    def gain(self, n: npt.ArrayLike) -> Floats:
        """F(N + 1) − F(N)."""
        ...

    def saturation(self, eps: float) -> int:
        """Smallest N whose gain is at most ``eps``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TTSPM:
    """One p for all solvable questions, a share ``f_max`` of all.

    Raises:
        SpecError: a probability outside of 0 to 1.
    """

    p: float
    f_max: float

    def __post_init__(self) -> None:
        _shares(p=self.p, f_max=self.f_max)

    def curve(self, n: npt.ArrayLike) -> Floats:
        """F(N)."""
        return self.f_max * (1 - (1 - self.p) ** np.asarray(n, dtype=float))

    def gain(self, n: npt.ArrayLike) -> Floats:
        """F(N + 1) − F(N)."""
        return self.f_max * self.p * (1 - self.p) ** np.asarray(n, dtype=float)

    def saturation(self, eps: float) -> int:
        """Smallest N whose gain is at most ``eps``."""
        return saturation(self.p, self.f_max, eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class BetaTTSPM:
    """p ~ Beta(a, b) over solvable questions, a share ``f_max`` of all.

    Raises:
        SpecError: a or b that is not positive, or a share outside of 0 to 1.
    """

    a: float
    b: float
    f_max: float

    def __post_init__(self) -> None:
        _shares(f_max=self.f_max)
        if not (self.a > 0 and self.b > 0):
            raise SpecError(f"Beta({self.a:g}, {self.b:g}); expected both above 0")

    def curve(self, n: npt.ArrayLike) -> Floats:
        """F(N)."""
        tries = np.asarray(n, dtype=float)
        none = betaln(self.a, self.b + tries) - betaln(self.a, self.b)
        return np.asarray(self.f_max * -np.expm1(none))

    def gain(self, n: npt.ArrayLike) -> Floats:
        """F(N + 1) − F(N)."""
        tries = np.asarray(n, dtype=float)
        first = betaln(self.a + 1, self.b + tries) - betaln(self.a, self.b)
        return np.asarray(self.f_max * np.exp(first))

    def saturation(self, eps: float) -> int:
        """Smallest N whose gain is at most ``eps``; gains fall, so by bisection.

        Raises:
            SpecError: ``eps`` is not positive.
        """
        _positive(eps)
        low, high = -1, 0
        while high < _FAR and float(self.gain(high)) > eps:
            low, high = high, 2 * high + 1
        while high - low > 1:
            middle = (low + high) // 2
            if float(self.gain(middle)) > eps:
                low = middle
            else:
                high = middle
        return high


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoRate:
    """Rounds of rethinking: wrong turns right with ``p``, right turns wrong with ``q``; all start
    wrong, and a share ``f_max`` of questions can be solved.

    Raises:
        SpecError: a probability outside of 0 to 1.
    """

    p: float
    q: float
    f_max: float

    def __post_init__(self) -> None:
        _shares(p=self.p, q=self.q, f_max=self.f_max)

    def curve(self, n: npt.ArrayLike) -> Floats:
        """Share right after N rounds."""
        if self.p == 0:
            return np.zeros_like(np.asarray(n, dtype=float))
        stays = (1 - self.p - self.q) ** np.asarray(n, dtype=float)
        return np.asarray(self.f_max * self.p / (self.p + self.q) * (1 - stays))

    def gain(self, n: npt.ArrayLike) -> Floats:
        """What round N + 1 adds; below zero where answers swing."""
        return np.asarray(self.f_max * self.p * (1 - self.p - self.q) ** np.asarray(n, dtype=float))

    def saturation(self, eps: float) -> int:
        """Smallest N whose gain is at most ``eps``.

        Raises:
            SpecError: ``eps`` is not positive.
        """
        _positive(eps)
        first, kept = self.f_max * self.p, 1 - self.p - self.q
        if first <= eps:
            return 0
        return 1 if kept <= 0 else _smallest(first, kept, float(np.log(kept)), eps)


def saturation(p: float, f_max: float, eps: float) -> int:
    """Smallest N with f_max·p·(1 − p)^N at most ``eps``.

    Raises:
        SpecError: ``eps`` is not positive, or a probability is outside of 0 to 1.
    """
    _positive(eps)
    _shares(p=p, f_max=f_max)
    if f_max * p <= eps:
        return 0
    if p == 1:
        return 1
    return _smallest(f_max * p, 1 - p, float(np.log1p(-p)), eps)


def _smallest(first: float, kept: float, log_kept: float, eps: float) -> int:
    """Smallest N with first·kept^N at most ``eps``: the ceiling, and a step where it is rounded."""
    n = max(0, int(np.ceil(np.log(eps / first) / log_kept)))
    while n > 0 and first * kept ** (n - 1) <= eps:
        n -= 1
    while first * kept**n > eps:
        n += 1
    return n


def affordable(curve: SaturationCurve, *, value: float, price: float) -> int:
    """Samples worth buying: the smallest N after which one more gains less than it costs.

    ``value`` of a solved question and ``price`` of a sample are in the same unit.

    Raises:
        SpecError: one of them is not positive.
    """
    if not (value > 0 and price > 0):
        raise SpecError(f"value {value:g}, price {price:g}; expected both above 0")
    n = curve.saturation(price / value)
    while float(curve.gain(n)) * value >= price and n < _FAR:  # at equality one more is bought
        n += 1
    return n


def _positive(eps: float) -> None:
    if not eps > 0:
        raise SpecError(f"a gain of {eps:g} to stop at; expected more than 0")


def _shares(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise SpecError(f"{name} is {value:g}; expected from 0 to 1")
