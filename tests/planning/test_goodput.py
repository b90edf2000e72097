"""Bisection finds the rate that the judge allows, from any guess, and says what stops it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.planning.goodput import goodput, sustained_rate
from plimsoll.planning.judging import Verdict
from plimsoll.spec.errors import InfeasibleError, SpecError
from plimsoll.spec.plan import Parallel, Pool, ServingPlan
from tests.toy_world import ToyJudge, slo, steady

PLAN = ServingPlan(
    model="toy",
    fleet="2xH100-SXM",
    pools=(Pool(device="H100-SXM", parallel=Parallel(tp=2), max_num_seqs=64),),
)


@given(guess=st.floats(0.05, 400))
@settings(deadline=None, max_examples=40)
def test_the_answer_does_not_hang_on_the_guess(guess):
    judge = ToyJudge()
    found = sustained_rate(
        judge, PLAN, steady(), guess_per_s=guess, duration_s=60.0, tolerance=0.01
    )
    truth = judge.capacity_per_s(PLAN)
    assert found.rate_per_s <= truth * (1 + 1e-9)
    assert found.rate_per_s >= truth / 1.011 - 1 / 60  # whole requests in 60 s
    assert found.ceiling_per_s >= truth * (1 - 0.02)
    assert found.limit == "TTFT p95"
    assert found.rate_per_s_per_device == found.rate_per_s / 2


def test_goodput_of_a_plan():
    found = goodput(PLAN, steady(), slo(), judge=ToyJudge(), duration_s=200.0)
    assert found.rate_per_s == pytest.approx(ToyJudge().capacity_per_s(PLAN), rel=0.03)


def never(plan, workload):
    return Verdict(
        holds=False,
        missed="TPOT p99",
        shortfall=3.0,
        good_fraction=0.0,
        requests_per_s=1.0,
        output_tokens_per_s=1.0,
    )


def test_hopeless_is_said_at_once_not_found_as_zero():
    calls = []

    def count(plan, workload):
        calls.append(workload)
        return never(plan, workload)

    with pytest.raises(InfeasibleError, match="infeasible at any rate") as caught:
        goodput(PLAN, steady(), slo(), judge=count)
    assert caught.value.binding == "TPOT p99"
    assert "3 times looser" in caught.value.change
    assert len(calls) == 1


def test_closed_loops_and_bad_guesses_are_refused():
    with pytest.raises(SpecError, match="closed loop"):
        goodput(PLAN, steady().with_changes(num_in_flight=3), slo(), judge=ToyJudge())
    with pytest.raises(SpecError, match="positive"):
        sustained_rate(ToyJudge(), PLAN, steady(), guess_per_s=0.0, duration_s=1.0)
