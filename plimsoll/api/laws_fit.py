"""Fit a law to a table of runs, or compare all forms on it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from plimsoll.api.commands import command
from plimsoll.api.law_checks import (
    compared_errors,
    compared_extrapolation,
    extrapolation,
    held_out_runs,
    residuals,
)
from plimsoll.api.law_maps import budgets_of, flop_curves, has_map, law_runs, loss_map
from plimsoll.api.laws import law_data, spend_command
from plimsoll.laws.bundled_runs import BUNDLED_RUNS
from plimsoll.laws.compare import Compared, compare, select
from plimsoll.laws.fit import Fit, bootstrap, fit, form_of
from plimsoll.laws.forms import FORMS
from plimsoll.laws.held_out import HeldOut, deciding_split, hold_out
from plimsoll.laws.law import law_of_fit, saved
from plimsoll.laws.rises import rises
from plimsoll.laws.table import LossTable, Unit, joined, read_table
from plimsoll.report.document import Report, Table
from plimsoll.report.law_pictures import LawRun
from plimsoll.report.pictures import Picture
from plimsoll.report.wording import flops_text, percent_text, short_count_text
from plimsoll.spec.errors import SpecError, suggest
from plimsoll.spec.io import write

__all__ = [
    "CompareLawsAnswer",
    "FitLawAnswer",
    "check_law_file",
    "compare_laws",
    "fit_law",
    "parse_columns",
    "read_runs",
]


_DRAWS = 200
_SHOWN = 10


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


def check_law_file(path: Path | None) -> None:
    """That a law may be written there, so that a table of runs is never overwritten with one.

    Raises:
        SpecError: a name that no command would read as a law.
    """
    if path is not None and path.suffix not in (".yaml", ".yml", ".json"):
        raise SpecError(f"--out {path}: expected a name in .yaml or .json, as in law.yaml")


def read_runs(paths: Path | Sequence[Path], columns: str, loss: str, unit: str) -> LossTable:
    """A table of runs from one CSV or several, or bundled ones by name (a file of that name comes
    first); ``unit`` "" reads it off them.

    Raises:
        SpecError: see ``laws.table.read_table`` and ``joined``; a unit that is neither nats nor
            bits.
    """
    known: dict[str, Unit | None] = {"": None, "nats": "nats", "bits": "bits"}
    if unit not in known:
        raise SpecError(f"--unit {unit!r}: expected nats or bits.{suggest(unit, known)}")
    files = [paths] if isinstance(paths, Path) else paths
    wanted = parse_columns(columns)
    tables = []
    for path in files:
        bundled = None if path.exists() else BUNDLED_RUNS.get(str(path))
        where = path if bundled is None else bundled.path
        table = read_table(where, wanted, loss=loss, unit=known[unit])
        tables.append(table if bundled is None else replace(table, name=bundled.name))
    return joined(tables)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitLawAnswer:
    """A fit; ``compared`` are the forms it was chosen from, empty if one was asked for; ``held``:
    what a fit without some of the runs says of them, None if too few would be left."""

    found: Fit
    compared: tuple[Compared, ...]
    source: str
    held: HeldOut | None = None
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
        tables += _rises(found.table)
        box = "; ".join(
            f"{name} {short_count_text(low)} to {short_count_text(high)}"
            for name, (low, high) in found.box.items()
        )
        notes = [f"holds for {box}", f"not for: {found.form.leaves_out}", *found.notes]
        if self.held is None:
            notes.append("no check on runs held out: too few would be left to fit")
        law = self.saved or "law.yaml"
        pool = found.box.get("unique")
        limit = ("--unique", short_count_text(float(f"{pool[1]:.2g}"))) if pool else ()
        return Report(
            title=f"{found.form.title} fits {len(found.table)} runs to "
            f"{percent_text(found.rmse)} (R² {found.r2:.4f} of ln loss)",
            subtitle=f"{self.source}; mean Huber loss {found.loss:.3g} of ln loss, delta "
            f"{found.delta:g}; loss in {found.unit}",
            command=command(*(self.asked or ("laws", "fit", self.source))),
            tables=tuple(tables),
            pictures=self.pictures(),
            num_on_terminal=1,
            notes=tuple(notes),
            next_command=spend_command(law_of_fit(found), law, *limit)
            if self.saved
            else command(*(self.asked or ("laws", "fit", self.source)), "--out", law),
        )

    def pictures(self) -> tuple[Picture, ...]:
        """What was held out, residuals, and for a law of sizes and tokens its map and budgets."""
        found = self.found
        made: list[Picture] = [] if self.held is None else [extrapolation(self.held)]
        made.append(residuals(found))
        if has_map(found):
            law, runs = law_of_fit(found), law_runs(found)
            made.append(loss_map(law, runs=runs))
            budgets = [(f"{flops_text(c)} FLOPs", c, 0.0, 1.0) for c in budgets_of(found)]
            curves = flop_curves(law, budgets, runs=runs)
            made += [] if curves is None else [curves]
        return tuple(made)

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        found, held = self.found, self.held
        return {
            "format_version": 1,
            **law_data(law_of_fit(found)),
            "intervals_90": {name: list(pair) for name, pair in found.interval().items()},
            "r2": found.r2,
            "huber": found.loss,
            "condition": found.condition,
            "outlier_lines": [_line_of(found.table, i) for i in found.outliers],
            "rises": _rises_data(found.table),
            "compared": [_compared_data(one) for one in self.compared],
            "runs": [_run_data(run) for run in law_runs(found)],
            "held_out": None
            if held is None
            else {
                "split": held.split,
                "error": held.error,
                "level": held.predictions[0].level,
                "num_within": held.num_within,
                "runs": [_run_data(run) for run in held_out_runs(held)],
            },
            "notes": list(found.notes),
            "saved": self.saved,
        }


def _run_data(run: LawRun) -> dict[str, Any]:
    """A measured point; the interval where it was predicted."""
    interval = {} if run.low is None else {"low": run.low, "high": run.high}
    return {
        "line": run.line,
        **run.inputs,
        "loss": run.loss,
        "predicted": run.predicted,
        "outlier": run.far,
        **interval,
    }


def _line_of(table: LossTable, index: int) -> int:
    return table.lines[index] if table.lines else index + 1


def _outliers(found: Fit) -> Table:
    rows = []
    for index in found.outliers[:_SHOWN]:
        inputs = ", ".join(
            f"{name} {found.table.columns[name][index]:.3g}" for name in found.form.inputs
        )
        change = float(np.expm1(found.residuals[index]))
        rows.append((found.table.place(index), inputs, f"{100 * change:+.2f} %"))
    return Table(
        title="Points far from the fit",
        columns=("", "inputs", "measured against fitted"),
        rows=tuple(rows),
        notes=("more than five robust deviations off; they count in the fit, with little weight",),
    )


def _rises(table: LossTable) -> list[Table]:
    """Pairs of like runs whose loss grows with tokens, as a table; [] without any."""
    found = rises(table)
    if not found:
        return []
    tokens = table.columns["tokens"]
    notes = ["such pairs are noise or runs that went wrong; they stay in the fit"]
    if len(found) > _SHOWN:
        notes.append(f"{len(found) - _SHOWN} smaller ones are not shown")
    if any(one.like_bits for one in found):
        notes.append("a rise of about 44 % is that from nats to bits: are all losses in one unit?")
    rows = tuple(
        (
            f"{table.place(one.fewer)} to {table.place(one.more)}",
            f"{tokens[one.fewer]:.3g} to {tokens[one.more]:.3g}",
            f"{100 * (one.factor - 1):+.2f} %",
        )
        for one in found[:_SHOWN]
    )
    columns = ("", "tokens", "loss")
    return [Table(title="Loss that rises with tokens", columns=columns, rows=rows, notes=(*notes,))]


def _rises_data(table: LossTable) -> list[dict[str, Any]]:
    return [
        {
            "lines": [_line_of(table, one.fewer), _line_of(table, one.more)],
            "factor": one.factor,
        }
        for one in rises(table)
    ]


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
    refused = tuple(one.why_not for one in found if one.why_not)
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
    rest = {one.form.name: one.rest for one in compared}
    held = hold_out(found.form, table, draws=_DRAWS, seed=seed, rest=rest.get(found.form.name))
    if out is not None:
        write(saved(law_of_fit(found)), out)
    return FitLawAnswer(
        found=found,
        compared=compared,
        source=table.name,
        held=held,
        saved=str(out) if out else "",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareLawsAnswer:
    """Every form on one table."""

    found: tuple[Compared, ...]
    table: LossTable
    seed: int = 0
    asked: tuple[str, ...] = ()

    def report(self) -> Report:
        """See ``Answer``."""
        able = [one for one in self.found if one.extrapolation < float("inf")]
        files = list(dict.fromkeys(self.table.files)) or [self.table.name]
        asked = self.asked or ("laws", "compare", *files)
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
            command=command(*asked),
            tables=(_comparison(self.found), *_rises(self.table.averaged())),
            pictures=self.pictures(),
            num_on_terminal=0,
            notes=self.table.averaged().notes,
            next_command=command(
                "laws", "fit", *files, *_how_read(self.asked), "--out", "law.yaml"
            ),
        )

    def pictures(self) -> tuple[Picture, ...]:
        """The forms on the runs that decide between them."""
        split = deciding_split(self.table, seed=self.seed)
        if split is None:
            return ()
        (held,) = split.turns
        made = (
            compared_errors(self.found, split.name, held),
            compared_extrapolation(self.found, split.name, held),
        )
        return tuple(one for one in made if one is not None)

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        return {
            "format_version": 1,
            "points": len(self.table),
            "forms": [_compared_data(one) for one in self.found],
            "rises": _rises_data(self.table.averaged()),
        }


def _how_read(asked: Sequence[str]) -> list[str]:
    """The words of a command that say how a table is read."""
    kept: list[str] = []
    for word, value in zip(asked, (*asked[1:], ""), strict=False):
        if word in ("--columns", "--loss", "--unit"):
            kept += [word, value]
        elif word.startswith(("--columns=", "--loss=", "--unit=")):
            kept.append(word)
    return kept


def compare_laws(table: LossTable, *, seed: int = 0) -> CompareLawsAnswer:
    """All forms that the table has the columns for, on the same splits.

    Raises:
        SpecError: no form has its columns.
        InfeasibleError: none can be fitted.
    """
    found = tuple(compare(FORMS.values(), table, seed=seed))
    if not found:
        raise SpecError(
            f"{table.name}: no form has all its inputs among {', '.join(table.columns)}; see "
            "plimsoll laws list"
        )
    if all(one.fit is None for one in found):
        select(found)
    return CompareLawsAnswer(found=found, table=table, seed=seed)
