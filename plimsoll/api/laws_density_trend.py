"""The growth of density: records, their line, and what a score will take."""

from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np

from plimsoll.laws.density import Density, ScoreLadder
from plimsoll.laws.density_trend import (
    DAYS_PER_MONTH,
    Forecast,
    Trend,
    TrendLine,
    bootstrap_trend,
    predict_size,
    without_each_family,
)
from plimsoll.report.document import Table
from plimsoll.report.wording import short_count_text
from plimsoll.spec.errors import InfeasibleError

__all__ = [
    "DRAWS",
    "Grown",
    "grow",
    "months_text",
    "record_table",
    "row_of",
    "trend_data",
    "trend_table",
    "value_of",
]

DRAWS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """The trend of records. ``months``: 95 % interval of the doubling time over resampled models,
    None where resamples hold too few records; ``families``: shortest and longest doubling time
    without any one family; ``forecast`` of ``asked`` (score, day)."""

    found: Trend
    months: tuple[float, float] | None
    families: tuple[float, float] | None
    asked: tuple[float, date] | None
    forecast: Forecast | None

    @property
    def sizes(self) -> tuple[float, float] | None:
        """What the forecast would be at the ends of the interval of the doubling time."""
        one = self.forecast
        if one is None or self.months is None:
            return None
        beyond = one.days_beyond / DAYS_PER_MONTH
        at_record = one.params * 2 ** (beyond / self.found.line.doubling_months)
        low, high = (at_record / 2 ** (beyond / months) for months in self.months)
        return low, high


def value_of(one: Density, by: str) -> float:
    return one.total if by == "total" or one.active is None else one.active


def row_of(one: Density, by: str) -> tuple[str, ...]:
    mark = "~" if one.outside != 1 else ""
    size = one.model.params
    if by == "active" and one.model.active_params is not None:
        size = one.model.active_params
    return (
        one.model.name,
        short_count_text(size),
        f"{one.score:.3f}",
        f"{mark}{short_count_text(one.effective)}",
        f"{value_of(one, by):.3g}",
    )


def months_text(value: float) -> str:
    return f"{value:.3g} months" if np.isfinite(value) else "never"


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def trend_table(grown: Grown) -> Table:
    def row(name: str, line: TrendLine) -> tuple[str, ...]:
        return (
            name,
            f"{line.points}",
            months_text(line.doubling_months),
            f"{line.rate_per_day:.4f}",
            f"{line.r2:.2f}",
        )

    found = grown.found
    return Table(
        title="Growth of density",
        columns=("", "points", "doubles in", "ln a day", "R²"),
        rows=(row("records", found.line), row("best of every month", found.every_month)),
        notes=("records: models denser than any before",),
    )


def record_table(found: Trend, by: str) -> Table:
    rows = []
    for one in found.frontier:
        assert one.model.released is not None
        name, *rest = row_of(one, by)
        rows.append((f"{one.model.released:%Y-%m} {name}", *rest))
    return Table(
        title="Records",
        columns=("", "params", "score", "worth", "density"),
        rows=tuple(rows),
    )


def trend_data(grown: Grown) -> dict[str, Any]:
    found = grown.found

    def plain(line: TrendLine) -> dict[str, Any]:
        return {
            "rate_per_day": line.rate_per_day,
            "doubling_months": _finite(line.doubling_months),
            "r2": line.r2,
            "points": line.points,
        }

    return {
        "records": plain(found.line),
        "best_of_every_month": plain(found.every_month),
        "doubling_months_95": None if grown.months is None else [_finite(m) for m in grown.months],
        "doubling_months_without_a_family": None
        if grown.families is None
        else [_finite(m) for m in grown.families],
        "record_models": [one.model.name for one in found.frontier],
        "excluded": dict(found.excluded),
        "forecast": None
        if grown.forecast is None or grown.asked is None
        else {
            "score": grown.asked[0],
            "at": f"{grown.asked[1]:%Y-%m}",
            "params": grown.forecast.params,
            "effective_params": grown.forecast.effective,
            "density": grown.forecast.density,
            "params_at_95": grown.sizes and [_finite(size) for size in grown.sizes],
            "days_beyond_last_record": grown.forecast.days_beyond,
        },
    }


def grow(
    found: Trend, ladder: ScoreLadder, score: float | None, day: date | None, by: str, seed: int
) -> Grown:
    months = None
    try:
        drawn = bootstrap_trend(found, draws=DRAWS, seed=seed, by=by)
        low, high = np.percentile(drawn, [2.5, 97.5], method="nearest").tolist()
        months = (low, high)
    except InfeasibleError:
        pass
    others = list(without_each_family(found, by=by).values())
    asked = None if score is None or day is None else (score, day)
    return Grown(
        found=found,
        months=months,
        families=(min(others), max(others)) if others else None,
        asked=asked,
        forecast=None if asked is None else predict_size(found, ladder, asked[1], asked[0]),
    )
