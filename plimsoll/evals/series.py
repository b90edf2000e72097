"""How good a forecast of series is: negative log-likelihood, and errors of its median.

NLL is of values normalised by the context's mean and scale, nats a point, minus the entropy of
the generator where it is known (in the same normalisation): nats above what nobody can say. Points
that are missing count nowhere. MAPE leaves out points near zero, MASE series that do not move.
Source: doi:10.1016/j.ijforecast.2006.03.001 (MASE).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from plimsoll.spec.errors import SpecError

__all__ = ["Predicted", "SeriesScores", "mape", "mase", "mean_nll", "score_series"]

Floats = npt.NDArray[np.float64]
_NEAR_ZERO = 1e-6


class Predicted(Protocol):
    """Distributions of the points to come, [n, horizon]."""

    @property
    def scale(self) -> Floats:
        """Of each series' normalisation, [n, 1]."""
        ...

    def median(self) -> Floats:
        """In the series' own unit."""
        ...

    def log_density(self, future: Floats) -> Floats:
        """ln of the density of normalised values."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesScores:
    """``nll`` and ``bound`` in nats a normalised point, ``mape`` in %, ``mase`` a ratio.

    ``excess`` [n]: NLL above the bound, each series' mean over its points.
    """

    nll: float
    bound: float
    mape: float
    mase: float
    excess: Floats


def mean_nll(log_density: Floats) -> float:
    """Nats a point over those that are there (NaN elsewhere).

    Raises:
        SpecError: none is.
    """
    known = log_density[np.isfinite(log_density)]
    if not known.size:
        raise SpecError("no point to score: all of the future is missing")
    return -float(known.mean())


def mape(actual: Floats, median: Floats) -> float:
    """Mean |error| / |value| in %, over known values that are not near zero.

    Raises:
        SpecError: there are none, or shapes that differ.
    """
    _check(actual, median)
    size = np.abs(actual)
    largest = float(np.nanmax(size, initial=0.0))
    counted = np.isfinite(actual) & (size > _NEAR_ZERO * largest)
    if not counted.any():
        raise SpecError("no value away from zero: a relative error means nothing; use MASE")
    return 100 * float((np.abs(median - actual)[counted] / size[counted]).mean())


def mase(actual: Floats, median: Floats, context: Floats, *, season: int = 1) -> float:
    """Mean over series of |error| over the mean |change| in ``season`` points of the context.

    Raises:
        SpecError: no series changes in its context, shapes that differ, or no such season.
    """
    _check(actual, median)
    if not 0 < season < context.shape[1]:
        raise SpecError(
            f"a season of {season} points in contexts of {context.shape[1]}; expected from 1 to "
            "below that"
        )
    change = np.abs(context[:, season:] - context[:, :-season])
    known = np.isfinite(change)
    count = known.sum(axis=1)
    naive = np.where(known, change, 0.0).sum(axis=1) / np.maximum(count, 1)
    there = np.isfinite(actual)
    error = np.where(there, np.abs(median - actual), 0.0).sum(axis=1)
    error = error / np.maximum(there.sum(axis=1), 1)
    level = np.nanmax(np.abs(np.where(np.isfinite(context), context, 0.0)), axis=1)
    counted = (naive > 1e-12 * np.maximum(level, 1e-300)) & there.any(axis=1)
    if not counted.any():
        raise SpecError("no series changes in its context: MASE has nothing to divide by; use MAPE")
    return float((error[counted] / naive[counted]).mean())


def _check(actual: Floats, median: Floats) -> None:
    if actual.shape != median.shape:
        raise SpecError(f"forecasts of shape {median.shape} for values of shape {actual.shape}")


def score_series(
    forecaster: Callable[[Floats, int], Predicted],
    context: Floats,
    future: Floats,
    bound_nats: Floats,
) -> SeriesScores:
    """Scores of ``forecaster(context, horizon)`` on the points that came; ``bound_nats``
    [n, horizon] in the series' own unit, zeros where no bound is known.

    Raises:
        SpecError: nothing to score.
    """
    said = forecaster(context, future.shape[1])
    density = said.log_density(future)
    there = np.isfinite(density)
    least = np.where(there, bound_nats - np.log(said.scale), np.nan)
    median = said.median()
    with np.errstate(invalid="ignore"):
        above = np.where(there, -density - least, 0.0).sum(axis=1) / there.sum(axis=1)
    return SeriesScores(
        nll=mean_nll(density),
        bound=float(np.nanmean(least)),
        mape=mape(future, median),
        mase=mase(future, median, context),
        excess=above,
    )
