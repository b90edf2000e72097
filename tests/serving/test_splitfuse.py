"""Dynamic SplitFuse: composition of passes, exhausted memory, bad input, clients that leave."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.serving.policies import SplitFusePolicy
from plimsoll.serving.simulate.run import simulate_plan
from plimsoll.spec.errors import SpecError
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.model_files import load_model
from plimsoll.spec.plan import Pool, ServingPlan, SplitFuse
from plimsoll.spec.workload import Workload
from tests.serving.clusters import executor, poisson

SPLITFUSE = SplitFusePolicy(token_budget=512)


def at_once(prompts, outputs, **columns):
    return Workload(
        name="at once",
        arrival_s=np.zeros(len(prompts)),
        prompt_tokens=np.array(prompts),
        output_tokens=np.array(outputs),
        max_tokens=np.array(outputs),
        **columns,
    )


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10_000),
    budget=st.sampled_from([64, 200, 512, 4096]),
    prompt=st.integers(1, 3000),
)
def test_every_pass_but_the_last_holds_the_budget(seed, budget, prompt):
    rng = np.random.default_rng(seed)
    n = 40
    prompts = rng.integers(1, prompt + 1, n)
    prompts[0] = budget  # it starts alone: the others come at the same time, but after it
    load = at_once(prompts, rng.integers(1, 80, n))
    policy = SplitFusePolicy(token_budget=budget)
    run = executor(policy, replicas=1, num_blocks=20_000).run(load)
    steps = run.steps
    left = load.prompt_tokens.sum() - np.cumsum(steps.prefill_tokens)
    tokens = steps.prefill_tokens + steps.num_decodes
    assert (tokens[left > 0] == budget).all()
    assert tokens.max() <= budget


def test_a_cut_prompt_goes_on_before_those_behind_it():
    run = executor(SPLITFUSE, replicas=1).run(at_once([1300, 200, 200], [1, 1, 1]))
    first = run.requests.first_token_s
    assert first[0] <= first[1] <= first[2]
    assert run.steps.prefill_tokens.tolist() == [512, 512, 512, 164]


def test_only_the_last_chunk_samples():
    run = executor(SPLITFUSE, replicas=1).run(at_once([1300], [3]))
    assert run.requests.output_tokens.tolist() == [3]
    assert run.steps.num_decodes.tolist()[:3] == [0, 0, 0]


def test_a_prompt_that_would_not_fit_whole_waits_while_decodes_go_on():
    """The guard looks at the whole prompt, and never holds decodes back."""
    load = at_once([600, 900], [300, 2])
    run = executor(SPLITFUSE, replicas=1, num_blocks=80).run(load)  # 1280 tokens
    requests = run.requests
    assert (requests.status == 0).all()
    assert requests.scheduled_s[1] >= requests.finished_s[0]
    assert requests.preemptions.sum() == 0
    assert requests.max_gap_s[0] < 2 * run.steps.step_s.min() + 0.06


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), num_blocks=st.integers(90, 300))
def test_exhausted_memory_recomputes_and_everyone_finishes(seed, num_blocks):
    load = poisson(40, rate=20, seed=seed, prompt=600, output=700)
    run = executor(SPLITFUSE, replicas=1, num_blocks=num_blocks, check_books=True).run(load)
    assert (run.requests.status == 0).all()
    assert np.array_equal(run.requests.output_tokens, load.output_tokens)
    again = run.steps.prefill_tokens.sum() - load.prompt_tokens.sum()
    assert (again > 0) == (run.requests.preemptions.sum() > 0)


def test_longer_than_the_pool_is_refused_at_once_with_the_limit():
    run = executor(SPLITFUSE, replicas=1, num_blocks=50).run(at_once([2000, 100], [5, 5]))
    assert run.requests.status.tolist() == [2, 0]
    assert run.meta["rejected"] == {"longer than the KV pool of 800 tokens": 1}


def test_longer_than_the_model_is_refused_at_once_with_the_limit():
    run = executor(SPLITFUSE, replicas=1, max_model_len=512).run(at_once([2000, 100], [5, 5]))
    assert run.requests.status.tolist() == [2, 0]
    assert run.meta["rejected"] == {"longer than the 512-token limit": 1}


@pytest.mark.parametrize(("prompts", "outputs"), [([0], [5]), ([5], [0])])
def test_empty_prompt_and_no_output_are_refused(prompts, outputs):
    with pytest.raises(SpecError, match="both must be at least 1"):
        at_once(prompts, outputs)


def test_budget_below_the_running_decodes_is_an_error_of_the_plan():
    pool = Pool(device="H100-SXM", policy=SplitFuse(token_budget=128), max_num_seqs=256)
    plan = ServingPlan(model="llama-3.1-8b", fleet="1xH100-SXM", pools=(pool,))
    model, fleet = load_model(plan.model), parse_fleet(plan.fleet)
    with pytest.raises(SpecError, match="token budget 128 is below max_num_seqs 256"):
        simulate_plan(plan, model, fleet, at_once([5], [5]))


def test_a_client_that_leaves_mid_prompt_frees_its_chunks():
    load = at_once([6000, 700], [5, 5], cancel_after_s=np.array([0.15, np.inf]))
    run = executor(SPLITFUSE, replicas=1, num_blocks=400, check_books=True).run(load)
    assert run.requests.status.tolist() == [1, 0]
    assert run.requests.output_tokens.tolist() == [0, 5]
    assert run.steps.prefill_tokens.sum() < 6700
    assert run.steps.used_blocks[-1] <= -(-705 // 16)
