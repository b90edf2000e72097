"""What models' scores are worth in parameters of a reference family, and how fast that grows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from plimsoll.api.commands import command
from plimsoll.api.laws_density_trend import (
    DRAWS,
    Grown,
    grow,
    months_text,
    record_table,
    row_of,
    trend_data,
    trend_table,
    value_of,
)
from plimsoll.laws.density import Density, RatedModel, ScoreLadder, density, fit_ladder, mean_score
from plimsoll.laws.density_trend import DAYS_PER_MONTH, trend
from plimsoll.laws.rated_models import read_rated_models, read_release_months
from plimsoll.laws.table import header_and_factor
from plimsoll.report.document import KeyNumber, Report, Table
from plimsoll.report.wording import short_count_text
from plimsoll.spec.errors import InfeasibleError, SpecError, suggest
from plimsoll.spec.origin import Number, Origin

__all__ = ["DensityAnswer", "densities", "month_of", "read_models"]

_SHOWN = 12
_INPUTS = ("model", "family", "params", "active", "released")


@dataclass(frozen=True, slots=True, kw_only=True)
class DensityAnswer:
    """``rated`` densest first; ``left_out``: models without an answer, by reason; ``grown`` None
    if no release dates were given, ``no_trend`` says why there is none otherwise."""

    source: str
    ladder: ScoreLadder
    steps: tuple[RatedModel, ...]
    rated: tuple[Density, ...]
    left_out: Mapping[str, int]
    by: str
    grown: Grown | None
    no_trend: str = ""
    asked: tuple[str, ...] = ()

    def report(self) -> Report:
        """See ``Answer``."""
        tables = []
        if self.grown is not None:
            tables += [trend_table(self.grown), record_table(self.grown.found, self.by)]
        tables += [self._densest(), self._ladder_table()]
        return Report(
            title=self._title(),
            subtitle=f"{', '.join(self.ladder.benchmarks)} of {len(self.rated)} models in "
            f"{self.source}; arXiv 2412.04315",
            command=command(*(self.asked or ("laws", "density", self.source))),
            key_numbers=self._keys(),
            tables=tuple(tables),
            assumptions=(
                f"a guess scores {self.ladder.floor:g}, the top is "
                f"{self.ladder.floor + self.ladder.span:g}",
                "density: parameters that the reference family needs for a score, over the "
                f"model's {self.by} parameters",
            ),
            notes=tuple(self._notes()),
            next_command=self._next(),
        )

    def _title(self) -> str:
        grown = self.grown
        if grown is not None and grown.forecast is not None and grown.asked is not None:
            score, day = grown.asked
            return (
                f"A score of {score:g} in {day:%Y-%m} takes "
                f"{short_count_text(grown.forecast.params)} parameters"
            )
        if grown is not None:
            return (
                f"The largest density doubles every {months_text(grown.found.line.doubling_months)}"
            )
        best = self.rated[0]
        return (
            f"{best.model.name} is the densest of {len(self.rated)}: worth "
            f"{value_of(best, self.by):.3g} times its size"
        )

    def _keys(self) -> tuple[KeyNumber, ...]:
        grown = self.grown
        if grown is None:
            return ()
        keys = []
        if grown.forecast is not None:
            one = grown.forecast
            keys.append(
                KeyNumber(
                    name="Size",
                    number=Number(
                        value=one.params,
                        unit="parameters",
                        origin=Origin.EXTRAPOLATED if one.days_beyond else Origin.MODELED,
                    ),
                    note=f"worth {short_count_text(one.effective)} of the reference at a density "
                    f"of {one.density:.3g}",
                )
            )
        line = grown.found.line
        if np.isfinite(line.doubling_months):
            note = "interval not known: resampled models hold too few records"
            if grown.months is not None:
                low, high = grown.months
                note = f"95 % {low:.3g} to {months_text(high)}, {DRAWS} resamples"
            keys.append(
                KeyNumber(
                    name="Doubling",
                    number=Number(value=line.doubling_months, unit="months", origin=Origin.MODELED),
                    note=note,
                )
            )
        return tuple(keys)

    def _densest(self) -> Table:
        shown = self.rated[:_SHOWN]
        rest = len(self.rated) - len(shown)
        return Table(
            title="Densest models",
            columns=("", "params", "score", "worth", "density"),
            rows=tuple(row_of(one, self.by) for one in shown),
            notes=(f"{rest} more with --json",) if rest else (),
        )

    def _ladder_table(self) -> Table:
        rows = [
            (
                model.name,
                short_count_text(model.params),
                f"{mean_score(model, self.ladder.benchmarks):.3f}",
                f"{float(self.ladder.score(np.array(model.params))):.3f}",
            )
            for model in sorted(self.steps, key=lambda m: m.params)
        ]
        return Table(
            title="Reference ladder",
            columns=("", "params", "score", "ladder"),
            rows=tuple(rows),
            notes=(f"root mean square off by {self.ladder.rmse:.3f}",),
        )

    def _notes(self) -> list[str]:
        notes = []
        left = self.grown.found.excluded if self.grown is not None else self.left_out
        if left:
            notes.append("left out: " + ", ".join(f"{count} {why}" for why, count in left.items()))
        beyond = [one for one in self.rated if one.outside != 1]
        if beyond:
            low, high = self.ladder.sizes
            notes.append(
                f"{len(beyond)} models are worth sizes outside the ladder's {short_count_text(low)}"
                f" to {short_count_text(high)} (marked ~): extrapolated"
            )
        unknown = sum(one.active is None for one in self.rated)
        if unknown:
            notes.append(f"{unknown} mixtures of experts without a count of active parameters")
        if self.no_trend:
            notes.append(f"no trend: {self.no_trend}")
        grown = self.grown
        if grown is not None:
            if grown.families is not None:
                low, high = grown.families
                notes.append(
                    f"without any one family it doubles in {low:.3g} to {months_text(high)}"
                )
            if grown.forecast is not None and grown.forecast.days_beyond:
                months = grown.forecast.days_beyond / DAYS_PER_MONTH
                notes.append(f"extrapolated {months:.0f} months beyond the last record")
                if grown.sizes is not None:
                    low, high = grown.sizes
                    notes.append(
                        f"{short_count_text(low)} to {short_count_text(high)} parameters at the "
                        "ends of the interval of the doubling time"
                    )
        if len(self.ladder.benchmarks) == 1:
            notes.append("one benchmark alone: training on its like raises it without density")
        return notes

    def _next(self) -> str:
        asked = list(self.asked or ("laws", "density", self.source))
        if self.grown is not None and self.grown.forecast is None:
            last = self.grown.found.frontier[-1].model
            assert last.released is not None
            score = mean_score(last, self.ladder.benchmarks)
            ahead = f"{last.released.year + 1}-{last.released.month:02d}"
            return command(*asked, "--size-for", f"{score:.2f}", "--at", ahead)
        return command("laws", "allocate", "--flops", "1e22")

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        return {
            "format_version": 1,
            "source": self.source,
            "benchmarks": list(self.ladder.benchmarks),
            "by": self.by,
            "ladder": {
                "log_params_middle": self.ladder.m,
                "log_params_width": self.ladder.s,
                "floor": self.ladder.floor,
                "span": self.ladder.span,
                "sizes_params": list(self.ladder.sizes),
                "rmse": self.ladder.rmse,
                "models": [model.name for model in self.steps],
            },
            "models": [
                {
                    "name": one.model.name,
                    "family": one.model.family,
                    "params": one.model.params,
                    "released": None
                    if one.model.released is None
                    else f"{one.model.released:%Y-%m}",
                    "score": one.score,
                    "effective_params": one.effective,
                    "density_total": one.total,
                    "density_active": one.active,
                    "outside": one.outside,
                    "flags": list(one.flags),
                }
                for one in self.rated
            ],
            "left_out": dict(self.left_out),
            "trend": None if self.grown is None else trend_data(self.grown),
            "no_trend": self.no_trend,
        }


def month_of(text: str, where: str) -> date:
    """``2024-06`` as its first day.

    Raises:
        SpecError: it is no month.
    """
    year, _, month = text.partition("-")
    if not (len(year) == 4 and year.isdigit() and month.isdigit() and 1 <= int(month) <= 12):
        raise SpecError(f"{where} {text!r}: expected a month, as in 2024-06")
    return date(int(year), int(month), 1)


def read_models(
    path: Path, columns: Mapping[str, str], benchmarks: Sequence[str], released: Path | None
) -> list[RatedModel]:
    """Models of a table, with months from ``released`` or from a column of their own.

    Raises:
        SpecError: see ``laws.rated_models``; an unknown column, months from two places.
    """
    if unknown := [name for name in columns if name not in _INPUTS]:
        raise SpecError(f"--columns: unknown {unknown[0]!r}; expected {', '.join(_INPUTS)}")
    if released is not None and "released" in columns:
        raise SpecError("months of release from --released and from a column; give one of them")
    name = columns.get("model", "model")
    months: dict[str, date] = {}
    if released is not None:
        months = read_release_months(released)
    elif "released" in columns:
        months = read_release_months(path, name=name, month=columns["released"])
    params, scale = header_and_factor(columns.get("params", "params"))
    active, other = header_and_factor(columns.get("active", ""))
    if active and other != scale:
        raise SpecError("--columns: params and active carry different factors; expected one")
    return read_rated_models(
        path,
        months,
        benchmarks,
        name=name,
        family=columns.get("family", "family"),
        params=params,
        active=active,
        scale=scale,
    )


def densities(
    models: Sequence[RatedModel],
    benchmarks: Sequence[str],
    reference: Sequence[str],
    *,
    source: str,
    floor: float = 0.25,
    since: date | None = None,
    least_score: float = 0.0,
    by: str = "total",
    size_for: float | None = None,
    at: date | None = None,
    seed: int = 0,
) -> DensityAnswer:
    """Densities relative to the families of ``reference``, and their trend where there are dates.

    Raises:
        SpecError: unknown families, half a question, numbers that cannot be.
        InfeasibleError: a ladder of too few sizes, no model to rate, or a size asked for without
            a trend.
    """
    if by not in ("total", "active"):
        raise SpecError(f"--by {by!r}: expected total or active")
    if (size_for is None) != (at is None):
        raise SpecError("give both --size-for and --at, or neither")
    for name, share in (("--floor", floor), ("--least-score", least_score)):
        if not 0 <= share < 1:
            raise SpecError(f"{name} {share:g}: expected a score from 0 to below 1")
    for name, given in (("--benchmarks", benchmarks), ("--reference", reference)):
        if not given:
            raise SpecError(f"{name}: names nothing; expected one or more, with commas between")
    families = {model.family for model in models}
    for family in reference:
        if family not in families:
            raise SpecError(
                f"--reference: no family {family!r}; there are {', '.join(sorted(families))}."
                f"{suggest(family, families)}"
            )
    steps = [m for m in models if m.family in reference and all(b in m.scores for b in benchmarks)]
    ladder = fit_ladder(steps, benchmarks, floor=floor)
    rated, left_out = _rate_all(ladder, models)
    if by == "active":
        rated = [one for one in rated if one.active is not None]
    if not rated:
        raise InfeasibleError(
            f"none of {len(models)} models can be rated: {left_out}",
            binding="scores within the ladder's reach",
            change="use another benchmark or a reference of other sizes",
        )
    grown, why = None, ""
    dates = [m.released for m in models if m.released is not None]
    if dates:
        try:
            found = trend(ladder, models, since=since or min(dates), least_score=least_score, by=by)
            grown = grow(found, ladder, size_for, at, by, seed)
        except InfeasibleError as error:
            if size_for is not None:
                raise
            why = str(error).partition(";")[0]
    elif size_for is not None or since is not None:
        raise SpecError("no months of release; give them with --released or --columns released=")
    return DensityAnswer(
        source=source,
        ladder=ladder,
        steps=tuple(steps),
        rated=tuple(sorted(rated, key=lambda one: -value_of(one, by))),
        left_out=left_out,
        by=by,
        grown=grown,
        no_trend=why,
    )


def _rate_all(
    ladder: ScoreLadder, models: Sequence[RatedModel]
) -> tuple[list[Density], dict[str, int]]:
    rated: list[Density] = []
    left_out: dict[str, int] = {}
    for model in models:
        why = "no score"
        if all(name in model.scores for name in ladder.benchmarks):
            try:
                rated.append(density(ladder, model))
                continue
            except InfeasibleError:
                why = "score not invertible"
        left_out[why] = left_out.get(why, 0) + 1
    return rated, left_out
