"""APEX: parallel plans searched with a simulator that follows every engine step.

The mechanism is the simulator and the plan space everything here shares, profiles as tables
(``cost/tables.py``) and the exhaustive sweep (``planning/sweep.py``). This file states claims and
recomputes them; measured runs are read in ``apex_runs.py`` and replayed in ``apex_replay.py``.
Source: arXiv 2411.17651; measured runs: microsoft/apex_plus (MIT).
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from plimsoll.catalog.apex_plans import (
    CLUSTERS,
    MODELS,
    OPTIONS,
    energy_runs,
    front_of,
    gaps,
    plans_of,
    short_cut,
    sweep_time,
)
from plimsoll.catalog.apex_replay import (
    TABLE_FILE,
    Errors,
    Outcome,
    bare,
    clock_for,
    errors_of,
    fitted_engine,
    replay,
    table_at,
)
from plimsoll.catalog.apex_runs import PublishedRun, read_runs
from plimsoll.catalog.apex_static import static_batches
from plimsoll.catalog.contract import (
    AtLeast,
    AtMost,
    Between,
    Check,
    Claim,
    Context,
    Measured,
    Report,
    System,
)
from plimsoll.cost.step import replica_clock
from plimsoll.planning.question import Question
from plimsoll.planning.search import rank
from plimsoll.planning.search import search as search_plans
from plimsoll.planning.sweep import SweepLook, full_plans, sweep
from plimsoll.planning.workers import SerialWorkers
from plimsoll.spec.errors import InfeasibleError
from plimsoll.spec.fleet import load_device, parse_fleet
from plimsoll.spec.hardware import Device, Fleet
from plimsoll.spec.model_files import load_model
from plimsoll.spec.slo import Slo
from plimsoll.spec.workload import Workload

__all__ = ["SYSTEM"]

_FITTED_ON = "the lmsys runs: time per step, per sequence, per prompt step, per request"
_QUEUED = ("4TP", "2TP")
"""Runs whose latency shows another setting than the rest; only their time per token is used."""


@functools.cache
def _replayed(context: Context, fitted: bool) -> tuple[tuple[PublishedRun, Outcome], ...]:
    table = table_at(context.file(TABLE_FILE))
    engine = fitted_engine() if fitted else bare(fitted_engine())
    return tuple((run, replay(run, engine, table)) for run in read_runs(context))


Keep = Callable[[PublishedRun], bool]


def _errors(context: Context, metric: str, keep: Keep, *, fitted: bool = True) -> Errors:
    pairs = [pair for pair in _replayed(context, fitted) if keep(pair[0])]
    runs = [run for run, _ in pairs]
    ours = [getattr(outcome, metric) for _, outcome in pairs]
    return errors_of(runs, ours, [getattr(run, metric) for run in runs])


def _unfitted(run: PublishedRun) -> bool:
    return run.trace != "lmsys"


def _shown(errors: Errors) -> str:
    rows = zip(errors.names, errors.values, strict=True)
    return ", ".join(f"{name} {value:+.1%}" for name, value in rows)


def _error(
    metric: str, keep: Keep, pick: Callable[[Errors], float], *, fitted: bool = True
) -> Callable[[Context], Measured]:
    def compute(context: Context) -> Measured:
        errors = _errors(context, metric, keep, fitted=fitted)
        flags = {w for run, o in _replayed(context, fitted) if keep(run) for w in o.warnings}
        detail = "; ".join([_shown(errors), *sorted(flags)])
        return Measured(value=pick(errors), values=errors.values, detail=detail)

    return compute


def _mean(errors: Errors) -> float:
    return errors.mean


def _worst(errors: Errors) -> float:
    return errors.worst


def _heavier_sequences(context: Context) -> Measured:
    """Time per token with the time per sequence one standard error above its fit."""
    table, engine = table_at(context.file(TABLE_FILE)), fitted_engine()
    more_s = engine.sequence_s + engine.fitted["sequence_s"].standard_error
    heavier = replace(engine, sequence_s=more_s)
    runs = [run for run in read_runs(context) if _unfitted(run)]
    ours = [replay(run, heavier, table).tpot_s for run in runs]
    errors = errors_of(runs, ours, [run.tpot_s for run in runs])
    words = f"{engine.sequence_s * 1e3:.2f} ms fitted, {more_s * 1e3:.2f} ms here"
    return Measured(value=errors.mean, values=errors.values, detail=f"{words}: {_shown(errors)}")


def _ratio(fitted: bool) -> Callable[[Context], Measured]:
    """TP 2 over TP 8, ours over measured, less 1: the worst trace and rate."""

    def compute(context: Context) -> Measured:
        errors = _errors(context, "tpot_s", lambda run: True, fitted=fitted)
        signed = dict(zip(errors.names, errors.values, strict=True))
        found = {
            name: (1 + signed[name]) / (1 + signed[name.replace("4DP2TP", "8TP")]) - 1
            for name in errors.names
            if "4DP2TP" in name
        }
        judged = [value for name, value in found.items() if not name.startswith("lmsys")]
        detail = ", ".join(f"{name} {value:+.1%}" for name, value in found.items())
        return Measured(
            value=max(abs(value) for value in judged),
            values=tuple(found.values()),
            detail=f"{detail}; lmsys shown, not judged",
        )

    return compute


def _latency_row(run: PublishedRun) -> bool:
    return run.trace == "creation" and run.setup not in _QUEUED


def _dynamism(all_at_once: bool) -> Callable[[Context], Measured]:
    """Error of static batches over ours; ``all_at_once``: ours without the times of arrival."""

    def compute(context: Context) -> Measured:
        table, engine = table_at(context.file(TABLE_FILE)), fitted_engine()
        runs = [run for run in read_runs(context) if _latency_row(run)]
        measured = [run.e2e_s for run in runs]
        clocks = {tp: clock_for(tp, engine, table)[0] for tp in {run.tp for run in runs}}
        static = {}
        for early in (True, False):
            ours = [static_batches(run, clocks[run.tp], early=early).e2e_s for run in runs]
            static[early] = errors_of(runs, ours, measured).mean
        dynamic = _errors(context, "e2e_s", _latency_row).mean
        if all_at_once:
            still = [_without_arrivals(run) for run in runs]
            ours = [replay(run, engine, table).e2e_s for run in still]
            dynamic = errors_of(runs, ours, measured).mean
        detail = (
            f"mean latency on creation: static batches {static[True]:.1%} off if requests leave "
            f"early, {static[False]:.1%} if not; step by step {dynamic:.1%}"
        )
        return Measured(value=min(static.values()) / dynamic, detail=detail)

    return compute


def _without_arrivals(run: PublishedRun) -> PublishedRun:
    """The run with every request there from the start, as a batch."""
    workload = run.workload
    return replace(run, workload=workload.with_changes(arrival_s=0 * workload.arrival_s))


def _gap(pick: Callable[[Sequence[float]], float], which: str) -> Callable[[Context], Measured]:
    def compute(context: Context) -> Measured:
        found = gaps(context)
        ratios = tuple(float(getattr(gap, which)) for gap in found)
        detail = ", ".join(
            f"{g.setting} ({g.num_plans} plans) x{g.latency:.2f} {g.best}" for g in found
        )
        return Measured(value=pick(ratios), values=ratios, detail=detail)

    return compute


def _minutes(context: Context) -> Measured:
    found = sweep_time(context)
    return Measured(
        value=found.seconds / 60,
        detail=f"{found.num_runs} simulations of whole traces, {found.seconds:.1f} s",
    )


def _total(context: Context) -> Measured:
    ratios = sweep_time(context).total_ratio
    return Measured(value=max(ratios), values=ratios, detail="70B on 8 devices, whole traces")


def _energy(full_clock_only: bool) -> Callable[[Context], Measured]:
    def compute(context: Context) -> Measured:
        runs = [r for r in energy_runs(context) if r.clock_fraction == 1 or not full_clock_only]
        fastest = min(runs, key=lambda run: run.mean_e2e_s)
        front = front_of(runs)
        detail = ", ".join(
            f"{short_cut(run.plan)} at {run.clock_fraction:.0%} clock {run.mean_e2e_s:.2f} s "
            f"{run.energy_j / 1e3:,.0f} kJ"
            for run in front
        )
        least = min(run.energy_j for run in runs)
        return Measured(value=1 - least / fastest.energy_j, detail=f"front: {detail}")

    return compute


def _plan_count(cluster: str) -> Callable[[Context], Measured]:
    def compute(_: Context) -> Measured:
        plans = plans_of("llama-3.1-8b", cluster)
        detail = f"llama-3.1-8b on {cluster}: {', '.join(short_cut(plan) for plan in plans)}"
        return Measured(value=float(len(plans)), detail=detail)

    return compute


def _small_load() -> Workload:
    rows = np.arange(48)
    return Workload(
        name="a burst",
        arrival_s=np.linspace(0.0, 0.94, 48),
        prompt_tokens=100 + 37 * (rows % 11),
        output_tokens=40 + 13 * (rows % 7),
    )


def _latencies(name: str, fleet: Fleet) -> dict[str, float]:
    model = load_model(name)
    look = SweepLook(model=model, fleet=fleet, workload=_small_load())
    runs = sweep(full_plans(model, name, fleet, OPTIONS), look, SerialWorkers())
    return {short_cut(run.plan): run.mean_e2e_s for run in runs}


def _permuted(_: Context) -> Measured:
    """A node of 4 devices before or after one of 8."""
    fleet = parse_fleet("1x(4xH100-SXM)+1x(8xH100-SXM)")
    other = replace(fleet, parts=tuple(reversed(fleet.parts)))
    before, after = _latencies("llama-3.1-8b", fleet), _latencies("llama-3.1-8b", other)
    if before.keys() != after.keys():
        return Measured(value=float("inf"), detail="not the same plans")
    apart = max(abs(after[name] - before[name]) for name in before)
    return Measured(value=apart, detail=f"{len(before)} plans, seconds of mean latency apart")


def _faster(device: Device, factor: float) -> list[Device]:
    found = [replace(device, memory_bytes_per_s=factor * device.memory_bytes_per_s)]
    for name in ("scale_up", "scale_out"):
        link = getattr(device, name)
        found.append(
            replace(device, **{name: replace(link, bytes_per_s=factor * link.bytes_per_s)})
        )
    return found


def _bandwidth(factor: float) -> Callable[[Context], Measured]:
    """Largest step time over the one before, over plans, links and sizes of step."""

    def compute(_: Context) -> Measured:
        model, device = load_model(MODELS[0]), load_device("h100-sxm")
        cuts = {plan.pools[0].parallel for plan in plans_of(MODELS[0], CLUSTERS[1])}
        worst = 0.0
        for cut in sorted(cuts, key=repr):
            before = replica_clock(model, device, cut)
            for other in _faster(device, factor):
                after = replica_clock(model, other, cut)
                for chunks, decodes in (((), 1), ((), 64), (((512, 0),), 16), (((4096, 0),), 0)):
                    sizes = (chunks, decodes, 900 * decodes)
                    worst = max(worst, after.step_s(*sizes) / before.step_s(*sizes))
        return Measured(
            value=worst, detail=f"{len(cuts)} cuts, memory and both links x{factor:g} in turn"
        )

    return compute


def _misfit(cluster: str) -> Callable[[Context], Measured]:
    """Bytes a device too many for 405B in bf16; 0 if it fits."""

    def compute(_: Context) -> Measured:
        name = "llama-3.1-405b"
        question = Question(
            model=load_model(name),
            model_name=name,
            fleet=parse_fleet(cluster),
            workload=_small_load(),
            slo=Slo(),
            options=OPTIONS,
        )
        records = rank(question)[0].records
        rooms = [record.room for record in records if record.room is not None]
        over = min(room.needed_bytes - room.available_bytes for room in rooms)
        words = "fits"
        if over > 0:
            try:
                search_plans(question)
            except InfeasibleError as error:
                words = str(error)
        said = "does not fit" in words and "GiB" in words
        return Measured(value=over if said else 0.0, detail=words)

    return compute


_CLAIMS = (
    Claim(
        id="error",
        text="Mean relative error of predicted runs",
        value=0.107,
        setup="vLLM 0.6.0, Llama-3.1-70B FP16 on 8 H100, three traces at 0.25 and 0.5 requests/s",
        where="abstract",
    ),
    Claim(id="dynamism", text="Following the dynamics of batches is what makes it accurate"),
    Claim(
        id="speedup",
        text="Best plan over the heuristic plan, up to",
        value=3.37,
        unit="x",
        where="abstract",
    ),
    Claim(
        id="search",
        text="Optimal plan found on a CPU within",
        value=15.0,
        unit="min",
        where="abstract",
    ),
    Claim(
        id="energy",
        text="Less energy than the latency-optimal plan, up to",
        value=0.45,
        where="abstract",
    ),
    Claim(id="limits", text="Symmetries and limits of the plan space"),
    Claim(id="ttft", text="Time to first token of the measured runs"),
    Claim(
        id="gpu-cost",
        text="Faster than trying plans on GPUs (and 1,234x cheaper)",
        value=71.0,
        unit="x",
        where="abstract",
    ),
    Claim(
        id="readme",
        text="Llama-3-70B on 2 H100 with TP 2, whole run",
        value=62.06,
        unit="s",
        where="README of the public simulator",
    ),
)

_CHECKS = (
    Check(
        claim="error",
        title="time per token, mean over rows of creation and summarization",
        how="simulated",
        band=AtMost(0.12),
        compute=_error("tpot_s", _unfitted, _mean),
        fitted_on=_FITTED_ON,
        ablation=_error("tpot_s", _unfitted, _mean, fitted=False),
        ablation_title="no constant fitted",
    ),
    Check(
        claim="error",
        title="time per token, worst row",
        how="simulated",
        band=AtMost(0.25),
        compute=_error("tpot_s", _unfitted, _worst),
        fitted_on=_FITTED_ON,
        ablation=_error("tpot_s", _unfitted, _worst, fitted=False),
        ablation_title="no constant fitted",
    ),
    Check(
        claim="error",
        title="ratio of TP 2 to TP 8, worst trace and rate",
        how="simulated",
        band=AtMost(0.15),
        compute=_ratio(fitted=True),
        fitted_on=_FITTED_ON,
        ablation=_ratio(fitted=False),
        ablation_title="no constant fitted",
    ),
    Check(
        claim="error",
        title="mean latency of a request, worst TP 8 row",
        how="simulated",
        band=AtMost(0.12),
        compute=_error("e2e_s", lambda run: _unfitted(run) and run.setup == "8TP", _worst),
        fitted_on=_FITTED_ON,
        ablation=_error(
            "e2e_s", lambda run: _unfitted(run) and run.setup == "8TP", _worst, fitted=False
        ),
        ablation_title="no constant fitted",
    ),
    Check(
        claim="error",
        title="time per token, mean, were a sequence one standard error dearer",
        how="simulated",
        band=Report(
            "the lmsys runs hold less than one request at a time on average and hardly tell what "
            "a sequence costs; how the two metrics of the fit are weighed decides it"
        ),
        compute=_heavier_sequences,
        fitted_on=_FITTED_ON,
    ),
    Check(
        claim="ttft",
        title="time to first token, mean error of rows that did not queue",
        how="simulated",
        band=Report("the published figure leaves queueing out, so that it says little of a wait"),
        compute=_error("ttft_s", lambda run: _unfitted(run) and run.setup not in _QUEUED, _mean),
        fitted_on=_FITTED_ON,
    ),
    Check(
        claim="dynamism",
        title="error of static batches over error of following each step",
        how="simulated",
        band=AtLeast(2.0),
        compute=_dynamism(all_at_once=False),
        fitted_on=_FITTED_ON,
        ablation=_dynamism(all_at_once=True),
        ablation_title="every request there from the start, followed step by step",
    ),
    Check(
        claim="speedup",
        title="mean latency of heuristic over best plan, at its capacity, least of 12 settings",
        how="simulated",
        band=Report("1 or more whatever the search does: the heuristic is one of its plans"),
        compute=_gap(min, "latency"),
        slow=True,
    ),
    Check(
        claim="speedup",
        title="mean latency of heuristic over best plan, at its capacity, largest of 12 settings",
        how="simulated",
        band=AtLeast(1.5),
        compute=_gap(max, "latency"),
        ablation=_gap(max, "worst"),
        ablation_title="the worst plan instead of the best, largest of 12 settings",
        slow=True,
    ),
    Check(
        claim="search",
        title="all plans of 70B on 8 devices simulated, 2 processes",
        how="simulated",
        band=AtMost(15.0),
        compute=_minutes,
        slow=True,
    ),
    Check(
        claim="speedup",
        title="total time of the heuristic over the best plan, all requests at once",
        how="simulated",
        band=Report("with every request there at the start, plans differ less than under load"),
        compute=_total,
        slow=True,
    ),
    Check(
        claim="energy",
        title="energy saved against the fastest plan, over plans and clocks",
        how="simulated",
        band=AtLeast(0.2),
        compute=_energy(full_clock_only=False),
        ablation=_energy(full_clock_only=True),
        ablation_title="full clock only",
        slow=True,
    ),
    Check(
        claim="limits",
        title="plans of a model on one device",
        how="derived",
        band=Between(1.0, 1.0),
        compute=_plan_count("1xH100-SXM"),
        unit="plans",
        ablation=_plan_count("2xH100-SXM"),
        ablation_title="two devices",
    ),
    Check(
        claim="limits",
        title="change of any plan's latency when devices are renumbered",
        how="simulated",
        band=AtMost(0.0),
        compute=_permuted,
        unit="s",
    ),
    Check(
        claim="limits",
        title="largest step time with twice the bandwidth over the one before",
        how="derived",
        band=AtMost(1.0),
        compute=_bandwidth(2.0),
        ablation=_bandwidth(0.5),
        ablation_title="half the bandwidth",
    ),
    Check(
        claim="limits",
        title="bytes a device too many for 405B in bf16 on 8 devices",
        how="derived",
        band=AtLeast(1.0),
        compute=_misfit("8xH100-SXM"),
        unit="B",
        ablation=_misfit("2x(8xH100-SXM)"),
        ablation_title="16 devices",
    ),
)

SYSTEM = System(
    id="apex",
    title="APEX: parallel plans found by simulating every step",
    arxiv="2411.17651",
    family="serving",
    summary=(
        "A simulator of iteration-level batching predicts measured runs closely enough to rank "
        "every way of cutting a model over a cluster, in minutes on a laptop"
    ),
    claims=_CLAIMS,
    rooms=(
        "cost/tables.py",
        "cost/host.py",
        "cost/power.py",
        "planning/plan_space.py",
        "planning/sweep.py",
        "serving/executors/simulated.py",
    ),
    checks=_CHECKS,
    not_reproduced={
        "speedup": "the best plan is ahead of the heuristic by up to about 1.6 times in mean "
        "latency at the heuristic's own capacity, 1.4 times in total time, not 3.37; the setting "
        "of the largest gap is not among the published measurements",
        "gpu-cost": "needs the hours of GPU runs of every plan, which are not published by plan",
        "readme": "printed by the authors' simulator on its own tables; no measured run goes "
        "with it",
    },
)
