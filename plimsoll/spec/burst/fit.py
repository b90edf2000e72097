"""Fitting a burst model to a workload, window by window.

Gamma shapes are estimated by maximum likelihood inside each window; a single fit over the whole
trace would take the drift of the rate for burstiness. Where the likelihood fit misses the
variance of the gaps by more than half, the longest gaps are fitted apart, as pauses. Variance of
the counts per minute that the gaps do not explain becomes drift inside the windows.
Prompts take a truncated Zipf law, outputs a mixture of lognormal modes, each only if it is within
``_GOOD_KS`` of the data; a table of quantiles otherwise.
Source: arXiv 2401.17644.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from plimsoll.spec.burst.families import fit_gamma_shape, fit_output, fit_prompt, ks_to_gamma
from plimsoll.spec.burst.model import (
    BurstModel,
    BurstWindow,
    Drift,
    Failures,
    Idle,
    RequestKind,
    SessionHabit,
)
from plimsoll.spec.errors import SpecError
from plimsoll.spec.generators.lengths import Lengths
from plimsoll.spec.statistics import rank_correlation
from plimsoll.spec.workload import Workload

__all__ = ["fit"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_MIN_GAPS = 30
_STEP_S = 60.0
_MISSED_VARIANCE = 1.5
_LONG_GAP = 10.0
_SESSION_LEVELS = (0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)


def fit(workload: Workload, *, window_s: float = 1200.0) -> BurstModel:
    """The burst model of an open-loop workload; windows are about ``window_s`` long.

    Raises:
        SpecError: a closed loop, too few requests, or all at one time.
    """
    where = f"workload {workload.name}"
    if workload.num_in_flight or workload.rate_per_s == 0:
        raise SpecError(f"{where}: has no arrival times to fit; use an open-loop trace")
    if not 0 < window_s < np.inf:
        raise SpecError(f"{where}: window_s = {window_s} must be above zero")
    gaps_s = np.diff(workload.arrival_s)
    if len(gaps_s) < _MIN_GAPS:
        raise SpecError(
            f"{where}: {len(gaps_s)} gaps are too few to fit; at least {_MIN_GAPS} are needed"
        )
    start_s = workload.arrival_s[0]
    span_s = float(workload.arrival_s[-1] - start_s)
    count = max(1, round(span_s / window_s))
    width_s = span_s / count
    of_gap = np.minimum((workload.arrival_s[:-1] - start_s) / width_s, count - 1).astype(int)
    requests = np.bincount(of_gap, minlength=count)
    rates = requests / width_s
    unit = gaps_s * rates[of_gap]
    idle, pause = _idle(unit)
    alphas = _alphas(unit, of_gap, count, pause)
    drift = _drift(workload.arrival_s - start_s, span_s, rates, idle, alphas)
    failed = (
        workload.cancel_after_s == 0
        if len(workload.cancel_after_s)
        else np.zeros(len(workload), dtype=bool)
    )
    return BurstModel(
        name=f"{workload.name}-model",
        source=workload.source,
        window_s=width_s,
        windows=tuple(
            BurstWindow(rate_per_s=float(r), alpha=float(a))
            for r, a in zip(rates, alphas, strict=True)
        ),
        drift=drift,
        idle=idle,
        kinds=_kinds(workload, failed),
        sessions=_sessions(workload),
        failures=_failures(failed),
        gap_ks=_gap_ks(unit, of_gap, alphas, pause),
    )


def _idle(unit: Floats) -> tuple[Idle, Bools]:
    """Pauses, and which gaps they are; none where a Gamma explains the variance."""
    none = np.zeros(len(unit), dtype=bool)
    alpha = fit_gamma_shape(unit)
    if unit.var() <= _MISSED_VARIANCE * unit.mean() ** 2 / alpha:
        return Idle(), none
    pause = none
    while True:
        wider = unit > _LONG_GAP * unit[~pause].mean()
        if wider.sum() == pause.sum():
            break
        pause = wider
    long = unit[pause]
    if len(long) < _MIN_GAPS or pause.mean() > 0.5:
        return Idle(), none
    # Matching mean and variance of the pauses keeps the variance of the counts.
    mean = float(long.mean())
    return (
        Idle(
            share=float(pause.mean()),
            alpha=float(mean**2 / long.var()),
            mean_gaps=min(mean / float(unit.mean()), 0.999 / float(pause.mean())),
        ),
        pause,
    )


def _alphas(unit: Floats, of_gap: Any, count: int, pause: Bools) -> Floats:
    overall = fit_gamma_shape(unit[~pause])
    alphas = np.full(count, overall)
    order = np.argsort(of_gap[~pause], kind="stable")
    values = unit[~pause][order]
    edges = np.searchsorted(of_gap[~pause][order], np.arange(count + 1))
    for k in range(count):
        window = values[edges[k] : edges[k + 1]]
        if len(window) >= _MIN_GAPS:
            alphas[k] = fit_gamma_shape(window)
    return alphas


def _unit_variance(idle: Idle, alpha: Floats) -> Floats:
    """Squared CV of the gaps, pauses included."""
    mean = (1 - idle.share * idle.mean_gaps) / (1 - idle.share)
    square = (1 - idle.share) * mean**2 * (1 + 1 / alpha)
    square = square + idle.share * idle.mean_gaps**2 * (1 + 1 / idle.alpha)
    return np.asarray(square - 1)


def _drift(arrival_s: Floats, span_s: float, rates: Floats, idle: Idle, alphas: Floats) -> Drift:
    """What the counts per step vary more than gaps and windows explain."""
    width_s = span_s / len(rates)
    steps = max(1, round(width_s / _STEP_S))
    step_s = width_s / steps
    if steps < 4:
        return Drift()
    counts = np.histogram(arrival_s, np.linspace(0, span_s, len(rates) * steps + 1))[0]
    counts = counts.reshape(len(rates), steps)
    expected = (rates * step_s)[:, None]
    # The window's mean was estimated from the same steps, which hides 1/steps of the variance.
    observed = ((counts - expected) ** 2).sum() / (counts.size - len(rates))
    explained = float(np.mean(expected[:, 0] * _unit_variance(idle, alphas)))
    noise = observed * np.sqrt(2 / counts.size)
    if observed - explained <= 2 * noise:
        return Drift()
    square = float(np.mean(expected**2))
    cv = np.sqrt((observed - explained) / square)
    residual = counts - expected
    lagged = float(np.mean(residual[:, 1:] * residual[:, :-1]))
    correlation = lagged / (observed - explained)
    return Drift(step_s=step_s, cv=float(cv), correlation=float(np.clip(correlation, 0, 0.95)))


def _kinds(workload: Workload, failed: Bools) -> tuple[RequestKind, ...]:
    names = workload.classes if len(workload.class_index) else ("",)
    kinds = []
    for k, name in enumerate(names):
        rows = ~failed
        if len(workload.class_index):
            rows = rows & (workload.class_index == k)
        if not rows.any():
            continue
        prompt, output = workload.prompt_tokens[rows], workload.output_tokens[rows]
        lengths = Lengths(
            prompt=fit_prompt(prompt),
            output=fit_output(output),
            rank_correlation=float(np.clip(rank_correlation(prompt, output), -0.99, 0.99)),
            source=workload.source,
        )
        kinds.append(
            RequestKind(
                name=name, share=float(rows.sum() / max((~failed).sum(), 1)), lengths=lengths
            )
        )
    if not kinds:
        raise SpecError(f"workload {workload.name}: every request failed; nothing to fit")
    return tuple(kinds)


def _sessions(workload: Workload) -> SessionHabit | None:
    """None where no session has a second request."""
    if not len(workload.session_id):
        return None
    order = np.argsort(workload.session_id, kind="stable")
    same = np.diff(workload.session_id[order]) == 0
    if not same.any():
        return None
    turns = np.unique(workload.session_id, return_counts=True)[1]
    gaps_s = np.diff(workload.arrival_s[order])[same]
    logs = np.log(np.maximum(gaps_s, 1e-3))
    return SessionHabit(
        turn_levels=_SESSION_LEVELS,
        turns=tuple(float(t) for t in np.quantile(turns, _SESSION_LEVELS)),
        gap_median_s=float(np.exp(logs.mean())),
        gap_sigma=float(min(logs.std(), 10.0)),
    )


def _failures(failed: Bools) -> Failures:
    share = float(failed.mean())
    if share == 0:
        return Failures()
    runs = int(failed[0]) + int(np.sum(failed[1:] & ~failed[:-1]))
    return Failures(share=share, mean_run=float(failed.sum() / runs))


def _gap_ks(unit: Floats, of_gap: Any, alphas: Floats, pause: Bools) -> float:
    """The worst of the windows with enough gaps, weighted by their gaps; pauses left out."""
    total, weight = 0.0, 0
    order = np.argsort(of_gap[~pause], kind="stable")
    values = unit[~pause][order]
    edges = np.searchsorted(of_gap[~pause][order], np.arange(len(alphas) + 1))
    for k, alpha in enumerate(alphas):
        window = values[edges[k] : edges[k + 1]]
        if len(window) >= _MIN_GAPS:
            total += len(window) * ks_to_gamma(window, float(alpha))
            weight += len(window)
    return total / weight if weight else 0.0
