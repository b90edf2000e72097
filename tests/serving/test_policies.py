"""What each step policy promises about the steps it forms."""

from itertools import pairwise

import numpy as np
import pytest

from plimsoll.serving.executors.simulated import InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies import (
    ChunkedPrefillPolicy,
    OrcaPolicy,
    PrefillFirstPolicy,
    SplitFusePolicy,
)
from plimsoll.serving.policy import Park, Resume, Step
from plimsoll.serving.routers import RoundRobinPolicy
from plimsoll.spec.workload import Workload
from tests.serving.clusters import CLOCK, poisson


def run(policy, workload, *, log=False, **spec):
    spec = {"clock": CLOCK, "num_blocks": 2000, "max_num_seqs": 64, "host_blocks": 2000} | spec
    executor = SimulatedExecutor(
        [InstanceSpec(policy=policy, **spec)],
        RoundRobinPolicy(),
        fast_forward=False,
        check_books=True,
        log_decisions=log,
    )
    record = executor.run(workload)
    return (record, executor.decisions) if log else record


@pytest.mark.parametrize("budget", [64, 200, 1000])
@pytest.mark.parametrize("max_partial", [1, 3])
def test_chunked_prefill_never_exceeds_its_budget(budget, max_partial):
    policy = ChunkedPrefillPolicy(token_budget=budget, max_partial_prefills=max_partial)
    for seed in range(4):
        s = run(policy, poisson(80, rate=30, seed=seed), num_blocks=300).steps
        assert (s.prefill_tokens + s.num_decodes <= budget).all()
        both = (s.prefill_tokens > 0) & (s.num_decodes > 0)
        assert both.any(), "prompts and decodes share steps"


def test_splitfuse_fills_every_pass_exactly_while_prompts_wait():
    s = run(SplitFusePolicy(token_budget=256), poisson(80, rate=1e6, seed=1)).steps
    tokens = s.prefill_tokens + s.num_decodes
    assert (tokens <= 256).all()
    last = np.flatnonzero(s.prefill_tokens > 0)[-1]
    full = s.num_waiting[:last] > 0
    assert (tokens[:last][full] == 256).mean() > 0.95
    assert (tokens == 256).sum() > 100


def test_prefill_first_never_mixes_prompts_and_decodes():
    for seed in range(4):
        s = run(PrefillFirstPolicy(max_batched_tokens=2048), poisson(80, rate=30, seed=seed)).steps
        assert ((s.prefill_tokens > 0) != (s.num_decodes > 0)).all()
        many = s.prefill_seqs > 1
        assert many.any() and (s.prefill_tokens[many] <= 2048).all()


@pytest.mark.parametrize("stages", [1, 3])
def test_orca_never_preempts_what_fits_its_reserve(stages):
    clock = type(CLOCK)(step_base_s=0.02, token_s=1e-4, num_stages=stages)
    for seed in range(4):
        workload = poisson(80, rate=40, seed=seed, prompt=400, output=300)
        record = run(OrcaPolicy(), workload, num_blocks=150, clock=clock)
        assert record.requests.preemptions.sum() == 0
        assert record.steps.num_waiting.max() > 10, "memory did bind"
        chunked = run(ChunkedPrefillPolicy(), workload, num_blocks=150, clock=clock)
        assert chunked.requests.preemptions.sum() > 0, "without the reserve it would have"


def test_orca_runs_whole_prompts():
    workload = poisson(60, rate=20, seed=3)
    _, decisions = run(OrcaPolicy(), workload, log=True)
    tokens = {
        r.request: r.num_tokens
        for *_, step in decisions
        if isinstance(step, Step)
        for r in step.runs
    }
    assert tokens == dict(enumerate(workload.prompt_tokens.tolist()))


def test_partial_prefills_share_the_budget_equally():
    workload = Workload(
        name="three",
        arrival_s=np.array([0.0, 0.01, 0.01, 0.01]),
        prompt_tokens=np.array([10, 1000, 1000, 1000]),
        output_tokens=np.array([1, 1, 1, 1]),
    )
    policy = ChunkedPrefillPolicy(token_budget=300, max_partial_prefills=3)
    _, decisions = run(policy, workload, log=True)
    shared = [
        {r.request: r.num_tokens for r in step.runs}
        for *_, step in decisions
        if isinstance(step, Step) and len(step.runs) == 3
    ]
    assert shared[:9] == [{1: 100, 2: 100, 3: 100}] * 9


def test_one_partial_prefill_at_a_time_keeps_the_order_of_arrival():
    r = run(ChunkedPrefillPolicy(token_budget=128), poisson(60, rate=50, seed=2)).requests
    assert (np.diff(r.first_token_s) >= 0).all()


@pytest.mark.parametrize("policy", [ChunkedPrefillPolicy(), PrefillFirstPolicy()])
def test_the_newest_is_put_aside_and_the_oldest_never(policy):
    workload = poisson(40, rate=100, seed=3, prompt=300, output=500)
    record, decisions = run(policy, workload, log=True, num_blocks=120)
    parks = [
        a.request
        for *_, s in decisions
        if isinstance(s, Step)
        for a in s.actions
        if isinstance(a, Park)
    ]
    assert len(parks) > 5 and 0 not in parks
    assert record.requests.preemptions[0] == 0


def test_swapped_requests_come_back_oldest_first():
    policy = PrefillFirstPolicy(preempt="swap")
    workload = poisson(40, rate=100, seed=3, prompt=300, output=500)
    _, decisions = run(policy, workload, log=True, num_blocks=120)
    parked: list[int] = []
    resumes = 0
    for *_, step in decisions:
        for action in step.actions if isinstance(step, Step) else ():
            if isinstance(action, Park):
                parked.append(action.request)
            elif isinstance(action, Resume):
                assert action.request == parked.pop(0)
                resumes += 1
    assert resumes > 5


def test_decodes_go_on_while_a_long_prompt_is_chunked_and_stop_while_it_runs_whole():
    workload = Workload(
        name="stall",
        arrival_s=np.array([0.0, 1.0]),
        prompt_tokens=np.array([10, 8000]),
        output_tokens=np.array([200, 1]),
    )
    worst = [
        run(policy, workload).requests.max_gap_s[0]
        for policy in (
            ChunkedPrefillPolicy(token_budget=256),
            ChunkedPrefillPolicy(token_budget=1024),
            PrefillFirstPolicy(),
        )
    ]
    assert all(a < b for a, b in pairwise(worst))
    assert worst[2] == pytest.approx(0.02 + 0.8 + 0.02, rel=0.01)
