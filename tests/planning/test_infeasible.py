"""What does not fit is said with the limit that binds, how near it was, and what would help."""

import re

import pytest

from plimsoll.planning.plan_space import SpaceOptions
from plimsoll.planning.question import Effort, Question
from plimsoll.planning.search import search
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import InfeasibleError
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.model_files import load_model
from plimsoll.spec.units import parse_quantity
from tests.toy_world import slo, steady

QUICK = Effort(num_candidates=2, round_requests=(40,), round_probes=(2,), num_runners_up=1)


def question(model, fleet, **changes):
    settings = {
        "model": load_model(model),
        "model_name": model,
        "fleet": parse_fleet(fleet),
        "workload": steady(0.5, 200),
        "slo": slo(5.0, 0.2),
        "must_carry": False,
        "effort": QUICK,
    }
    return Question(**{**settings, **changes})


def test_405b_in_bf16_on_eight_80_gb_devices_is_short_by_stated_bytes():
    """811 GB of weights (405.9 B parameters, arXiv 2407.21783) against 8 x 80 GB."""
    with pytest.raises(InfeasibleError, match=r"llama-3.1-405b does not fit.*GiB too much") as it:
        search(question("llama-3.1-405b", "8xH100-SXM"))
    assert it.value.binding == "device memory"
    assert "8 x H100-SXM" in it.value.nearest and "GiB" in it.value.nearest
    assert "fp8 weights" in it.value.change
    assert "16 devices instead of 8" in it.value.change


@pytest.mark.parametrize("fleet", ["16xH100-SXM", "8xH100-SXM"])
def test_the_proposed_change_does_make_it_fit(fleet):
    options = SpaceOptions(weight_dtypes=(DType.FP8,) if fleet.startswith("8") else (None,))
    answer = search(question("llama-3.1-405b", fleet, options=options))
    assert answer.chosen.keeps_slo


def test_a_longest_request_without_room_says_how_long_it_may_be():
    workload = steady(0.5, 200)
    longest = workload.with_changes(prompt_tokens=workload.prompt_tokens + 120_000)
    with pytest.raises(InfeasibleError, match="longest request") as caught:
        search(question("llama-3.1-8b", "1xL4", workload=longest))
    assert "requests of at most" in caught.value.change


def test_an_overload_names_the_most_that_can_be_carried_and_more_devices():
    asked = question("llama-3.1-8b", "1xL4", workload=steady(80.0, 200), must_carry=True)
    with pytest.raises(InfeasibleError, match="no plan on 1xL4 carries") as caught:
        search(asked)
    assert "devices instead of 1" in caught.value.change
    assert "requests/s" in caught.value.nearest


def test_limits_the_user_set_are_named_when_they_bind():
    options = SpaceOptions(max_devices=2)
    asked = question("llama-3.1-405b", "16xH100-SXM", options=options)
    with pytest.raises(InfeasibleError) as caught:
        search(asked)
    assert "without the limit on devices" in caught.value.change


def test_a_node_that_is_alone_is_filled_before_others_are_added():
    """Two nodes of one device each would have to pipeline over the network."""
    with pytest.raises(InfeasibleError, match="does not fit") as caught:
        search(question("llama-3.1-70b", "2xL4+1xH100-SXM", slo=slo(1.0, 0.05)))
    assert "2 x H100-SXM, more than there are in 2xL4+1xH100-SXM" in caught.value.change


def test_a_fleet_cut_short_by_a_limit_is_not_blamed_itself():
    options = SpaceOptions(power_w=700.0)
    with pytest.raises(InfeasibleError, match="does not fit on 8xH100-SXM within 700 W"):
        search(question("llama-3.1-70b", "8xH100-SXM", options=options))


def test_a_prompt_longer_than_the_first_token_bound_names_that_bound_and_what_it_needs():
    """Far beyond ten times, where loosening all bounds together stops."""
    asked = question("llama-3.1-8b", "1xL4", slo=slo(0.001, 0.2))
    with pytest.raises(InfeasibleError, match="one prompt alone exceeds the TTFT") as caught:
        search(asked)
    error = caught.value
    assert "to the first token of a prompt alone, against TTFT" in error.nearest
    proposed = re.search(r"a TTFT p\d+ bound of (\d\S* \S+) instead of 1 ms", error.change)
    assert proposed is not None and "TPOT" not in error.change
    bound_s = parse_quantity(proposed[1].rstrip(","), "time", where="change")
    assert search(question("llama-3.1-8b", "1xL4", slo=slo(1.01 * bound_s, 0.2))).chosen.keeps_slo
