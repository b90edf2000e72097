"""The leaders of a search under other policies: what is taken, what is left, and why."""

from dataclasses import dataclass

import pytest

from plimsoll.planning.policy_variants import POLICY_NAMES
from plimsoll.planning.question import Effort, Question
from plimsoll.planning.search import search
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.model_files import load_model
from plimsoll.spec.plan import DisaggRouter, ServingPlan
from plimsoll.spec.slo import Slo, SloTarget
from plimsoll.spec.workload_files import load_workload
from tests.toy_world import FLEET, ToyJudge, ToyPhysics, dense_model, slo, small_options, steady

QUICK = Effort(num_candidates=4, round_requests=(400, 1500), round_probes=(4, 12))


@dataclass(frozen=True, kw_only=True)
class PolicyJudge(ToyJudge):
    """What a plan holds also depends on its router and on whether steps are formed ahead."""

    gains: tuple[tuple[str, float], ...] = ()

    def capacity_per_s(self, plan: ServingPlan) -> float:
        held = super().capacity_per_s(plan)
        gains = dict(self.gains)
        held *= gains.get(plan.router.kind, 1.0)
        if any(getattr(pool.policy, "ahead", False) for pool in plan.pools):
            held *= gains.get("ahead", 1.0)
        return held


def answer(names=POLICY_NAMES, *, jobs=1, modes=("aggregated",), any_engine=True, **gains):
    asked = Question(
        model=dense_model(),
        model_name="toy",
        fleet=FLEET,
        workload=steady(1.0, 400),
        slo=slo(),
        options=small_options(modes=modes, varied=names, any_engine=any_engine),
        must_carry=False,
        effort=QUICK,
    )
    judge = PolicyJudge(gains=tuple((k.replace("_", "-"), v) for k, v in gains.items()))
    return search(asked, physics=ToyPhysics(), judge=judge, jobs=jobs)


def test_a_router_that_carries_more_is_chosen_and_one_that_carries_less_is_not():
    found = answer(freeness=1.3, round_robin=0.8)
    assert found.chosen.plan.router.kind == "freeness"
    changes = {one.policies: one.change for one in found.policies}
    assert changes["freeness"] == pytest.approx(0.3, abs=0.04)
    assert changes["round-robin"] == pytest.approx(-0.2, abs=0.04)


def test_without_a_gain_the_plan_stays_as_it_was():
    found, plain = answer(freeness=1.03), answer(())
    assert found.chosen.plan == plain.chosen.plan
    assert plain.policies == ()


def test_a_step_policy_and_a_router_that_both_help_are_taken_together():
    found = answer(freeness=1.3, ahead=1.2)
    best = found.chosen.plan
    assert best.router.kind == "freeness"
    assert all(pool.policy.ahead for pool in best.pools)


def test_what_the_engine_lacks_is_simulated_but_chosen_only_by_name():
    held = answer(freeness=1.3, any_engine=False)
    assert held.chosen.plan.router.kind == "least-work"
    lacking = {one.policies: one.why_not for one in held.policies if one.change is not None}
    assert "does not move running requests" in lacking["freeness"]
    named = answer(("freeness",), freeness=1.3)
    assert named.chosen.plan.router.kind == "freeness"
    assert any("does not move running requests" in note for note in named.notes)


def test_leaders_of_both_modes_are_varied_and_routers_are_refused_where_kv_is_handed_over():
    found = answer(modes=("aggregated", "disaggregated"))
    modes = {isinstance(one.on.router, DisaggRouter) for one in found.policies}
    assert modes == {True, False}
    apart = {o.policies: o.why_not for o in found.policies if isinstance(o.on.router, DisaggRouter)}
    assert "the router hands over" in apart["freeness"]


def test_the_same_at_any_number_of_jobs():
    assert answer(jobs=2, freeness=1.3) == answer(jobs=1, freeness=1.3)


def _shares(ttft_s, tpot_s, percentile):
    return Slo(
        targets=(
            SloTarget(metric="ttft", percentile=percentile, bound_s=ttft_s),
            SloTarget(metric="tpot", percentile=percentile, bound_s=tpot_s),
        )
    )


def _real(model, workload, promise, modes=("aggregated", "disaggregated")):
    options = small_options(modes=modes, budgets=(512, 2048), max_num_seqs=(64, 256))
    asked = Question(
        model=load_model(model),
        model_name=model,
        fleet=parse_fleet("4xA100-80G"),
        workload=load_workload(workload, seed=0),
        slo=promise,
        must_carry=False,
        options=options,
    )
    return search(asked, jobs=2).chosen


@pytest.mark.slow
def test_short_single_turns_stay_together_and_long_prompts_with_tight_tokens_go_apart():
    """156/326 tokens, 500 and 100 ms, as DistServe's single turns: a split leaves a side idle."""
    turns = ("llama-2-13b", "156/326", _shares(0.5, 0.1, 90))
    together, split = _real(*turns), _real(*turns, modes=("disaggregated",))
    assert not isinstance(together.plan.router, DisaggRouter)
    assert split.score < together.score
    chat = ("llama-3.1-8b", "chat", _shares(2.0, 0.05, 99))
    apart, whole = _real(*chat), _real(*chat, modes=("aggregated",))
    assert isinstance(apart.plan.router, DisaggRouter)
    assert whole.score < apart.score
