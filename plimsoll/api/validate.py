"""Predictions held against measured deployments: each row of a table predicted and judged.

The file may have the measured times or not; with them there are error and ranking tables,
without them only counts and a summary. Nothing is fitted to the file.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plimsoll.api.commands import command
from plimsoll.api.validate_figures import RankingFigures, error_figures, ranking_figures
from plimsoll.api.validate_tables import (
    count_table,
    error_text_table,
    predicted_table,
    ranking_text_table,
)
from plimsoll.evals.prediction_error import ErrorRow
from plimsoll.report.document import Report, Table
from plimsoll.report.wording import percent_text
from plimsoll.spec.deployment import DeploymentRow, Prediction, Refusal
from plimsoll.spec.deployment_rows import DeploymentTable, read_deployments, write_predictions
from plimsoll.spec.io import plain

__all__ = ["Predictor", "ValidateAnswer", "validate"]

Predictor = Callable[[Sequence[DeploymentRow]], Sequence[Prediction | Refusal]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidateAnswer:
    """A table with one answer a row; ``saved`` is the file it was written to, "" if none."""

    table: DeploymentTable
    answers: tuple[Prediction | Refusal, ...]
    tpot_errors: tuple[ErrorRow, ...]
    ttft_errors: tuple[ErrorRow, ...]
    ranking: RankingFigures | None
    saved: str = ""

    @property
    def origins(self) -> tuple[tuple[str, int], ...]:
        """(origin, predicted rows), most first."""
        counts = Counter(a.origin for a in self.answers if isinstance(a, Prediction))
        return tuple(counts.most_common())

    @property
    def refusals(self) -> tuple[tuple[str, int, int], ...]:
        """(reason, rows, line of the first), most first."""
        counts = Counter(a.reason for a in self.answers if isinstance(a, Refusal))
        first: dict[str, int] = {}
        for row, answer in zip(self.table.rows, self.answers, strict=True):
            if isinstance(answer, Refusal):
                first.setdefault(answer.reason, row.line)
        return tuple((reason, count, first[reason]) for reason, count in counts.most_common())

    def report(self) -> Report:
        """See ``Answer``."""
        path, num_rows = self.table.path, len(self.answers)
        judged = [
            (name, errors)
            for name, errors in (("TPOT", self.tpot_errors), ("TTFT", self.ttft_errors))
            if errors
        ]
        num_predicted = sum(count for _, count in self.origins)
        title = f"{num_predicted:,} of {num_rows:,} rows predicted"
        if judged:
            title += "; median error " + ", ".join(
                f"{percent_text(errors[0].median_error_fraction)} of {name}"
                for name, errors in judged
            )
        tables: list[Table] = [count_table(num_rows, self.origins, self.refusals)]
        tables += [error_text_table(name, errors) for name, errors in judged]
        if judged and self.ranking is not None:
            tables.append(ranking_text_table(self.ranking))
        if not judged:
            tables.append(predicted_table(self.table.rows, self.answers))
        return Report(
            title=f"Saved {self.saved}: {title}" if self.saved else title,
            subtitle=f"{path}; "
            + (
                "errors against its measured columns"
                if judged
                else "it has no measured row to compare a prediction with"
            ),
            command=command("validate", path),
            tables=tuple(tables),
            next_command=command("list", "models")
            if self.saved
            else command("validate", path, "--out", "predictions.csv"),
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        return {
            "format_version": 1,
            "file": self.table.path,
            "saved": self.saved,
            "num_rows": len(self.answers),
            "num_predicted": sum(count for _, count in self.origins),
            "predicted_by_origin": dict(self.origins),
            "refused": [
                {"reason": reason, "num_rows": count, "first_line": line}
                for reason, count, line in self.refusals
            ],
            "tpot_errors": [plain(row) for row in self.tpot_errors],
            "ttft_errors": [plain(row) for row in self.ttft_errors],
            "ranking": None if self.ranking is None else _ranking_data(self.ranking),
            "rows": [
                {"line": row.line, "id": row.id, **_answer_data(answer)}
                for row, answer in zip(self.table.rows, self.answers, strict=True)
            ],
        }


def _ranking_data(figures: RankingFigures) -> dict[str, Any]:
    return {
        "by_group": [
            {"by": by, "group": group, **plain(ranking)} for by, group, ranking in figures.rows
        ],
        "rows_left_out": dict(figures.left_out),
    }


def _answer_data(answer: Prediction | Refusal) -> dict[str, Any]:
    if isinstance(answer, Refusal):
        return {"refused": answer.reason}
    return {
        "ttft_s": answer.ttft_s,
        "ttft_p10_s": answer.ttft_low_s,
        "ttft_p90_s": answer.ttft_high_s,
        "tpot_s": answer.tpot_s,
        "tpot_p10_s": answer.tpot_low_s,
        "tpot_p90_s": answer.tpot_high_s,
        "origin": answer.origin,
        "note": answer.note,
    }


def validate(
    path: Path, *, out: Path | None = None, predict: Predictor | None = None
) -> ValidateAnswer:
    """Predict every row of a table of deployments, judge what is measured, write to ``out``.

    ``predict`` is by default the predictor of the package.

    Raises:
        SpecError: the file is no such table, or ``out`` cannot be written.
    """
    from plimsoll.planning.deployed import predict_rows

    table = read_deployments(path)
    answers = tuple((predict or predict_rows)(table.rows))
    answer = ValidateAnswer(
        table=table,
        answers=answers,
        tpot_errors=error_figures(table.rows, answers, "tpot"),
        ttft_errors=error_figures(table.rows, answers, "ttft"),
        ranking=ranking_figures(table.rows, answers),
        saved="" if out is None else str(out),
    )
    if out is not None:
        write_predictions(table, answers, out)
    return answer
