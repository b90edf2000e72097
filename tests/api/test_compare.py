"""Sides are comparable: the same requests, the same promise, whatever their own files say."""

from dataclasses import replace
from pathlib import Path

import pytest

from plimsoll.api.compare import compare
from plimsoll.api.run_folder import WorkloadSpec
from plimsoll.api.simulate import simulate
from plimsoll.spec.errors import SpecError
from plimsoll.spec.io import write
from plimsoll.spec.plan import Pool, ServingPlan
from plimsoll.spec.slo import Slo, SloTarget

WORK = WorkloadSpec(text="500/50", num_requests=60)


def promise(bound_s: float) -> Slo:
    return Slo(targets=(SloTarget(metric="ttft", percentile=99, bound_s=bound_s),))


def plan(bound_s: float) -> ServingPlan:
    return ServingPlan(
        model="llama-3.1-8b",
        fleet="1xL40S",
        pools=(Pool(device="L40S", max_num_seqs=64),),
        slo=promise(bound_s),
    )


def run(folder: Path, bound_s: float, seed: int = 0) -> Path:
    simulate(plan(bound_s), WORK, seed=seed, out=folder)
    return folder


def test_runs_of_different_seeds_served_different_requests(tmp_path: Path) -> None:
    paths = [run(tmp_path / f"seed{k}", 2.0, seed=k) for k in (0, 1)]
    with pytest.raises(SpecError, match="different workloads .*--seed 0; .*--seed 1"):
        compare(paths, None)


def test_a_plan_is_compared_with_a_run_at_the_seed_of_the_run(tmp_path: Path) -> None:
    recorded = run(tmp_path / "run", 2.0, seed=1)
    write(plan(2.0), tmp_path / "plan.yaml")
    with pytest.raises(SpecError, match="different workloads"):
        compare([recorded, tmp_path / "plan.yaml"], WORK)
    answer = compare([recorded, tmp_path / "plan.yaml"], WORK, seed=1)
    assert answer.sides[0].summary == answer.sides[1].summary
    assert answer.report().command.endswith("--seed 1")


def test_all_sides_are_held_to_one_promise(tmp_path: Path) -> None:
    """Equal plans that differ in their own promise give the same goodput."""
    paths = [run(tmp_path / "loose", 2.0), run(tmp_path / "strict", 1e-6)]
    answer = compare(paths, None)
    assert answer.slo == promise(2.0)
    first, second = (side.summary for side in answer.sides)
    assert first.good_fraction == second.good_fraction == 1.0
    assert first.goodput_requests_per_s == second.goodput_requests_per_s > 0
    assert second.energy_j_per_output_token == first.energy_j_per_output_token is not None
    assert second.usd_per_million_output_tokens == first.usd_per_million_output_tokens
    strict = compare(paths, None, slo=replace(promise(1e-6)))
    assert [side.summary.good_fraction for side in strict.sides] == [0.0, 0.0]
