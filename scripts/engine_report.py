"""The deployment tables of docs/accuracy.md: cross-validated errors, bands, coefficients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plimsoll.api.validate_figures import RankingFigures
from plimsoll.spec.io import write_text
from scripts.engine_fit import Coefficients
from scripts.engine_rows import ENGINES, FitRow

__all__ = ["Scheme", "write_deployment_tables"]

_START = "<!-- deployment tables: written by scripts/fit_engines.py -->"
_END = "<!-- end of deployment tables -->"
_MODES = ("agg", "disagg")
_WORDS = {"agg": "aggregated", "disagg": "disaggregated"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """Predictions of all rows under one way of leaving rows out."""

    name: str
    rows: Sequence[FitRow]
    tpot_s: np.ndarray
    ttft_s: np.ndarray

    def errors(self, metric: str) -> np.ndarray:
        """Absolute relative error of every row."""
        measured = np.array([row.facts[f"{metric}_s"] for row in self.rows])
        found: np.ndarray = np.abs(getattr(self, f"{metric}_s") / measured - 1.0)
        return found


def _pair(errors: np.ndarray) -> str:
    return f"{100 * np.median(errors):.1f} / {100 * errors.mean():.1f}"


def _cells(scheme: Scheme, take: np.ndarray) -> list[str]:
    return [
        f"{int(take.sum()):,}",
        _pair(scheme.errors("tpot")[take]),
        _pair(scheme.errors("ttft")[take]),
    ]


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *rows, ""]


def _by(scheme: Scheme, head: str, key: Callable[[FitRow], str]) -> list[str]:
    names = np.array([key(row) for row in scheme.rows])
    lines = []
    for name in sorted(set(names)):
        for mode in _MODES:
            take = (names == name) & (_modes(scheme) == mode)
            if take.any():
                lines.append([name, _WORDS[mode], *_cells(scheme, take)])
    return _table((head, "mode", "rows", "TPOT, %", "TTFT, %"), lines)


def _modes(scheme: Scheme) -> np.ndarray:
    return np.array([row.row.mode for row in scheme.rows])


def _floor(rows: Sequence[FitRow]) -> tuple[int, float, float]:
    """Rows that differ in nothing named but were measured apart: count, mean errors at best.

    The best single answer for such a group is the one with the least mean relative error.
    """
    groups: dict[tuple[object, ...], list[FitRow]] = {}
    for row in rows:
        r = row.row
        same = (
            r.model,
            r.system,
            r.backend,
            r.backend_version,
            r.measured_on,
            r.precision,
            r.mode,
            r.isl,
            r.osl,
            r.concurrency,
            r.workers,
            r.prefill,
            r.decode,
        )
        groups.setdefault(same, []).append(row)
    tpot, ttft = [], []
    for group in groups.values():
        for metric, errors in (("tpot_s", tpot), ("ttft_s", ttft)):
            values = np.array([row.facts[metric] for row in group])
            if len(values) > 1 and values.max() > 1.02 * values.min():
                best = min((np.abs(x / values - 1.0) for x in values), key=lambda e: e.mean())
                errors.extend(best.tolist())
    return len(tpot), float(np.mean(tpot or [0.0])), float(np.mean(ttft or [0.0]))


def _ranked(ranking: RankingFigures | None) -> list[str]:
    if ranking is None:
        return []
    lines = []
    for kind, name, one in ranking.rows:
        if kind in ("", "mode", "backend"):
            lines.append(
                [
                    name or "all",
                    f"{one.num_groups:,}",
                    f"{100 * one.right_fraction:.1f}",
                    f"{100 * one.blind_fraction:.1f}",
                    f"{100 * one.mean_loss_fraction:.1f}",
                    f"{one.mean_spearman:.2f}",
                ]
            )
    return [
        "Groups of rows that differ in configuration only: is the best predicted output rate a GPU",
        "measured within 5 % of the best? Predicted with the model and system left out, in",
        "percent; *blind* is a random pick, *loss* the rate given away.",
        "",
        *_table(("groups of", "groups", "right", "blind", "loss", "Spearman"), lines),
    ]


def _coefficients(found: Coefficients) -> list[str]:
    names = list(found.by_engine(0))
    lines = []
    for name in names:
        cells = [found.by_engine(i)[name] for i in range(len(ENGINES))]
        lines.append([name, *(f"{value:.3g} ± {error:.1g}" for value, error in cells)])
    shared = [[n, f"{value:.3g} ± {error:.1g}"] for n, (value, error) in found.common().items()]
    return [
        *_table(("coefficient", *ENGINES), lines),
        *_table(("shared by all engines", "value"), shared),
    ]


def write_deployment_tables(
    schemes: Sequence[Scheme],
    coverage: dict[str, float],
    found: Coefficients,
    refused: int,
    ranking: RankingFigures | None,
    path: Path | None,
) -> str:
    """The text, and into ``path`` between its markers if given."""
    first = schemes[0]
    summary = []
    for scheme in schemes:
        for mode in _MODES:
            name = scheme.name if scheme is first else f"{scheme.name} left out"
            summary.append([name, _WORDS[mode], *_cells(scheme, _modes(scheme) == mode)])
    twins, tpot_floor, ttft_floor = _floor(first.rows)
    named = np.array([row.solved.settings.guessed == 0 for row in first.rows])
    both = schemes[1]
    split = []
    for mode in _MODES:
        for words, take in (("every setting named", named), ("some guessed", ~named)):
            split.append([_WORDS[mode], words, *_cells(both, take & (_modes(both) == mode))])
    covered = [[name, f"{100 * share:.1f}"] for name, share in coverage.items()]
    lines = [
        _START,
        "## Deployments",
        "",
        "Predicted against measured mean TPOT and TTFT of real deployments: median / mean",
        "absolute error in percent of the measured value, of every row that can be solved.",
        f"{refused} rows cannot: their degrees are none the model allows. *Left out*: the row's",
        "group took no part in the fit. DeepSeek-V3 and R1 hold the same runs, so only *model*",
        "leaves both out. The rules that read unnamed settings into rows were made with all rows",
        "in view. Made by `scripts/fit_engines.py`.",
        "",
        *_table(("rows predicted", "mode", "rows", "TPOT, %", "TTFT, %"), summary),
        "With the model and system left out, by whether the row names every setting:",
        "",
        *_table(("mode", "settings", "rows", "TPOT, %", "TTFT, %"), split),
        f"{twins:,} rows have a twin that differs in nothing the table names but was measured",
        f"apart; the best single answer for both errs by {100 * tpot_floor:.0f} % in TPOT and "
        f"{100 * ttft_floor:.0f} % in TTFT",
        "on average over them. No prediction from these columns can do better there.",
        "",
        "Share of rows inside their P10-P90 band, bands from other groups' rows, in percent:",
        "",
        *_table(("rows", "inside"), covered),
        *_ranked(ranking),
        "By system left out:",
        "",
        *_by(schemes[2], "system", lambda r: r.row.system),
        "By model left out:",
        "",
        *_by(schemes[3], "model", lambda r: r.row.model.split("/")[-1]),
        "By engine (model and system left out):",
        "",
        *_by(schemes[1], "engine", lambda r: r.row.backend),
        "Coefficients with standard errors:",
        "",
        *_coefficients(found),
        "![TPOT, predicted against measured](pictures/accuracy-tpot.png)",
        "![TTFT, predicted against measured](pictures/accuracy-ttft.png)",
        "",
        "Every point is predicted by a fit without its model and system; lines at ±10 % and ±25 %.",
        _END,
    ]
    text = "\n".join(lines)
    if path is not None:
        old = path.read_text(encoding="utf-8")
        if _START in old and _END in old:
            before, rest = old.split(_START, 1)
            text_before, after = before, rest.split(_END, 1)[1]
            write_text(text_before + text + after, path)
        else:
            write_text(old.rstrip() + "\n\n" + text + "\n", path)
    return text
