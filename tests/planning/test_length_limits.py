"""Requests that no plan can serve are told before anything is searched."""

from dataclasses import replace

import numpy as np
import pytest

from plimsoll.planning.length_limits import longest_served, refused_fraction
from plimsoll.planning.question import Question
from plimsoll.planning.search import rank, search
from plimsoll.spec.errors import InfeasibleError
from tests.toy_world import FLEET, ToyPhysics, dense_model, slo, small_options, steady


def asked(num_long: int) -> Question:
    """100 requests to a model of 8,192 tokens, SLO at p95; some prompts have 9,000 tokens."""
    workload = steady(1.0, 100)
    prompts = workload.prompt_tokens.copy()
    prompts[:num_long] = 9000
    return Question(
        model=dense_model(),
        model_name="toy",
        fleet=FLEET,
        workload=replace(workload, prompt_tokens=prompts),
        slo=slo(percentile=95.0),
        must_carry=False,
        options=small_options(),
    )


def test_more_refusals_than_the_slo_forgives_are_infeasible():
    assert refused_fraction(asked(6)) == pytest.approx(0.06)
    with pytest.raises(InfeasibleError, match=r"6\.0% of the requests.*5\.0%") as caught:
        rank(asked(6), physics=ToyPhysics())
    assert caught.value.binding == "context length"
    assert "a context of at least 9,001 tokens" in caught.value.change


def test_as_many_as_the_slo_forgives_are_planned_for_and_cut():
    question = asked(5)
    ranking, _, demand = rank(question, physics=ToyPhysics())
    assert ranking.estimates
    assert longest_served(question) == demand.longest_tokens == 8192


def test_the_stated_longest_request_counts_as_the_context():
    question = asked(0)
    short = replace(question, options=small_options(max_model_len=300))
    assert refused_fraction(short) == np.mean(question.workload.prompt_tokens >= 300)
    with pytest.raises(InfeasibleError, match="300 tokens of max_model_len"):
        rank(short, physics=ToyPhysics())


@pytest.mark.parametrize(
    ("limit", "binding"),
    [({"usd_per_hour": 0.01}, "money"), ({"power_w": 10.0}, "power")],
)
def test_a_limit_below_one_device_is_named(limit, binding):
    with pytest.raises(InfeasibleError, match="allows no device") as caught:
        search(replace(asked(0), options=small_options(**limit)), physics=ToyPhysics())
    assert caught.value.binding == binding and "at least" in caught.value.change
