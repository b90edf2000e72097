"""Bands of answers: in JSON under the names of what they go on, in text beside the latencies."""

import io
import json
from dataclasses import replace
from typing import Any

import pytest

from plimsoll.api.fit import fit
from plimsoll.api.latency_bands import widest
from plimsoll.api.load_curve import LoadCurveAnswer
from plimsoll.api.plan import PlanAnswer, plan
from plimsoll.api.run_folder import WorkloadSpec
from plimsoll.api.simulate import SimulateAnswer, simulate
from plimsoll.planning.plan_space import SpaceOptions
from plimsoll.report.band_words import EIGHT_OF_TEN
from plimsoll.report.document import Report
from plimsoll.report.pictures import LoadCurvePicture, LoadPoint, Spread
from plimsoll.report.terminal import make_console, print_report
from plimsoll.spec.origin import Band, Origin
from plimsoll.spec.plan import DisaggRouter, Parallel, Pool, ServingPlan
from plimsoll.spec.slo import Slo, SloTarget

KEYS = {
    "ttft_p10_factor",
    "ttft_p90_factor",
    "ttft_band_reasons",
    "tpot_p10_factor",
    "tpot_p90_factor",
    "tpot_band_reasons",
}
WORK = WorkloadSpec(text="500/150", rate_per_s=1.0, num_requests=200)


def run(fleet: str, *pools: Pool) -> SimulateAnswer:
    served = ServingPlan(model="llama-3.1-8b", fleet=fleet, pools=pools)
    if any(pool.role != "both" for pool in pools):
        served = replace(served, router=DisaggRouter())
    return simulate(served, WORK)


@pytest.fixture(scope="module")
def planned() -> PlanAnswer:
    options = SpaceOptions(modes=("aggregated",), budgets=(2048,), max_num_seqs=(64,))
    slo = Slo(targets=(SloTarget(metric="ttft", percentile=99, bound_s=5.0),))
    return plan("llama-3.1-8b", "1xH100-SXM", WORK, slo=slo, options=options)


def printed(report: Report) -> list[str]:
    file = io.StringIO()
    print_report(report, make_console(file))
    return file.getvalue().splitlines()


def as_json(data: dict[str, Any]) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(json.dumps(data, allow_nan=False))
    return read


def test_a_simulation_says_its_bands() -> None:
    answer = run("1xH100-SXM", Pool(device="H100-SXM"))
    bands = as_json(answer.data())["error_bands"]
    assert set(bands) == KEYS
    assert bands["ttft_p10_factor"] < bands["ttft_p90_factor"]
    lines = printed(answer.report())
    text = " ".join(" ".join(lines).split())
    assert f"(TTFT {EIGHT_OF_TEN}: mean " in text and "(TPOT likewise: mean " in text
    assert max(map(len, lines)) <= 80


def test_a_device_that_was_not_measured_widens_and_is_named() -> None:
    near = run("1xH100-SXM", Pool(device="H100-SXM")).bands()
    far = run("1xRTX-4090", Pool(device="RTX-4090")).bands()
    for metric in ("ttft", "tpot"):
        assert far[metric].low <= near[metric].low and far[metric].high >= near[metric].high
        assert "device not measured" in far[metric].reasons


def test_a_fleet_takes_the_widest_of_its_devices() -> None:
    both = (Pool(device="H100-SXM"), Pool(device="RTX-4090"))
    assert "device not measured" in run("1xH100-SXM+1xRTX-4090", *both).bands()["tpot"].reasons
    assert widest([Band(low=0.9, high=1.1), Band(low=0.5, high=1.0)]).low == 0.5


def test_disaggregated_plans_have_their_own_band() -> None:
    one = run("2xH100-SXM", Pool(device="H100-SXM", replicas=2)).bands()
    pools = (Pool(device="H100-SXM", role="prefill"), Pool(device="H100-SXM", role="decode"))
    assert run("2xH100-SXM", *pools).bands()["ttft"] != one["ttft"]


def test_a_plan_says_bands_of_all_choices(planned: PlanAnswer) -> None:
    data = as_json(planned.data())
    for choice in (data["chosen"], *data["runners_up"]):
        assert set(choice["error_bands"]) == KEYS
    table = planned.report().tables[0]
    assert table.columns.count("8 of 10") == 2
    assert table.rows[0][5].endswith("s") and "-" in table.rows[0][5]
    assert table.notes[-1] == f"8 of 10: the P99 {EIGHT_OF_TEN}"
    assert max(map(len, printed(planned.report()))) <= 80


def test_the_widest_rows_of_a_plan_fit_80_columns(planned: PlanAnswer) -> None:
    """Seconds near 1 and rates of hundreds on a thousand devices make the longest cells."""
    report = planned.report()
    table = report.tables[0]
    row = (
        "D",
        "1024",
        "12345",
        "0.0123",
        "12,300 s",
        "0.63-1.4 s",
        "999 ms",
        "100-990 ms",
        "missed",
    )
    assert len(row) == len(table.columns)
    wide = replace(report, tables=(replace(table, rows=(row, row)), *report.tables[1:]))
    lines = printed(wide)
    assert max(map(len, lines)) <= 80
    assert any(all(cell in line for cell in row) for line in lines)


def test_without_a_load_there_is_no_band(planned: PlanAnswer) -> None:
    chosen = replace(planned.found.chosen, at_load=None)
    answer = replace(planned, found=replace(planned.found, chosen=chosen, runners_up=()))
    assert answer.data()["chosen"]["error_bands"] is None
    table = answer.report().tables[0]
    assert table.rows[0][5] == "-" and not any("8 of 10" in note for note in table.notes)


def test_fit_says_bands_of_its_times() -> None:
    answer = fit("llama-3.1-70b", "8xH100-SXM")
    for row in as_json(answer.data())["rows"]:
        for name in ("step", "full_step", "prefill"):
            assert row[f"{name}_p10_factor"] < row[f"{name}_p90_factor"]
    assert any(EIGHT_OF_TEN in note for note in answer.report().tables[0].notes)
    assert max(map(len, printed(answer.report()))) <= 80


@pytest.mark.parametrize(("name", "shown"), [("P99 TTFT", True), ("P99 End-to-end latency", False)])
def test_a_load_curve_says_the_band_at_its_knee(name: str, shown: bool) -> None:
    points = tuple(
        LoadPoint(
            request_rate_per_s=rate,
            goodput_requests_per_s=Spread(mean=rate, low=rate, high=rate),
            latency_s=Spread(mean=rate, low=rate, high=rate),
        )
        for rate in (0.5, 1.0)
    )
    picture = LoadCurvePicture(
        title="curve",
        latency_name=name,
        points=points,
        num_seeds=1,
        knee_rate_per_s=1.0,
        bound_s=2.0,
        origin=Origin.CALIBRATED,
    )
    answer = LoadCurveAnswer(
        plan=ServingPlan(model="m", fleet="1xL4", pools=(Pool(device="L4", parallel=Parallel()),)),
        plan_path="plan.yaml",
        workload=WORK,
        picture=picture,
        bands={"ttft": Band(low=0.5, high=2.0), "tpot": Band(low=0.9, high=1.1)},
    )
    assert set(answer.data()["error_bands"]) == KEYS
    said = [note for note in answer.report().notes if "8 of 10" in note]
    assert said == ([f"{name} at the knee, 1.00 s: 500 ms to 2.0 s {EIGHT_OF_TEN}"] * shown)
