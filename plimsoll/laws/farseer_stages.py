"""Farseer's fit in stages: differences along tokens, then curves over sizes, then the floor.

For each size, neighbouring token counts D and λD give R = L(D) − L(λD) ≈ B·(1 − λ^−A)·D^−A, a
line in logarithms whose slope is −A and whose intercept gives B. ln A and ln B are then lines in
a power of N, the powers found on a grid; these six are refined on the differences themselves,
where the floor plays no part; last, ln of what is left over is another such line. Nothing is
iterated over nine parameters at once, which on real tables diverges. The noise of ln R is that of
the loss over R, so lines are weighted by R.
Leaves out, for the lines: pairs whose difference is not positive (noise); they are counted.
Source: arXiv 2506.10972, section 3.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from plimsoll.laws.forms.contract import Floats, Inputs
from plimsoll.laws.forms.farseer import Farseer
from plimsoll.spec.errors import InfeasibleError

__all__ = ["Stages", "fit_stages"]

_ROUNDS = 10
_LEAST_POWER, _MOST_POWER = 0.01, 0.5
_POWERS = np.concatenate([np.linspace(-0.4, -0.01, 79), np.linspace(0.01, 0.4, 79)])
_FEWEST_PAIRS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """``theta``: coordinates of ``Farseer``. ``dropped`` of ``pairs`` differences were not
    positive; ``used``: sizes with enough of the others."""

    theta: Floats
    pairs: int
    dropped: int
    used: int


@dataclass(slots=True)
class _Pairs:
    size: Floats
    tokens: Floats
    ratio: Floats
    drop: Floats


def _pairs(x: Inputs, loss: Floats) -> tuple[_Pairs, int]:
    rows: list[tuple[float, float, float, float]] = []
    bad = 0
    for size in np.unique(x["params"]):
        mine = np.flatnonzero(x["params"] == size)
        mine = mine[np.argsort(x["tokens"][mine])]
        for a, b in zip(mine, mine[1:], strict=False):
            if x["tokens"][b] == x["tokens"][a]:
                continue
            drop = float(loss[a] - loss[b])
            if drop <= 0:
                bad += 1
                continue
            ratio = float(x["tokens"][b] / x["tokens"][a])
            rows.append((float(size), float(x["tokens"][a]), ratio, drop))
    columns = np.array(rows).reshape(-1, 4).T
    return _Pairs(*columns), bad


def _exponents(pairs: _Pairs) -> tuple[Floats, Floats, Floats]:
    """Sizes, A_N and ln B_N, where a line through the differences of a size has a slope."""
    sizes, slopes, factors = [], [], []
    for size in np.unique(pairs.size):
        mine = pairs.size == size
        if mine.sum() < _FEWEST_PAIRS:
            continue
        log_d, log_r, ratio = (
            np.log(pairs.tokens[mine]),
            np.log(pairs.drop[mine]),
            pairs.ratio[mine],
        )
        slope = 0.3
        intercept = 0.0
        for _ in range(_ROUNDS):  # with one ratio for all, the first round is exact
            line = np.polyfit(log_d, log_r - np.log1p(-(ratio**-slope)), 1, w=pairs.drop[mine])
            intercept = float(line[1])
            new = float(-line[0])
            if not 1e-3 < new < 5:
                break
            if abs(new - slope) < 1e-12:
                break
            slope = new
        else:
            new = slope
        if 1e-3 < new < 5:
            sizes.append(size)
            slopes.append(new)
            factors.append(intercept)
    return np.array(sizes), np.array(slopes), np.array(factors)


def _line(power: float, sizes: Floats, values: Floats) -> tuple[float, float, float]:
    """Slope, intercept and squared error of values on sizes^power."""
    design = np.stack([sizes**power, np.ones_like(sizes)], axis=1)
    scale = np.abs(design).max(axis=0)
    found, *_ = np.linalg.lstsq(design / scale, values, rcond=None)
    a, b = found / scale
    error = values - design @ np.array([a, b])
    return float(a), float(b), float(error @ error)


def _best_line(sizes: Floats, values: Floats) -> tuple[float, float, float]:
    errors = [_line(power, sizes, values)[2] for power in _POWERS]
    power = float(_POWERS[int(np.argmin(errors))])
    a, b, _ = _line(power, sizes, values)
    return a, b, power


def _refined(first: Floats, x: Inputs, loss: Floats) -> Floats:
    """The six parameters of A and B, by least squares on all differences, over the loss; those
    that are not positive count here, since leaving them out would bend the rest."""
    rows = []
    for size in np.unique(x["params"]):
        mine = np.flatnonzero(x["params"] == size)
        mine = mine[np.argsort(x["tokens"][mine])]
        rows += [(a, b) for a, b in zip(mine, mine[1:], strict=False)]
    before, after = np.array(rows).T
    sizes, tokens = x["params"][before], x["tokens"][before]
    ratio, drop = x["tokens"][after] / tokens, loss[before] - loss[after]
    scale = np.maximum(np.abs(first), 1e-3)

    def gaps(point: Floats) -> Floats:
        a1, b1, alpha, a2, b2, beta = point * scale
        with np.errstate(over="ignore"):
            exponent = np.exp(np.minimum(a1 * sizes**alpha + b1, 5.0))
            factor = np.exp(np.minimum(a2 * sizes**beta + b2, 300.0))
        expected = factor * tokens**-exponent * (1 - ratio**-exponent)
        return np.asarray((expected - drop) / loss[before] * 1e3)

    low, high = np.full(6, -np.inf), np.full(6, np.inf)
    for i in (2, 5):  # a power near zero is a line in ln N with factors beyond all bounds
        side = np.sign(first[i])
        low[i], high[i] = sorted((side * _LEAST_POWER, side * _MOST_POWER))
    begin = np.clip(first, low, high)
    found = least_squares(
        gaps, begin / scale, x_scale="jac", max_nfev=300, bounds=(low / scale, high / scale)
    )
    return np.asarray(found.x * scale)


def fit_stages(x: Inputs, loss: Floats) -> Stages:
    """The staged fit of ``Farseer``; ``x`` in raw parameters and raw tokens.

    Raises:
        InfeasibleError: fewer than four sizes have differences to take.
    """
    pairs, bad = _pairs(x, loss)
    sizes, slopes, factors = _exponents(pairs)
    if len(sizes) < 4:
        raise InfeasibleError(
            f"farseer: differences along tokens exist for {len(sizes)} sizes; the form needs 8",
            binding="sizes with several token counts",
            change="measure more sizes, or fit chinchilla",
        )
    first = (*_best_line(sizes, np.log(slopes)), *_best_line(sizes, factors))
    a1, b1, alpha, a2, b2, beta = _refined(np.array(first), x, loss).tolist()
    exponent = np.exp(a1 * x["params"] ** alpha + b1)
    rest = loss - np.exp(a2 * x["params"] ** beta + b2) * x["tokens"] ** -exponent
    means = np.array([rest[x["params"] == size].mean() for size in sizes])
    good = means > 0
    if good.sum() < 3:
        raise InfeasibleError(
            "farseer: what the terms of data leave is not positive",
            binding="the fit in stages",
            change="fit chinchilla",
        )
    a3, b3, gamma = _best_line(sizes[good], np.log(means[good]))
    theta = np.array([a1, b1, alpha, a2, b2, beta, a3, b3, gamma])
    low = np.array([c.low for c in Farseer().coordinates])
    high = np.array([c.high for c in Farseer().coordinates])
    return Stages(
        theta=np.clip(theta, low, high), pairs=len(pairs.drop) + bad, dropped=bad, used=len(sizes)
    )
