"""The simulator against queueing theory, where theory is exact.

Waits of a busy queue are correlated, so their mean converges slowly. Hence two links: every
simulated wait is that of the exact recursion for a single server, and the recursion over
millions of customers has the mean of the theory. One direct comparison joins them.
"""

import numpy as np
import pytest

from plimsoll.cost.clock import LinearClock
from plimsoll.cost.queueing import md1_wait_s, mm1_wait_s
from plimsoll.serving.executors.simulated import InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies import PrefillFirstPolicy
from plimsoll.serving.routers import RoundRobinPolicy
from plimsoll.spec.workload import Workload

N = 12_000
SERVICE_S = 0.1


def lindley_waits(gaps, services):
    """The exact wait of every customer of a single server: w' = max(0, w + s - gap)."""
    steps = np.concatenate([[0.0], services[:-1] - gaps[1:]])
    total = np.cumsum(steps)
    return total - np.minimum.accumulate(np.minimum(total, 0.0))


def simulated_waits(gaps, tokens, token_s):
    workload = Workload(
        name="queue",
        arrival_s=np.cumsum(gaps),
        prompt_tokens=tokens,
        output_tokens=np.ones(len(tokens), dtype=np.int64),
    )
    spec = InstanceSpec(
        clock=LinearClock(token_s=token_s),
        policy=PrefillFirstPolicy(max_batched_tokens=1),
        num_blocks=10**7,
        max_num_seqs=1,
    )
    r = SimulatedExecutor([spec], RoundRobinPolicy()).run(workload).requests
    assert (r.status == 0).all()
    return r.scheduled_s - r.arrival_s


def draw(rho, seed, *, exponential, n=N):
    """Gaps, and service times in tokens of 1 us each."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(SERVICE_S / rho, n)
    tokens = np.full(n, round(SERVICE_S / 1e-6))
    if exponential:
        tokens = np.maximum(1, np.round(rng.exponential(SERVICE_S / 1e-6, n))).astype(np.int64)
    return gaps, tokens


@pytest.mark.parametrize("exponential", [False, True], ids=["md1", "mm1"])
@pytest.mark.parametrize("rho", [0.3, 0.6, 0.9])
def test_every_wait_is_that_of_the_recursion(rho, exponential):
    gaps, tokens = draw(rho, 7, exponential=exponential)
    waits = simulated_waits(gaps, tokens, 1e-6)
    assert waits == pytest.approx(lindley_waits(gaps, tokens * 1e-6), abs=1e-7)


@pytest.mark.parametrize(
    ("exponential", "theory"), [(False, md1_wait_s), (True, mm1_wait_s)], ids=["md1", "mm1"]
)
@pytest.mark.parametrize("rho", [0.3, 0.6, 0.8])
def test_the_recursion_has_the_mean_of_theory(rho, exponential, theory):
    gaps, tokens = draw(rho, 13, exponential=exponential, n=4_000_000)
    wait = lindley_waits(gaps, tokens * 1e-6).mean()
    assert wait == pytest.approx(theory(rho / SERVICE_S, SERVICE_S), rel=0.01)


@pytest.mark.parametrize(
    ("exponential", "theory"), [(False, md1_wait_s), (True, mm1_wait_s)], ids=["md1", "mm1"]
)
def test_the_simulator_alone_is_within_three_percent_of_theory(exponential, theory):
    gaps, tokens = draw(0.5, 1, exponential=exponential, n=60_000)
    wait = simulated_waits(gaps, tokens, 1e-6).mean()
    assert wait == pytest.approx(theory(0.5 / SERVICE_S, SERVICE_S), rel=0.03)
