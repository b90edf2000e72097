"""Scaling laws: the forms that can be fitted, and the laws as published."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plimsoll.api.commands import command
from plimsoll.laws.bundled_runs import BUNDLED_RUNS
from plimsoll.laws.forms import FORMS
from plimsoll.laws.law import PUBLISHED, Law
from plimsoll.report.document import Report, Table
from plimsoll.report.wording import short_count_text

__all__ = ["LawListAnswer", "law_data", "list_laws"]


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
                Table(
                    title="Bundled runs, to try fits on",
                    columns=("", "what they are"),
                    rows=tuple((table.name, table.holds) for table in BUNDLED_RUNS.values()),
                    notes=("measured here: plimsoll laws fit tiny-grid",),
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
            "laws": [law_data(law) for law in PUBLISHED.values()],
            "bundled_runs": [
                {"name": table.name, "holds": table.holds} for table in BUNDLED_RUNS.values()
            ],
        }


def list_laws() -> LawListAnswer:
    """What there is."""
    return LawListAnswer()


def law_data(law: Law) -> dict[str, Any]:
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
