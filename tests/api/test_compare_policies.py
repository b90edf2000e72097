"""Which policies help: the answer's words and numbers."""

import json
from pathlib import Path

import pytest

from plimsoll.api.compare_policies import against, compare_policies, effect
from plimsoll.api.run_folder import WorkloadSpec
from plimsoll.spec.errors import SpecError
from plimsoll.spec.io import write
from plimsoll.spec.plan import Pool, ServingPlan
from plimsoll.spec.slo import Slo, SloTarget
from tests.command_line import plimsoll

WORK = WorkloadSpec(text="500/50", rate_per_s=4.0)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    targets = (
        SloTarget(metric="ttft", percentile=99, bound_s=1.0),
        SloTarget(metric="tpot", percentile=99, bound_s=0.06),
    )
    plan = ServingPlan(
        model="llama-3.1-8b",
        fleet="2xL40S",
        pools=(Pool(device="L40S", replicas=2, max_num_seqs=64),),
        slo=Slo(targets=targets),
    )
    write(plan, path)
    return path


def test_the_order_is_by_goodput_and_effects_are_measured(file: Path) -> None:
    answer = compare_policies(file, WORK, policies="prefill-first;freeness", duration_s=60.0)
    ranking = answer.ranking
    rates = [one.rate_per_s for one in ranking.policies]
    assert rates == sorted(rates, reverse=True)
    assert {one.name for one in ranking.policies} >= {"prefill-first", "freeness"}
    first = next(one for one in ranking.policies if one.name == "prefill-first")
    assert max(against(ranking.own, first)) < 1, "long prompts stall decodes"
    assert "worse" in effect(ranking.own, first) and "ITL P99" in effect(ranking.own, first)
    shown = answer.report()
    assert "--policies" in shown.command
    assert len(shown.tables[0].rows) == len(ranking.policies) + 1
    assert json.loads(json.dumps(answer.data()))["policies"][0]["name"] == "as planned"


def test_it_is_said_when_the_plan_does_it_already(file: Path) -> None:
    answer = compare_policies(file, WORK, policies="least-work", duration_s=60.0)
    (one,) = answer.ranking.policies
    assert effect(answer.ranking.own, one) == "it is what the plan does"
    assert "as planned: least-work" in answer.report().tables[0].notes[0]
    assert answer.report().title.startswith("No other policy")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "no workload given"),
        (["-w", "chat", "--policies", "nonsense"], "no policy 'nonsense'"),
    ],
)
def test_bad_questions(file: Path, words: list[str], why: str) -> None:
    asked = words if "--policies" in words else [*words, "--policies", "orca"]
    done = plimsoll("compare", str(file), *asked)
    assert done.code == 2 and why in done.err and not done.out


def test_a_closed_loop_has_no_rate_to_raise(file: Path) -> None:
    with pytest.raises(SpecError, match="closed loop"):
        compare_policies(file, WorkloadSpec(text="500/50", num_in_flight=8))


def test_two_plans_are_not_ranked(file: Path) -> None:
    done = plimsoll("compare", str(file), str(file), "--policies", "all", "-w", "chat")
    assert done.code == 2 and "name one plan file" in done.err
