"""The smallest and the cheapest hardware for a load, verified by serving the load."""

import pytest

from plimsoll.planning.plan_space import SpaceOptions
from plimsoll.planning.question import Effort, Question
from plimsoll.planning.sizing import nodes_of, size
from plimsoll.spec.errors import InfeasibleError, SpecError
from plimsoll.spec.fleet import load_device, parse_fleet
from plimsoll.spec.model_files import load_model
from tests.toy_world import slo, steady

DEVICES = [load_device(name) for name in ("H100-SXM", "L4", "A100-SXM-80")]


def question(rate, **changes):
    settings = {
        "model": load_model("llama-3.1-8b"),
        "model_name": "llama-3.1-8b",
        "fleet": parse_fleet("1xL4"),
        "workload": steady(rate, 400),
        "slo": slo(2.0, 0.1),
        "options": SpaceOptions(modes=("aggregated",), budgets=(1024, 4096)),
        "effort": Effort(check_requests=400),
    }
    return Question(**{**settings, **changes})


def test_every_answer_carries_the_load_and_the_best_are_best():
    answer = size(question(4.0), DEVICES, max_nodes=1)
    assert all(one.verdict.holds for one in answer.options)
    assert answer.smallest.num_devices == min(o.num_devices for o in answer.options)
    priced = [o for o in answer.options if o.usd_per_hour is not None]
    assert answer.cheapest is not None
    assert answer.cheapest.usd_per_hour == min(o.usd_per_hour for o in priced)


def test_more_load_never_needs_fewer_devices():
    needed = [
        size(question(rate), [load_device("L4")], max_nodes=2).smallest.num_devices
        for rate in (0.5, 8.0, 24.0)
    ]
    assert needed == sorted(needed) and needed[-1] > needed[0]


def test_jobs_do_not_change_the_answer():
    assert size(question(2.0), DEVICES, max_nodes=1, jobs=2) == size(
        question(2.0), DEVICES, max_nodes=1
    )


def test_what_cannot_carry_it_says_why():
    answer = size(question(90.0), DEVICES, max_nodes=1)
    assert "L4" in answer.failed
    assert answer.failed["L4"]
    with pytest.raises(InfeasibleError, match="none of the devices"):
        size(question(5000.0), [load_device("L4")], max_nodes=1)


def test_bad_questions_are_refused():
    with pytest.raises(SpecError, match="no device"):
        size(question(1.0), [])
    closed = question(1.0, workload=steady(1.0, 50).with_changes(num_in_flight=4))
    with pytest.raises(SpecError, match="closed loop"):
        size(closed, DEVICES)


def test_nodes_are_full():
    fleet = nodes_of(load_device("H100-SXM"), 2)
    assert fleet.num_devices == 16
    assert parse_fleet(fleet.text).num_devices == 16
