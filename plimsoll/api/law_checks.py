"""Pictures that check a law: residuals, and what it says of runs that it did not see."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from plimsoll.api.law_maps import has_map, law_runs, runs_of
from plimsoll.laws.compare import Compared
from plimsoll.laws.curves import optimal_path
from plimsoll.laws.fit import Fit
from plimsoll.laws.held_out import HeldOut, axis_of
from plimsoll.laws.law import Law, law_of_fit
from plimsoll.laws.predict import Prediction, predict
from plimsoll.report.law_pictures import (
    ExtrapolationPicture,
    LawRun,
    PredictedLine,
    ResidualPicture,
    ResidualSeries,
)
from plimsoll.report.wording import percent_text

__all__ = [
    "compared_errors",
    "compared_extrapolation",
    "extrapolation",
    "held_out_runs",
    "residuals",
]

_SPLITS = {"compute": "top tenth of compute", "params": "largest sizes"}
_AXES = {"compute": ("training compute", "FLOPs"), "params": ("size", "parameters")}
_POINTS = 49
_FURTHER = 10.0
_STRETCHES = (10.0, 100.0, 1000.0)
_HALVINGS = 12
_MOST_LINES = 4


def _axis(name: str) -> tuple[str, str]:
    return _AXES.get(name, (name, ""))


def _split_words(split: str) -> str:
    return _SPLITS.get(split, f"most {split}")


def residuals(found: Fit) -> ResidualPicture:
    """Every point of a fit, those far off marked."""
    runs = law_runs(found)
    name, unit = _axis(axis_of(found.table.columns)[0])
    far = len(found.outliers)
    typical = float(np.median(np.abs(found.residuals)))
    return ResidualPicture(
        title=f"Half of the runs lie within {percent_text(typical)} of the fit; {far} of "
        f"{len(runs)} {'is' if far == 1 else 'are'} far off",
        unit=found.unit,
        x_name=name,
        x_unit=unit,
        series=(ResidualSeries(name=found.form.name, runs=runs),),
        bound_ln=found.outlier_bound,
        notes=("far off: more than five robust deviations",),
    )


def held_out_runs(held: HeldOut) -> tuple[LawRun, ...]:
    """What was held out, with the predictions and their intervals."""
    runs = runs_of(held.test, [one.loss for one in held.predictions])
    return tuple(
        replace(run, low=one.low, high=one.high)
        for run, one in zip(runs, held.predictions, strict=True)
    )


def _lines(
    law: Law, columns: Mapping[str, np.ndarray], *, name: str, interval: bool
) -> list[PredictedLine]:
    """Predictions of a law from the least of the runs to ten times beyond the most."""
    axis, at = axis_of(columns)
    xs = np.geomspace(at.min(), at.max() * _FURTHER, _POINTS)
    if axis == "compute":
        if not has_map(law):
            return []
        return [_least_line(law, xs, name=name, interval=interval)]
    rest = [n for n in law.form.inputs if n != axis]
    if axis not in law.form.inputs or len(rest) > 1:
        return []
    values = np.unique(columns[rest[0]]) if rest else np.array([np.nan])
    kept = np.unique(np.linspace(0, len(values) - 1, min(len(values), _MOST_LINES)).round())
    lines = []
    for value in values[kept.astype(int)].tolist():
        fixed = {rest[0]: value} if rest else {}
        said = [predict(law, {axis: float(x), **fixed}) for x in xs]
        label = ", ".join([name, *(f"{key} {v:g}" for key, v in fixed.items())])
        ends = law.box[axis][1]
        lines.append(
            _line(label, xs.tolist(), said, interval=interval, ends=ends if ends < xs[-1] else None)
        )
    return lines


def _least_line(law: Law, xs: np.ndarray, *, name: str, interval: bool) -> PredictedLine:
    """Along the best split of every budget."""

    def at(flops: float) -> Prediction | None:
        found = optimal_path(law, [flops], stretches=_STRETCHES)
        return (
            predict(law, {"params": found[0].params, "tokens": found[0].tokens}) if found else None
        )

    said = [(x, one) for x in xs.tolist() if (one := at(x)) is not None]
    above = [max(one.outside.values(), default=0.0) > 1 for _, one in said]
    ends = None
    if True in above and above.index(True) > 0:
        first = above.index(True)
        low, high = said[first - 1][0], said[first][0]
        for _ in range(_HALVINGS):
            middle = float(np.sqrt(low * high))
            one = at(middle)
            beyond = one is None or max(one.outside.values(), default=0.0) > 1
            low, high = (low, middle) if beyond else (middle, high)
        ends = high
    return _line(name, [x for x, _ in said], [one for _, one in said], interval=interval, ends=ends)


def _line(
    name: str,
    xs: Sequence[float],
    said: Sequence[Prediction],
    *,
    interval: bool,
    ends: float | None,
) -> PredictedLine:
    interval = interval and all(np.isfinite(one.low) for one in said)
    return PredictedLine(
        name=name,
        xs=tuple(xs),
        losses=tuple(one.loss for one in said),
        lows=tuple(one.low for one in said) if interval else (),
        highs=tuple(one.high for one in said) if interval else (),
        box_ends_at=ends,
    )


def _follows(axis: str) -> str:
    return "least loss of each budget" if axis == "compute" else "predicted loss"


def extrapolation(held: HeldOut) -> ExtrapolationPicture:
    """The fit to the rest against what was held out, and on to ten times the most measured."""
    runs = held_out_runs(held)
    law = law_of_fit(held.rest)
    axis, _ = axis_of(held.test.columns)
    name, unit = _axis(axis)
    columns = {
        key: np.concatenate([values, held.test.columns[key]])
        for key, values in held.rest.table.columns.items()
    }
    level = held.predictions[0].level
    lines = _lines(law, columns, name=held.rest.form.name, interval=True)
    return ExtrapolationPicture(
        title=f"Held out ({_split_words(held.split)}): predicted to "
        f"{percent_text(held.error)}, {held.num_within} of {len(runs)} inside their "
        f"{level * 100:.0f} % interval",
        unit=held.rest.unit,
        x_name=name,
        x_unit=unit,
        line_name=_follows(axis),
        level=level,
        fitted=law_runs(held.rest),
        held_out=runs,
        lines=tuple(lines),
        notes=(f"line: {_follows(axis)}, fitted without the runs held out",)
        if lines
        else ("fitted without the runs held out",),
    )


def _rest_of(one: Compared, split: str) -> Fit | None:
    fits = one.rest.get(split, ())
    return fits[0] if fits else None


def compared_errors(
    found: Sequence[Compared], split: str, held: np.ndarray
) -> ResidualPicture | None:
    """Forms on the same held-out runs, each fitted to the rest. None if none could be."""
    series = []
    said = []
    for one in found:
        rest = _rest_of(one, split)
        if rest is None or one.fit is None:
            continue
        test = one.fit.table.rows(held)
        runs = runs_of(test, rest.predict(test.columns).tolist())
        series.append(ResidualSeries(name=one.form.name, runs=runs))
        said.append(f"{one.form.name} {percent_text(one.errors[split])}")
    if not series or found[0].fit is None:
        return None
    name, unit = _axis(axis_of(found[0].fit.table.columns)[0])
    return ResidualPicture(
        title=f"Held out ({_split_words(split)}), error of {', '.join(said)}",
        unit=found[0].fit.unit,
        x_name=name,
        x_unit=unit,
        series=tuple(series),
        notes=("every form fitted without these runs",),
    )


def compared_extrapolation(
    found: Sequence[Compared], split: str, held: np.ndarray
) -> ExtrapolationPicture | None:
    """A line a form, each fitted to the rest, on to ten times the most measured."""
    able = [(one, rest) for one in found if (rest := _rest_of(one, split)) is not None]
    if not able or able[0][0].fit is None:
        return None
    table = able[0][0].fit.table
    lines: list[PredictedLine] = []
    for one, rest in able:
        lines += _lines(law_of_fit(rest), table.columns, name=one.form.name, interval=False)
    lines = [line for line in lines if line.xs]
    if not lines:
        return None
    axis, _ = axis_of(table.columns)
    name, unit = _axis(axis)
    best_runs = law_runs(able[0][1])
    errors = compared_errors(found, split, held)
    at_end = [line.losses[-1] for line in lines if line.xs[-1] == max(q.xs[-1] for q in lines)]
    apart = max(at_end) / min(at_end) - 1
    return ExtrapolationPicture(
        title=f"Ten times beyond the runs the forms are {percent_text(apart)} apart"
        if len(at_end) > 1
        else f"{lines[0].name} beyond the runs",
        unit=table.unit,
        x_name=name,
        x_unit=unit,
        line_name=_follows(axis),
        level=0.0,
        fitted=best_runs,
        held_out=errors.series[0].runs if errors else (),
        lines=tuple(lines),
        notes=(f"lines: {_follows(axis)}, fitted without the runs held out",),
    )
