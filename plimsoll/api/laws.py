"""Scaling laws: list them, fit them to runs, compare them, predict a loss, split a budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plimsoll.api.commands import command
from plimsoll.laws.allocate import Allocation, compute_optimal
from plimsoll.laws.compare import Compared, compare, select
from plimsoll.laws.fit import Fit, bootstrap, fit, form_of
from plimsoll.laws.forms import FORMS
from plimsoll.laws.law import PUBLISHED, Law, law_of, law_of_fit, saved
from plimsoll.laws.predict import Prediction, predict
from plimsoll.laws.serving_price import serving_weights
from plimsoll.laws.table import LossTable, Unit, read_table
from plimsoll.report.document import KeyNumber, Report, Table
from plimsoll.report.wording import percent_text, short_count_text
from plimsoll.spec.errors import SpecError
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.io import write
from plimsoll.spec.origin import Number, Origin
from plimsoll.spec.units import parse_count

__all__ = [
    "AllocateAnswer",
    "CompareLawsAnswer",
    "FitLawAnswer",
    "LawListAnswer",
    "PredictAnswer",
    "allocate",
    "compare_laws",
    "fit_law",
    "list_laws",
    "parse_columns",
    "predict_loss",
    "read_runs",
    "tokens_of",
]

_DRAWS = 200
_NODES = 25


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
    """A table of runs from a CSV.

    Raises:
        SpecError: see ``laws.table.read_table``; a unit that is neither nats nor bits.
    """
    if unit not in ("nats", "bits"):
        raise SpecError(f"--unit {unit!r}: expected nats or bits")
    known: Unit = "nats" if unit == "nats" else "bits"
    return read_table(path, parse_columns(columns), loss=loss, unit=known)


def tokens_of(text: str, where: str) -> float:
    """``2e12tokens`` or ``2T`` as a count."""
    return float(parse_count(text.removesuffix("tokens").strip(), where=where))


def _parameters(named: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.5g}" for name, value in named.items())


@dataclass(frozen=True, slots=True)
class LawListAnswer:
    """Forms that can be fitted, and laws as published."""

    def report(self) -> Report:
        """See ``Answer``."""
        forms = tuple(
            (form.name, form.formula, ", ".join(form.inputs), form.source, form.leaves_out)
            for form in FORMS.values()
        )
        laws = tuple(
            (
                law.name,
                _parameters(law.named),
                "; ".join(
                    f"{name} {short_count_text(low)} to {short_count_text(high)}"
                    for name, (low, high) in law.box.items()
                ),
                law.source,
            )
            for law in PUBLISHED.values()
        )
        return Report(
            title=f"{len(forms)} forms to fit, {len(laws)} laws as published",
            subtitle="L loss, N params, D tokens, P streams",
            command=command("laws", "list"),
            tables=(
                Table(
                    title="Forms",
                    columns=("", "formula", "inputs", "source", "not for"),
                    rows=forms,
                ),
                Table(
                    title="Published laws",
                    columns=("", "parameters", "fitted on", "source"),
                    rows=laws,
                    notes=("losses are of each law's own data: compare sizes, not losses",),
                ),
            ),
            next_command=command("laws", "allocate", "--flops", "1e23", "--law", "chinchilla"),
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        return {
            "format_version": 1,
            "forms": [
                {
                    "name": form.name,
                    "formula": form.formula,
                    "inputs": list(form.inputs),
                    "source": form.source,
                    "leaves_out": form.leaves_out,
                }
                for form in FORMS.values()
            ],
            "laws": [_law_data(law) for law in PUBLISHED.values()],
        }


def _law_data(law: Law) -> dict[str, Any]:
    return {
        "name": law.name,
        "form": law.form.name,
        "parameters": law.named,
        "box": {name: list(limits) for name, limits in law.box.items()},
        "unit": law.unit,
        "rmse_ln": law.rmse,
        "points": law.points,
        "source": law.source,
    }


def list_laws() -> LawListAnswer:
    """What there is."""
    return LawListAnswer()


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
            **_law_data(law_of_fit(found)),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictAnswer:
    """A predicted loss."""

    law: Law
    found: Prediction

    def report(self) -> Report:
        """See ``Answer``."""
        one = self.found
        inputs = ", ".join(
            f"{name} {short_count_text(value)}" for name, value in one.inputs.items()
        )
        known = np.isfinite(one.low)
        interval = f"{one.low:.4g} to {one.high:.4g} with {one.level:.0%}" if known else "unknown"
        origin = Origin.EXTRAPOLATED if one.outside else Origin.MODELED
        return Report(
            title=f"Loss {one.loss:.4g} {one.unit} at {inputs}",
            subtitle=f"{self.law.form.formula}; {self.law.source}",
            command=command("laws", "predict", "--law", self.law.name),
            key_numbers=(
                KeyNumber(
                    name="Loss",
                    number=Number(value=one.loss, unit=one.unit, origin=origin),
                    note=f"interval {interval}",
                ),
            ),
            notes=tuple(
                note
                for note in (
                    one.warning,
                    "" if known else "the law was published without its points: no interval",
                )
                if note
            ),
            next_command=command("laws", "allocate", "--flops", "1e22", "--law", self.law.name),
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        one = self.found
        known = bool(np.isfinite(one.low))
        return {
            "format_version": 1,
            "law": _law_data(self.law),
            "inputs": one.inputs,
            "loss": one.loss,
            "low": one.low if known else None,
            "high": one.high if known else None,
            "level": one.level,
            "outside": one.outside,
            "warning": one.warning,
        }


def predict_loss(law: str, inputs: Mapping[str, float], *, level: float = 0.9) -> PredictAnswer:
    """The loss of a run that was not made."""
    found = law_of(law)
    return PredictAnswer(law=found, found=predict(found, inputs, level=level))


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocateAnswer:
    """A split budget. ``alone``: the same without the serving load, None if there is none."""

    law: Law
    found: Allocation
    alone: Allocation | None
    serve_tokens: float
    on: str
    weight: float
    stretch: float

    def report(self) -> Report:
        """See ``Answer``."""
        one, alone = self.found, self.alone
        at = predict(self.law, {"params": one.params, "tokens": one.tokens})
        origin = Origin.EXTRAPOLATED if at.outside else Origin.MODELED
        rows = [("in all", one)] if alone is None else [("with serving", one), ("training", alone)]
        table = Table(
            title="Size and tokens of least loss",
            columns=("", "params", "tokens", "tokens/param", "loss", "training FLOPs"),
            rows=tuple(
                (
                    name if alone is not None else "",
                    short_count_text(row.params),
                    short_count_text(row.tokens),
                    f"{row.tokens_per_param:.3g}",
                    f"{row.loss:.4g}",
                    f"{6 * row.params * row.tokens:.3g}",
                )
                for name, row in rows
            ),
            notes=("training alone: the whole budget for training",) if alone is not None else (),
        )
        notes = [at.warning] if at.warning else []
        if one.edge:
            notes.append(
                f"no minimum inside: the answer stands at {one.edge}; do not read it as an optimum"
            )
        if self.serve_tokens and self.on:
            notes.append(
                f"a serving FLOP on {self.on} costs {self.weight:.2f} training FLOPs at this size"
            )
        elif self.serve_tokens:
            notes.append("a serving FLOP costs as much as one of training; name devices with --on")
        interval = (
            f"{at.low:.4g} to {at.high:.4g} with 90 %" if np.isfinite(at.low) else "not known"
        )
        words = ["laws", "allocate", "--flops", f"{one.flops:.6g}", "--law", self.law.name]
        words += ["--serve", f"{self.serve_tokens:.6g}"] if self.serve_tokens else []
        words += ["--on", self.on] if self.on else []
        return Report(
            title=f"{short_count_text(one.params)} parameters on {short_count_text(one.tokens)} tokens",
            subtitle=f"{one.flops:.3g} FLOPs by {self.law.form.formula}; {self.law.source}",
            command=command(*words),
            key_numbers=(
                KeyNumber(
                    name="Loss",
                    number=Number(value=one.loss, unit=self.law.unit, origin=origin),
                    note=f"interval {interval}",
                ),
            ),
            tables=(table,),
            assumptions=(
                "training costs 6 FLOPs a parameter and token, serving 2",
                f"sizes and tokens up to {self.stretch:g} times beyond the fit's range",
            ),
            notes=tuple(notes),
            next_command=command(
                "laws",
                "predict",
                "--law",
                self.law.name,
                "--params",
                f"{one.params:.3g}",
                "--tokens",
                f"{one.tokens:.3g}",
            ),
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""

        def plain_of(one: Allocation) -> dict[str, Any]:
            return {
                "params": one.params,
                "tokens": one.tokens,
                "loss": one.loss,
                "flops": one.flops,
                "serve_flops": one.serve_flops,
                "edge": one.edge,
            }

        return {
            "format_version": 1,
            "law": _law_data(self.law),
            "chosen": plain_of(self.found),
            "training_alone": None if self.alone is None else plain_of(self.alone),
            "serve_tokens": self.serve_tokens,
            "serve_weight": self.weight,
            "on": self.on,
        }


def allocate(
    law: str,
    flops: float,
    *,
    serve_tokens: float = 0.0,
    on: str = "",
    stretch: float = 10.0,
) -> AllocateAnswer:
    """Split a budget; with ``on``, serving costs what it costs on those devices.

    Raises:
        SpecError: an unknown law or device, numbers that cannot be.
        InfeasibleError: nothing in reach of the law.
    """
    found = law_of(law)
    weight = 1.0
    alone = None
    if serve_tokens and on:
        device = parse_fleet(on).parts[0].device
        low, high = found.box.get("params", (1e6, 1e12))
        sizes = np.geomspace(low / stretch, high * stretch, _NODES)
        weights = serving_weights(sizes, device)
        best = compute_optimal(
            found,
            flops,
            serve_tokens=serve_tokens,
            serve_weight=lambda n: np.interp(np.log(n), np.log(sizes), weights),
            stretch=stretch,
        )
        weight = float(np.interp(np.log(best.params), np.log(sizes), weights))
    else:
        best = compute_optimal(found, flops, serve_tokens=serve_tokens, stretch=stretch)
    if serve_tokens:
        alone = compute_optimal(found, flops, stretch=stretch)
    return AllocateAnswer(
        law=found,
        found=best,
        alone=alone,
        serve_tokens=serve_tokens,
        on=on,
        weight=weight,
        stretch=stretch,
    )
