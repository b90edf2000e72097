"""Predicted TTFT and TPOT of deployments as they are written in a table.

What a row leaves open is read into it (``planning/deployment_settings.py``), the closed form of a
closed loop gives the means (``planning/deployment_loop.py``), and bands widen with what was
guessed and with what lies outside the measured range (``cost/error_bands.py``).
Leaves out: percentiles; tables hold means.
Source: coefficients in library/engines, fitted and cross-validated by scripts/fit_engines.py.
"""

from collections.abc import Sequence

from plimsoll.cost.error_bands import Band, Metric, latency_band
from plimsoll.planning.deployment_loop import LoopSolver, SolvedLoop
from plimsoll.planning.deployment_settings import settings_of
from plimsoll.spec.deployment import DeploymentRow, Prediction, Refusal
from plimsoll.spec.errors import PlimsollError

__all__ = ["bands_of", "predict_rows"]


def predict_rows(rows: Sequence[DeploymentRow]) -> list[Prediction | Refusal]:
    """One answer a row, in order."""
    solver = LoopSolver()
    return [_predict(row, solver) for row in rows]


def bands_of(solved: SolvedLoop) -> dict[Metric, Band]:
    """The bands of TTFT and TPOT, by metric."""
    settings = solved.settings
    metrics: tuple[Metric, ...] = ("ttft", "tpot")
    return {
        metric: latency_band(
            metric,
            disaggregated=settings.prefill is not None,
            device=settings.device.name,
            model=settings.model,
            prompt_tokens=settings.prompt_tokens,
            output_tokens=settings.output_tokens,
            batch_per_device=settings.in_flight / solved.num_devices,
            guessed=settings.guessed,
        )
        for metric in metrics
    }


def _predict(row: DeploymentRow, solver: LoopSolver) -> Prediction | Refusal:
    try:
        solved = solver.solve(settings_of(row))
    except PlimsollError as error:
        return Refusal(reason=str(error).splitlines()[0])
    bands, times = bands_of(solved), solved.times
    ttft, tpot = bands["ttft"], bands["tpot"]
    reasons = list(dict.fromkeys(ttft.reasons + tpot.reasons))
    outside = [reason for reason in reasons if "guessed" not in reason]
    wider = [f"band wider: {', '.join(reasons)}"] if reasons else []
    return Prediction(
        ttft_s=times.ttft_s,
        tpot_s=times.tpot_s,
        ttft_low_s=times.ttft_s * ttft.low,
        ttft_high_s=times.ttft_s * ttft.high,
        tpot_low_s=times.tpot_s * tpot.low,
        tpot_high_s=times.tpot_s * tpot.high,
        origin="extrapolated" if outside else "calibrated",
        note="; ".join((*solved.settings.notes, *wider)),
    )
