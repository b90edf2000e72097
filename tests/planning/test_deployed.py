"""Predictions of tables: laws over load, lengths and workers; what may not matter; refusals."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.planning.deployed import bands_of, predict_rows
from plimsoll.planning.deployment_loop import LoopSolver
from plimsoll.planning.deployment_settings import settings_of
from plimsoll.spec.deployment import DeploymentRow, Prediction, Refusal, Workers
from plimsoll.spec.fleet import bundled_devices
from plimsoll.spec.model_files import bundled_models
from plimsoll.spec.parameters import active_parameters
from tests.deployments import APART, SERVED, aggregated, cut_of, disaggregated

ALL = {**{f"agg-{k}": v for k, v in SERVED.items()}, **{f"apart-{k}": v for k, v in APART.items()}}
each_row = pytest.mark.parametrize("row", ALL.values(), ids=ALL.keys())
each_apart = pytest.mark.parametrize("row", APART.values(), ids=APART.keys())
LOADS = (16, 24, 32, 48, 64, 96, 128, 256, 512, 1024)
PROMPTS = (100, 500, 1000, 2000, 4000, 8000, 9000, 16_000, 32_000)
COUNTS = (1, 2, 3, 4, 6, 8, 16)


def predicted(rows: Sequence[DeploymentRow]) -> list[Prediction]:
    found = [answer for answer in predict_rows(rows) if isinstance(answer, Prediction)]
    assert len(found) == len(rows)
    return found


def never_falls(values: Sequence[float], tolerance: float) -> bool:
    return all(b >= a * (1 - tolerance) for a, b in zip(values, values[1:], strict=False))


@each_row
def test_more_load_never_makes_a_token_faster(row: DeploymentRow) -> None:
    """The same up to how evenly requests lie over ranks, and to the knots of step tables."""
    found = predicted([replace(row, concurrency=c) for c in LOADS])
    assert never_falls([p.tpot_s for p in found], 1e-3)
    assert never_falls([p.ttft_s for p in found], 1e-3)
    assert found[-1].tpot_s > 1.02 * found[0].tpot_s
    assert found[-1].ttft_s > 1.02 * found[0].ttft_s


@each_row
def test_longer_prompts_never_shorten_the_first_token(row: DeploymentRow) -> None:
    """Past what memory holds too: of 16 in flight as many run as fit, at least one."""
    found = predicted([replace(row, isl=n, osl=300, concurrency=16) for n in PROMPTS])
    assert never_falls([p.ttft_s for p in found], 1e-9)
    assert found[-1].ttft_s > 1.5 * found[0].ttft_s


@each_row
@pytest.mark.parametrize("in_flight", [64, 1024])
def test_longer_outputs_never_shorten_the_whole_answer(row: DeploymentRow, in_flight: int) -> None:
    outputs = (100, 300, 1000, 3000)
    found = predicted([replace(row, osl=n, concurrency=in_flight) for n in outputs])
    whole = [p.ttft_s + n * p.tpot_s for p, n in zip(found, outputs, strict=True)]
    assert never_falls(whole, 1e-3)  # where prefill binds, groups of prompts move it a little


@each_apart
@pytest.mark.parametrize("in_flight", [8, 192, 2048])
def test_more_prefill_workers_never_delay_the_first_token(
    row: DeploymentRow, in_flight: int
) -> None:
    """Fewer prompts share a step where workers are many, which is why a little is allowed."""
    assert row.prefill is not None
    groups = [replace(row.prefill, count=n) for n in COUNTS]
    found = predicted([replace(row, prefill=g, concurrency=in_flight, isl=8000) for g in groups])
    assert never_falls([1 / p.ttft_s for p in found], 5e-3)
    assert never_falls([p.tpot_s for p in found], 1e-3)


@each_apart
@pytest.mark.parametrize("in_flight", [8, 192, 2048])
def test_more_decode_workers_never_slow_a_token(row: DeploymentRow, in_flight: int) -> None:
    assert row.decode is not None
    groups = [replace(row.decode, count=n) for n in COUNTS]
    found = predicted([replace(row, decode=g, concurrency=in_flight) for g in groups])
    assert never_falls([1 / p.tpot_s for p in found], 1e-3)


@pytest.mark.parametrize("row", SERVED.values(), ids=SERVED.keys())
def test_no_token_is_faster_than_its_weights_are_read(row: DeploymentRow) -> None:
    """A byte of every active parameter, half of one in 4 bits, over all bandwidth."""
    (found,) = predicted([replace(row, concurrency=1)])
    asked = settings_of(row)
    rate = asked.device.memory_bytes_per_s * asked.decode.parallel.num_devices
    least_bytes = active_parameters(asked.model) * (0.5 if row.precision == "fp4" else 1.0)
    assert least_bytes / rate < found.tpot_s < 100 * least_bytes / rate


@each_row
def test_a_row_is_answered_alike_alone_and_in_a_table(row: DeploymentRow) -> None:
    rows = [*ALL.values(), aggregated(model="org/none"), *ALL.values()]
    answers = predict_rows(rows)
    (alone,) = predict_rows([row])
    assert [a for r, a in zip(rows, answers, strict=True) if r == row] == [alone, alone]
    assert predict_rows(rows[::-1]) == answers[::-1]


def test_no_rows_have_no_answers() -> None:
    assert predict_rows([]) == []


@given(
    row=st.sampled_from(list(ALL.values())),
    ident=st.text(max_size=20).filter(lambda text: "_cfg" not in text),
    line=st.integers(1, 10**6),
    ttft_ms=st.one_of(st.none(), st.floats(1e-3, 1e7)),
    tpot_ms=st.one_of(st.none(), st.floats(1e-3, 1e5)),
)
@settings(max_examples=30)
def test_name_place_and_measurements_of_a_row_do_not_matter(
    row: DeploymentRow, ident: str, line: int, ttft_ms: float | None, tpot_ms: float | None
) -> None:
    other = replace(row, id=ident, line=line, ttft_ms=ttft_ms, tpot_ms=tpot_ms)
    assert predict_rows([other]) == predict_rows([row])


@each_row
def test_a_named_configuration_matters_only_to_speculation(row: DeploymentRow) -> None:
    """Rows of the tables whose id has "_cfg" name their workers and do not speculate."""
    marked = replace(row, id="x_cfg1")
    asked = settings_of(row)
    expected = replace(asked, speculation=0.0)
    assert replace(settings_of(marked), notes=asked.notes, guessed=asked.guessed) == expected
    if not asked.speculation:
        assert predict_rows([marked]) == predict_rows([row])


@each_row
def test_bands_hold_the_prediction_and_say_why_they_are_wider(row: DeploymentRow) -> None:
    (found,) = predicted([row])
    bands = bands_of(LoopSolver().solve(settings_of(row)))
    assert found.ttft_low_s <= found.ttft_s <= found.ttft_high_s
    assert found.tpot_low_s <= found.tpot_s <= found.tpot_high_s
    assert found.ttft_high_s / found.ttft_s == pytest.approx(bands["ttft"].high)
    assert found.tpot_low_s / found.tpot_s == pytest.approx(bands["tpot"].low)
    reasons = (*bands["ttft"].reasons, *bands["tpot"].reasons)
    assert (found.origin == "extrapolated") == bool(reasons)
    assert all(reason in found.note for reason in reasons)


def test_what_was_guessed_widens_the_band_and_is_said() -> None:
    named, blank = predicted(
        [disaggregated(), disaggregated(prefill=cut_of(0, tp=4, ep=4), decode=cut_of(0, tp=8))]
    )
    assert "guessed" in blank.note and "guessed" not in named.note
    assert "worker counts not named" in blank.note
    assert blank.origin == "calibrated"
    assert blank.tpot_high_s / blank.tpot_low_s > named.tpot_high_s / named.tpot_low_s


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (aggregated(model="org/none"), "org/none"),
        (aggregated(system="h900"), "h900"),
        (aggregated(backend="tgi"), "tgi"),
        (aggregated(workers=None), "no tensor-parallel degree"),
        (aggregated(workers=cut_of(tp=3)), "tp = 3 does not divide"),
        (aggregated(model="deepseek-r1"), "weights of deepseek-r1 take"),
        (aggregated(concurrency=0), "neither concurrency nor batch"),
        (aggregated(workers=Workers(tp=1, pp=2)), "pipeline"),
        (disaggregated(decode=None), "no tensor-parallel degree"),
        (disaggregated(prefill=cut_of(0, tp=9), decode=cut_of(0, tp=9)), "no split of 9 devices"),
    ],
)
def test_a_row_that_cannot_be_is_refused_and_stops_no_other(row: DeploymentRow, words: str) -> None:
    before, refused, after = predict_rows([aggregated(), row, aggregated()])
    assert isinstance(refused, Refusal) and words in refused.reason
    assert "\n" not in refused.reason
    assert before == after and isinstance(before, Prediction)


DEGREES = st.sampled_from([0, 1, 1, 2, 3, 4, 8, 12, 16, 72, 1000])
GROUPS = st.builds(
    Workers,
    count=st.sampled_from([0, 1, 2, 5, 100]),
    tp=DEGREES,
    attention_dp=DEGREES,
    moe_tp=DEGREES,
    moe_ep=DEGREES,
    batch=st.sampled_from([0, 1, 13, 1024]),
)
ANY_ROW = st.builds(
    DeploymentRow,
    line=st.just(2),
    id=st.sampled_from(["", "x_cfg1"]),
    model=st.sampled_from(bundled_models()),
    system=st.sampled_from([device.name for device in bundled_devices()]),
    backend=st.sampled_from(["vllm", "sglang", "trtllm"]),
    precision=st.sampled_from(["", "bf16", "fp8", "fp4", "int4", "mxfp4", "int8"]),
    mode=st.sampled_from(["agg", "disagg"]),
    isl=st.sampled_from([1, 100, 1024, 8192, 10**6]),
    osl=st.sampled_from([1, 100, 1024, 10**5]),
    concurrency=st.sampled_from([0, 1, 3, 64, 4096, 10**6]),
    workers=GROUPS,
    prefill=GROUPS,
    decode=GROUPS,
)


@given(rows=st.lists(ANY_ROW, min_size=8, max_size=16))
@settings(max_examples=25)
def test_any_row_is_predicted_in_finite_times_or_refused(rows: list[DeploymentRow]) -> None:
    for answer in predict_rows(rows):
        if isinstance(answer, Refusal):
            assert answer.reason and "\n" not in answer.reason
            continue
        low, middle, high = answer.ttft_low_s, answer.ttft_s, answer.ttft_high_s
        assert 0 < low <= middle <= high < math.inf
        low, middle, high = answer.tpot_low_s, answer.tpot_s, answer.tpot_high_s
        assert 0 < low <= middle <= high < math.inf
