"""Plans or recorded runs side by side, on the same workload."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from plimsoll.api.commands import command, slo_words, workload_words
from plimsoll.api.run_folder import WorkloadSpec, is_run, load_record, read_run
from plimsoll.api.simulate import load_plan, simulate
from plimsoll.report.document import Report, Table
from plimsoll.report.from_run import latency_cdf
from plimsoll.report.wording import percent_text, seconds_text
from plimsoll.serving.metrics import summarize
from plimsoll.spec.errors import SpecError
from plimsoll.spec.io import plain, read
from plimsoll.spec.plan import ServingPlan
from plimsoll.spec.record import RunRecord
from plimsoll.spec.slo import Slo
from plimsoll.spec.summary import Summary

__all__ = ["CompareAnswer", "compare"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One thing compared."""

    name: str
    path: str
    plan: ServingPlan
    record: RunRecord
    summary: Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareAnswer:
    """All sides, in the order given."""

    sides: tuple[Side, ...]
    slo: Slo
    asked: tuple[str, ...] = ()

    def report(self) -> Report:
        """See ``Answer``."""
        best = max(self.sides, key=lambda side: side.summary.goodput_requests_per_s_per_device)
        runs = {side.name: side.record for side in self.sides}
        rows = tuple(
            (name, *(cell(side.summary) for side in self.sides)) for name, cell in _ROWS.items()
        )
        return Report(
            title=f"{best.name} gives the most goodput per GPU: "
            f"{best.summary.goodput_requests_per_s_per_device:.3g} requests/s",
            command=command("compare", *(side.path for side in self.sides), *self.asked),
            tables=(
                Table(
                    title="Side by side",
                    columns=("", *(side.name for side in self.sides)),
                    rows=rows,
                    notes=tuple(f"{s.name}: {_words(s.plan)}" for s in self.sides),
                ),
            ),
            pictures=(latency_cdf(runs, "ttft", self.slo), latency_cdf(runs, "tpot", self.slo)),
            next_command=command("export", best.path, "--to", best.plan.engine),
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        return {
            "format_version": 1,
            "sides": [
                {"name": s.name, "plan": plain(s.plan), "summary": plain(s.summary)}
                for s in self.sides
            ],
        }


_ROWS: dict[str, Callable[[Summary], str]] = {
    "GPUs": lambda s: f"{s.num_devices}",
    "goodput": lambda s: f"{s.goodput_requests_per_s:.3g} req/s",
    "goodput per GPU": lambda s: f"{s.goodput_requests_per_s_per_device:.3g} req/s",
    "good requests": lambda s: percent_text(s.good_fraction),
    "output": lambda s: f"{s.output_tokens_per_s:,.0f} tokens/s",
    "TTFT P50": lambda s: seconds_text(s.ttft_s.p50 if s.ttft_s else None),
    "TTFT P99": lambda s: seconds_text(s.ttft_s.p99 if s.ttft_s else None),
    "TPOT P50": lambda s: seconds_text(s.tpot_s.p50 if s.tpot_s else None),
    "TPOT P99": lambda s: seconds_text(s.tpot_s.p99 if s.tpot_s else None),
    "ITL P99": lambda s: seconds_text(s.itl_s.p99 if s.itl_s else None),
    "E2E P99": lambda s: seconds_text(s.e2e_s.p99 if s.e2e_s else None),
    "preemptions": lambda s: f"{s.preemptions:,}",
    "energy": lambda s: (
        "-" if s.energy_j_per_output_token is None else f"{s.energy_j_per_output_token:.3g} J/token"
    ),
    "cost": lambda s: (
        "-"
        if s.usd_per_million_output_tokens is None
        else f"{s.usd_per_million_output_tokens:.3g} USD/M tokens"
    ),
}


def compare(
    paths: Sequence[Path], workload: WorkloadSpec | None, *, seed: int = 0, slo: Slo | None = None
) -> CompareAnswer:
    """Compare plan files (simulated on ``workload``) and run folders (as recorded).

    All are held to one promise: ``slo``, else that of the first side that states one.

    Raises:
        SpecError: fewer than two sides, a plan without a workload, runs of different workloads.
    """
    if len(paths) < 2:
        raise SpecError(f"compare: {len(paths)} given; name at least two plans or run folders")
    stated = [slo] if slo is not None else []
    stated += [(read_run(p).plan if is_run(p) else load_plan(p)).slo for p in paths]
    promise = next((one for one in stated if one.targets), Slo())
    sides: list[Side] = []
    served: dict[str, tuple[WorkloadSpec, int]] = {}
    for path, name in zip(paths, _names(paths), strict=True):
        if is_run(path):
            run = read_run(path)
            folder = path if path.is_dir() else path.parent
            record = load_record(folder)
            summary = read(Summary, folder / "summary.json")
            if promise != run.plan.slo:
                summary = replace(
                    summarize(record, promise),
                    energy_j_per_output_token=summary.energy_j_per_output_token,
                    usd_per_million_output_tokens=summary.usd_per_million_output_tokens,
                )
            served[name] = run.workload, run.seed
            sides.append(
                Side(name=name, path=str(folder), plan=run.plan, record=record, summary=summary)
            )
            continue
        if workload is None:
            raise SpecError(f"compare: {path} is a plan; add --workload to simulate it")
        plan = replace(load_plan(path), slo=promise)
        answer = simulate(plan, workload, seed=seed)
        served[name] = answer.run.workload, seed
        sides.append(
            Side(name=name, path=str(path), plan=plan, record=answer.record, summary=answer.summary)
        )
    if len(set(served.values())) > 1:
        shown = "; ".join(
            f"{name}: {' '.join(workload_words(spec))} --seed {drawn}"
            for name, (spec, drawn) in served.items()
        )
        raise SpecError(f"compare: the sides served different workloads ({shown})")
    asked = () if workload is None else workload_words(workload)
    asked += slo_words(slo or Slo())
    asked += ("--seed", str(seed)) if seed else ()
    return CompareAnswer(sides=tuple(sides), slo=promise, asked=asked)


def _names(paths: Sequence[Path]) -> list[str]:
    names = [path.stem if path.is_file() else path.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _words(plan: ServingPlan) -> str:
    pools = ", ".join(
        f"{pool.replicas} x tp {pool.parallel.tp}"
        + (f" pp {pool.parallel.pp}" if pool.parallel.pp > 1 else "")
        + (f" {pool.role}" if pool.role != "both" else "")
        + f" {pool.policy.kind}"
        for pool in plan.pools
    )
    return f"{pools}, {plan.router.kind}"
