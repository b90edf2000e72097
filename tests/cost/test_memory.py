"""Device memory: sums of parts, laws of cutting, and a profile that an engine printed."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.cost.cut import (
    check_parallel,
    stage_groups,
    stage_layers,
    stage_weight_bytes,
    valid_tp,
)
from plimsoll.cost.kv import kv_bytes, kv_bytes_per_token, state_bytes_per_sequence
from plimsoll.cost.memory import footprint, kv_capacity, max_context, stage_footprints
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError
from plimsoll.spec.fleet import load_device
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import LayerGroup, MoeFfn, NoMixer
from plimsoll.spec.model_files import load_model
from plimsoll.spec.parameters import parameter_counts, weight_bytes
from plimsoll.spec.plan import Parallel

GIB = 2**30
H100 = load_device("h100-sxm")


def with_memory(memory_bytes: float) -> Device:
    return dataclasses.replace(H100, memory_bytes=memory_bytes)


def test_a_printed_memory_profile_is_met() -> None:
    """vLLM, Llama-3-8B, 79.22 GiB device, 90 %: weights 14.96, activations 1.26, KV 53.29 GiB.

    Source: vllm-project/vllm pull request 10511. The profile's 1.79 GiB outside torch belong
    in part to other processes; the KV room is met within 3 %.
    """
    model = load_model("llama-3-8b")
    found = footprint(model, with_memory(79.22 * GIB), Parallel())
    assert found.weights_bytes / GIB == pytest.approx(14.96, abs=0.005)
    assert found.activations_bytes / GIB == pytest.approx(1.26, rel=0.02)
    assert found.limit_bytes / GIB == pytest.approx(71.29, rel=0.001)
    assert found.kv_budget_bytes / GIB == pytest.approx(53.29, rel=0.03)


@pytest.mark.parametrize("name", ["llama-3.1-70b", "mixtral-8x7b", "deepseek-v3", "qwen3.5-27b"])
@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_parts_and_kv_fill_the_limit(name: str, tp: int) -> None:
    found = footprint(load_model(name), with_memory(2e12), Parallel(tp=tp), memory_fraction=0.8)
    assert found.shortfall_bytes == 0
    assert found.needed_bytes + found.kv_budget_bytes == pytest.approx(0.8 * 2e12)


def test_what_does_not_fit_says_by_how_much() -> None:
    found = footprint(load_model("llama-3.1-70b"), H100, Parallel())
    assert found.kv_budget_bytes == 0
    assert found.shortfall_bytes == found.needed_bytes - found.limit_bytes > 60 * GIB
    assert kv_capacity(load_model("llama-3.1-70b"), H100, Parallel()).num_blocks == 0


@pytest.mark.parametrize("name", ["llama-3.1-70b", "qwen3-235b-a22b", "nemotron-super-49b"])
@pytest.mark.parametrize("pp", [1, 2, 4, 7])
def test_stages_together_hold_the_model(name: str, pp: int) -> None:
    model = load_model(name)
    assert sum(stage_weight_bytes(model, Parallel(pp=pp))) == pytest.approx(weight_bytes(model))


def test_a_tied_embedding_is_on_the_first_and_the_last_stage() -> None:
    model = load_model("llama-3.2-3b")
    table = 2 * parameter_counts(model).embedding
    assert sum(stage_weight_bytes(model, Parallel(pp=4))) == weight_bytes(model) + table


def test_tensor_parallel_devices_together_hold_every_matrix_once() -> None:
    model = load_model("llama-3.1-70b")
    norms = 2 * parameter_counts(model).norms
    for tp in (2, 4, 8):
        (one,) = stage_weight_bytes(model, Parallel(tp=tp))
        assert tp * (one - norms) + norms == pytest.approx(weight_bytes(model))


def test_few_kv_heads_are_replicated() -> None:
    model = load_model("qwen3-235b-a22b")  # 4 KV heads of 128, width 4096, 94 layers
    (at4,) = stage_weight_bytes(model, Parallel(tp=4, ep=4))
    (at8,) = stage_weight_bytes(model, Parallel(tp=8, ep=8))
    kv = 2 * 94 * 4096 * 2 * 128
    whole = 2 * (parameter_counts(model).norms + parameter_counts(model).routers)
    assert at8 - kv - whole == pytest.approx((at4 - kv - whole) / 2)


@pytest.mark.parametrize("ep", [1, 2, 8, 16])
def test_experts_are_spread_over_all_devices_however_they_are_cut(ep: int) -> None:
    model = load_model("deepseek-v3")
    (held,) = stage_weight_bytes(model, Parallel(tp=4, attention_dp=4, ep=ep))
    (base,) = stage_weight_bytes(model, Parallel(tp=4, attention_dp=4, ep=16))
    assert held == pytest.approx(base)
    (alone,) = stage_weight_bytes(model, Parallel(tp=4))
    experts = parameter_counts(model).experts * model.quantization.experts.bytes
    assert alone - held == pytest.approx(experts / 4 - experts / 16)


@given(st.integers(1, 200), st.integers(1, 64))
def test_stages_hold_all_layers_evenly(num_layers: int, pp: int) -> None:
    pp = min(pp, num_layers)
    counts = stage_layers(num_layers, pp)
    assert sum(counts) == num_layers and len(counts) == pp
    assert max(counts) - min(counts) <= 1
    assert pp == 1 or counts[-1] == min(counts)


@given(st.integers(1, 52))
def test_stages_keep_the_order_of_layers(pp: int) -> None:
    model = load_model("nemotron-3-nano-30b-a3b")
    groups = [LayerGroup(count=c, layer=x) for stage in stage_groups(model, pp) for c, x in stage]
    layers = [g.layer for g in groups for _ in range(g.count)]
    assert layers == [g.layer for g in model.layers for _ in range(g.count)]


@pytest.mark.parametrize(
    "name,degrees",
    [
        ("llama-3.1-70b", (1, 2, 4, 8, 16, 32, 64)),
        ("yi-34b-200k", (1, 2, 4, 8)),
        ("qwen2.5-7b", (1, 2, 4)),
        ("deepseek-v4-flash", (1, 2, 4, 8)),
    ],
)
def test_valid_tensor_parallel_degrees(name: str, degrees: tuple[int, ...]) -> None:
    assert valid_tp(load_model(name)) == degrees


def test_degrees_divide_the_heads_of_every_layer() -> None:
    for name in ("llama-3.1-8b", "mimo-v2-flash", "qwen3.5-397b-a17b", "nemotron-h-56b", "opt-66b"):
        model = load_model(name)
        for tp in valid_tp(model):
            for group in model.layers:
                mixer = group.layer.mixer
                heads = getattr(mixer, "num_heads", 0) or getattr(mixer, "num_v_heads", 0)
                assert isinstance(mixer, NoMixer) or heads % tp == 0


@pytest.mark.parametrize(
    "name,parallel,words",
    [
        ("llama-3.1-8b", Parallel(tp=3), ("tp = 3", "use one of 1, 2, 4, 8")),
        ("llama-3.1-8b", Parallel(pp=64), ("pp = 64", "32 layers")),
        ("llama-3.1-8b", Parallel(tp=2, ep=2), ("ep = 2", "no experts")),
        ("mixtral-8x7b", Parallel(tp=4, ep=3), ("ep = 3", "4 devices")),
        ("gpt-oss-20b", Parallel(tp=64, ep=64), ("ep = 64", "32 experts")),
        ("qwen3-30b-a3b", Parallel(tp=4, attention_dp=256), ("768 wide", "raise ep")),
    ],
)
def test_impossible_cuts_are_refused_with_a_way_out(
    name: str, parallel: Parallel, words: tuple[str, ...]
) -> None:
    with pytest.raises(SpecError) as caught:
        check_parallel(load_model(name), parallel)
    assert all(word in str(caught.value) for word in words)


def test_capacity_is_the_budget_in_blocks() -> None:
    model = load_model("llama-3.1-8b")
    budget = footprint(model, H100, Parallel()).kv_budget_bytes
    found = kv_capacity(model, H100, Parallel(), block_tokens=16)
    block = 16 * kv_bytes_per_token(model, DType.BF16)
    assert found.num_blocks == budget // block
    assert found.blocks_per_request == 0
    assert found.blocks_for(17) == 2
    assert found.max_concurrency(4096) == found.num_blocks // 256
    assert max_context(found, model) == model.max_context
    narrow = kv_capacity(model, H100, Parallel(), kv_dtype=DType.FP8)
    assert narrow.num_blocks == pytest.approx(2 * found.num_blocks, abs=1)


def test_the_fullest_stage_limits_the_cache() -> None:
    model = load_model("llama-3.1-70b")
    parallel = Parallel(tp=2, pp=3)
    stages = stage_footprints(model, H100, parallel)
    sizes = stage_layers(model.num_layers, 3)
    row = kv_bytes_per_token(model, DType.BF16, 2) / model.num_layers
    fits = [
        int(stage.kv_budget_bytes // (16 * row * size))
        for stage, size in zip(stages, sizes, strict=True)
    ]
    assert kv_capacity(model, H100, parallel).num_blocks == min(fits)


def test_ranks_add_their_caches_and_keep_requests_apart() -> None:
    model = load_model("deepseek-v3")
    one = kv_capacity(model, with_memory(2e12), Parallel(tp=1))
    many = kv_capacity(model, with_memory(2e12), Parallel(attention_dp=8, ep=8))
    assert many.num_ranks == 8 and many.num_blocks % 8 == 0
    assert many.num_blocks > 8 * one.num_blocks
    assert many.max_request_tokens == many.num_blocks // 8 * 16


def test_windows_and_states_take_blocks_of_each_request() -> None:
    model = load_model("qwen3.5-27b")
    found = kv_capacity(model, H100, Parallel(tp=2))
    block = 16 * kv_bytes_per_token(model, DType.BF16, 2)
    state = state_bytes_per_sequence(model, DType.BF16, 2)
    assert (found.blocks_per_request - 1) * block < state <= found.blocks_per_request * block
    chunked = load_model("llama-4-scout")
    full = kv_capacity(chunked, H100, Parallel(tp=8))
    short = kv_capacity(chunked, H100, Parallel(tp=8), context_tokens=1024)
    assert short.blocks_per_request == pytest.approx(full.blocks_per_request / 8, rel=0.01)


def test_a_model_without_a_growing_cache_counts_requests() -> None:
    hybrid = load_model("nemotron-h-56b")
    layers = tuple(
        group for group in hybrid.layers if group.layer.mixer.kind in ("state-space", "none")
    )
    model = dataclasses.replace(hybrid, layers=layers)
    found = kv_capacity(model, H100, Parallel(tp=4))
    budget = footprint(model, H100, Parallel(tp=4)).kv_budget_bytes
    assert found.num_blocks == budget // state_bytes_per_sequence(model, DType.BF16, 4)
    assert found.max_concurrency(10) == found.num_blocks
    assert max_context(found, model) == model.max_context


NAMES = ["llama-3.1-8b", "gpt-oss-20b", "qwen3.5-35b-a3b", "gemma-3-12b", "deepseek-v2-lite"]


@settings(max_examples=60)
@given(
    st.sampled_from(NAMES),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2]),
    st.floats(60e9, 200e9),
    st.integers(1, 100_000),
)
def test_what_the_capacity_admits_fits_in_the_budget(
    name: str, tp: int, pp: int, memory_bytes: float, tokens: int
) -> None:
    model, parallel = load_model(name), Parallel(tp=tp, pp=pp)
    device = with_memory(memory_bytes)
    found = kv_capacity(model, device, parallel)
    admitted = found.max_concurrency(tokens)
    held = admitted * kv_bytes(model, tokens, model.quantization.kv_cache, tp)
    room = sum(stage.kv_budget_bytes for stage in stage_footprints(model, device, parallel))
    assert held <= room
    larger = kv_capacity(model, with_memory(1.1 * memory_bytes), parallel)
    assert larger.num_blocks >= found.num_blocks


def test_more_batched_tokens_and_sequences_leave_less_room() -> None:
    model = load_model("llama-3.1-70b")
    parallel = Parallel(tp=8)
    rooms = [
        footprint(
            model, H100, parallel, max_batched_tokens=tokens, max_num_seqs=seqs
        ).kv_budget_bytes
        for tokens, seqs in ((2048, 128), (8192, 256), (65536, 256), (65536, 2048))
    ]
    assert rooms == sorted(rooms, reverse=True) and len(set(rooms)) == 4


def test_narrow_weights_leave_more_room() -> None:
    model = load_model("mixtral-8x7b")
    assert any(isinstance(g.layer.ffn, MoeFfn) for g in model.layers)
    wide = footprint(model, H100, Parallel(tp=2, ep=2))
    narrow = footprint(model, H100, Parallel(tp=2, ep=2), weight_dtype=DType.FP8)
    assert narrow.weights_bytes == pytest.approx(wide.weights_bytes / 2, rel=0.01)


def test_logits_of_a_batch_are_shared_by_attention_ranks():
    """Each data-parallel rank samples its own requests."""
    model, device = load_model("qwen3-30b-a3b"), load_device("H100-SXM")
    few, many = (
        footprint(
            model,
            device,
            Parallel(tp=1, attention_dp=ranks, ep=ranks),
            max_batched_tokens=4096,
            max_num_seqs=4096,
        ).activations_bytes
        for ranks in (8, 1)
    )
    assert many >= 7 * few
