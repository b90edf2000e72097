"""The search: enumerate, prune, rank in closed form, simulate the best, answer.

The closed forms rank every plan of the space; a diverse handful of the best is simulated on the
user's own traffic, by successive halving: short probes first, long ones for those that lead.
When a load is given the leaders then serve the workload itself, and the best that keeps the
promise is chosen. Same question and seed, same answer, at any number of jobs. An interrupt
returns the best so far. Leaves out: plans that the closed forms rank far too low.
Sources: arXiv 2401.09670, arXiv 2411.17651 (search judged by simulation).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from plimsoll.planning.combine import Estimate
from plimsoll.planning.edge import edge_estimates, near_edge
from plimsoll.planning.engine_limits import engine_lacks
from plimsoll.planning.estimate import Demand
from plimsoll.planning.finalists import pick_finalists
from plimsoll.planning.halving import halve
from plimsoll.planning.infeasible import explain_ranking, explain_trials
from plimsoll.planning.judging import Judge, SimulatorJudge
from plimsoll.planning.length_limits import check_lengths, longest_served
from plimsoll.planning.objective import Scale, scale_of
from plimsoll.planning.offered_load import busiest_slice
from plimsoll.planning.parallel_shapes import Site
from plimsoll.planning.physics import LibraryPhysics, Physics
from plimsoll.planning.plan_space import runnable, usable_sites
from plimsoll.planning.policy_round import PolicyRound, policy_round
from plimsoll.planning.question import Answer, Choice, Progress, Question, SearchCounts
from plimsoll.planning.ranking import Ranking, rank_plans
from plimsoll.planning.tradeoffs import plan_words, trade_words
from plimsoll.planning.traffic import Traffic, describe_traffic
from plimsoll.planning.trials import CheckLook, RateLook, RunLook, Trial, trial_score
from plimsoll.planning.workers import Workers, open_workers

__all__ = ["rank", "search"]

_SPREADS = (1.3, 1.12, 1.06)
_TOLERANCES = (0.08, 0.04, 0.025)
_LEAST_STAYS = 4.0
_LIGHT_SHARE = 0.1
_SAME = 0.03  # scores this near are one: probes resolve no more


def _silent(done: int, total: int, best: str) -> None:
    return None


def _demand(question: Question, traffic: Traffic) -> Demand:
    carries = question.must_carry and not question.workload.num_in_flight
    return Demand(
        traffic=traffic,
        slo=question.slo,
        objective=question.objective,
        load_per_s=traffic.rate_per_s if carries else 0.0,
        longest_tokens=longest_served(question),
    )


def rank(
    question: Question, *, physics: Physics | None = None
) -> tuple[Ranking, list[Site], Demand]:
    """The closed-form part of the search alone: a ranking of the whole space."""
    check_lengths(question)
    options = runnable(question.options, question.model)
    sites = usable_sites(question.fleet, options)
    traffic = describe_traffic(question.workload, prefix_caching=options.prefix_caching)
    demand = _demand(question, traffic)
    model = question.model
    judge = physics or LibraryPhysics(model=model, sites=sites, options=options)
    return rank_plans(model, sites, options, judge, demand), sites, demand


def _again(physics: Physics | None) -> Callable[[Question], Ranking]:
    return lambda changed: rank(changed, physics=physics)[0]


@dataclass(slots=True, kw_only=True)
class _Run:
    """One search in progress: what has been seen, so that an interrupt loses nothing."""

    question: Question
    ranking: Ranking
    sites: Sequence[Site]
    demand: Demand
    judge: Judge
    checker: Judge
    progress: Progress
    again: Callable[[Question], Ranking]
    latest: dict[int, Trial] = field(default_factory=dict)
    varied: PolicyRound | None = None
    done: int = 0
    total: int = 0

    def scale(self, estimate: Estimate) -> Scale:
        candidate = estimate.candidate
        parts = [
            scale_of(self.sites[site].device, pool.num_devices, self.question.objective)
            for pool, site in zip(candidate.pools, candidate.site_indices, strict=True)
        ]
        total = parts[0]
        for part in parts[1:]:
            total = total.plus(part)
        return total

    def key(self, trial: Trial) -> float:
        return trial_score(
            trial,
            self.question.objective,
            self.scale(trial.estimate),
            load_per_s=self.demand.load_per_s,
            output_tokens=self.demand.traffic.mean_output_tokens,
        )

    def see(self, trial: Trial) -> None:
        self.latest[trial.index] = trial
        self.done += 1
        best = max(self.latest.values(), key=lambda t: (self.key(t), -t.index))
        words = f"{plan_words(best.plan)}: {best.rate_per_s:.3g} req/s" if best.rate_per_s else ""
        self.progress(self.done, self.total, words)

    def looks(self, trials: Sequence[Trial]) -> list[Callable[[Trial], Trial]]:
        """The rounds of looks; every trial of a round is given the same simulated time."""
        question, effort = self.question, self.question.effort
        workload = question.workload
        load = self.demand.load_per_s
        if workload.num_in_flight:
            return [
                RunLook(judge=self.checker, workload=workload, num_requests=n)
                for n in effort.round_requests
            ]
        if question.objective == "latency":
            rate = load or _LIGHT_SHARE * max(t.estimate.rate_per_s for t in trials)
            return [
                RunLook(judge=self.checker, workload=workload, num_requests=n, rate_per_s=rate)
                for n in effort.round_requests
            ]
        fastest = max(t.estimate.rate_per_s for t in trials)
        out = self.demand.traffic.mean_output_tokens
        stay = float(np.median([t.estimate.ttft_s + out * t.estimate.token_s for t in trials]))
        return [
            RateLook(
                judge=self.judge,
                workload=workload,
                duration_s=max(requests / fastest, _LEAST_STAYS * stay),
                max_runs=probes,
                tolerance=_TOLERANCES[min(i, len(_TOLERANCES) - 1)],
                spread=_SPREADS[min(i, len(_SPREADS) - 1)],
            )
            for i, (requests, probes) in enumerate(
                zip(effort.round_requests, effort.round_probes, strict=True)
            )
        ]

    def vary(
        self, trials: list[Trial], look: Callable[[Trial], Trial], workers: Workers
    ) -> list[Trial]:
        """The leaders under the other policies asked for, where these carry clearly more."""
        question, options = self.question, self.question.options
        if not options.varied:
            return trials
        self.varied = policy_round(
            trials,
            question.workload,
            options.varied,
            lacks=(lambda plan: "") if options.any_engine else engine_lacks,
            look=look,
            key=self.key,
            workers=workers,
            seen=self.see,
        )
        return self.varied.trials

    def check(self, trials: list[Trial], workers: Workers) -> list[Trial]:
        """Serve the workload itself, leaders first, until one holds and enough are seen."""
        if not self.demand.load_per_s:
            return trials
        wanted = 1 + self.question.effort.num_runners_up
        workload = busiest_slice(self.question.workload, self.question.effort.check_requests)
        look = CheckLook(judge=self.checker, workload=workload)
        checked: list[Trial] = []
        for start in range(0, len(trials), wanted):
            for trial in workers.map(look, trials[start : start + wanted]):
                checked.append(trial)
                self.see(trial)
            if any(t.run is not None and t.run.holds for t in checked):
                break
        return checked + trials[len(checked) :]


def search(
    question: Question,
    *,
    jobs: int = 1,
    backend: Literal["processes", "ray"] = "processes",
    address: str = "",
    physics: Physics | None = None,
    judge: Judge | None = None,
    progress: Progress = _silent,
) -> Answer:
    """The best plan for the question, judged by simulation.

    ``physics`` and ``judge`` replace the cost model and the simulator.

    Raises:
        InfeasibleError: nothing fits or keeps the promise; it names the limit that binds, the
            nearest candidate and the smallest change.
    """
    ranking, sites, demand = rank(question, physics=physics)
    most = question.effort.num_candidates
    again = _again(physics)
    full = ranking  # under a load the ranking lacks what falls short of it: judge the whole
    if demand.load_per_s and not ranking.estimates:
        full = again(replace(question, must_carry=False))
    at_edge = near_edge(full, demand)
    reserved = (most + 1) // 2 if at_edge else 0
    edge: list[Estimate] = []
    if at_edge or not demand.load_per_s:
        options = runnable(question.options, question.model)
        edge = edge_estimates(ranking, options, demand, most)
    picked = pick_finalists(ranking.estimates, most - min(reserved, len(edge)))
    picked += edge[: most - len(picked)]
    if not picked:
        raise explain_ranking(question, ranking, demand, again)
    simulator = SimulatorJudge(model=question.model, fleet=question.fleet, seed=question.seed)
    run = _Run(
        question=question,
        ranking=ranking,
        sites=sites,
        demand=demand,
        judge=judge or replace(simulator, hurried=True),
        checker=judge or simulator,
        progress=progress,
        again=again,
    )
    trials = [
        Trial(
            index=i,
            estimate=estimate,
            plan=estimate.candidate.plan(
                question.model_name, question.fleet.text, question.options, question.slo
            ),
        )
        for i, estimate in enumerate(picked)
    ]
    looks = run.looks(trials)
    run.total = _work(len(trials), len(looks), question.effort.num_runners_up)
    run.total += len(question.options.varied)
    partial = False
    try:
        with open_workers(jobs, backend=backend, address=address) as workers:
            keep = 1 + question.effort.num_runners_up
            trials = halve(trials, looks, run.key, workers, keep_last=keep, seen=run.see)
            trials = run.vary(trials, looks[-1], workers)
            trials = run.check(_simplest_first(run, trials, keep), workers)
    except KeyboardInterrupt:
        if not any(run.key(t) > float("-inf") for t in run.latest.values()):
            raise
        partial = True
        seen = sorted(run.latest.values(), key=lambda t: (-run.key(t), t.index))
        trials = seen
    return _answer(run, trials, partial=partial)


def _simplest_first(run: _Run, trials: list[Trial], num: int) -> list[Trial]:
    """The first ``num`` trials with those of nearly the best score in order of simplicity.

    Fewer kinds of pool, then fewer pipeline stages, then fewer devices, then the score.
    """
    head = trials[:num]
    best = max((run.key(t) for t in head), default=float("-inf"))
    near = [t for t in head if run.key(t) >= best - _SAME * abs(best)]
    near.sort(
        key=lambda t: (
            len(t.plan.pools),
            sum(pool.parallel.pp for pool in t.plan.pools),
            t.plan.num_devices,
            -run.key(t),
            t.index,
        )
    )
    return near + [t for t in head if t not in near] + trials[num:]


def _work(trials: int, rounds: int, runners_up: int) -> int:
    total, left = 0, trials
    for _ in range(rounds):
        total += left
        left = min(left, max(1 + runners_up, (left + 1) // 2))
    return total + 1 + runners_up


def _kept(run: _Run, trial: Trial) -> bool:
    """Whether the promise was kept where it counts: at the load if one is given."""
    if run.demand.load_per_s and trial.run is not None:
        return trial.run.holds
    return run.key(trial) > float("-inf")


def _probed_s(trial: Trial) -> float:
    """How long a probe its rate rests on; plans that leave early were probed briefly."""
    return trial.found.duration_s if trial.found is not None else 0.0


def _choice(run: _Run, trial: Trial, chosen: Trial | None) -> Choice:
    summary = trial.run.summary if trial.run is not None else None
    if summary is None and trial.found is not None and trial.found.verdict is not None:
        summary = trial.found.verdict.summary
    trade = ""
    if chosen is not None:
        other = chosen.run.summary if chosen.run is not None else None
        trade = trade_words(
            trial.plan, trial.found, summary, chosen.plan, chosen.found, other or None
        )
        if _probed_s(trial) < _probed_s(chosen):
            trade += "; left the search early, on shorter probes, which flatter"
    shape_origin = {r.shape: r.origin for r in run.ranking.records}
    origins = {
        origin
        for shape, origin in shape_origin.items()
        if any(shape.parallel == pool.parallel for pool in trial.plan.pools) and origin
    }
    return Choice(
        plan=trial.plan,
        estimate=trial.estimate,
        score=run.key(trial),
        goodput=trial.found,
        at_load=summary,
        keeps_slo=_kept(run, trial),
        origin="modeled" if "modeled" in origins else "calibrated",
        trade=trade,
    )


def _answer(run: _Run, trials: list[Trial], *, partial: bool) -> Answer:
    kept = [t for t in trials if t.looked and _kept(run, t)]
    if run.demand.load_per_s and not partial:
        kept = [t for t in kept if t.run is not None] or kept
    if not kept and not run.ranking.estimates:
        raise explain_ranking(run.question, run.ranking, run.demand, run.again)
    if not kept:
        raise explain_trials(run.question, trials, run.demand, run.again)
    best = max(kept, key=lambda t: (run.key(t), -t.index)) if partial else kept[0]
    others = [t for t in trials if t.looked and t.index != best.index]
    others.sort(key=lambda t: (not _kept(run, t), -_probed_s(t), -run.key(t), t.index))
    wanted = run.question.effort.num_runners_up
    found = best.found
    binding = best.estimate.limit
    if found is not None and found.limit:
        binding = found.limit
    return Answer(
        chosen=_choice(run, best, None),
        runners_up=tuple(_choice(run, t, best) for t in others[:wanted]),
        pareto=run.ranking.pareto,
        binding=binding,
        counts=SearchCounts(
            enumerated=run.ranking.num_enumerated,
            pruned=dict(run.ranking.pruned),
            skipped_shapes=dict(run.ranking.skipped),
            estimated=run.ranking.num_estimated,
            simulated=sum(t.looked for t in trials),
            runs=sum(t.runs for t in trials),
        ),
        notes=_notes(run, best),
        policies=run.varied.tried if run.varied is not None else (),
        partial=partial,
    )


def _notes(run: _Run, best: Trial) -> tuple[str, ...]:
    traffic, question = run.demand.traffic, run.question
    notes = [
        f"traffic: {len(question.workload):,} requests, on average "
        f"{traffic.mean_prompt_tokens:,.0f} prompt and {traffic.mean_output_tokens:,.0f} output "
        "tokens",
    ]
    cached = traffic.mean_prompt_tokens - traffic.mean_new_tokens
    if cached > 0:
        share = cached / traffic.mean_prompt_tokens
        notes.append(f"ranking assumed {share:.0%} of prompt tokens reused from the prefix cache")
    if run.demand.load_per_s:
        notes.append(f"load: {run.demand.load_per_s:.3g} requests/s")
        limit = question.effort.check_requests
        if len(question.workload) > limit:
            notes.append(
                f"the load was checked on the busiest {limit:,} of {len(question.workload):,} "
                "requests in a row"
            )
    if best.found is not None:
        notes.append(
            f"highest rate: bisection, {best.found.duration_s:,.0f} s of the workload's own "
            "requests a probe, arrivals scaled"
        )
    if lacking := engine_lacks(best.plan):
        notes.append(f"{lacking}; plimsoll serve does")
    if any(t.request_class for t in question.slo.targets):
        notes.append("ranking applied targets of one class to all requests")
    return (*notes, *question.model.assumptions)
