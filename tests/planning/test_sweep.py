"""The sweep: energy by hand, plans that cannot start, reasons when none can."""

import numpy as np
import pytest

from plimsoll.planning.parallel_shapes import Skips
from plimsoll.planning.plan_space import SpaceOptions
from plimsoll.planning.sweep import (
    PlanRun,
    SweepLook,
    fleet_at_clock,
    full_plans,
    heuristic_plan,
    sweep,
)
from plimsoll.planning.workers import SerialWorkers
from plimsoll.spec.errors import InfeasibleError
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.model_files import load_model
from plimsoll.spec.plan import ChunkedPrefill
from plimsoll.spec.workload import Workload

OPTIONS = SpaceOptions(
    modes=("aggregated",),
    policies=(ChunkedPrefill(),),
    max_num_seqs=(256,),
    prefix_caching=False,
    max_model_len=4096,
)


def load(num: int = 24, output: int = 20, late_s: float = 0.0) -> Workload:
    return Workload(
        name="a burst",
        arrival_s=late_s + np.linspace(0.0, 0.5, num),
        prompt_tokens=np.full(num, 300),
        output_tokens=np.full(num, output),
    )


def runs_on(
    model: str, fleet_text: str, workload: Workload, clocks: tuple[float, ...] = (1.0,)
) -> list[PlanRun]:
    spec, fleet = load_model(model), parse_fleet(fleet_text)
    plans = full_plans(spec, model, fleet, OPTIONS)
    look = SweepLook(model=spec, fleet=fleet, workload=workload)
    return sweep(plans, look, SerialWorkers(), clock_fractions=clocks)


def test_heads_that_do_not_divide_are_skipped_with_the_reason() -> None:
    # 40 heads cannot be shared out evenly over 16 devices.
    skips = Skips()
    model = load_model("llama-2-13b")
    plans = full_plans(model, "llama-2-13b", parse_fleet("1x(16xH100-SXM)"), OPTIONS, skips)
    assert plans and all(plan.pools[0].parallel.tp != 16 for plan in plans)
    assert any("tp = 16 does not divide the heads" in reason for reason in skips)


def test_energy_lies_between_idle_and_peak() -> None:
    for run in runs_on("llama-3.1-8b", "2xH100-SXM", load()):
        assert 70 * 2 * run.total_s < run.energy_j < 700 * 2 * run.total_s


def test_waiting_for_the_first_request_costs_nothing() -> None:
    early = runs_on("llama-3.1-8b", "1xH100-SXM", load())[0]
    late = runs_on("llama-3.1-8b", "1xH100-SXM", load(late_s=100.0))[0]
    assert late.total_s == pytest.approx(early.total_s)
    assert late.mean_e2e_s == pytest.approx(early.mean_e2e_s)
    assert late.energy_j == pytest.approx(early.energy_j, rel=1e-6)


def test_a_lower_clock_is_never_faster() -> None:
    slow, fast = runs_on("llama-3.1-8b", "1xH100-SXM", load(), clocks=(0.5, 1.0))
    assert slow.clock_fraction == 0.5
    assert slow.total_s >= fast.total_s
    fleet = fleet_at_clock(parse_fleet("1xH100-SXM"), 0.5)
    assert fleet.parts[0].device.power.peak_w < 700


def test_plans_that_cannot_start_are_kept_with_the_reason() -> None:
    runs = runs_on("llama-3.1-70b", "8xH100-SXM", load(num=4))
    dead = [run for run in runs if run.problem]
    assert [run.plan.pools[0].parallel.num_devices for run in dead] == [1]
    assert "no room" in dead[0].problem and dead[0].total_s == float("inf")


def test_requests_too_long_for_a_plan_are_said() -> None:
    with pytest.raises(InfeasibleError, match="too long"):
        runs_on("llama-3.1-8b", "1xH100-SXM", load(num=2, output=8000))


def test_nothing_that_starts_names_what_stops_it() -> None:
    with pytest.raises(InfeasibleError, match="no room"):
        runs_on("llama-3.1-405b", "2xH100-SXM", load(num=2))


def test_the_rule_of_thumb() -> None:
    fleet = parse_fleet("2x(8xH100-SXM)")
    plans = full_plans(load_model("llama-3.1-70b"), "llama-3.1-70b", fleet, OPTIONS)
    cut = heuristic_plan(plans, fleet).pools[0].parallel
    assert (cut.tp, cut.pp) == (8, 2)
    with pytest.raises(InfeasibleError, match="no plan cuts"):
        heuristic_plan([], fleet)
