"""The search finds what brute force finds, the same at any number of jobs, and survives Ctrl-C."""

import itertools

import pytest

from plimsoll.planning.frontier import ParetoPoint
from plimsoll.planning.goodput import sustained_rate
from plimsoll.planning.plan_space import enumerate_plans
from plimsoll.planning.question import Effort, Question
from plimsoll.planning.search import rank, search
from plimsoll.spec.errors import InfeasibleError
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.hardware import Fleet
from plimsoll.spec.model_files import load_model
from tests.toy_world import (
    FLEET,
    ToyJudge,
    ToyPhysics,
    dense_model,
    moe_model,
    slo,
    small_options,
    steady,
)

WIDE = Effort(num_candidates=10_000, round_requests=(400, 2000), round_probes=(12, 20))


def question(**changes):
    settings = {
        "model": dense_model(),
        "model_name": "toy",
        "fleet": FLEET,
        "workload": steady(1.0, 400),
        "slo": slo(),
        "options": small_options(),
        "must_carry": False,
    }
    return Question(**{**settings, **changes})


def toy_search(asked, **changes):
    return search(asked, physics=ToyPhysics(), judge=ToyJudge(), **changes)


@pytest.mark.parametrize("modes", [("aggregated",), ("aggregated", "disaggregated")])
def test_brute_force_over_a_small_space_finds_the_same(modes):
    """The judge ranks quite unlike the closed forms; with enough effort the judge decides."""
    options = small_options(modes=modes, budgets=(512,), max_num_seqs=(16,))
    asked = question(options=options, effort=WIDE)
    answer = toy_search(asked)
    judge = ToyJudge()
    plans = [
        c.plan("toy", FLEET.text, options, asked.slo)
        for c in enumerate_plans(asked.model, FLEET, options)
    ]
    best = max(judge.capacity_per_s(p) / p.num_devices for p in plans)
    chosen = answer.chosen.plan
    assert judge.capacity_per_s(chosen) / chosen.num_devices >= best * 0.97  # ties within 3 %
    assert answer.chosen.goodput is not None
    assert answer.chosen.goodput.rate_per_s == pytest.approx(judge.capacity_per_s(chosen), rel=0.03)


def test_closed_form_ranking_equals_brute_force_over_its_own_estimates():
    ranking, _, _ = rank(question(), physics=ToyPhysics())
    scores = [e.score for e in ranking.estimates]
    assert scores == pytest.approx(sorted(scores, reverse=True), rel=0.01)
    per_device = [e.rate_per_s / e.candidate.num_devices for e in ranking.estimates]
    assert ranking.estimates[0].rate_per_s_per_device == pytest.approx(max(per_device))


def test_answers_are_identical_at_any_number_of_jobs():
    one = toy_search(question(), jobs=1)
    two = toy_search(question(), jobs=2)
    assert one == two


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_ray_gives_the_same_answer_on_the_real_judge():
    pytest.importorskip("ray", reason="the extra 'cluster' is not installed")
    asked = question(
        model=load_model("llama-3.1-8b"),
        fleet=parse_fleet("2xL4"),
        effort=Effort(num_candidates=3, round_requests=(50,), round_probes=(2,)),
    )
    assert search(asked, jobs=2, backend="ray") == search(asked, jobs=1)


def test_real_judge_identical_at_any_number_of_jobs():
    asked = question(
        model=load_model("llama-3.1-8b"),
        fleet=parse_fleet("2xL4"),
        effort=Effort(num_candidates=4, round_requests=(80,), round_probes=(2,)),
    )
    assert search(asked, jobs=1) == search(asked, jobs=2)


def test_counts_add_up():
    answer = toy_search(question())
    counts = answer.counts
    assert counts.enumerated == len(list(enumerate_plans(dense_model(), FLEET, small_options())))
    assert counts.estimated + sum(counts.pruned.values()) == counts.enumerated
    assert 0 < counts.simulated <= counts.runs


def test_runners_up_say_what_they_trade():
    answer = toy_search(question())
    assert len(answer.runners_up) == 3
    plans = [answer.chosen.plan, *(c.plan for c in answer.runners_up)]
    assert all(a != b for a, b in itertools.combinations(plans, 2))
    assert answer.chosen.trade == ""
    assert all(c.trade for c in answer.runners_up)
    assert answer.binding == "TTFT p95"


def beats(a: ParetoPoint, b: ParetoPoint) -> bool:
    mine = a.tokens_per_s_per_user, a.tokens_per_s_per_device
    other = b.tokens_per_s_per_user, b.tokens_per_s_per_device
    return mine[0] >= other[0] and mine[1] >= other[1] and mine != other


def test_pareto_front_has_no_dominated_point_in_a_family():
    front = toy_search(question()).pareto
    assert {p.family for p in front} == {"aggregated", "disaggregated"}
    for family in {p.family for p in front}:
        members = [p for p in front if p.family == family]
        assert not any(beats(a, b) for a in members for b in members)


