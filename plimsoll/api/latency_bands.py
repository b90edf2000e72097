"""Error bands of the latencies that an answer shows, from the plan and the run they come from.

A run's mean lengths, its requests in flight over devices (Little's law: finished a second times
mean end-to-end latency) and the share of queueing in its mean TTFT, without what the engine spends
on a request before it queues, say how far it is from what was measured. A plan on several devices
takes the widest band of them. Only runs on the library's own clock have a band; callers with
another clock do not ask.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from plimsoll.cost.error_bands import Metric, latency_band
from plimsoll.serving.simulate.placement import seats
from plimsoll.serving.simulate.run import reach_s
from plimsoll.spec.hardware import Fleet
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.origin import Band
from plimsoll.spec.plan import DisaggRouter, ServingPlan
from plimsoll.spec.summary import Summary
from plimsoll.spec.workload import Workload

__all__ = ["band_data", "factors", "run_bands", "widest"]

_METRICS: tuple[Metric, ...] = ("ttft", "tpot")


def run_bands(
    plan: ServingPlan, fleet: Fleet, model: ModelSpec, workload: Workload, summary: Summary
) -> dict[str, Band]:
    """The bands of TTFT and TPOT of a simulated run; none for the package's own engine, whose
    clock is measured where it runs (docs/accuracy.md)."""
    if plan.engine == "plimsoll":
        return {}
    devices = sorted({seat.device.name for seat in seats(plan, fleet)})
    batch = None
    if summary.e2e_s is not None:
        batch = summary.requests_per_s * summary.e2e_s.mean / plan.num_devices
    queueing = None
    if summary.queue_s is not None and summary.ttft_s is not None and summary.ttft_s.mean > 0:
        passing = reach_s(plan, model, fleet)
        passed_s = passing(round(float(workload.prompt_tokens.mean()))) if passing else 0.0
        queueing = max(0.0, summary.queue_s.mean - passed_s) / summary.ttft_s.mean
    return {
        metric: widest(
            latency_band(
                metric,
                disaggregated=isinstance(plan.router, DisaggRouter),
                device=device,
                model=model,
                prompt_tokens=float(workload.prompt_tokens.mean()),
                output_tokens=float(workload.output_tokens.mean()),
                batch_per_device=batch,
                queue_fraction=queueing,
            )
            for device in devices
        )
        for metric in _METRICS
    }


def widest(bands: Iterable[Band]) -> Band:
    """The band with the largest ratio of its two ends; the first of equals."""
    return max(bands, key=lambda band: band.high / band.low)


def factors(name: str, band: Band) -> dict[str, float]:
    """The two factors of a band under the name of what they go on."""
    return {f"{name}_p10_factor": band.low, f"{name}_p90_factor": band.high}


def band_data(bands: Mapping[str, Band]) -> dict[str, Any]:
    """Bands as JSON: factors on each statistic of a metric, and what widened them."""
    data: dict[str, Any] = {}
    for metric, band in bands.items():
        data |= factors(metric, band)
        data[f"{metric}_band_reasons"] = list(band.reasons)
    return data
