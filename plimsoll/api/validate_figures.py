"""From answered deployment rows to error and ranking figures.

Errors are shown by mode, system, backend, model, load and origin of the prediction; load is
concurrency per device, in bins. The ranking asks within rows that share all but the degrees of
parallelism which of them gives most output tokens/s a device.
Left out of the ranking, and counted: rows that are not measured, not predicted, without
concurrency or without a device count.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plimsoll.evals.prediction_error import ErrorRow, error_table, ordered_groups
from plimsoll.evals.ranking import (
    GroupRanking,
    Ranking,
    output_rate_per_device,
    rank_groups,
    summarize_rankings,
)
from plimsoll.spec.deployment import DeploymentRow, Prediction, Refusal, Workers

__all__ = [
    "LOAD_BINS",
    "NOT_NAMED",
    "RankingFigures",
    "error_figures",
    "load_bin",
    "ranking_figures",
]

Answers = Sequence[Prediction | Refusal]
Floats = npt.NDArray[np.float64]

NOT_NAMED = "not named"
_LOAD_EDGES = (1, 4, 16, 64)
LOAD_BINS = ("up to 1", "above 1 to 4", "above 4 to 16", "above 16 to 64", "above 64")
"""Requests in flight per device; the upper edge belongs to the bin."""

_RANKED_BY = ("mode", "system", "backend")


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingFigures:
    """``rows`` are (by, group, ranking), all groups together first, with by and group "".

    ``left_out`` counts rows by why they take no part; one row counts for its first cause.
    """

    rows: tuple[tuple[str, str, Ranking], ...]
    left_out: tuple[tuple[str, int], ...]


def load_bin(row: DeploymentRow) -> str:
    """The bin of a row's concurrency per device."""
    if not row.concurrency or not row.num_devices:
        return NOT_NAMED
    load = row.concurrency / row.num_devices
    return LOAD_BINS[int(np.searchsorted(_LOAD_EDGES, load, side="left"))]


def error_figures(
    rows: Sequence[DeploymentRow], answers: Answers, metric: str
) -> tuple[ErrorRow, ...]:
    """The error table of "ttft" or "tpot"; () where nothing is both measured and predicted."""
    measured = [getattr(row, f"{metric}_ms") for row in rows]
    names = (f"{metric}_s", f"{metric}_low_s", f"{metric}_high_s")
    predicted, low, high = (_predicted(answers, name) for name in names)
    labels = {
        **{
            by: [getattr(row, by) or NOT_NAMED for row in rows]
            for by in ("mode", "system", "backend", "model")
        },
        "load": [load_bin(row) for row in rows],
        "origin": [a.origin if isinstance(a, Prediction) else "" for a in answers],
    }
    return error_table(
        [np.nan if value is None else value / 1e3 for value in measured],
        predicted,
        low,
        high,
        labels,
        order={"load": LOAD_BINS},
    )


def _predicted(answers: Answers, name: str) -> Floats:
    return np.array(
        [getattr(a, name) if isinstance(a, Prediction) else np.nan for a in answers],
        dtype=np.float64,
    )


def ranking_figures(rows: Sequence[DeploymentRow], answers: Answers) -> RankingFigures | None:
    """The ranking table; None where no row has both times measured."""
    if not any(row.ttft_ms and row.tpot_ms for row in rows):
        return None
    left_out = dict.fromkeys(_CAUSES, 0)
    kept: list[DeploymentRow] = []
    measured: list[float] = []
    predicted: list[float] = []
    for row, answer in zip(rows, answers, strict=True):
        if row.ttft_ms is None or row.tpot_ms is None:
            left_out["not measured"] += 1
        elif isinstance(answer, Refusal):
            left_out["not predicted"] += 1
        elif not row.concurrency:
            left_out["concurrency not named"] += 1
        elif not row.num_devices:
            left_out["number of devices not named"] += 1
        else:
            load = row.concurrency, row.osl
            kept.append(row)
            measured.append(
                output_rate_per_device(*load, row.ttft_ms / 1e3, row.tpot_ms / 1e3, row.num_devices)
            )
            predicted.append(
                output_rate_per_device(*load, answer.ttft_s, answer.tpot_s, row.num_devices)
            )
    groups = [_group(row) for row in kept]
    rankings = rank_groups(groups, [_configuration(row) for row in kept], measured, predicted)
    judged = {ranking.group for ranking in rankings}
    left_out["no other configuration to compare with"] = sum(g not in judged for g in groups)
    return RankingFigures(
        rows=_by_kind(rankings, dict(zip(groups, kept, strict=True))),
        left_out=tuple((cause, count) for cause, count in left_out.items() if count),
    )


_CAUSES = (
    "not measured",
    "not predicted",
    "concurrency not named",
    "number of devices not named",
)


def _by_kind(
    rankings: Sequence[GroupRanking], sample: dict[str, DeploymentRow]
) -> tuple[tuple[str, str, Ranking], ...]:
    found = [("", "", summarize_rankings(rankings))]
    for by in _RANKED_BY:
        names = [getattr(sample[ranking.group], by) or NOT_NAMED for ranking in rankings]
        for name in ordered_groups(names):
            chosen = [r for r, own in zip(rankings, names, strict=True) if own == name]
            found.append((by, name, summarize_rankings(chosen)))
    return tuple((by, name, ranking) for by, name, ranking in found if ranking is not None)


def _group(row: DeploymentRow) -> str:
    shared = (row.model, row.system, row.backend, row.precision, row.gemm_format, row.moe_format)
    return "|".join((*shared, row.mode, f"{row.isl}/{row.osl}", f"{row.concurrency}"))


def _configuration(row: DeploymentRow) -> str:
    return "+".join(_degrees(w) for w in (row.workers, row.prefill, row.decode) if w is not None)


def _degrees(w: Workers) -> str:
    names = (w.count, w.tp, max(w.pp, 1), max(w.attention_dp, 1), w.moe_tp, w.moe_ep)
    return "-".join(str(name) for name in names)
