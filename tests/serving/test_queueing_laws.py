"""The simulator against queueing theory, where theory is exact."""

import numpy as np
import pytest

from plimsoll.cost.clock import LinearClock
from plimsoll.cost.queueing import md1_wait_s, mm1_wait_s
from plimsoll.serving.executors.simulated import InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies import PrefillFirstPolicy
from plimsoll.serving.routers import RoundRobinPolicy
from plimsoll.spec.workload import Workload

N = 150_000


def mean_wait(service_tokens: np.ndarray, rate: float, token_s: float) -> float:
    rng = np.random.default_rng(7)
    n = len(service_tokens)
    workload = Workload(
        name="queue",
        arrival_s=np.cumsum(rng.exponential(1 / rate, n)),
        prompt_tokens=service_tokens,
        output_tokens=np.ones(n, dtype=np.int64),
    )
    spec = InstanceSpec(
        clock=LinearClock(token_s=token_s),
        policy=PrefillFirstPolicy(max_batched_tokens=1),
        num_blocks=10**7,
        max_num_seqs=1,
    )
    record = SimulatedExecutor([spec], RoundRobinPolicy()).run(workload)
    r = record.requests
    assert (r.status == 0).all()
    return float(np.mean(r.scheduled_s - r.arrival_s))


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.8])
def test_md1(rho):
    service_s = 0.1
    wait = mean_wait(np.full(N, 1000), rho / service_s, service_s / 1000)
    assert wait == pytest.approx(md1_wait_s(rho / service_s, service_s), rel=0.03)


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.8])
def test_mm1(rho):
    rng = np.random.default_rng(11)
    tokens = np.maximum(1, np.round(rng.exponential(100_000, 2 * N))).astype(np.int64)
    service_s = 0.1
    wait = mean_wait(tokens, rho / service_s, service_s / 100_000)
    assert wait == pytest.approx(mm1_wait_s(rho / service_s, service_s), rel=0.03)
