"""How far predictions are off measurements: one row of error figures a group.

With relative error e = predicted / measured - 1 of a row, a group shows the median, mean and
90th percentile of |e|, the median of e as bias, and the share of measurements inside the
predicted band, bounds included. A band of P10 to P90 should hold 80 %.
Left out: weights, confidence intervals; each row counts once. Percentiles are linear between
order statistics (Hyndman and Fan type 7, doi:10.1080/00031305.1996.10473566).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ErrorRow", "error_row", "error_table", "ordered_groups"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRow:
    """Errors of one group: ``by`` says what it is grouped by, "" for all rows.

    Fractions of the measured value: 0.1 is 10 % off. ``covered_fraction`` is of the rows.
    """

    by: str
    group: str
    num_rows: int
    median_error_fraction: float
    mean_error_fraction: float
    p90_error_fraction: float
    bias_fraction: float
    covered_fraction: float


def error_row(
    measured: Floats, predicted: Floats, low: Floats, high: Floats, *, by: str = "", group: str = ""
) -> ErrorRow | None:
    """Errors over the rows where both are known (not NaN); None if there is no such row."""
    known = np.isfinite(measured) & np.isfinite(predicted)
    if not known.any():
        return None
    true = measured[known]
    signed = predicted[known] / true - 1.0
    size = np.abs(signed)
    covered = (low[known] <= true) & (true <= high[known])
    return ErrorRow(
        by=by,
        group=group,
        num_rows=len(true),
        median_error_fraction=float(np.median(size)),
        mean_error_fraction=float(np.mean(size)),
        p90_error_fraction=float(np.percentile(size, 90)),
        bias_fraction=float(np.median(signed)),
        covered_fraction=float(np.mean(covered)),
    )


def error_table(
    measured: Sequence[float] | Floats,
    predicted: Sequence[float] | Floats,
    low: Sequence[float] | Floats,
    high: Sequence[float] | Floats,
    labels: Mapping[str, Sequence[str]],
    *,
    order: Mapping[str, Sequence[str]] | None = None,
) -> tuple[ErrorRow, ...]:
    """All rows together, then each group of each key of ``labels``, in that order.

    NaN stands for not measured or not predicted. Groups come in the order of ``order``, the
    largest first where it names none; groups without a row to judge are left out.
    """
    columns = [np.asarray(values, dtype=np.float64) for values in (measured, predicted, low, high)]
    rows = [error_row(*columns)]
    for by, names in labels.items():
        texts: npt.NDArray[Any] = np.asarray(names, dtype=object)
        for group in ordered_groups(names, (order or {}).get(by, ())):
            chosen = texts == group
            rows.append(error_row(*(column[chosen] for column in columns), by=by, group=group))
    return tuple(row for row in rows if row is not None)


def ordered_groups(names: Sequence[str], first: Sequence[str] = ()) -> list[str]:
    """Distinct names: those of ``first`` in its order, the others by count, then by name."""
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    stated = [name for name in first if name in counts]
    rest = sorted((n for n in counts if n not in first), key=lambda n: (-counts[n], n))
    return stated + rest
