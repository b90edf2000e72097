"""The catalog entry: quick checks pass, ablations flip, published runs are read with care."""

from pathlib import Path

import pytest

from plimsoll.catalog.apex import SYSTEM
from plimsoll.catalog.apex_plans import MODELS, energy_runs, front_of, plans_of
from plimsoll.catalog.apex_replay import fitted_engine
from plimsoll.catalog.apex_runs import read_lengths, read_run, read_runs, trace_requests
from plimsoll.catalog.contract import Context
from plimsoll.catalog.verdicts import run_system
from plimsoll.spec.errors import SpecError

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "../shared/data"
HAS_DATA = (DATA / "apex").is_dir()
needs_data = pytest.mark.skipif(not HAS_DATA, reason="measured runs are not beside the checkout")
HEAD = "request_id,start_offset_ns,context_tokens,generated_tokens\n"


@needs_data
def test_quick_checks_pass_and_ablations_flip() -> None:
    rows = list(run_system(SYSTEM, Context(data=DATA), quick=True))
    failed = [row for row in rows if row.verdict == "fail"]
    assert not failed, failed
    assert sum(row.verdict == "pass" for row in rows) >= 17
    assert {row.claim for row in rows if row.verdict == "not reproduced"} == set(
        SYSTEM.not_reproduced
    )


def test_without_data_only_what_needs_none_is_run() -> None:
    rows = list(run_system(SYSTEM, Context()))
    assert not [row for row in rows if row.verdict == "fail"]
    assert {row.claim for row in rows if row.verdict == "pass"} == {"limits"}


def test_every_claim_has_a_check_and_every_room_exists() -> None:
    checked = {check.claim for check in SYSTEM.checks} | set(SYSTEM.not_reproduced)
    assert checked == {claim.id for claim in SYSTEM.claims}
    for room in SYSTEM.rooms:
        assert (ROOT / "plimsoll" / room).exists(), room


def test_constants_say_what_they_were_fitted_on() -> None:
    engine = fitted_engine()
    assert set(engine.fitted) == {"step_s", "sequence_s", "prompt_launch_s", "request_s"}
    for constant in engine.fitted.values():
        assert "lmsys" in constant.fitted_on and constant.standard_error > 0


@needs_data
def test_realised_lengths_replace_those_asked_for() -> None:
    # 165,996 tokens were asked for; 81,287 came out on 8 devices and 49,161 on 4.
    context = Context(data=DATA)
    runs = {(run.trace, run.rate, run.setup): run for run in read_runs(context)}
    asked = sum(row[2] for row in trace_requests(context, "lmsys", "05"))
    assert asked == 165_996
    assert runs["lmsys", "05", "8TP"].workload.output_tokens.sum() == 81_287
    assert runs["lmsys", "05", "4TP"].workload.output_tokens.sum() == 49_161
    assert runs["creation", "05", "8TP"].e2e_s == pytest.approx(20.17, abs=0.005)
    assert len(read_runs(context)) == 46


@needs_data
def test_replicas_of_a_trace_make_up_the_whole() -> None:
    context = Context(data=DATA)
    whole = trace_requests(context, "summarization", "05")
    halves = [trace_requests(context, "summarization", "05", part=i, parts=2) for i in range(2)]
    quarters = [trace_requests(context, "summarization", "05", part=i, parts=4) for i in range(4)]
    assert len(whole) == 1302
    assert sorted(halves[0] + halves[1]) == whole
    assert sorted(row for quarter in quarters for row in quarter) == whole
    assert halves[0] == sorted(quarters[0] + quarters[2])


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ("a,5,10,10\nb,4,10,10\n", 3),
        ("a,-1,10,10\n", 2),
        ("a,1,10,10\nb,2,0,10\n", 3),
        ("a,1,10,10\nb,2,ten,10\n", 3),
        ("a,1,10,10\nb,2,10\n", 3),
    ],
)
def test_bad_traces_name_the_line(tmp_path: Path, rows: str, line: int) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(HEAD + rows, encoding="utf-8")
    with pytest.raises(SpecError, match=f"line {line}"):
        read_lengths(path)


def test_results_of_another_trace_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.txt"
    path.write_text(
        "Request: a, prompt difference = 0, output_len_diff = -3\nvLLm output len sum: 7\n",
        encoding="utf-8",
    )
    assert read_run(path, [(0, 5, 10)], "one")[0].output_tokens.tolist() == [7]
    with pytest.raises(SpecError, match="2 were sent"):
        read_run(path, [(0, 5, 10), (1, 5, 10)], "two")
    with pytest.raises(SpecError, match="sum"):
        read_run(path, [(0, 5, 11)], "longer")


def test_each_cut_appears_once() -> None:
    for model in MODELS:
        plans = plans_of(model, "8xH100-SXM")
        assert len(set(plans)) == len(plans)
        assert all(plan.num_devices == 8 for plan in plans)


@needs_data
@pytest.mark.slow
def test_the_energy_front_falls_as_latency_grows() -> None:
    runs = energy_runs(Context(data=DATA))
    front = front_of(runs)
    assert len(front) >= 3
    for one, other in zip(front, front[1:], strict=False):
        assert one.mean_e2e_s < other.mean_e2e_s and one.energy_j > other.energy_j
    for run in runs:
        assert any(f.mean_e2e_s <= run.mean_e2e_s and f.energy_j <= run.energy_j for f in front)


@needs_data
@pytest.mark.slow
def test_slow_checks_pass_and_ablations_flip() -> None:
    rows = list(run_system(SYSTEM, Context(data=DATA)))
    assert not [row for row in rows if row.verdict in ("fail", "not run")], rows
