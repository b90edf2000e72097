"""Every way of cutting a model on a cluster, simulated on the published traces.

The rule of thumb (tensor parallelism inside a node, pipeline stages across nodes) is one plan of
the space. Two settings a trace: all requests at once, for total time; and the trace's arrivals
sped up to the load that the rule of thumb just carries, for mean latency. All plans have the same
policy, batch limit and memory share, so that only the cut differs.
"""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from plimsoll.catalog.apex_replay import workload_of
from plimsoll.catalog.apex_runs import TRACES, trace_requests
from plimsoll.catalog.contract import Context
from plimsoll.planning.pareto import pareto_front
from plimsoll.planning.plan_space import SpaceOptions
from plimsoll.planning.sweep import (
    PlanRun,
    SweepLook,
    full_plans,
    heuristic_plan,
    sweep,
)
from plimsoll.planning.tradeoffs import plan_words
from plimsoll.planning.workers import open_workers
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.hardware import Device, Fleet
from plimsoll.spec.model_files import load_model
from plimsoll.spec.plan import ChunkedPrefill, ServingPlan
from plimsoll.spec.workload import Workload

__all__ = [
    "CLUSTERS",
    "MODELS",
    "OPTIONS",
    "Gap",
    "SweepTime",
    "energy_runs",
    "front_of",
    "gaps",
    "plans_of",
    "short_cut",
    "sweep_time",
    "trace_workload",
    "with_device",
]

MODELS = ("llama-3.1-70b", "mixtral-8x22b")
CLUSTERS = ("8xH100-SXM", "2x(8xH100-SXM)")
CLOCKS = (0.5, 0.65, 0.8, 1.0)
OPTIONS = SpaceOptions(
    modes=("aggregated",),
    policies=(ChunkedPrefill(token_budget=2048),),
    max_num_seqs=(256,),
    prefix_caching=False,
    max_model_len=16_384,
)
_REQUESTS = 256
"""Of each trace, in the sweeps of every model and cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """The rule of thumb beside the best plan of one model, cluster and trace."""

    setting: str
    num_plans: int
    latency: float
    worst: float
    best: str


def trace_workload(context: Context, trace: str, *, num: int = 0, rate: str = "05") -> Workload:
    """The first ``num`` requests of a trace (0: all)."""
    requests = trace_requests(context, trace, rate)
    return workload_of(requests[: num or len(requests)], trace)


def short_cut(plan: ServingPlan) -> str:
    """A plan by its cut alone: ``2 x tp4``."""
    return plan_words(plan).split(" chunked")[0]


def plans_of(model: str, cluster: str) -> list[ServingPlan]:
    """All cuts of a bundled model that use the whole cluster."""
    return full_plans(load_model(model), model, parse_fleet(cluster), OPTIONS)


def _gap(context: Context, model: str, cluster: str, trace: str) -> Gap:
    spec, fleet = load_model(model), parse_fleet(cluster)
    plans = plans_of(model, cluster)
    usual = heuristic_plan(plans, fleet)
    asked = trace_workload(context, trace, num=_REQUESTS)
    at_once = asked.with_changes(arrival_s=np.zeros(len(asked)))
    with open_workers(1) as workers:
        first = sweep([usual], SweepLook(model=spec, fleet=fleet, workload=at_once), workers)
        speed = asked.duration_s / first[0].total_s
        loaded = asked.with_changes(arrival_s=asked.arrival_s / speed)
        runs = sweep(plans, SweepLook(model=spec, fleet=fleet, workload=loaded), workers)
    ran = [run for run in runs if not run.problem]
    theirs = next(run for run in ran if run.plan == usual)
    best = min(ran, key=lambda run: run.mean_e2e_s)
    return Gap(
        setting=f"{model} {trace} {cluster}",
        num_plans=len(ran),
        latency=theirs.mean_e2e_s / best.mean_e2e_s,
        worst=theirs.mean_e2e_s / max(run.mean_e2e_s for run in ran),
        best=short_cut(best.plan),
    )


@functools.cache
def gaps(context: Context) -> tuple[Gap, ...]:
    """Every model, cluster and trace."""
    return tuple(
        _gap(context, model, cluster, trace)
        for model in MODELS
        for cluster in CLUSTERS
        for trace in TRACES
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepTime:
    """How long the whole space took, and by trace how much faster the best plan finished."""

    seconds: float
    num_runs: int
    total_ratio: tuple[float, ...]


@functools.cache
def sweep_time(context: Context) -> SweepTime:
    """All plans of the first model and cluster on every request of all traces, all requests at
    once, on two processes."""
    spec, fleet = load_model(MODELS[0]), parse_fleet(CLUSTERS[0])
    plans = plans_of(MODELS[0], CLUSTERS[0])
    usual = heuristic_plan(plans, fleet)
    ratios = []
    started = time.perf_counter()
    with open_workers(2) as workers:
        for trace in TRACES:
            asked = trace_workload(context, trace)
            at_once = asked.with_changes(arrival_s=np.zeros(len(asked)))
            runs = sweep(plans, SweepLook(model=spec, fleet=fleet, workload=at_once), workers)
            theirs = next(run.total_s for run in runs if run.plan == usual)
            ratios.append(theirs / min(run.total_s for run in runs))
    return SweepTime(
        seconds=time.perf_counter() - started,
        num_runs=len(TRACES) * len(plans),
        total_ratio=tuple(ratios),
    )


@functools.cache
def energy_runs(context: Context) -> tuple[PlanRun, ...]:
    """All plans of 70B on 8 devices at several clocks, on the creation trace as it arrived."""
    look = SweepLook(
        model=load_model(MODELS[0]),
        fleet=parse_fleet(CLUSTERS[0]),
        workload=trace_workload(context, "creation", num=_REQUESTS // 2),
    )
    with open_workers(1) as workers:
        runs = sweep(plans_of(MODELS[0], CLUSTERS[0]), look, workers, clock_fractions=CLOCKS)
    return tuple(run for run in runs if not run.problem)


def front_of(runs: Sequence[PlanRun]) -> list[PlanRun]:
    """Runs that no other beats in mean latency and in energy, fastest first."""
    front = pareto_front(runs, lambda run: -run.mean_e2e_s, lambda run: -run.energy_j)
    return front[::-1]


def with_device(fleet: Fleet, device: Device) -> Fleet:
    """The fleet with another device in all nodes."""
    parts = tuple(replace(part, node=replace(part.node, device=device)) for part in fleet.parts)
    return replace(fleet, parts=parts)
