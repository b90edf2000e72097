"""The figures of ``validate`` as tables of text."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from plimsoll.api.validate_figures import LOAD_BINS, RankingFigures
from plimsoll.evals.prediction_error import ErrorRow
from plimsoll.evals.ranking import TOLERANCE_FRACTION
from plimsoll.report.document import Table
from plimsoll.report.wording import count_text, percent_text, seconds_text
from plimsoll.spec.deployment import DeploymentRow, Prediction, Refusal

__all__ = ["count_table", "error_text_table", "predicted_table", "ranking_text_table"]

_WIDEST_GROUP = 21


def count_table(
    num_rows: int,
    origins: Sequence[tuple[str, int]],
    refusals: Sequence[tuple[str, int, int]],
) -> Table:
    """Rows read, predicted by origin, and refused by reason with the first line of each."""
    num_predicted = sum(count for _, count in origins)
    return Table(
        title="Rows",
        columns=("", "rows", "first line"),
        rows=(
            ("read", count_text(num_rows), ""),
            ("predicted", count_text(num_predicted), ""),
            *((f"  {origin}", count_text(count), "") for origin, count in origins),
            *(
                (f"not predicted: {reason}", count_text(count), str(line))
                for reason, count, line in refusals
            ),
        ),
    )


def error_text_table(name: str, rows: Sequence[ErrorRow]) -> Table:
    """Errors of one quantity, all rows first."""
    short = _short_names([row.group for row in rows])
    return Table(
        title=f"{name}: absolute error in percent of the measured value",
        columns=("by", "group", "n", "median", "mean", "P90", "bias", "in band"),
        rows=tuple(
            (
                by,
                short[row.group] if row.by else "all rows",
                count_text(row.num_rows),
                _percent(row.median_error_fraction),
                _percent(row.mean_error_fraction),
                _percent(row.p90_error_fraction),
                _signed_percent(row.bias_fraction),
                percent_text(row.covered_fraction),
            )
            for by, row in zip(_without_repeats([r.by for r in rows]), rows, strict=True)
        ),
        notes=(
            "bias: median of predicted / measured - 1; in band: measured between P10 and P90, 80 % "
            f"expected; load: concurrency per device, {', '.join(LOAD_BINS)}",
        )
        if rows
        else (),
    )


def ranking_text_table(figures: RankingFigures) -> Table:
    """How often the best predicted configuration is the best measured."""
    left_out = "; ".join(f"{count:,} {cause}" for cause, count in figures.left_out)
    notes = [
        f"right: measured within {TOLERANCE_FRACTION:.0%} of the best; blind: a random pick; loss: "
        "mean output tokens/s/GPU given away; Spearman: mean over groups; a group shares model, "
        "system, backend, formats, mode, lengths and concurrency"
    ]
    if left_out:
        notes.append(f"rows left out: {left_out}")
    short = _short_names([group for _, group, _ in figures.rows])
    kinds = _without_repeats([by for by, _, _ in figures.rows])
    return Table(
        title="Ranking: is the configuration with the best predicted rate the best measured?",
        columns=("by", "group", "groups", "configs", "right", "blind", "loss", "Spearman"),
        rows=tuple(
            (
                kind,
                short[group] if by else "all groups",
                count_text(ranking.num_groups),
                count_text(ranking.num_configurations),
                percent_text(ranking.right_fraction),
                percent_text(ranking.blind_fraction),
                percent_text(ranking.mean_loss_fraction),
                f"{ranking.mean_spearman:.2f}",
            )
            for kind, (by, group, ranking) in zip(kinds, figures.rows, strict=True)
        ),
        notes=tuple(notes),
    )


def predicted_table(
    rows: Sequence[DeploymentRow], answers: Sequence[Prediction | Refusal]
) -> Table:
    """Predicted times by mode, as percentiles over rows."""
    shown: list[tuple[str, ...]] = []
    for mode in ("agg", "disagg"):
        pairs = zip(rows, answers, strict=True)
        found = [a for r, a in pairs if r.mode == mode and isinstance(a, Prediction)]
        for name, values in (
            ("TTFT", [a.ttft_s for a in found]),
            ("TPOT", [a.tpot_s for a in found]),
        ):
            if values:
                levels = (float(v) for v in np.percentile(values, (10, 50, 90)))
                count = count_text(len(values))
                shown.append((f"{mode} {name}", count, *(seconds_text(v) for v in levels)))
    return Table(
        title="Predicted, percentiles over rows",
        columns=("", "n", "P10", "P50", "P90"),
        rows=tuple(shown),
    )


def _without_repeats(names: Sequence[str]) -> list[str]:
    return ["" if k and name == names[k - 1] else name for k, name in enumerate(names)]


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """Names without the folder in front, where that keeps them apart; long ones lose their head."""
    distinct = set(names)
    ends = Counter(name.rpartition("/")[2] for name in distinct)
    short: dict[str, str] = {}
    for name in distinct:
        end = name.rpartition("/")[2]
        text = end if end and ends[end] == 1 else name
        short[name] = text if len(text) <= _WIDEST_GROUP else f"...{text[3 - _WIDEST_GROUP :]}"
    return short


def _percent(fraction: float) -> str:
    return percent_text(fraction) if fraction <= 1 else f"{fraction * 100:,.0f} %"


def _signed_percent(fraction: float) -> str:
    digits = 1 if abs(fraction) < 1 else 0
    return f"{round(fraction * 100, digits) + 0.0:+,.{digits}f} %"
