"""What a search looks at, the plan's engine can start: limits, exporters and searches agree."""

import pytest

from plimsoll.api.export import export
from plimsoll.planning.engine_limits import engine_limits, format_limit, runnable_policies
from plimsoll.planning.finalists import pick_finalists
from plimsoll.planning.parallel_shapes import Skips
from plimsoll.planning.plan_space import SpaceOptions, enumerate_plans
from plimsoll.planning.question import Question
from plimsoll.planning.search import rank
from plimsoll.report.export.sglang_arguments import KV_DTYPES as SGLANG_KV
from plimsoll.report.export.sglang_arguments import ONLINE as SGLANG_ONLINE
from plimsoll.report.export.trtllm import KV_DTYPES as TRTLLM_KV
from plimsoll.report.export.vllm_arguments import FLOATS
from plimsoll.report.export.vllm_arguments import KV_DTYPES as VLLM_KV
from plimsoll.report.export.vllm_arguments import ONLINE as VLLM_ONLINE
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.model_files import load_model
from plimsoll.spec.plan import ChunkedPrefill, OrcaConfig, PrefillFirst
from plimsoll.spec.slo import Slo, SloTarget
from tests.toy_world import dense_model, small_options, steady

SLO = Slo(
    targets=(
        SloTarget(metric="ttft", percentile=95, bound_s=3.0),
        SloTarget(metric="tpot", percentile=95, bound_s=0.1),
    )
)


def asked(model: str, fleet: str, **options: object) -> Question:
    settings = {"budgets": (512, 4096), "max_num_seqs": (8, 128), **options}
    return Question(
        model=load_model(model),
        model_name=model,
        fleet=parse_fleet(fleet),
        workload=steady(2.0, 300),
        slo=SLO,
        must_carry=False,
        options=SpaceOptions(**settings),
    )


@pytest.mark.parametrize(
    ("model", "fleet", "options"),
    [
        ("qwen3-32b", "8xH100-SXM", {}),
        ("qwen3-32b", "8xH100-SXM", {"weight_dtypes": (None, DType.FP8, DType.INT4)}),
        ("qwen3-30b-a3b", "4xH100-SXM", {}),
        ("llama-3.1-8b", "2x(4xL40S)", {"kv_dtypes": (None, DType.FP8)}),
        ("qwen3-8b", "3xRTX4090", {"engine": "sglang"}),
        ("qwen3-30b-a3b", "2x(4xH200-SXM)", {"engine": "sglang", "max_model_len": 4000}),
        ("qwen3-30b-a3b-fp8", "12xGB200", {"engine": "sglang"}),
        ("qwen3-30b-a3b-fp8", "12xGB200", {}),
        ("qwen3-30b-a3b", "2x(4xH100-SXM)", {"engine": "trtllm"}),
        ("llama-3.1-70b-fp8", "4xH100-SXM+4xL40S", {"engine": "trtllm"}),
        ("gpt-oss-20b", "2xMI300X", {}),
    ],
)
def test_what_would_be_simulated_can_be_exported(model, fleet, options):
    ranking, _, _ = rank(asked(model, fleet, **options))
    finalists = pick_finalists(ranking.estimates, 12)
    assert finalists
    question = asked(model, fleet, **options)
    for one in finalists:
        plan = one.candidate.plan(model, question.fleet.text, question.options, SLO)
        assert export(plan, plan.engine).files


def test_every_disaggregated_plan_of_vllm_is_unpipelined_and_the_rest_is_counted():
    skips = Skips()
    plans = list(enumerate_plans(dense_model(), parse_fleet("4xH100-SXM"), small_options(), skips))
    apart = [p for p in plans if p.mode == "disaggregated"]
    assert apart and all(pool.parallel.pp == 1 for p in apart for pool in p.pools)
    assert any(pool.parallel.pp > 1 for p in plans for pool in p.pools)
    assert any("cannot move KV" in reason for reason in skips)
    other = small_options(engine="sglang")
    piped = enumerate_plans(dense_model(), parse_fleet("4xH100-SXM"), other)
    assert any(pool.parallel.pp > 1 and pool.role == "prefill" for p in piped for pool in p.pools)


