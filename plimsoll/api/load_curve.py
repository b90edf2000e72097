"""Goodput and a tail latency of a plan against the request rate, with the knee.

The knee is the highest rate that keeps the promise, found by bisection; points lie around it.
Each point is repeated: over seeds for workloads drawn from statistics, over consecutive parts
for a trace. All runs last the same simulated time.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from plimsoll.api.commands import command, rounded_down, workload_words
from plimsoll.api.latency_bands import band_data, run_bands
from plimsoll.api.run_folder import WorkloadSpec
from plimsoll.api.simulate import load_plan
from plimsoll.planning.goodput import sustained_rate
from plimsoll.planning.judging import SimulatorJudge
from plimsoll.planning.offered_load import at_rate, take_rows
from plimsoll.report.band_words import EIGHT_OF_TEN, band_range, widened_words
from plimsoll.report.document import KeyNumber, Report
from plimsoll.report.pictures import LoadCurvePicture, LoadPoint, Spread
from plimsoll.report.summary_tables import target_name
from plimsoll.report.wording import seconds_text
from plimsoll.spec.errors import InfeasibleError, SpecError
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.io import plain
from plimsoll.spec.origin import Band, Number, Origin
from plimsoll.spec.plan import ServingPlan
from plimsoll.spec.planned_model import model_of_plan
from plimsoll.spec.slo import Slo, SloTarget
from plimsoll.spec.summary import Summary
from plimsoll.spec.workload import Workload
from plimsoll.spec.workload_files import load_workload

__all__ = ["LoadCurveAnswer", "draws", "load_curve", "sweep_file"]

_SHARES = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.3, 1.6)
_REPEATS = 3
_DURATION_S = 300.0
_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadCurveAnswer:
    """The curve, and what was asked; ``bands`` by metric are those of the run at the knee."""

    plan: ServingPlan
    plan_path: str
    workload: WorkloadSpec
    picture: LoadCurvePicture
    bands: dict[str, Band] = field(default_factory=dict)

    def report(self) -> Report:
        """See ``Answer``."""
        picture = self.picture
        knee = picture.knee_rate_per_s
        numbers: tuple[KeyNumber, ...] = ()
        if knee is not None:
            numbers = (
                KeyNumber(
                    name="Knee",
                    number=Number(value=knee, unit="req/s", origin=picture.origin),
                    note="highest rate that keeps the SLO",
                ),
            )
        return Report(
            title=picture.title,
            subtitle=f"{self.plan.served} on {self.plan.num_devices} of {self.plan.fleet}; "
            f"{_DURATION_S:.0f} s simulated a run, {picture.num_seeds} runs a point",
            command=command("simulate", self.plan_path, *workload_words(self.workload), "--sweep"),
            key_numbers=numbers,
            pictures=(picture,),
            notes=self._band_notes(),
            next_command=command(
                "simulate",
                self.plan_path,
                *workload_words(replace(self.workload, rate_per_s=knee and rounded_down(knee))),
            ),
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        return {
            "format_version": 1,
            "plan": plain(self.plan),
            "workload": plain(self.workload),
            "curve": plain(self.picture),
            "error_bands": band_data(self.bands),
        }

    def _band_notes(self) -> tuple[str, ...]:
        """The latency drawn, at the knee, with its band; none for a metric without one."""
        picture = self.picture
        band = self.bands.get(picture.latency_name.split()[1].lower())
        at_knee = next(
            (p for p in picture.points if p.request_rate_per_s == picture.knee_rate_per_s), None
        )
        if band is None or at_knee is None or at_knee.latency_s is None:
            return ()
        mean_s = at_knee.latency_s.mean
        return (
            f"{picture.latency_name} at the knee, {seconds_text(mean_s)}: "
            f"{band_range(mean_s, band)} {EIGHT_OF_TEN}{widened_words(band)}",
        )


def load_curve(
    plan: ServingPlan, workload: WorkloadSpec, *, plan_path: str = "plan.yaml", seed: int = 0
) -> LoadCurveAnswer:
    """Simulate ``plan`` below, at and above the highest rate that keeps its SLO.

    Raises:
        SpecError: the plan states no SLO, or the workload is a closed loop.
        InfeasibleError: no rate keeps the SLO.
    """
    if not plan.slo.targets:
        raise SpecError("--sweep: the plan states no SLO; add --ttft-p99 or --tpot-p99")
    model, fleet = model_of_plan(plan), parse_fleet(plan.fleet)
    judge = SimulatorJudge(model=model, fleet=fleet, seed=seed)
    parts = draws(workload, seed)
    first = parts[0]
    found = sustained_rate(
        judge,
        plan,
        first,
        guess_per_s=workload.rate_per_s or first.rate_per_s or 1.0,
        duration_s=_DURATION_S,
        tolerance=_TOLERANCE,
    )
    if found.rate_per_s == 0:
        raise InfeasibleError(
            f"no rate keeps the SLO: {found.limit} is missed at {found.ceiling_per_s:.3g} req/s",
            binding=found.limit,
            change="a looser bound, or more devices a replica",
        )
    target = _tail(plan)
    points = []
    origin = Origin.MODELED
    bands: dict[str, Band] = {}
    for share in _SHARES:
        rate = share * found.rate_per_s
        runs = [judge(plan, at_rate(part, rate, _DURATION_S)).summary for part in parts]
        summaries = [run for run in runs if run is not None]
        origin = summaries[0].origin
        if share == 1:
            bands = run_bands(plan, fleet, model, first, summaries[0])
        latencies = [x for x in (_observed(s, target) for s in summaries) if x is not None]
        points.append(
            LoadPoint(
                request_rate_per_s=rate,
                goodput_requests_per_s=_spread([s.goodput_requests_per_s for s in summaries]),
                latency_s=_spread(latencies) if latencies else None,
            )
        )
    picture = LoadCurvePicture(
        title=f"The plan carries {found.rate_per_s:.3g} requests/s; beyond, "
        f"{found.limit or 'a target'} is missed",
        latency_name=target_name(target).split(" <=")[0],
        points=tuple(points),
        num_seeds=len(parts),
        knee_rate_per_s=found.rate_per_s,
        bound_s=target.bound_s,
        origin=origin,
    )
    return LoadCurveAnswer(
        plan=plan, plan_path=plan_path, workload=workload, picture=picture, bands=bands
    )


def draws(workload: WorkloadSpec, seed: int) -> list[Workload]:
    """The workload drawn with other seeds, or consecutive parts of a trace."""
    if Path(workload.text).is_file():
        whole = load_workload(workload.text, seed=seed)
        rows = np.array_split(np.arange(len(whole)), _REPEATS)
        parts = [take_rows(whole, part) for part in rows if len(part) > 1]
        return [part.with_changes(arrival_s=part.arrival_s - part.arrival_s[0]) for part in parts]
    return [
        load_workload(
            workload.text,
            seed=seed + k,
            num_requests=workload.num_requests,
            num_in_flight=workload.num_in_flight,
        )
        for k in range(_REPEATS)
    ]


def _tail(plan: ServingPlan) -> SloTarget:
    """The target drawn: the first on TTFT, else the first."""
    targets = plan.slo.targets
    return next((t for t in targets if t.metric == "ttft"), targets[0])


def _observed(summary: Summary, target: SloTarget) -> float | None:
    return next((v.observed_s for v in summary.targets if v.target == target), None)


def _spread(values: list[float]) -> Spread:
    return Spread(mean=sum(values) / len(values), low=min(values), high=max(values))


def sweep_file(
    path: Path, workload: WorkloadSpec, *, seed: int = 0, slo: Slo | None = None
) -> LoadCurveAnswer:
    """The load curve of a plan file, under ``slo`` if it states targets."""
    plan = load_plan(path)
    if slo is not None and slo.targets:
        plan = replace(plan, slo=slo)
    return load_curve(plan, workload, plan_path=str(path), seed=seed)
