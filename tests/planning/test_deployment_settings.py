"""What is read into a row that leaves things open: one row by hand for every rule."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plimsoll.planning.deployment_settings import DeploymentSettings, settings_of
from plimsoll.planning.run_setup import run_settings
from plimsoll.spec.deployment import DeploymentRow, Workers
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import PlimsollError, SpecError, UnsupportedError
from plimsoll.spec.plan import Parallel
from tests.deployments import aggregated, cut_of, disaggregated

R1 = aggregated(model="deepseek-r1", system="b200_sxm", backend="trtllm", workers=cut_of(tp=8))


def blank(tp: int, dp: int = 1, ep: int = 1, **changes: Any) -> DeploymentRow:
    """A disaggregated row that names how both kinds of worker are cut but not how many."""
    group = cut_of(0, tp=tp, dp=dp, ep=ep)
    return disaggregated(**({"prefill": group, "decode": group} | changes))


def cut(settings: DeploymentSettings) -> tuple[int, int, int]:
    parallel = settings.decode.parallel
    return parallel.tp, parallel.attention_dp, parallel.ep


def test_a_row_that_says_everything_is_taken_at_its_word() -> None:
    found = settings_of(aggregated(workers=cut_of(tp=2)))
    assert found.model.name == "llama-3.1-8b" and found.device.name == "H100-SXM"
    assert (found.in_flight, cut(found), found.decode.count) == (16, (2, 1, 1), 1)
    assert (found.prefill, found.devices_to_split, found.guessed, found.notes) == (None, 0, 0, ())
    two = settings_of(disaggregated())
    assert two.prefill is not None
    assert (two.prefill.count, two.decode.count, two.in_flight) == (2, 3, 192)
    assert two.prefill.parallel == Parallel(tp=4, ep=4)
    assert two.decode.parallel == Parallel(tp=8, ep=8)
    assert (two.guessed, two.notes, two.speculation) == (0, (), 0.0)


@pytest.mark.parametrize(
    ("named", "expected", "words"),
    [
        ((64, 1, 8, 8), (8, 1, 8), "64 x 1 multiplied twice: 8 devices"),
        ((16, 1, 4, 4), (4, 1, 4), "16 x 1 multiplied twice: 4 devices"),
        ((1, 64, 8, 8), (1, 8, 8), "1 x 64 multiplied twice: 8 devices"),
        ((1, 16, 4, 4), (1, 4, 4), "1 x 16 multiplied twice: 4 devices"),
        ((4, 4, 1, 16), (4, 1, 4), "4 x 4 written twice: 4 devices"),
        ((8, 8, 1, 64), (8, 1, 8), "8 x 8 written twice: 8 devices"),
    ],
)
def test_degrees_written_twice_are_one_group(
    named: tuple[int, int, int, int], expected: tuple[int, int, int], words: str
) -> None:
    tp, dp, moe_tp, ep = named
    workers = Workers(count=1, tp=tp, attention_dp=dp, moe_tp=moe_tp, moe_ep=ep)
    found = settings_of(replace(R1, workers=workers))
    assert cut(found) == expected
    assert found.notes == (f"degrees {words}",) and not found.guessed
    assert words.endswith(f" {found.decode.parallel.num_devices} devices")
    once = settings_of(replace(R1, workers=cut_of(tp=expected[0], dp=expected[1], ep=expected[2])))
    assert replace(found, notes=()) == once


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ((8, 1, 8, 1), (8, 1, 1)),
        ((4, 1, 2, 2), (4, 1, 2)),
        ((2, 2, 2, 2), (2, 2, 2)),
        ((2, 8, 4, 4), (2, 8, 4)),
        ((4, 4, 4, 4), (4, 4, 4)),
        ((1, 8, 1, 8), (1, 8, 8)),
    ],
)
def test_degrees_that_a_worker_can_have_stay(
    named: tuple[int, int, int, int], expected: tuple[int, int, int]
) -> None:
    tp, dp, moe_tp, ep = named
    workers = Workers(count=1, tp=tp, attention_dp=dp, moe_tp=moe_tp, moe_ep=ep)
    found = settings_of(replace(R1, workers=workers))
    assert cut(found) == expected and found.notes == ()


def test_experts_go_to_ranks_whole_where_a_slice_would_be_narrow() -> None:
    """128 of a width of 2048 a device is too little for a kernel; experts divide the count."""
    wide = settings_of(replace(R1, workers=cut_of(tp=1, dp=16, ep=1)))
    assert cut(wide) == (1, 16, 16)
    odd = settings_of(replace(R1, workers=cut_of(tp=1, dp=12, ep=12)))
    assert 12 % cut(odd)[2] == 0 and 256 % cut(odd)[2] == 0
    dense = settings_of(aggregated(workers=cut_of(tp=2, dp=2, ep=4)))
    assert cut(dense) == (2, 2, 1)


@pytest.mark.parametrize("devices", [12, 20, 36, 72])
@pytest.mark.parametrize("mode", ["agg", "disagg"])
def test_a_degree_no_worker_could_have_is_a_whole_deployment(devices: int, mode: str) -> None:
    row = replace(R1, system="gb200", workers=cut_of(tp=devices))
    if mode == "disagg":
        row = blank(devices)
    found = settings_of(row)
    assert found.devices_to_split == devices and found.prefill is not None
    assert (found.decode.count, found.prefill.count, found.speculation) == (0, 0, 0.0)
    assert found.guessed == 1 and f"{devices} devices are a whole deployment" in found.notes[0]


def test_a_wide_group_that_the_weights_need_is_one_worker() -> None:
    """DeepSeek-R1 in 8 bits does not fit 8 H100, so 16 are one worker; 16 B200 are not."""
    row = replace(R1, system="h100_sxm", workers=cut_of(tp=16))
    assert settings_of(row).decode.parallel.num_devices == 16
    assert settings_of(replace(row, system="b200_sxm")).devices_to_split == 16


def test_concurrency_not_named_is_all_batches() -> None:
    row = replace(R1, concurrency=0, workers=cut_of(tp=2, dp=4, ep=8, batch=6))
    found = settings_of(row)
    assert (found.in_flight, found.guessed) == (6 * 4, 1)
    two = disaggregated(concurrency=0, decode=cut_of(3, tp=2, dp=4, ep=8, batch=5))
    assert (settings_of(two).in_flight, settings_of(two).guessed) == (3 * 4 * 5, 1)
    for none in (replace(row, workers=cut_of(tp=8)), replace(two, decode=cut_of(3, tp=8))):
        with pytest.raises(SpecError, match="neither concurrency nor batch size named"):
            settings_of(none)


def test_small_batches_of_a_load_no_cache_holds_are_several_replicas() -> None:
    row = aggregated(concurrency=4096, isl=8192, osl=1024, workers=cut_of(tp=2, batch=128))
    found = settings_of(row)
    assert (found.decode.count, found.guessed) == (4096 // 128, 1)
    for one in (
        replace(row, workers=cut_of(tp=2, batch=4096)),
        replace(row, workers=cut_of(tp=2, batch=1000)),
        replace(row, isl=100, osl=100),
        replace(row, workers=cut_of(tp=2)),
    ):
        assert settings_of(one).decode.count == 1 and not settings_of(one).guessed


@pytest.mark.parametrize("backend", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("concurrency", [8, 512, 8192])
def test_counts_not_named_are_guessed_and_said(backend: str, concurrency: int) -> None:
    found = settings_of(blank(8, ep=8, backend=backend, concurrency=concurrency))
    assert found.prefill is not None and found.prefill.count == 0
    assert found.decode.count >= 1 and found.guessed >= 1
    assert f"{found.decode.count} to decode, prefill to match" in " ".join(found.notes)
    assert found.decode.parallel.num_devices == 8


def test_a_count_that_is_named_stands() -> None:
    one = blank(8, ep=8, decode=cut_of(7, tp=8, ep=8))
    found = settings_of(one)
    assert found.prefill is not None
    assert (found.decode.count, found.prefill.count) == (7, 0)
    two = settings_of(blank(8, ep=8, prefill=cut_of(5, tp=8, ep=8)))
    assert two.prefill is not None
    assert two.prefill.count == 5 and two.decode.count >= 1 and two.guessed >= 1


@pytest.mark.parametrize(
    ("system", "concurrency", "prefill", "decode"),
    [("gb200", 64, 4, 4), ("gb200", 512, 4, 8), ("gb200", 4096, 4, 32), ("b200_sxm", 4096, 8, 8)],
)
def test_widths_not_named_are_those_of_a_node(
    system: str, concurrency: int, prefill: int, decode: int
) -> None:
    found = settings_of(blank(1, system=system, concurrency=concurrency))
    assert found.prefill is not None
    assert found.prefill.parallel == Parallel(attention_dp=prefill, ep=prefill)
    assert found.decode.parallel == Parallel(attention_dp=decode, ep=decode)
    assert f"width of workers not named: {prefill} and {decode} devices" in found.notes


def test_one_number_for_both_degrees_is_ranks_where_workers_are_wide_or_busy() -> None:
    few, many = (settings_of(blank(8, ep=8, concurrency=c)) for c in (64, 2048))
    assert (cut(few), cut(many)) == ((8, 1, 8), (1, 8, 8))
    assert cut(settings_of(blank(4, decode=cut_of(0, tp=32, ep=4)))) == (1, 32, 32)
    for found in (few, many):
        assert found.prefill is not None
        assert found.prefill.parallel == Parallel(attention_dp=8, ep=8)
    dense = settings_of(blank(8, model="llama-3.1-70b", concurrency=2048))
    assert dense.prefill is not None
    assert dense.decode.parallel == dense.prefill.parallel == Parallel(tp=8)


@pytest.mark.parametrize(
    ("system", "backend", "precision", "kv"),
    [
        ("h100_sxm", "vllm", "fp8", DType.BF16),
        ("h100_sxm", "trtllm", "fp8", DType.FP8),
        ("b200_sxm", "vllm", "fp8", DType.FP8),
        ("b200_sxm", "sglang", "fp4", DType.FP8),
        ("b200_sxm", "sglang", "bf16", DType.BF16),
        ("h100_sxm", "trtllm", "int4", DType.BF16),
        ("h100_sxm", "trtllm", "", DType.BF16),
    ],
)
def test_format_of_the_cache(system: str, backend: str, precision: str, kv: DType) -> None:
    row = aggregated(system=system, backend=backend, precision=precision)
    assert settings_of(row).kv_dtype is kv


def speculative_row() -> DeploymentRow:
    entry = run_settings().speculative[0]
    return replace(
        R1,
        backend=entry.engine,
        backend_version=entry.releases[0],
        measured_on=max((entry.since, *entry.dates)),
        precision=entry.precision or "fp8",
    )


def test_runs_known_to_speculate_do_where_the_model_has_heads() -> None:
    row = speculative_row()
    found = settings_of(row)
    assert (found.speculation, found.guessed) == (1.0, 1)
    for other in (
        replace(row, model="kimi-k2.5"),
        replace(row, backend_version="0.0"),
        replace(row, id="r1_agg_cfg7"),
    ):
        assert settings_of(other).speculation == 0.0


@pytest.mark.parametrize("backend", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("concurrency", [4, 256, 8192])
@pytest.mark.parametrize("tp", [4, 8])
def test_twins_without_counts_get_a_weight_between_none_and_all(
    backend: str, concurrency: int, tp: int
) -> None:
    row = blank(tp, ep=tp, backend=backend, concurrency=concurrency)
    found = settings_of(row)
    assert 0.0 <= found.speculation <= 1.0
    said = any(note.startswith("speculative") for note in found.notes)
    assert said == (found.speculation > 0)
    assert settings_of(replace(row, model="kimi-k2.5")).speculation == 0.0
    assert settings_of(replace(row, id="x_cfg12")).speculation == 0.0
    named = replace(row, prefill=cut_of(1, tp=tp, ep=tp), decode=cut_of(2, tp=tp, ep=tp))
    assert settings_of(named).speculation == 0.0


def test_some_twins_speculate() -> None:
    rows = [
        blank(8, ep=8, backend=b, concurrency=c) for b in ("sglang", "trtllm") for c in (8, 4096)
    ]
    assert any(settings_of(row).speculation > 0 for row in rows)


def test_lengths_are_means_of_what_was_drawn() -> None:
    found = settings_of(aggregated(isl=1024, osl=8192, backend_version="0.9"))
    assert found.prompt_tokens == 1024 * found.load.length_mean
    assert found.output_tokens == 8192 * found.load.length_mean


@pytest.mark.parametrize(
    ("row", "error", "words"),
    [
        (aggregated(backend=""), UnsupportedError, r"engine \(blank\) has no profile"),
        (aggregated(backend="tgi"), UnsupportedError, "engine tgi has no profile"),
        (aggregated(model="org/none"), SpecError, "org/none"),
        (aggregated(system="h900"), SpecError, "unknown device 'h900'"),
        (aggregated(system=""), SpecError, "unknown device"),
        (aggregated(precision="fp5"), SpecError, "precision 'fp5'"),
        (aggregated(workers=None), SpecError, "no tensor-parallel degree named"),
        (aggregated(workers=Workers(count=1)), SpecError, "no tensor-parallel degree named"),
        (disaggregated(prefill=None), SpecError, "no tensor-parallel degree named"),
        (disaggregated(decode=Workers()), SpecError, "no tensor-parallel degree named"),
        (aggregated(workers=Workers(tp=2, pp=2)), UnsupportedError, "pipeline degree"),
        (disaggregated(prefill=Workers(count=1, tp=4, pp=2)), UnsupportedError, "pipeline"),
    ],
)
def test_rows_that_cannot_be(row: DeploymentRow, error: type[PlimsollError], words: str) -> None:
    with pytest.raises(error, match=words):
        settings_of(row)


@given(
    row=st.sampled_from([R1, speculative_row(), blank(8, ep=8), blank(72), disaggregated()]),
    ttft_ms=st.one_of(st.none(), st.floats(1e-3, 1e7)),
    tpot_ms=st.one_of(st.none(), st.floats(1e-3, 1e5)),
)
def test_measurements_change_no_setting(
    row: DeploymentRow, ttft_ms: float | None, tpot_ms: float | None
) -> None:
    assert settings_of(replace(row, ttft_ms=ttft_ms, tpot_ms=tpot_ms)) == settings_of(row)
