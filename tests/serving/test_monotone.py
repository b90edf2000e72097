"""More load waits longer; a faster clock is never later."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.serving.executors.simulated import InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies import PrefillFirstPolicy
from plimsoll.serving.routers import LeastWorkPolicy, RoundRobinPolicy
from tests.serving.clusters import CLOCK, POLICIES, disagg, executor, poisson


@pytest.mark.parametrize("name", POLICIES)
def test_mean_ttft_rises_with_load(name):
    rates = (1.0, 2.0, 4.0, 8.0, 16.0)
    means = [
        np.mean(
            [
                np.mean(executor(POLICIES[name]).run(poisson(300, rate=r, seed=s)).requests.ttft_s)
                for s in range(4)
            ]
        )
        for r in rates
    ]
    assert np.all(np.diff(means) > 0), means


def faster(factor):
    names = ("step_base_s", "token_s", "decode_s", "context_s", "swap_token_s")
    return replace(CLOCK, **{name: getattr(CLOCK, name) / factor for name in names})


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), rate=st.floats(0.5, 20), factor=st.floats(1.01, 4))
def test_one_at_a_time_a_faster_clock_is_never_later(seed, rate, factor):
    """First come, first served, one request at a time: every end moves forward."""
    workload = poisson(60, rate=rate, seed=seed)

    def ends(clock):
        spec = InstanceSpec(
            policy=PrefillFirstPolicy(), clock=clock, num_blocks=500, max_num_seqs=1
        )
        record = SimulatedExecutor([spec], RoundRobinPolicy()).run(workload)
        return record.requests.first_token_s, record.requests.finished_s

    for slow, fast in zip(ends(CLOCK), ends(faster(factor)), strict=True):
        assert (fast <= slow + 1e-9).all()


@pytest.mark.parametrize("name", POLICIES)
def test_batched_a_faster_clock_is_earlier_on_average(name):
    """In a batch single requests may lose (another batch forms); the mean may not."""
    for seed in range(5):
        workload = poisson(150, rate=6, seed=seed)
        slow, fast = (
            executor(POLICIES[name], clock=clock).run(workload).requests
            for clock in (CLOCK, faster(1.5))
        )
        assert fast.e2e_s.mean() < slow.e2e_s.mean()
        assert fast.ttft_s.mean() < slow.ttft_s.mean()


def test_faster_links_hand_over_earlier():
    workload = poisson(100, rate=4, seed=1)
    slow, fast = (
        disagg(prefills=2, decodes=2, token_s=token_s).run(workload).requests
        for token_s in (4e-4, 1e-4)
    )
    assert fast.e2e_s.mean() < slow.e2e_s.mean()
    assert fast.first_token_s == pytest.approx(slow.first_token_s), "the prompt side is the same"


def test_least_work_balances_better_than_turns():
    """Unequal requests: taking turns queues some behind the long ones."""
    rng = np.random.default_rng(3)
    for seed in range(3):
        workload = poisson(400, rate=9, seed=seed)
        prompts = np.where(rng.random(400) < 0.1, 6000, 200)
        workload = workload.with_changes(prompt_tokens=prompts)
        spec = InstanceSpec(policy=POLICIES["prefill-first"], clock=CLOCK, num_blocks=5000)
        turns, least = (
            SimulatedExecutor([spec] * 4, router).run(workload).requests
            for router in (RoundRobinPolicy(), LeastWorkPolicy())
        )
        assert np.bincount(turns.instance).tolist() == [100] * 4
        assert np.bincount(least.instance, weights=prompts).std() < (
            np.bincount(turns.instance, weights=prompts).std()
        )
        assert least.ttft_s.mean() < turns.ttft_s.mean()
