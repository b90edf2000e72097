"""Near the edge of what a promise allows, simulations find what closed forms give up on."""

from dataclasses import replace

import numpy as np
import pytest

from plimsoll.planning.edge import edge_estimates, near_edge
from plimsoll.planning.goodput import sustained_rate
from plimsoll.planning.judging import SimulatorJudge
from plimsoll.planning.offered_load import take_rows
from plimsoll.planning.plan_space import SpaceOptions, runnable
from plimsoll.planning.question import Effort, Question
from plimsoll.planning.search import rank, search
from plimsoll.spec.errors import InfeasibleError
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.model_files import load_model
from plimsoll.spec.plan import ChunkedPrefill, Parallel, Pool, ServingPlan
from plimsoll.spec.slo import Slo, SloTarget
from plimsoll.spec.transforms import with_rate
from plimsoll.spec.workload_files import load_workload


def tight() -> Question:
    """The longest prompts take 1.5 s of the 2 s that the first token may take."""
    targets = (
        SloTarget(metric="ttft", percentile=99, bound_s=2.0),
        SloTarget(metric="tpot", percentile=99, bound_s=0.1),
    )
    return Question(
        model=load_model("llama-3.1-70b"),
        model_name="llama-3.1-70b",
        fleet=parse_fleet("8xA100-80"),
        workload=load_workload("code", seed=0),
        slo=Slo(targets=targets),
        must_carry=False,
        options=SpaceOptions(budgets=(512, 8192), max_num_seqs=(8, 32)),
        effort=Effort(num_candidates=6, round_requests=(300, 1000), round_probes=(3, 3)),
    )


def test_plain_tensor_parallelism_does_not_beat_the_answer():
    question = tight()
    pool = Pool(
        device="A100-SXM-80",
        parallel=Parallel(tp=8),
        policy=ChunkedPrefill(token_budget=512),
        max_num_seqs=32,
    )
    plain = ServingPlan(model="llama-3.1-70b", fleet="8xA100-80", pools=(pool,), slo=question.slo)
    judge = SimulatorJudge(model=question.model, fleet=question.fleet)
    found = search(question).chosen.goodput
    assert found is not None and found.rate_per_s > 0
    simple = sustained_rate(
        judge, plain, question.workload, guess_per_s=0.05, duration_s=found.duration_s, max_runs=6
    )
    assert found.rate_per_s_per_device >= 0.8 * simple.rate_per_s_per_device


def test_what_is_added_is_new_and_within_what_full_batches_carry():
    question = tight()
    ranking, _, demand = rank(question)
    options = runnable(question.options, question.model)
    added = edge_estimates(ranking, options, demand, 20)
    ideas = [
        [(p.parallel, p.policy, p.replicas) for p in e.candidate.pools]
        for e in (*ranking.estimates, *added)
    ]
    new = ideas[len(ranking.estimates) :]
    assert new and all(ideas.count(idea) == 1 for idea in new)
    loaded = edge_estimates(ranking, options, replace(demand, load_per_s=0.2), 20)
    assert loaded and all(e.rate_per_s >= 0.2 for e in loaded)
    assert edge_estimates(ranking, options, replace(demand, load_per_s=1e3), 20) == []
    assert edge_estimates(ranking, options, demand, 0) == []


def test_a_load_that_the_closed_forms_give_up_on_is_carried_if_a_simulation_carries_it():
    question = tight()
    first, token = question.slo.targets
    few = take_rows(question.workload, np.arange(500))
    gaps = np.random.default_rng(0).exponential(1.0, 500)
    asked = replace(
        question,
        slo=Slo(targets=(replace(first, bound_s=1.6), token)),
        workload=with_rate(few.with_changes(arrival_s=np.cumsum(gaps)), 0.5),
        must_carry=True,
        options=SpaceOptions(modes=("aggregated",), budgets=(512,), max_num_seqs=(32,)),
    )
    assert rank(asked)[0].estimates == ()
    chosen = search(asked).chosen
    assert chosen.keeps_slo and chosen.at_load is not None and chosen.at_load.slo_met
    with pytest.raises(InfeasibleError, match="carries 500 requests/s"):
        search(replace(asked, workload=with_rate(asked.workload, 500.0)))


def test_the_edge_is_told_from_the_open():
    question = tight()
    ranking, _, demand = rank(question)
    assert near_edge(ranking, demand)
    loose = tuple(replace(t, bound_s=10 * t.bound_s) for t in question.slo.targets)
    ranking, _, demand = rank(replace(question, slo=Slo(targets=loose)))
    assert not near_edge(ranking, demand)


def test_budgets_start_at_the_largest_whose_step_keeps_the_token_bound():
    """On this model and device 512 tokens take about 70 ms a step and 8,192 far above 100 ms."""
    question = tight()
    ranking, _, demand = rank(question)
    options = runnable(question.options, question.model)
    first = edge_estimates(ranking, options, demand, 1)[0].candidate.pools[0]
    assert first.parallel.tp == 8 and first.policy == ChunkedPrefill(token_budget=512)


def test_a_promise_that_one_request_breaks_is_still_infeasible():
    question = tight()
    targets = (SloTarget(metric="tpot", percentile=99, bound_s=0.005),)
    with pytest.raises(InfeasibleError, match="at any rate"):
        search(replace(question, slo=Slo(targets=targets)))