def test_formats_are_those_the_exporters_know():
    for engine, online, kv in (
        ("vllm", VLLM_ONLINE, VLLM_KV),
        ("sglang", SGLANG_ONLINE, SGLANG_KV),
        ("trtllm", {}, TRTLLM_KV),
    ):
        limits = engine_limits(engine)
        assert set(limits.kv_formats) == set(kv)
        assert set(limits.online_weights) - set(FLOATS) == set(online)


def test_a_quantized_checkpoint_is_not_converted_again():
    fp8, bf16 = load_model("llama-3.1-70b-fp8"), load_model("llama-3.1-70b")
    assert format_limit("vllm", bf16, DType.FP8, None) == ""
    assert format_limit("vllm", fp8, DType.FP8, None) == ""
    assert "name a checkpoint stored in mxfp4" in format_limit("vllm", fp8, DType.MXFP4, None)
    assert "int4" in format_limit("vllm", bf16, DType.INT4, None)
    assert "fp8" in format_limit("trtllm", bf16, DType.FP8, None)
    assert "KV cache of int8" in format_limit("vllm", bf16, None, DType.INT8)


def test_a_question_that_no_engine_setting_answers_is_unsupported():
    fleet = parse_fleet("4xMI250X")
    for options in ({"weight_dtypes": (DType.INT4,)}, {"weight_dtypes": (DType.FP8,)}):
        with pytest.raises(UnsupportedError, match="int4|does not multiply fp8"):
            list(enumerate_plans(load_model("llama-3.1-8b"), fleet, small_options(**options)))
    with pytest.raises(UnsupportedError, match="vllm does not run orca"):
        list(enumerate_plans(dense_model(), fleet, small_options(policies=(OrcaConfig(),))))


def test_prompts_first_needs_room_for_the_longest_sequence():
    chunked, first = ChunkedPrefill(), PrefillFirst(max_batched_tokens=8192)
    assert runnable_policies("sglang", (first, chunked), 8192) == (first, chunked)
    assert runnable_policies("sglang", (first, chunked), 8193) == (chunked,)
    with pytest.raises(UnsupportedError, match="8,193 tokens"):
        runnable_policies("sglang", (first,), 8193)


def test_bounds_are_shared_evenly_by_attention_ranks():
    model = load_model("qwen3-30b-a3b")
    options = small_options(modes=("aggregated",), max_num_seqs=(3,), budgets=(1000,))
    for plan in enumerate_plans(model, parse_fleet("8xH100-SXM"), options):
        pool = plan.pools[0]
        ranks = pool.parallel.attention_dp
        assert pool.max_num_seqs % ranks == 0 and pool.max_num_seqs >= 3
        assert pool.policy.token_budget % ranks == 0 and pool.policy.token_budget >= 1000


def test_batches_are_judged_as_the_plan_states_them_whatever_the_ranks():
    """``max_num_seqs`` is of a replica, not of each of its attention ranks."""
    ranking, _, _ = rank(asked("qwen3-30b-a3b", "4xH100-SXM", modes=("aggregated",)))
    ranked = [r for r in ranking.records if r.shape.parallel.attention_dp > 1 and r.max_num_seqs]
    assert ranked
    for record in ranked:
        for setting, batch in zip(record.max_num_seqs, record.batch_limits, strict=True):
            assert batch <= setting


def test_weights_are_widened_where_the_engine_has_kernels_for_it():
    """FP8 on A100 runs as weight-only: 8-bit reads, 16-bit arithmetic."""
    model, fleet = load_model("llama-3.1-8b"), parse_fleet("1xA100-80")
    options = small_options(weight_dtypes=(DType.FP8,))
    plans = list(enumerate_plans(model, fleet, options))
    assert plans and all(plan.weight_dtype is DType.FP8 for plan in plans)
    with pytest.raises(UnsupportedError, match="V100-SXM does not multiply fp8"):
        list(enumerate_plans(model, parse_fleet("1xV100"), options))
