"""What is said of a plan agrees with what was asked and with what was found."""

from dataclasses import replace

import pytest

from plimsoll.api.plan import PlanAnswer, plan
from plimsoll.api.run_folder import WorkloadSpec
from plimsoll.planning.plan_space import SpaceOptions
from plimsoll.spec.slo import Slo, SloTarget

SLO = Slo(targets=(SloTarget(metric="ttft", percentile=99, bound_s=5.0),))


@pytest.fixture(scope="module")
def answer() -> PlanAnswer:
    options = SpaceOptions(modes=("aggregated",), budgets=(2048,), max_num_seqs=(64,))
    work = WorkloadSpec(text="500/50", rate_per_s=1.0, num_requests=200)
    return plan("llama-3.1-8b", "1xL40S", work, slo=SLO, options=options)


def test_a_load_that_is_kept_is_named_where_the_probes_held_less(answer: PlanAnswer) -> None:
    chosen = answer.found.chosen
    assert chosen.goodput is not None and chosen.goodput.rate_per_s > 1.0
    assert "requests/s" in answer.report().title and "the load" not in answer.report().title
    low = replace(chosen.goodput, rate_per_s=0.2, rate_per_s_per_device=0.2)
    less = replace(answer, found=replace(answer.found, chosen=replace(chosen, goodput=low)))
    report = less.report()
    assert report.title.endswith(" carries the load of 1.02 requests/s")
    assert "Goodput" not in {number.name for number in report.key_numbers}


def test_without_a_file_the_start_names_the_one_to_write(answer: PlanAnswer) -> None:
    found = answer.found
    other = replace(found.chosen, plan=replace(found.chosen.plan, engine="sglang"))
    shown = replace(answer, found=replace(found, chosen=other)).report()
    assert shown.start_command == "plimsoll export plan.yaml --to sglang"
