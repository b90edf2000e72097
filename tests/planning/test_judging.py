"""Verdicts follow the summary, and giving up early never changes one."""

from dataclasses import replace

import pytest

from plimsoll.planning.judging import SimulatorJudge
from plimsoll.planning.offered_load import at_rate
from plimsoll.planning.question import Effort, Question
from plimsoll.planning.search import search
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.model_files import load_model
from plimsoll.spec.plan import Pool, ServingPlan
from plimsoll.spec.slo import Slo
from tests.toy_world import slo, steady

MODEL, FLEET = load_model("llama-3.1-8b"), parse_fleet("1xL4")
JUDGE = SimulatorJudge(model=MODEL, fleet=FLEET)


def plan(promise: Slo) -> ServingPlan:
    pool = Pool(device="L4", max_num_seqs=64)
    return ServingPlan(model="llama-3.1-8b", fleet="1xL4", pools=(pool,), slo=promise)


@pytest.mark.parametrize("rate", [0.5, 2.0, 4.0, 8.0, 16.0])
def test_a_hurried_judge_says_the_same(rate):
    offered = at_rate(steady(), rate, 120.0)
    whole = JUDGE(plan(slo()), offered)
    hurried = replace(JUDGE, hurried=True)(plan(slo()), offered)
    assert hurried.holds == whole.holds
    if whole.holds:
        assert hurried == whole


def test_overload_is_a_miss_even_without_targets():
    light = JUDGE(plan(Slo()), at_rate(steady(), 0.5, 200.0))
    heavy = JUDGE(plan(Slo()), at_rate(steady(), 30.0, 200.0))
    assert light.holds
    assert not heavy.holds and heavy.missed == "throughput"
    assert heavy.shortfall > 1


def test_the_joint_share_asks_for_all_bounds_at_once():
    offered = at_rate(steady(), 2.0, 120.0)
    fraction = JUDGE(plan(slo()), offered).good_fraction
    below = replace(JUDGE, joint_fraction=fraction - 0.01)(plan(slo()), offered)
    above = replace(JUDGE, joint_fraction=min(1.0, fraction + 0.01))(plan(slo()), offered)
    assert below.holds
    assert above.holds == (fraction == 1.0)


def test_a_real_search_carries_its_load_with_simulated_percentiles_inside_the_slo():
    asked = Question(
        model=MODEL,
        model_name="llama-3.1-8b",
        fleet=parse_fleet("4xL4"),
        workload=steady(2.0, 600),
        slo=slo(2.0, 0.12),
        effort=Effort(num_candidates=3, round_requests=(150,), round_probes=(3,)),
    )
    answer = search(asked)
    summary = answer.chosen.at_load
    assert summary is not None and summary.slo_met
    assert all(target.met for target in summary.targets)
    assert summary.status.finished == 600
    assert answer.chosen.goodput is not None
    assert answer.chosen.goodput.rate_per_s >= 0.99 * asked.workload.rate_per_s
