"""Fit a law to a table of runs, or compare all forms on it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from plimsoll.api.commands import command
from plimsoll.api.laws import law_data
from plimsoll.laws.bundled_runs import BUNDLED_RUNS
from plimsoll.laws.compare import Compared, compare, select
from plimsoll.laws.fit import Fit, bootstrap, fit, form_of
from plimsoll.laws.forms import FORMS
from plimsoll.laws.law import law_of_fit, saved
from plimsoll.laws.table import LossTable, Unit, read_table
from plimsoll.report.document import Report, Table
from plimsoll.report.wording import percent_text, short_count_text
from plimsoll.spec.errors import SpecError
from plimsoll.spec.io import write

__all__ = [
    "CompareLawsAnswer",
    "FitLawAnswer",
    "compare_laws",
    "fit_law",
    "parse_columns",
    "read_runs",
]


_DRAWS = 200


def parse_columns(text: str) -> dict[str, str]:
    """``params=N,tokens=D*1e9`` as input to header.

    Raises:
        SpecError: not of that form.
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, header = part.strip().partition("=")
        if not equals or not name or not header or name in found:
            raise SpecError(f"--columns {text!r}: expected as in params=N,tokens=D, each once")
        found[name] = header.strip()
    return found


def read_runs(path: Path, columns: str, loss: str, unit: str) -> LossTable:
    """A table of runs from a CSV, or a bundled one by name; a file of that name comes first.

    Raises:
        SpecError: see ``laws.table.read_table``; a unit that is neither nats nor bits.
    """
    if unit not in ("nats", "bits"):
        raise SpecError(f"--unit {unit!r}: expected nats or bits")
    known: Unit = "nats" if unit == "nats" else "bits"
    bundled = None if path.exists() else BUNDLED_RUNS.get(str(path))
    if bundled is None:
        return read_table(path, parse_columns(columns), loss=loss, unit=known)
    table = read_table(bundled.path, parse_columns(columns), loss=loss, unit=known)
    return replace(table, name=bundled.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitLawAnswer:
    """A fit; ``compared`` are the forms it was chosen from, empty if one was asked for."""

    found: Fit
    compared: tuple[Compared, ...]
    source: str
    saved: str = ""
    asked: tuple[str, ...] = ()

    def report(self) -> Report:
        """See ``Answer``."""
        found = self.found
        intervals = found.interval()
        rows = tuple(
            (name, f"{value:.5g}", f"{intervals[name][0]:.4g} to {intervals[name][1]:.4g}")
            for name, value in found.named.items()
        )
        tables = [
            Table(
                title=f"Parameters of {found.form.formula}",
                columns=("", "value", "90 % interval"),
                rows=rows,
                notes=(
                    f"interval: {len(found.draws)} fits to resampled points",
                    "held out errors, not intervals, say how far to trust extrapolations",
                ),
            )
        ]
        if self.compared:
            tables.append(_comparison(self.compared))
        if found.outliers:
            tables.append(_outliers(found))
        box = "; ".join(
            f"{name} {short_count_text(low)} to {short_count_text(high)}"
            for name, (low, high) in found.box.items()
        )
        notes = [f"holds for {box}", f"not for: {found.form.leaves_out}", *found.notes]
        law = self.saved or "law.yaml"
        return Report(
            title=f"{found.form.title} fits {len(found.table)} runs to "
            f"{percent_text(found.rmse)} (R² {found.r2:.4f} of ln loss)",
            subtitle=f"{self.source}; mean Huber loss {found.loss:.3g} of ln loss, delta "
            f"{found.delta:g}; loss in {found.unit}",
            command=command(*(self.asked or ("laws", "fit", self.source))),
            tables=tuple(tables),
            notes=tuple(notes),
            next_command=command("laws", "allocate", "--flops", "1e22", "--law", law)
            if self.saved
            else command(*(self.asked or ("laws", "fit", self.source)), "--out", law),
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        found = self.found
        return {
            "format_version": 1,
            **law_data(law_of_fit(found)),
            "intervals_90": {name: list(pair) for name, pair in found.interval().items()},
            "r2": found.r2,
            "huber": found.loss,
            "condition": found.condition,
            "outlier_lines": [_line_of(found, i) for i in found.outliers],
            "compared": [_compared_data(one) for one in self.compared],
            "notes": list(found.notes),
            "saved": self.saved,
        }


def _line_of(found: Fit, index: int) -> int:
    lines = found.table.lines
    return lines[index] if lines else index + 1


def _outliers(found: Fit) -> Table:
    rows = []
    for index in found.outliers[:10]:
        inputs = ", ".join(
            f"{name} {found.table.columns[name][index]:.3g}" for name in found.form.inputs
        )
        change = float(np.expm1(found.residuals[index]))
        rows.append((f"line {_line_of(found, index)}", inputs, f"{change:+.2%}"))
    return Table(
        title="Points far from the fit",
        columns=("", "inputs", "measured against fitted"),
        rows=tuple(rows),
        notes=("more than five robust deviations off; they count in the fit, with little weight",),
    )


def _compared_data(one: Compared) -> dict[str, Any]:
    return {
        "form": one.form.name,
        "held_out_error": one.errors,
        "rmse_ln": one.fit.rmse if one.fit else None,
        "bic": one.bic if one.fit else None,
        "why_not": one.why_not,
    }


def _comparison(found: Sequence[Compared]) -> Table:
    names = list(dict.fromkeys(name for one in found for name in one.errors))
    rows = []
    for one in found:
        if one.fit is None:
            rows.append((one.form.name, *("-" for _ in names), "-", "-"))
            continue
        errors = [one.errors.get(name) for name in names]
        rows.append(
            (
                one.form.name,
                *("-" if error is None else percent_text(error) for error in errors),
                percent_text(one.fit.rmse),
                f"{one.bic:,.0f}",
            )
        )
    titles = {"compute": "top compute", "params": "largest sizes", "folds": "random folds"}
    refused = tuple(f"{one.form.name}: {one.why_not}" for one in found if one.why_not)
    return Table(
        title="Forms on the same splits",
        columns=("", *(titles.get(name, name) for name in names), "in the fit", "BIC"),
        rows=tuple(rows),
        notes=("mean error of loss on what was held out of each fit", *refused),
    )


def fit_law(
    table: LossTable,
    *,
    form: str = "auto",
    seed: int = 0,
    out: Path | None = None,
) -> FitLawAnswer:
    """Fit a form, or the one that extrapolates best.

    Raises:
        SpecError: no such form, or a column it needs is missing.
        InfeasibleError: the points cannot identify it.
    """
    compared: tuple[Compared, ...] = ()
    if form == "auto":
        compared = tuple(compare(FORMS.values(), table, seed=seed))
        found = select(compared).fit
        assert found is not None
    else:
        found = fit(form_of(form), table)
    found = bootstrap(found, draws=_DRAWS, seed=seed)
    if out is not None:
        write(saved(law_of_fit(found)), out)
    return FitLawAnswer(
        found=found, compared=compared, source=table.name, saved=str(out) if out else ""
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareLawsAnswer:
    """Every form on one table."""

    found: tuple[Compared, ...]
    table: LossTable

    def report(self) -> Report:
        """See ``Answer``."""
        able = [one for one in self.found if one.extrapolation < float("inf")]
        title = "No form can be fitted and checked on these points"
        if able:
            best = select(self.found)
            title = (
                f"{best.form.title} extrapolates best: {percent_text(best.extrapolation)} off on "
                "held-out runs"
            )
        return Report(
            title=title,
            subtitle=f"{len(self.table)} runs of {self.table.name}",
            command=command("laws", "compare", self.table.name),
            tables=(_comparison(self.found),),
            notes=self.table.averaged().notes,
            next_command=command("laws", "fit", self.table.name, "--out", "law.yaml"),
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        return {
            "format_version": 1,
            "points": len(self.table),
            "forms": [_compared_data(one) for one in self.found],
        }


def compare_laws(table: LossTable, *, seed: int = 0) -> CompareLawsAnswer:
    """All forms that the table has the columns for, on the same splits."""
    found = tuple(compare(FORMS.values(), table, seed=seed))
    if not found:
        raise SpecError(
            f"{table.name}: no form has all its inputs among {', '.join(table.columns)}; see "
            "plimsoll laws list"
        )
    return CompareLawsAnswer(found=found, table=table)
