"""How the largest density grows: ln rho_max = A·t + B over the dates at which a record was set.

Only models that raise the running maximum count: a trend of all models mixes the growth of the
best with the spread of the rest. The line through the best model of every month is given beside
it. Rates are per day, doubling times in months of 30.4375 days.
Left out: contamination; reasons.
Source: arXiv 2412.04315, section 3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from plimsoll.laws.density import Density, RatedModel, Reference, density
from plimsoll.laws.forms.contract import Floats
from plimsoll.spec.errors import InfeasibleError, SpecError

__all__ = [
    "DAYS_PER_MONTH",
    "Forecast",
    "Trend",
    "TrendLine",
    "bootstrap_trend",
    "predict_size",
    "trend",
    "without_each_family",
]

DAYS_PER_MONTH = 365.25 / 12
_LEAST_POINTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TrendLine:
    """ln rho = ``rate_per_day`` · (days after ``start``) + ``log_density``."""

    rate_per_day: float
    log_density: float
    start: date
    r2: float
    points: int

    @property
    def doubling_months(self) -> float:
        """inf for a density that does not grow."""
        if self.rate_per_day <= 0:
            return float("inf")
        return float(np.log(2)) / self.rate_per_day / DAYS_PER_MONTH

    def density_at(self, day: date) -> float:
        """The largest density expected on a day."""
        return float(np.exp(self.log_density + self.rate_per_day * (day - self.start).days))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """``frontier``: the records, by date; ``line`` through them; ``every_month`` through the best
    of each date. ``excluded``: how many models, by reason; ``flags`` of those that count."""

    line: TrendLine
    every_month: TrendLine
    frontier: tuple[Density, ...]
    rated: tuple[Density, ...]
    excluded: Mapping[str, int]
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """``params`` a model of ``density`` needs; ``days_beyond`` the last record, 0 within."""

    params: float
    effective: float
    density: float
    days_beyond: int


def trend(
    reference: Reference,
    models: Sequence[RatedModel],
    *,
    since: date,
    least_score: float = 0.0,
    by: str = "total",
) -> Trend:
    """The growth of density among models released from ``since`` on that score above
    ``least_score``. ``by``: "total" or "active" parameters.

    Raises:
        SpecError: base and instruct models together, or another ``by``.
        InfeasibleError: fewer than three records.
    """
    if by not in ("total", "active"):
        raise SpecError(f"by is {by!r}; expected total or active")
    if len({model.instruct for model in models}) > 1:
        raise SpecError(
            "base and instruct models together; expected one kind, since tuning raises scores "
            "without making the model denser in the same sense"
        )
    rated, excluded = rate(reference, models, since=since, least_score=least_score, by=by)
    records = _frontier(rated, by)
    if len(records) < _LEAST_POINTS:
        raise InfeasibleError(
            f"{len(records)} records among {len(rated)} models from {since:%Y-%m} on",
            binding=f"records: {len(records)} of {_LEAST_POINTS}",
            change="take a longer span of time or more models",
        )
    flags = [f"{d.model.name}: {flag}" for d in rated for flag in d.flags]
    return Trend(
        line=_line(records, by),
        every_month=_line(_best_of_dates(rated, by), by),
        frontier=tuple(records),
        rated=tuple(rated),
        excluded=excluded,
        flags=tuple(flags),
    )


def rate(
    reference: Reference,
    models: Sequence[RatedModel],
    *,
    since: date,
    least_score: float,
    by: str,
) -> tuple[list[Density], dict[str, int]]:
    """Densities of the models that count, by date, and how many do not, by reason."""
    rated: list[Density] = []
    excluded: dict[str, int] = {}

    def leave(why: str) -> None:
        excluded[why] = excluded.get(why, 0) + 1

    for model in models:
        if any(name not in model.scores for name in reference.benchmarks):
            leave("no score")
        elif model.released is None:
            leave("no release date")
        elif model.released < since:
            leave("released earlier")
        elif np.mean([model.scores[name] for name in reference.benchmarks]) <= least_score:
            leave(f"score of {least_score:g} or less")
        else:
            try:
                found = density(reference, model)
            except InfeasibleError:
                leave("score not invertible")
                continue
            if by == "active" and found.active is None:
                leave("active parameters not known")
            else:
                rated.append(found)
    return sorted(rated, key=lambda d: (_day(d), d.model.name)), excluded


def _day(found: Density) -> date:
    assert found.model.released is not None
    return found.model.released


def _value(found: Density, by: str) -> float:
    value = found.total if by == "total" else found.active
    assert value is not None
    return value


def _best_of_dates(rated: Sequence[Density], by: str) -> list[Density]:
    best: dict[date, Density] = {}
    for found in rated:
        day = _day(found)
        if day not in best or _value(found, by) > _value(best[day], by):
            best[day] = found
    return [best[day] for day in sorted(best)]


def _frontier(rated: Sequence[Density], by: str) -> list[Density]:
    records: list[Density] = []
    for found in _best_of_dates(rated, by):
        if not records or _value(found, by) > _value(records[-1], by):
            records.append(found)
    return records


def _line(points: Sequence[Density], by: str) -> TrendLine:
    start = _day(points[0])
    days = np.array([(_day(p) - start).days for p in points], dtype=float)
    logs = np.log([_value(p, by) for p in points])
    rate_per_day, first = np.polyfit(days, logs, 1).tolist()
    rest = logs - first - rate_per_day * days
    spread = float(((logs - logs.mean()) ** 2).sum())
    return TrendLine(
        rate_per_day=rate_per_day,
        log_density=first,
        start=start,
        r2=1 - float((rest**2).sum()) / spread if spread > 0 else 0.0,
        points=len(points),
    )


def bootstrap_trend(found: Trend, *, draws: int = 300, seed: int = 0, by: str = "total") -> Floats:
    """Doubling times in months of resampled models, [draws]; draws with fewer than three records
    are drawn again."""
    rng = np.random.default_rng(seed)
    num = len(found.rated)
    months: list[float] = []
    for _ in range(20 * draws):
        chosen = sorted(rng.integers(0, num, num).tolist())
        records = _frontier([found.rated[i] for i in chosen], by)
        if len(records) >= _LEAST_POINTS:
            months.append(_line(records, by).doubling_months)
        if len(months) == draws:
            return np.array(months)
    raise InfeasibleError(
        f"resampled models seldom hold {_LEAST_POINTS} records",
        binding="models",
        change="take a longer span of time or more models",
    )


def without_each_family(found: Trend, *, by: str = "total") -> dict[str, float]:
    """Doubling time in months when a family is left out, for those that still leave a line."""
    months = {}
    for family in sorted({d.model.family for d in found.rated}):
        records = _frontier([d for d in found.rated if d.model.family != family], by)
        if len(records) >= _LEAST_POINTS:
            months[family] = _line(records, by).doubling_months
    return months


def predict_size(found: Trend, reference: Reference, day: date, score: float) -> Forecast:
    """Parameters of the smallest model that scores ``score`` on a day, if the line goes on.

    Raises:
        InfeasibleError: the score cannot be inverted.
    """
    effective = reference.effective_size(score)
    rho = found.line.density_at(day)
    last = _day(found.frontier[-1])
    return Forecast(
        params=effective / rho,
        effective=effective,
        density=rho,
        days_beyond=max(0, (day - last).days),
    )
