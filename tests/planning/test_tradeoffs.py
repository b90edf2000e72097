"""What a runner-up gives up and gains, in words that a reader can check against the table."""

import pytest

from plimsoll.planning.goodput import Goodput
from plimsoll.planning.tradeoffs import trade_words
from plimsoll.spec.plan import Pool, ServingPlan


def plan(replicas: int) -> ServingPlan:
    pools = (Pool(device="L40S", replicas=replicas),)
    return ServingPlan(model="llama-3.1-8b", fleet="8xL40S", pools=pools)


def found(rate_per_s: float, num_devices: int) -> Goodput:
    return Goodput(
        rate_per_s=rate_per_s,
        ceiling_per_s=rate_per_s * 1.02,
        rate_per_s_per_device=rate_per_s / num_devices,
        limit="",
        num_runs=1,
        duration_s=1.0,
        verdict=None,
    )


@pytest.mark.parametrize(
    ("size", "rate_per_s", "words"),
    [
        (4, 13.72, "1 GPU more, carries 37% more in all and 3% more per GPU"),
        (4, 13.07, "1 GPU more, carries 31% more in all and 2% less per GPU"),
        (1, 3.333, "2 GPUs fewer, carries 67% less in all and as much per GPU"),
        (6, 20.0, "3 GPUs more, carries 2.0 times as much in all and as much per GPU"),
        (3, 10.2, "carries as much"),
        (3, 9.0, "carries 10% less"),
        (4, 0.0, "1 GPU more, carries nothing within the SLO"),
    ],
)
def test_rates_are_compared_in_all_and_per_gpu(size: int, rate_per_s: float, words: str) -> None:
    told = trade_words(plan(size), found(rate_per_s, size), None, plan(3), found(10.0, 3), None)
    assert told == words


def test_nothing_is_said_of_a_rate_that_the_chosen_plan_never_held() -> None:
    told = trade_words(plan(3), found(9.0, 3), None, plan(3), found(0.0, 3), None)
    assert told == "much the same"
