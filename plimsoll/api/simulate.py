"""Serve a workload with a plan on the simulated clock; report what users would see."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from plimsoll import __version__
from plimsoll.api.commands import command, slo_words, workload_words
from plimsoll.api.latency_bands import band_data, run_bands
from plimsoll.api.run_folder import (
    RunSpec,
    WorkloadSpec,
    claimed,
    digest,
    is_run,
    read_run,
    save_run,
)
from plimsoll.api.step_pictures import memory_picture, roofline_picture, step_breakdown
from plimsoll.cost.kv import state_bytes_per_sequence
from plimsoll.cost.power import InstancePower, RunPower, run_power
from plimsoll.cost.price import device_usd_per_hour, plan_usd_per_hour
from plimsoll.cost.step_demand import StepDemand, step_demand
from plimsoll.report.document import Report
from plimsoll.report.from_run import latency_cdf, request_timeline
from plimsoll.report.pictures import Picture
from plimsoll.report.summary_tables import (
    class_table,
    instance_table,
    key_numbers,
    percentile_table,
    saturation_note,
    verdict_table,
)
from plimsoll.report.trace import write_trace
from plimsoll.report.wording import gpus_text, percent_text
from plimsoll.serving.executors.simulated import Fault
from plimsoll.serving.metrics import good_requests, summarize
from plimsoll.serving.simulate.placement import Seat, seats
from plimsoll.serving.simulate.run import simulate_plan
from plimsoll.spec.errors import SpecError
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.hardware import Device
from plimsoll.spec.io import plain, read
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.origin import Band
from plimsoll.spec.plan import ServingPlan
from plimsoll.spec.planned_model import model_of_plan
from plimsoll.spec.record import RunRecord
from plimsoll.spec.slo import Slo
from plimsoll.spec.summary import Summary
from plimsoll.spec.workload import Workload
from plimsoll.spec.workload_files import load_workload

__all__ = ["SimulateAnswer", "load_plan", "simulate", "simulate_file"]

_TIMELINE_LEAD = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateAnswer:
    """A simulated run and what it amounted to."""

    run: RunSpec
    model: ModelSpec
    placed: tuple[Seat, ...]
    record: RunRecord
    summary: Summary
    power: RunPower
    workload: Workload
    unpriced: tuple[str, ...]
    plan_path: str = ""

    def report(self) -> Report:
        """See ``Answer``."""
        s, plan = self.summary, self.run.plan
        slo = plan.slo
        bands = self.bands()
        tables = [percentile_table(s, bands)]
        if s.targets:
            tables.append(verdict_table(s, bands))
        if len(s.classes) > 1:
            tables.append(class_table(s))
        tables.append(instance_table(s))
        good = good_requests(self.record, slo)
        pictures: list[Picture] = [
            latency_cdf({"this run": self.record}, "ttft", slo),
            latency_cdf({"this run": self.record}, "tpot", slo),
            request_timeline(
                self.record, good, start_s=_near_the_first_late(self.record, good), most_rows=120
            ),
            memory_picture(plan, self.model, self.placed[0]),
        ]
        if plan.engine != "plimsoll":  # its steps are measured as a whole, not by operator
            pictures += [
                step_breakdown(plan, self.model, self.placed, self.record),
                roofline_picture(plan, self.model, self.placed, self.record),
            ]
        arrived = s.status.total
        asked = workload_words(self.run.workload)
        title = f"{arrived:,} requests of {self.workload.name} on {gpus_text(plan.num_devices)}: "
        if s.slo_met is None:
            title += f"{s.requests_per_s:.3g} requests/s finished"
        else:
            title += "the SLO is met" if s.slo_met else "the SLO is missed"
            if s.good_fraction is not None:
                title += f", {percent_text(s.good_fraction)} of requests good"
        hint = saturation_note(s)
        return Report(
            title=title,
            subtitle=f"{self.model.name} on {plan.fleet}, engine {plan.engine}; simulated for "
            f"{s.end_s:,.0f} s, seed {self.run.seed}, clock {s.origin.value}",
            command=command(
                "simulate",
                self.plan_path or "plan.yaml",
                *asked,
                *slo_words(slo),
                *(("--seed", str(self.run.seed)) if self.run.seed else ()),
            ),
            key_numbers=key_numbers(s),
            tables=tuple(tables),
            pictures=tuple(pictures),
            assumptions=(*self.model.assumptions, *self.workload.notes),
            notes=tuple(filter(None, (hint, *self.unpriced, *self._uncached()))),
            next_command=self._next(),
        )

    def bands(self) -> dict[str, Band]:
        """The error bands of TTFT and TPOT."""
        plan = self.run.plan
        fleet = parse_fleet(plan.fleet)
        return run_bands(plan, fleet, self.model, self.workload, self.summary)

    def _next(self) -> str:
        """Start a plan that keeps its promise; search again where it does not."""
        plan = self.run.plan
        if plan.engine == "plimsoll":
            return command("serve", self.plan_path or "plan.yaml")
        asked = workload_words(self.run.workload, drawn=False)
        if self.summary.slo_met is not False and self.plan_path:
            if self.model.streams > 1 and plan.slo.targets:  # no engine to export to
                return command("simulate", self.plan_path, *asked, "--sweep")
            if self.model.streams == 1:
                return command("export", self.plan_path, "--to", plan.engine)
        more = ("--set", f"streams={plan.streams}") if plan.streams > 1 else ()
        return command("plan", plan.model, "--on", plan.fleet, *asked, *slo_words(plan.slo), *more)

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        return {
            "format_version": 1,
            "run": plain(self.run),
            "summary": plain(self.summary),
            "error_bands": band_data(self.bands()),
            "mean_power_w": self.power.mean_w,
            "notes": [*self.unpriced, *self._uncached()],
        }

    def _uncached(self) -> tuple[str, ...]:
        """Says so where a plan asks for prefix caching that the simulator cannot give."""
        plan, model = self.run.plan, self.model
        cached = plan.kv_dtype or model.quantization.kv_cache
        asked = any(pool.prefix_caching for pool in plan.pools)
        if not (asked and self.workload.prefix_block_tokens):
            return ()
        if not state_bytes_per_sequence(model, cached):
            return ()
        return (
            f"prefix caching was left out: {model.name} has windows or fixed states, whose "
            "reuse is not simulated",
        )

    def write_trace(self, path: Path) -> None:
        """A Chrome/Perfetto trace of the run, with power over time."""
        counters = {"power (W)": (self.record.power_at_s, self.record.power_w)}
        write_trace(self.record, path, counters=counters)


def load_plan(path: Path) -> ServingPlan:
    """A plan file, as ``plimsoll plan --out`` wrote it; or the plan of a run folder."""
    if path.is_dir():
        path = path / "plan.yaml"
    return read(ServingPlan, path)


def simulate(
    plan: ServingPlan,
    workload: WorkloadSpec,
    *,
    seed: int = 0,
    out: Path | None = None,
    faults: Sequence[Fault] = (),
) -> SimulateAnswer:
    """Simulate ``plan`` on ``workload``; write a run folder if ``out`` is given."""
    traffic, workload = _traffic(workload, seed)
    run = RunSpec(plan=plan, workload=workload, seed=seed, plimsoll=__version__)
    if out is None:
        return _simulate(run, traffic, faults)
    with claimed(out, run) as folder:
        answer = _simulate(run, traffic, faults)
        save_run(folder, plan, answer.record, answer.summary)
    return answer


def simulate_file(
    path: Path,
    workload: WorkloadSpec | None,
    *,
    seed: int | None = None,
    slo: Slo | None = None,
    out: Path | None = None,
) -> SimulateAnswer:
    """Simulate a plan file, or repeat a recorded run (its folder or run.json).

    Raises:
        SpecError: a plan without a workload, or options that contradict a recorded run.
    """
    if is_run(path):
        if workload is not None or seed is not None or slo is not None:
            raise SpecError(
                f"{path}: a recorded run is repeated as it was; take its plan.yaml to change "
                "the workload, seed or SLO"
            )
        run = read_run(path)
        folder = path if path.is_dir() else path.parent
        answer = simulate(run.plan, run.workload, seed=run.seed, out=out)
        return replace(answer, plan_path=str(folder / "plan.yaml"))
    if workload is None:
        raise SpecError("simulate: no workload given; add --workload chat or a trace file")
    plan = load_plan(path)
    if slo is not None and slo.targets:
        plan = replace(plan, slo=slo)
    answer = simulate(plan, workload, seed=seed or 0, out=out)
    return replace(answer, plan_path=str(path))


def _near_the_first_late(record: RunRecord, good: npt.NDArray[np.bool_]) -> float:
    """Where the timeline starts: a few arrivals before the first late request, if any."""
    late = np.flatnonzero(~good)
    if not len(late) or late[0] < _TIMELINE_LEAD:
        return 0.0
    return float(record.requests.arrival_s[late[0] - _TIMELINE_LEAD])


def _traffic(workload: WorkloadSpec, seed: int) -> tuple[Workload, WorkloadSpec]:
    traffic = load_workload(
        workload.text,
        seed=seed,
        rate_per_s=workload.rate_per_s,
        num_requests=workload.num_requests,
        num_in_flight=workload.num_in_flight,
    )
    path = Path(workload.text)
    if path.is_file():
        where = str(path.resolve())
        workload = replace(workload, text=where, sha256=digest(path))
    return traffic, workload


def _usd_per_hour(
    plan: ServingPlan,
    placed: Sequence[Seat],
    devices: Mapping[str, Device],
    record: RunRecord,
) -> float:
    """Dollars an hour of the run, for the time that each replica was up."""
    spans = record.meta.get("up_spans")
    if spans is None:
        return plan_usd_per_hour(plan, devices)
    each = [s.pool.parallel.num_devices * device_usd_per_hour(s.device) for s in placed]
    usd_s: float = sum(each[int(i)] * (stop - begin) for i, begin, stop in spans)
    return usd_s / record.end_s


def _simulate(run: RunSpec, traffic: Workload, faults: Sequence[Fault]) -> SimulateAnswer:
    plan = run.plan
    model = model_of_plan(plan)
    fleet = parse_fleet(plan.fleet)
    record = simulate_plan(plan, model, fleet, traffic, seed=run.seed, faults=faults)
    placed = seats(plan, fleet)
    demands: dict[tuple[str, int], StepDemand] = {}
    for seat in placed:
        ranks = seat.pool.parallel.attention_dp
        if (seat.device.name, ranks) not in demands:
            demands[seat.device.name, ranks] = step_demand(
                model,
                seat.device,
                weight_dtype=plan.weight_dtype,
                kv_dtype=plan.kv_dtype,
                attention_dp=ranks,
            )
    power = run_power(
        record.steps,
        [
            InstancePower(
                power=seat.device.power,
                num_devices=seat.pool.parallel.num_devices,
                demand=demands[seat.device.name, seat.pool.parallel.attention_dp],
            )
            for seat in placed
        ],
        end_s=record.end_s,
        output_tokens=int(record.requests.output_tokens.sum()),
        up_spans=record.meta.get("up_spans"),
    )
    record = replace(record, power_at_s=power.edges_s[:-1], power_w=power.watts)
    devices = {seat.pool.device: seat.device for seat in placed}
    unpriced = tuple(
        f"no price is known for {device.name}; give a device file with a price for cost"
        for device in devices.values()
        if device.price is None
    )
    summary = summarize(
        record,
        plan.slo,
        energy_j=power.total_j,
        usd_per_hour=None if unpriced else _usd_per_hour(plan, placed, devices, record),
    )
    return SimulateAnswer(
        run=run,
        model=model,
        placed=placed,
        record=record,
        summary=summary,
        power=power,
        workload=traffic,
        unpriced=unpriced,
    )
