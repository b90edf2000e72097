"""What a simulated run says beside its numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plimsoll.api.export import export
from plimsoll.api.run_folder import WorkloadSpec
from plimsoll.api.simulate import SimulateAnswer, simulate
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.io import read, write
from plimsoll.spec.plan import (
    DisaggRouter,
    FreenessRouter,
    Parallel,
    Pool,
    Scaling,
    ServingPlan,
)


def notes(model: str, workload: str) -> list[str]:
    plan = ServingPlan(
        model=model,
        fleet="8xH100-SXM",
        pools=(Pool(device="H100-SXM", parallel=Parallel(tp=4)),),
    )
    answer = simulate(plan, WorkloadSpec(text=workload, num_requests=20))
    return list(answer.data()["notes"])


def test_prefix_caching_that_is_not_simulated_is_said() -> None:
    assert any("prefix caching was left out" in note for note in notes("gpt-oss-120b", "long-chat"))
    assert not any("prefix caching" in note for note in notes("llama-3.1-70b", "long-chat"))
    assert not any("prefix caching" in note for note in notes("gpt-oss-120b", "chat"))


def scaled(scaling: Scaling | None, **work: Any) -> SimulateAnswer:
    plan = ServingPlan(
        model="llama-3.1-8b",
        fleet="4xL40S",
        pools=(Pool(device="L40S", replicas=4, max_num_seqs=64),),
        router=FreenessRouter(),
        scaling=scaling,
    )
    return simulate(plan, WorkloadSpec(text="chat", num_requests=400, **work))


def shown(answer: SimulateAnswer) -> dict[str, float | None]:
    return {row.name: row.number.value for row in answer.report().key_numbers}


def test_all_replicas_up_all_the_time_is_what_no_scaling_is() -> None:
    fixed, kept = scaled(None), scaled(Scaling(min_instances=4))
    assert np.array_equal(fixed.record.requests.finished_s, kept.record.requests.finished_s)
    assert fixed.summary == kept.summary and fixed.power.total_j == kept.power.total_j
    assert "Instance-hours" not in {*shown(fixed), *shown(kept)}


def test_a_scaled_plan_pays_for_what_is_up() -> None:
    fixed = scaled(None, rate_per_s=2.0)
    some = scaled(Scaling(min_instances=1, first_instances=2, start_s=10.0), rate_per_s=2.0)
    summary = some.summary
    assert summary.status.finished == 400
    assert summary.instance_up_s is not None
    share = summary.instance_up_s / (4 * summary.end_s)
    assert 0.2 < share < 0.7
    assert shown(some)["Instance-hours"] == pytest.approx(summary.instance_up_s / 3600)
    per_token = [a.summary.usd_per_million_output_tokens for a in (fixed, some)]
    ends = [a.summary.end_s for a in (fixed, some)]
    assert per_token[1] == pytest.approx(per_token[0] * share * ends[1] / ends[0], rel=1e-3)
    idle_w = some.placed[0].device.power.idle_w
    assert some.power.idle_j == pytest.approx(idle_w * summary.instance_up_s, rel=1e-3)
    held_j = float(np.sum(some.power.watts * np.diff(some.power.edges_s)))
    assert held_j == pytest.approx(some.power.total_j, rel=1e-6)


@pytest.mark.parametrize(
    ("scaling", "why"),
    [
        (Scaling(min_instances=5), "min_instances 5 is more than its 4 replicas"),
        (
            Scaling(min_instances=2, first_instances=1),
            "first_instances 1 is not from min_instances",
        ),
        (Scaling(first_instances=5), "first_instances 5 is not from"),
        (Scaling(low_steps=60.0), "low_steps 60 must be below high_steps 60"),
    ],
)
def test_scaling_that_makes_no_sense(scaling: Scaling, why: str) -> None:
    with pytest.raises(SpecError, match=why):
        scaled(scaling)


def test_scaling_is_for_whole_requests() -> None:
    pools = tuple(Pool(device="L40S", role=role) for role in ("prefill", "decode"))
    plan = ServingPlan(
        model="llama-3.1-8b",
        fleet="4xL40S",
        pools=pools,
        router=DisaggRouter(),
        scaling=Scaling(),
    )
    with pytest.raises(SpecError, match="whole requests, the router is disaggregated"):
        simulate(plan, WorkloadSpec(text="chat", num_requests=5))


def test_a_plan_file_keeps_its_scaling(tmp_path: Path) -> None:
    plan = ServingPlan(
        model="llama-3.1-8b",
        fleet="4xL40S",
        pools=(Pool(device="L40S", replicas=4),),
        scaling=Scaling(min_instances=2, low_steps=100.0, high_steps=400.0),
    )
    write(plan, tmp_path / "plan.yaml")
    assert read(ServingPlan, tmp_path / "plan.yaml") == plan
    text = (tmp_path / "plan.yaml").read_text().replace("hold_s: 10.0", "hold_s: -1")
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(SpecError, match="scaling.hold_s"):
        read(ServingPlan, tmp_path / "plan.yaml")
    with pytest.raises(UnsupportedError, match="number of replicas is fixed"):
        export(plan, "vllm")