def test_more_devices_never_reduce_the_best_goodput():
    best = []
    for count in (1, 2, 4, 8):
        ranking, _, _ = rank(question(fleet=parse_fleet(f"{count}xH100-SXM")), physics=ToyPhysics())
        best.append(
            (
                ranking.estimates[0].rate_per_s_per_device,
                max(e.rate_per_s for e in ranking.estimates),
            )
        )
    assert best == sorted(best)
    totals = [total for _, total in best]
    assert totals == sorted(totals) and totals[-1] > totals[0]


def test_devices_in_another_order_give_the_same_plan():
    parts = parse_fleet("2xH100-SXM+2xL40S").parts
    answers = [
        toy_search(question(fleet=Fleet(parts=order, text="mixed")))
        for order in (parts, parts[::-1])
    ]
    assert answers[0].chosen.score == pytest.approx(answers[1].chosen.score)
    assert answers[0].counts.enumerated == answers[1].counts.enumerated


def test_a_load_must_be_carried_and_is_checked():
    asked = question(workload=steady(4.0, 400), must_carry=True)
    answer = toy_search(asked)
    assert ToyJudge().capacity_per_s(answer.chosen.plan) >= 0.99 * asked.workload.rate_per_s
    assert answer.chosen.keeps_slo
    light = toy_search(question(workload=steady(0.5, 400), must_carry=True, objective="size"))
    assert light.chosen.plan.num_devices <= answer.chosen.plan.num_devices


def test_an_impossible_load_is_an_answer_with_the_limit_and_a_change():
    asked = question(workload=steady(5000.0, 400), must_carry=True)
    with pytest.raises(InfeasibleError, match="carries 4.61e") as caught:
        toy_search(asked)
    assert caught.value.binding
    assert "requests/s" in caught.value.nearest


def test_an_slo_below_one_request_alone_is_infeasible_at_any_rate():
    with pytest.raises(InfeasibleError, match="at any rate") as caught:
        toy_search(question(slo=slo(tpot_s=0.004)))
    assert "a TPOT p95 bound of" in caught.value.change and "instead of 4 ms" in caught.value.change
    assert "token" in caught.value.nearest


class _InterruptAfter:
    def __init__(self, runs):
        self.left = runs
        self.judge = ToyJudge()

    def __call__(self, plan, workload):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.judge(plan, workload)


def test_an_interrupt_returns_the_best_so_far():
    answer = search(question(), physics=ToyPhysics(), judge=_InterruptAfter(20))
    assert answer.partial
    assert answer.chosen.goodput is not None and answer.chosen.goodput.rate_per_s > 0
    whole = toy_search(question())
    assert not whole.partial
    assert answer.counts.runs < whole.counts.runs


def test_an_interrupt_before_anything_is_known_is_passed_on():
    with pytest.raises(KeyboardInterrupt):
        search(question(), physics=ToyPhysics(), judge=_InterruptAfter(0))


def test_progress_is_told_and_ends_at_the_total():
    seen = []
    toy_search(question(), progress=lambda done, total, best: seen.append((done, total, best)))
    assert [done for done, _, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][0] <= seen[-1][1]
    assert "req/s" in seen[-1][2]


@pytest.mark.parametrize("objective", ["goodput", "cost", "energy", "size"])
def test_every_objective_gives_a_plan_within_the_slo(objective):
    answer = toy_search(question(objective=objective))
    assert answer.chosen.score > float("-inf")


def test_latency_prefers_more_devices_to_a_replica():
    asked = question(objective="latency", effort=Effort(round_requests=(60,), round_probes=(1,)))
    ranking, _, _ = rank(asked, physics=ToyPhysics())
    first = ranking.estimates[0].candidate
    assert first.pools[-1].parallel.num_devices == 4


def test_a_closed_loop_is_judged_by_a_run():
    asked = question(workload=steady(1.0, 200).with_changes(num_in_flight=8))
    answer = search(asked, physics=ToyPhysics(), judge=_ClosedJudge())
    assert answer.chosen.goodput is None
    assert answer.chosen.keeps_slo


class _ClosedJudge(ToyJudge):
    def __call__(self, plan, workload):
        assert workload.num_in_flight == 8
        capacity = self.capacity_per_s(plan)
        return super().__call__(plan, steady(capacity * 0.9, 200))


def test_mixture_of_experts_space_is_searched():
    answer = toy_search(question(model=moe_model()))
    assert answer.counts.enumerated > toy_search(question()).counts.enumerated


def test_sustained_rate_of_the_choice_is_what_goodput_finds():
    asked = question()
    answer = toy_search(asked)
    again = sustained_rate(
        ToyJudge(), answer.chosen.plan, asked.workload, guess_per_s=1.0, duration_s=300.0
    )
    assert answer.chosen.goodput is not None
    assert again.rate_per_s == pytest.approx(answer.chosen.goodput.rate_per_s, rel=0.05)
