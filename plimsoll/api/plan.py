"""Find the plan that carries most: search, simulate, and say what binds."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from plimsoll.api.commands import command, rounded_down, slo_words, workload_words
from plimsoll.api.export import context_for
from plimsoll.api.latency_bands import band_data, run_bands
from plimsoll.api.run_folder import WorkloadSpec
from plimsoll.planning.length_limits import refused_fraction
from plimsoll.planning.objective import Objective
from plimsoll.planning.plan_space import SpaceOptions
from plimsoll.planning.policy_round import Tried
from plimsoll.planning.question import Answer, Choice, Progress, Question
from plimsoll.planning.search import search
from plimsoll.planning.tradeoffs import plan_words
from plimsoll.report.band_words import EIGHT_OF_TEN, band_cell
from plimsoll.report.document import KeyNumber, Report, Table
from plimsoll.report.export import serve_command
from plimsoll.report.pictures import ParetoPicture, ParetoPoint
from plimsoll.report.summary_tables import percentile_table, target_name, verdict_table
from plimsoll.report.wording import gpus_text, percent_text, seconds_text
from plimsoll.spec.errors import PlimsollError
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.io import plain
from plimsoll.spec.model_files import load_model
from plimsoll.spec.origin import Band, Number, Origin
from plimsoll.spec.plan import DisaggRouter, ServingPlan
from plimsoll.spec.slo import Slo, SloTarget
from plimsoll.spec.streams import with_streams
from plimsoll.spec.workload_files import load_workload

__all__ = ["DEFAULT_SLO", "PlanAnswer", "plan"]

DEFAULT_SLO = Slo(
    targets=(
        SloTarget(metric="ttft", percentile=99, bound_s=2.0),
        SloTarget(metric="tpot", percentile=99, bound_s=0.1),
    )
)
"""The promise when the user states none; printed with the answer."""

_OBJECTIVES = {
    "goodput": "goodput per GPU",
    "cost": "cost of output tokens",
    "energy": "energy of output tokens",
    "latency": "end-to-end latency",
    "size": "fewest GPUs for the load",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanAnswer:
    """What the search found, and what it was asked.

    ``plan_path`` is the file the plan was written to, ``asked`` the words of the command line;
    both are empty where there are none.
    """

    question: Question
    found: Answer
    workload: WorkloadSpec
    assumptions: tuple[str, ...]
    plan_path: str = ""
    asked: tuple[str, ...] = ()

    @property
    def plan(self) -> ServingPlan:
        """The chosen plan."""
        return self.found.chosen.plan

    def report(self) -> Report:
        """See ``Answer``."""
        found, question = self.found, self.question
        chosen = found.chosen
        origin = Origin(chosen.origin)
        tables = [self._choices()]
        if chosen.at_load is not None:
            bands = self.bands(chosen)
            tables.append(percentile_table(chosen.at_load, bands))
            if chosen.at_load.targets:
                tables.append(verdict_table(chosen.at_load, bands))
        if found.policies:
            tables.append(self._policies())
        tables.append(self._counts())
        targets = ", ".join(target_name(t) for t in question.slo.targets) or "no SLO"
        gpus = chosen.plan.num_devices
        rate = chosen.goodput.rate_per_s if chosen.goodput else None
        stated_per_s = question.workload.rate_per_s if question.must_carry else 0.0
        title = f"{plan_words(chosen.plan)} on {gpus_text(gpus)}"
        if (
            rate is not None and rate < stated_per_s
        ):  # parts of a bursty workload can be harder than it
            rate = None
            title += f" carries the load of {stated_per_s:.3g} requests/s"
        if rate:
            title += f" carries {rate:.3g} requests/s"
        if found.partial:
            title = f"Interrupted; best so far: {title}"
        numbers = []
        if rate and chosen.goodput:
            per_gpu = chosen.goodput.rate_per_s_per_device
            numbers += [
                _number("Goodput", rate, "req/s", origin, "highest rate that keeps the SLO"),
                _number("Goodput per GPU", per_gpu, "req/s", origin, f"over {gpus_text(gpus)}"),
            ]
        if chosen.at_load is not None:
            load = chosen.at_load
            numbers += [
                _number(
                    "At the load" if question.must_carry else "At that rate",
                    load.requests_per_s,
                    "req/s",
                    origin,
                    f"{percent_text(load.good_fraction)} of requests good",
                ),
                _number(
                    "Per user", load.tokens_per_s_per_user, "tokens/s", origin, "1 / mean TPOT"
                ),
            ]
        start, note = self._start()
        notes = [f"what binds: {found.binding}", *found.notes, note]
        return Report(
            title=title,
            subtitle=f"{question.model.name} on {question.fleet.text} for {self.workload.text}, "
            f"{targets}; {origin.value}",
            command=command(*(self.asked or self._words())),
            key_numbers=tuple(n for n in numbers if n is not None),
            tables=tuple(tables),
            pictures=(self._pareto(),) if found.pareto else (),
            assumptions=self.assumptions,
            notes=tuple(n for n in notes if n),
            start_command=start,
            next_command=self._next(),
        )

    def _words(self) -> tuple[str, ...]:
        asked = self.question
        words = (*workload_words(self.workload, drawn=False), *slo_words(asked.slo))
        return ("plan", asked.model_name, "--on", asked.fleet.text, *words)

    def _next(self) -> str:
        """Simulate what was written, at the rate the plan was chosen for."""
        if not self.plan_path:
            return command(*(self.asked or self._words()), "--out", "plan.yaml")
        goodput, workload = self.found.chosen.goodput, self.workload
        if goodput is not None and not self.question.must_carry:
            workload = replace(workload, rate_per_s=rounded_down(goodput.rate_per_s))
        return command("simulate", self.plan_path, *workload_words(workload))

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        found = self.found
        start, note = self._start()
        return {
            "format_version": 1,
            "model": self.question.model.name,
            "fleet": self.question.fleet.text,
            "workload": plain(self.workload),
            "slo": plain(self.question.slo),
            "objective": self.question.objective,
            "chosen": self._choice_data(found.chosen),
            "runners_up": [self._choice_data(choice) for choice in found.runners_up],
            "pareto": [
                {
                    "family": p.family,
                    "tokens_per_s_per_user": p.tokens_per_s_per_user,
                    "tokens_per_s_per_device": p.tokens_per_s_per_device,
                    "num_devices": p.candidate.num_devices,
                }
                for p in found.pareto
            ],
            "binding": found.binding,
            "policies": [
                {
                    "policies": one.policies,
                    "on": plan_words(one.on),
                    "change": one.change,
                    "why_not": one.why_not,
                }
                for one in found.policies
            ],
            "counts": plain(found.counts),
            "assumptions": list(self.assumptions),
            "notes": [*found.notes, *([note] if note else [])],
            "command": start,
            "partial": found.partial,
        }

    def bands(self, choice: Choice) -> dict[str, Band]:
        """The error bands of TTFT and TPOT of a plan that was simulated; {} without a load."""
        if choice.at_load is None:
            return {}
        asked = self.question
        return run_bands(choice.plan, asked.fleet, asked.model, asked.workload, choice.at_load)

    def _choice_data(self, choice: Choice) -> dict[str, Any]:
        goodput, bands = choice.goodput, self.bands(choice)
        return {
            "plan": plain(choice.plan),
            "keeps_slo": choice.keeps_slo,
            "goodput_requests_per_s": None if goodput is None else goodput.rate_per_s,
            "goodput_requests_per_s_per_device": None
            if goodput is None
            else goodput.rate_per_s_per_device,
            "at_load": None if choice.at_load is None else plain(choice.at_load),
            "error_bands": band_data(bands) if bands else None,
            "origin": choice.origin,
            "trade": choice.trade,
        }

    def _choices(self) -> Table:
        rows, legend = [], []
        for letter, choice in zip(
            "ABCDEFGH", (self.found.chosen, *self.found.runners_up), strict=False
        ):
            load, goodput, bands = choice.at_load, choice.goodput, self.bands(choice)
            ttft_s = load.ttft_s.p99 if load and load.ttft_s else None
            tpot_s = load.tpot_s.p99 if load and load.tpot_s else None
            rows.append(
                (
                    letter,
                    f"{choice.plan.num_devices}",
                    "-" if goodput is None else f"{goodput.rate_per_s:.3g}",
                    "-" if goodput is None else f"{goodput.rate_per_s_per_device:.3g}",
                    seconds_text(ttft_s),
                    band_cell(ttft_s, bands.get("ttft")),
                    seconds_text(tpot_s),
                    band_cell(tpot_s, bands.get("tpot")),
                    "kept" if choice.keeps_slo else "missed",
                )
            )
            trade = "chosen" if choice is self.found.chosen else choice.trade
            legend.append(f"{letter}: {plan_words(choice.plan)}; {trade}")
        if any(choice.score > self.found.chosen.score for choice in self.found.runners_up):
            legend.append(
                "scores a few percent apart count as equal, and of such plans the simpler one "
                "on fewer GPUs is chosen"
            )
        if any(choice.at_load for choice in (self.found.chosen, *self.found.runners_up)):
            legend.append(f"8 of 10: the P99 {EIGHT_OF_TEN}")
        return Table(
            title=f"The plan and its runners-up, by {_OBJECTIVES[self.question.objective]}",
            columns=(
                "",
                "GPUs",
                "req/s",
                "per GPU",
                "TTFT P99",
                "8 of 10",
                "TPOT P99",
                "8 of 10",
                "SLO",
            ),
            rows=tuple(rows),
            notes=tuple(legend),
        )

    def _policies(self) -> Table:
        tried = self.found.policies
        rows = tuple(
            (one.policies, _where(one), _changed(one), one.why_not if one.change else "")
            for one in sorted(tried, key=lambda one: -(one.change or 0.0))
            if one.change is not None or not one.why_not
        )
        reasons: dict[str, dict[str, None]] = {}
        for one in tried:
            if one.change is None and one.why_not:
                reasons.setdefault(one.why_not, {})[one.policies] = None
        return Table(
            title="The best plans under other policies",
            columns=("", "prefill, decode", "score", "why not taken"),
            rows=rows,
            notes=(
                *dict.fromkeys(f"{_where(one)}: {plan_words(one.on)}" for one in tried),
                "score: against the same plan as it is; taken from 5 % more",
                *(f"not tried: {', '.join(names)}: {why}" for why, names in reasons.items()),
            ),
        )

    def _counts(self) -> Table:
        counts = self.found.counts
        pruned = sorted(counts.pruned.items(), key=lambda item: -item[1])
        skipped = sorted(counts.skipped_shapes.items(), key=lambda item: -item[1])
        rows = [
            ("enumerated", f"{counts.enumerated:,}"),
            *((f"pruned: {reason}", f"{count:,}") for reason, count in pruned[:5]),
            *((f"shapes skipped: {reason}", f"{count:,}") for reason, count in skipped[:3]),
            ("estimated in closed form", f"{counts.estimated:,}"),
            ("simulated", f"{counts.simulated} in {counts.runs} runs"),
        ]
        return Table(title="The search", columns=("", "plans"), rows=tuple(rows))

    def _pareto(self) -> ParetoPicture:
        question, found = self.question, self.found
        bound = question.slo.bound_s("tpot") or question.slo.bound_s("itl")
        fastest = 1 / bound if bound else None
        points = [
            ParetoPoint(
                tokens_per_s_per_user=p.tokens_per_s_per_user,
                tokens_per_s_per_gpu=p.tokens_per_s_per_device,
                num_gpus=p.candidate.num_devices,
                family=p.family,
                label=plan_words(
                    p.candidate.plan(
                        question.model_name, question.fleet.text, question.options, question.slo
                    )
                ),
                frontier=True,
                meets_slo=fastest is None or p.tokens_per_s_per_user >= fastest,
            )
            for p in found.pareto
        ]
        best = found.chosen
        summary = best.at_load or (
            best.goodput.verdict.summary if best.goodput and best.goodput.verdict else None
        )
        if summary is not None and summary.tokens_per_s_per_user:
            points.append(
                ParetoPoint(
                    tokens_per_s_per_user=summary.tokens_per_s_per_user,
                    tokens_per_s_per_gpu=summary.output_tokens_per_s_per_device,
                    num_gpus=best.plan.num_devices,
                    family="chosen, simulated",
                    label=plan_words(best.plan),
                    frontier=False,
                    meets_slo=best.keeps_slo,
                    chosen=True,
                )
            )
        return ParetoPicture(
            title=f"{len(found.pareto)} operating points no other beats; closed form",
            points=tuple(points),
            min_tokens_per_s_per_user=fastest,
            origin=Origin(best.origin),
        )

    def _start(self) -> tuple[str, str]:
        """The command that starts one engine of the chosen plan, or why there is none."""
        if self.plan.engine != "vllm" and self.question.model.streams == 1:
            return command("export", self.plan_path or "plan.yaml", "--to", self.plan.engine), ""
        streams = self.question.model.streams
        if streams > 1:
            return "", f"no engine written for starts a model with {streams} streams"
        try:
            return serve_command(self.plan, context_for(self.plan)), ""
        except PlimsollError as error:
            return "", f"no vLLM command: {error}"


def plan(
    model: str,
    on: str,
    workload: WorkloadSpec,
    *,
    slo: Slo | None = None,
    objective: Objective = "goodput",
    options: SpaceOptions | None = None,
    seed: int = 0,
    jobs: int = 1,
    ray: bool = False,
    progress: Progress | None = None,
) -> PlanAnswer:
    """The best plan for ``model`` on the fleet ``on`` under ``slo``, judged by simulation.

    A trace, or a workload whose rate is stated, must be carried at its own rate; of a bundled
    workload only the shape counts, and the rate is what is sought.

    Raises:
        InfeasibleError: nothing fits or keeps the promise, with the limit that binds.
    """
    assumptions: list[str] = []
    if slo is None or not slo.targets:
        slo = DEFAULT_SLO
        words = ", ".join(target_name(target) for target in slo.targets)
        assumptions.append(f"SLO {words}; state yours with --ttft-p99 and --tpot-p99")
    traffic = load_workload(
        workload.text,
        seed=seed,
        rate_per_s=workload.rate_per_s,
        num_requests=workload.num_requests,
        num_in_flight=workload.num_in_flight,
    )
    must_carry = workload.rate_per_s is not None or Path(workload.text).is_file()
    if not must_carry:
        assumptions.append(
            f"only the shape of {workload.text} counts and the highest rate is sought; "
            "add --rate to state a load"
        )
    options = options or SpaceOptions()
    spec = with_streams(load_model(model), options.streams)
    question = Question(
        model=spec,
        model_name=model,
        fleet=parse_fleet(on),
        workload=traffic,
        slo=slo,
        objective=objective,
        must_carry=must_carry,
        options=options,
        seed=seed,
    )
    show: Callable[[int, int, str], None] = progress or (lambda done, total, best: None)
    found = search(question, jobs=jobs, backend="ray" if ray else "processes", progress=show)
    refused = refused_fraction(question)
    if refused:
        assumptions.append(f"{refused:.2%} of the requests are longer than the context and refused")
    assumptions += [*spec.assumptions, *traffic.notes]
    return PlanAnswer(
        question=question, found=found, workload=workload, assumptions=tuple(assumptions)
    )


def _where(one: Tried) -> str:
    return "apart" if isinstance(one.on.router, DisaggRouter) else "together"


def _changed(one: Tried) -> str:
    return "misses the promise" if one.change is None else f"{one.change:+.0%}"


def _number(
    name: str, value: float | None, unit: str, origin: Origin, note: str
) -> KeyNumber | None:
    if value is None:
        return None
    return KeyNumber(name=name, number=Number(value=value, unit=unit, origin=origin), note=note)
