"""Error bands from left-out predictions: base quantiles, and what widens them.

The base of a metric and mode are the P10 and P90 of log(measured / predicted) over rows with every
setting named, and over rows with some guessed, each predicted without its model and system. A
widening factor is the least by which bands must be multiplied so that 8 of 10 rows lie inside
where its reason holds: rows of a system left out, of a model left out, rows that queue for a
place.
``outside_range`` is not measured: no row lies outside all rows' range. Coverage is
cross-validated too: bands of a group come from the other groups' rows.
"""

from collections.abc import Sequence
from datetime import date

import numpy as np

from plimsoll.cost.error_bands import Metric, model_kind
from plimsoll.planning.deployed import bands_of
from plimsoll.planning.deployment_loop import SolvedLoop
from scripts.engine_report import Scheme
from scripts.engine_rows import FitRow

__all__ = ["band_factors", "banded", "bands_data"]

_INSIDE = 0.8
_NOT_MEASURED = 1.25
_MOST = 3.0
METRICS: tuple[Metric, ...] = ("ttft", "tpot")
MODES = ("aggregated", "disaggregated")
KINDS = (*MODES, *(f"{mode}_guessed" for mode in MODES))
Bases = dict[tuple[str, str], tuple[float, float]]


def _apart(row: FitRow) -> bool:
    return row.solved.settings.prefill is not None


def _logs(scheme: Scheme, metric: Metric) -> np.ndarray:
    measured = np.array([row.facts[f"{metric}_s"] for row in scheme.rows])
    return np.log(measured / getattr(scheme, f"{metric}_s"))


def _guessed(scheme: Scheme) -> np.ndarray:
    return np.array([row.solved.settings.guessed > 0 for row in scheme.rows])


def _queues(rows: Sequence[FitRow]) -> np.ndarray:
    return np.array([row.facts["running"] < 0.95 * row.facts["in_flight"] for row in rows])


def _kinds(scheme: Scheme) -> np.ndarray:
    """The base each row belongs to."""
    guessed = _guessed(scheme)
    return np.array(
        [
            MODES[_apart(row)] + ("_guessed" if unsure else "")
            for row, unsure in zip(scheme.rows, guessed, strict=True)
        ]
    )


def _bases(scheme: Scheme, take: np.ndarray) -> Bases:
    kinds = _kinds(scheme)
    found: Bases = {}
    for metric in METRICS:
        logs = _logs(scheme, metric)
        for kind in KINDS:
            inside = logs[take & (kinds == kind)]
            low, high = np.quantile(inside, (0.5 - _INSIDE / 2, 0.5 + _INSIDE / 2))
            found[metric, kind] = (float(low), float(high))
    return found


def _widened(low: float, high: float, factor: float) -> tuple[float, float]:
    return low - (factor - 1.0) * abs(low), high + (factor - 1.0) * abs(high)


def _needed(scheme: Scheme, bases: Bases, take: np.ndarray) -> float:
    """The least factor with which 8 of 10 of the rows taken lie inside their bands."""
    kinds = _kinds(scheme)
    for factor in np.arange(1.0, _MOST, 0.01):
        inside = []
        for metric in METRICS:
            logs = _logs(scheme, metric)
            for kind in KINDS:
                low, high = _widened(*bases[metric, kind], factor)
                chosen = logs[take & (kinds == kind)]
                inside.append((chosen >= low) & (chosen <= high))
        if np.concatenate(inside).mean() >= _INSIDE:
            return round(float(factor), 2)
    return _MOST


def bands_data(schemes: Sequence[Scheme], source: str) -> dict[str, object]:
    """The content of error_bands.yaml from (model and system, system, model) left out."""
    both, system, model = schemes
    everything = np.ones(len(both.rows), dtype=bool)
    sure = ~_guessed(both)
    bases = _bases(both, everything)
    rows = both.rows
    settings = [row.solved.settings for row in rows]
    batch = [s.in_flight / row.solved.num_devices for s, row in zip(settings, rows, strict=True)]
    return {
        "bands": {
            metric: {
                mode: dict(
                    zip(
                        ("low_log", "high_log"),
                        (round(x, 3) for x in bases[metric, mode]),
                        strict=True,
                    )
                )
                for mode in KINDS
            }
            for metric in METRICS
        },
        "widening": {
            "unseen_device": _needed(system, bases, sure),
            "unseen_model": _needed(model, bases, sure),
            "outside_range": _NOT_MEASURED,
            "high_load": _needed(both, bases, sure & _queues(both.rows)),
        },
        "measured": {
            "devices": sorted({s.device.name for s in settings}),
            "model_kinds": sorted({model_kind(s.model) for s in settings}),
            "prompt_tokens": _range([s.prompt_tokens for s in settings]),
            "output_tokens": _range([s.output_tokens for s in settings]),
            "batch_per_device": _range(batch),
        },
        "high_load_queue_fraction": 0.5,
        "source": source,
        "as_of": date.today().strftime("%Y-%m"),
    }


def _range(values: Sequence[float]) -> dict[str, float]:
    return {"least": round(float(min(values)), 4), "most": round(float(max(values)), 1)}


def band_factors(solved: SolvedLoop, metric: Metric) -> tuple[float, float]:
    """(low, high) factors of a prediction, by the bundled bands."""
    band = bands_of(solved)[metric]
    return band.low, band.high


def banded(scheme: Scheme) -> dict[str, float]:
    """Share of rows inside bands that other groups' rows gave, by metric and mode."""
    groups = np.array([f"{row.row.model} {row.row.system}" for row in scheme.rows])
    apart = np.array([_apart(row) for row in scheme.rows])
    kinds, inside = _kinds(scheme), {metric: np.zeros(len(groups)) for metric in METRICS}
    for group in sorted(set(groups)):
        bases = _bases(scheme, groups != group)
        for metric in METRICS:
            logs = _logs(scheme, metric)
            for i in np.flatnonzero(groups == group):
                low, high = bases[metric, kinds[i]]
                inside[metric][i] = low <= logs[i] <= high
    found = {}
    for metric in METRICS:
        found[metric] = float(inside[metric].mean())
        for mode, of_mode in zip(MODES, (~apart, apart), strict=True):
            found[f"{metric} {mode}"] = float(inside[metric][of_mode].mean())
    return found
