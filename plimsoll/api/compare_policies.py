"""Which policies help: every one on a plan's own model, devices and traffic, ranked by goodput."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from plimsoll.api.commands import command, slo_words, workload_words
from plimsoll.api.latency_bands import run_bands
from plimsoll.api.load_curve import draws
from plimsoll.api.run_folder import WorkloadSpec
from plimsoll.api.simulate import load_plan
from plimsoll.planning.judging import SimulatorJudge
from plimsoll.planning.policy_ranking import VISIBLE, Ranked, Ranking, rank
from plimsoll.planning.policy_variants import chosen, variants
from plimsoll.report.band_words import EIGHT_OF_TEN
from plimsoll.report.document import Report, Table
from plimsoll.report.wording import percent_text, seconds_text
from plimsoll.spec.errors import SpecError
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.io import plain
from plimsoll.spec.origin import Band
from plimsoll.spec.plan import ServingPlan
from plimsoll.spec.planned_model import model_of_plan
from plimsoll.spec.slo import Slo
from plimsoll.spec.summary import Summary

__all__ = ["PoliciesAnswer", "against", "compare_policies", "effect", "rank_policies"]

_DURATION_S = 300.0
_PREEMPTIONS = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class PoliciesAnswer:
    """The ranking, and what was asked; ``bands`` by metric are those of the plan's own run."""

    plan: ServingPlan
    plan_path: str
    workload: WorkloadSpec
    ranking: Ranking
    bands: dict[str, Band]
    asked: tuple[str, ...] = ()

    def report(self) -> Report:
        """See ``Answer``."""
        ranking = self.ranking
        own = ranking.own
        run = [one for one in ranking.policies if one.rates_per_s]
        left = [one for one in ranking.policies if not one.rates_per_s]
        others = [one for one in run if one.plan != own.plan]
        same = [one.name for one in run if one.plan == own.plan]
        tables = [
            Table(
                title="Policies, by goodput at the SLO",
                columns=("", "goodput", "draws", "against the plan", "range"),
                rows=tuple(map(self._row, sorted((own, *others), key=lambda o: -o.rate_per_s))),
                notes=(
                    f"as planned: {', '.join(same)}" if same else "as planned: see the plan file",
                    f"goodput: highest rate that keeps the SLO, median of {ranking.num_draws} "
                    f"draws of {ranking.duration_s:.0f} s; draws: lowest to highest",
                    "against the plan: on the same draws, median and range",
                    *self._band_notes(),
                ),
            )
        ]
        if others:
            rows = tuple((one.name, effect(own, one)) for one in others)
            title = f"What each changes at {ranking.rate_per_s:.3g} requests/s"
            tables.append(Table(title=title, columns=("", "beside the plan"), rows=rows))
        if left:
            rows = tuple((one.name, one.why_not) for one in left)
            tables.append(Table(title="Not run", columns=("", "why"), rows=rows))
        return Report(
            title=self._title(others),
            subtitle=f"{self.plan.served} on {self.plan.num_devices} of {self.plan.fleet}",
            command=command("compare", self.plan_path, *self.asked, *workload_words(self.workload)),
            tables=tuple(tables),
            next_command=command(
                "simulate", self.plan_path, *workload_words(self.workload), "--sweep"
            ),
        )

    def _title(self, others: Sequence[Ranked]) -> str:
        own = self.ranking.own
        better = [one for one in others if min(against(own, one)) > 1 + VISIBLE]
        if not better:
            return (
                "No other policy carries clearly more than the plan's own: "
                f"{own.rate_per_s:.3g} requests/s"
            )
        best = better[0]
        gain = median(against(own, best)) - 1
        return (
            f"{best.name} carries {percent_text(gain)} more than the plan: "
            f"{best.rate_per_s:.3g} requests/s"
        )

    def _row(self, one: Ranked) -> tuple[str, ...]:
        own = self.ranking.own
        rate = f"{one.rate_per_s:.3g} req/s"
        spread = f"{min(one.rates_per_s):.3g} to {max(one.rates_per_s):.3g}"
        if one is own:
            return one.name, rate, spread, "", ""
        ratios = against(own, one)
        share, low, high = median(ratios), min(ratios), max(ratios)
        return one.name, rate, spread, f"x {share:.2f}", f"{low:.2f} to {high:.2f}"

    def _band_notes(self) -> tuple[str, ...]:
        return tuple(
            f"{metric.upper()} of the simulator: x {band.low:.2g} to x {band.high:.2g} "
            f"{EIGHT_OF_TEN}, for all rows alike"
            for metric, band in self.bands.items()
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        own = self.ranking.own
        return {
            "format_version": 1,
            "plan": plain(self.plan),
            "workload": plain(self.workload),
            "rate_per_s": self.ranking.rate_per_s,
            "policies": [
                {
                    "name": one.name,
                    "kind": one.kind,
                    "goodput_requests_per_s": one.rate_per_s if one.rates_per_s else None,
                    "draws_per_s": list(one.rates_per_s),
                    "limit": one.limit,
                    "why_not": one.why_not,
                    "effect": effect(own, one) if one.rates_per_s and one is not own else "",
                    "plan": None if one.plan is None else plain(one.plan),
                }
                for one in (own, *self.ranking.policies)
            ],
        }


def against(own: Ranked, one: Ranked) -> tuple[float, ...]:
    """Goodput over the plan's own, draw by draw."""
    return tuple(a / b for a, b in zip(one.rates_per_s, own.rates_per_s, strict=True) if b)


def effect(own: Ranked, one: Ranked) -> str:
    """In a line, what a policy makes better and worse beside the plan at the same rate."""
    if own.summary is None or one.summary is None:
        return ""
    if one.plan == own.plan:
        return "it is what the plan does"
    better: list[str] = []
    worse: list[str] = []
    for name, read, show in _LATENCIES:
        before, after = read(own.summary), read(one.summary)
        if before is None or after is None or abs(after - before) <= VISIBLE * before:
            continue
        (worse if after > before else better).append(f"{name} {show(before)} to {show(after)}")
    parked, parked_then = own.summary.preemptions, one.summary.preemptions
    if abs(parked_then - parked) > _PREEMPTIONS * own.summary.status.total:
        changed = f"preemptions {parked:,} to {parked_then:,}"
        (worse if parked_then > parked else better).append(changed)
    hits, hits_then = own.summary.prefix_hit_fraction, one.summary.prefix_hit_fraction
    if hits is not None and hits_then is not None and abs(hits - hits_then) > VISIBLE:
        (worse if hits_then < hits else better).append(
            f"prefix hits {percent_text(hits)} to {percent_text(hits_then)}"
        )
    if one.summary.status.unfinished > own.summary.status.unfinished + 2:
        worse.append(f"{one.summary.status.unfinished:,} requests unfinished")
    parts = [f"better {', '.join(better)}"] if better else []
    parts += [f"worse {', '.join(worse)}"] if worse else []
    return "; ".join(parts) or "nothing visible at this rate"


_LATENCIES: tuple[tuple[str, Callable[[Summary], float | None], Callable[[float], str]], ...] = (
    ("TTFT P99", lambda s: s.ttft_s.p99 if s.ttft_s else None, seconds_text),
    ("TPOT P99", lambda s: s.tpot_s.p99 if s.tpot_s else None, seconds_text),
    ("ITL P99", lambda s: s.itl_s.p99 if s.itl_s else None, seconds_text),
)


def rank_policies(
    plan: ServingPlan,
    workload: WorkloadSpec,
    *,
    policies: str = "all",
    seed: int = 0,
    duration_s: float = _DURATION_S,
    say: Callable[[str], None] = lambda name: None,
) -> tuple[Ranking, dict[str, Band]]:
    """The ranking of a plan's variants, and the error bands of its own run.

    Raises:
        SpecError: no SLO, a closed loop, an unknown policy.
        InfeasibleError: the plan keeps its promise at no rate.
    """
    if not plan.slo.targets:
        raise SpecError("--policies: the plan states no SLO; add --ttft-p99 or --tpot-p99")
    names = chosen(policies)
    model, fleet = model_of_plan(plan), parse_fleet(plan.fleet)
    parts = draws(workload, seed)
    if parts[0].num_in_flight:
        raise SpecError(
            f"--policies: workload {workload.text} is a closed loop, which has no rate to raise; "
            "give arrivals"
        )
    ranking = rank(
        plan,
        variants(plan, parts[0], names),
        parts,
        judge=SimulatorJudge(model=model, fleet=fleet, seed=seed),
        guess_per_s=workload.rate_per_s or parts[0].rate_per_s or 1.0,
        duration_s=duration_s,
        say=say,
    )
    bands: dict[str, Band] = {}
    if ranking.own.summary is not None:
        bands = run_bands(plan, fleet, model, parts[0], ranking.own.summary)
    return ranking, bands


def compare_policies(
    path: Path,
    workload: WorkloadSpec,
    *,
    policies: str = "all",
    seed: int = 0,
    slo: Slo | None = None,
    duration_s: float = _DURATION_S,
    say: Callable[[str], None] = lambda name: None,
) -> PoliciesAnswer:
    """Rank policies for a plan file. See ``rank_policies``."""
    plan = load_plan(path)
    if slo is not None and slo.targets:
        plan = replace(plan, slo=slo)
    ranking, bands = rank_policies(
        plan, workload, policies=policies, seed=seed, duration_s=duration_s, say=say
    )
    asked = ("--policies", policies, *slo_words(slo or Slo()))
    asked += ("--seed", str(seed)) if seed else ()
    return PoliciesAnswer(
        plan=plan,
        plan_path=str(path),
        workload=workload,
        ranking=ranking,
        bands=bands,
        asked=asked,
    )
