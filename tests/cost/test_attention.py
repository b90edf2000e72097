"""Attention: pairs by brute force, lower bounds, windows, latent and sparse layers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.cost.attention import (
    decode_work,
    half_peak,
    prefill_work,
    visible_context,
    visible_pairs,
)
from plimsoll.cost.attention_shape import AttentionShape, attention_shapes, indexer_shape
from plimsoll.cost.efficiency import calibration_for
from plimsoll.cost.kv import kv_bytes_per_token
from plimsoll.spec.dtype import DType
from plimsoll.spec.model import Attention, Indexer, LatentAttention
from tests.cost.machines import H100, dense, latent_moe

CALIBRATION = calibration_for(H100)
GROUPED = Attention(num_heads=64, num_kv_heads=8, head_dim=128)
LATENT = LatentAttention(
    num_heads=128,
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
)


def shape_of(mixer: Attention | LatentAttention, tp: int = 1) -> AttentionShape:
    (shape,) = attention_shapes(mixer, tp=tp, kv_dtype=DType.BF16)
    return shape


def decode_s(batch: int, context: float, shape: AttentionShape) -> float:
    visible = visible_context(batch, np.asarray(float(context)), shape)
    rates = CALIBRATION.decode["vllm"]
    return float(decode_work(batch, visible, shape, device=H100, rates=rates).time_s)


def prefill_s(new: int, cached: int, shape: AttentionShape) -> float:
    pairs = visible_pairs(new, cached, shape.limit, shape.chunk)
    span = min(new + cached, shape.limit or new + cached)
    rates = CALIBRATION.prefill["vllm"]
    return float(prefill_work(pairs, new, cached, span, shape, device=H100, rates=rates).time_s)


@settings(max_examples=200, deadline=None)
@given(
    new=st.integers(1, 200),
    cached=st.integers(0, 200),
    limit=st.integers(0, 150),
    chunk=st.booleans(),
)
def test_pairs_match_counting(new: int, cached: int, limit: int, chunk: bool) -> None:
    total = 0
    for position in range(cached, cached + new):
        first = 0
        if limit:
            first = position // limit * limit if chunk else max(0, position + 1 - limit)
        total += position + 1 - first
    assert visible_pairs(new, cached, limit, chunk) == total


@settings(max_examples=100, deadline=None)
@given(
    new=st.integers(2, 4000),
    cached=st.integers(0, 4000),
    cut=st.floats(0.01, 0.99),
    w=st.booleans(),
)
def test_pairs_of_two_chunks_add_up(new: int, cached: int, cut: float, w: bool) -> None:
    first, limit = max(1, int(cut * new)), 512 if w else 0
    parts = visible_pairs(first, cached, limit) + visible_pairs(new - first, cached + first, limit)
    assert parts == visible_pairs(new, cached, limit)


@settings(max_examples=100, deadline=None)
@given(batch=st.integers(1, 1024), length=st.integers(1, 100000), tp=st.sampled_from([1, 2, 8]))
def test_decode_cannot_beat_bandwidth(batch: int, length: int, tp: int) -> None:
    for mixer in (GROUPED, LATENT):
        shape = shape_of(mixer, tp)
        moved = batch * length * shape.kv_bytes
        assert decode_s(batch, batch * length, shape) > 0.8 * moved / H100.memory_bytes_per_s


@settings(max_examples=100, deadline=None)
@given(new=st.integers(1, 16384), cached=st.integers(0, 50000))
def test_prefill_cannot_beat_its_arithmetic(new: int, cached: int) -> None:
    shape = shape_of(GROUPED)
    flops = visible_pairs(new, cached, 0) * shape.heads * shape.prefill_flops
    assert prefill_s(new, cached, shape) > flops / half_peak(H100)
    assert prefill_s(new, cached + 1, shape) > prefill_s(new, cached, shape)


def test_cached_bytes_match_the_cache_of_the_model() -> None:
    for model, mixer, tp in ((dense(), GROUPED, 8), (latent_moe(), LATENT, 1)):
        read = shape_of(mixer, tp).kv_bytes * model.num_layers
        assert read == pytest.approx(kv_bytes_per_token(model, DType.BF16, tp))


def test_copied_kv_heads_are_read_on_every_device() -> None:
    assert shape_of(GROUPED, 16).kv_bytes == shape_of(GROUPED, 8).kv_bytes


def test_window_stops_decode_growing() -> None:
    window = shape_of(Attention(num_heads=64, num_kv_heads=8, head_dim=128, window=1024))
    assert decode_s(32, 32 * 1024, window) == decode_s(32, 32 * 100000, window)
    assert decode_s(32, 32 * 1024, window) == decode_s(32, 32 * 1024, shape_of(GROUPED))
    assert prefill_s(8192, 0, window) < prefill_s(8192, 0, shape_of(GROUPED))


def test_latent_prompt_unfolds_its_prefix() -> None:
    """Each cached token's keys and values are rebuilt: 2 * H * rank * (nope + v) FLOPs."""
    shape = shape_of(LATENT)
    rates = CALIBRATION.latent_prefill["trtllm"]

    def flops(cached: float) -> float:
        return float(prefill_work(0.0, 1.0, cached, 1.0, shape, device=H100, rates=rates).flops)

    assert flops(1000) - flops(0) == pytest.approx(1000 * 2 * 128 * 512 * 256)


def test_sparse_layer_reads_its_choice_and_scores_everything() -> None:
    indexer = Indexer(num_heads=64, head_dim=128, top_k=2048)
    sparse = shape_of(Attention(num_heads=64, num_kv_heads=8, head_dim=128, indexer=indexer))
    assert sparse.limit == 2048
    scorer = indexer_shape(indexer)
    assert scorer.limit == 0 and scorer.kv_bytes == 128.0


def test_compressed_layer_reads_a_window_and_one_entry_for_several_tokens() -> None:
    plain, packed = attention_shapes(
        Attention(num_heads=64, num_kv_heads=1, head_dim=512, window=128, kv_reduction=4),
        tp=1,
        kv_dtype=DType.FP8,
    )
    assert plain.limit == 128 and packed.limit == 0
    assert packed.kv_bytes == plain.kv_bytes / 4


def test_short_chunks_leave_blocks_idle() -> None:
    shape, rates = shape_of(GROUPED), CALIBRATION.prefill["vllm"]
    whole, short = (
        float(prefill_work(64.0, 64.0, 0.0, 1.0, shape, device=H100, rates=rates, short=s).time_s)
        for s in (0.0, 64 * 127.0)
    )
    assert short > whole
