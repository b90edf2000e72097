"""Cache bytes: published figures, closed forms, and a cache that is filled token by token."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.cost.kv import (
    groups_kv_bytes_per_token,
    kv_bytes,
    kv_bytes_per_token,
    mixer_cache,
    state_bytes_per_sequence,
)
from plimsoll.spec.dtype import DType
from plimsoll.spec.model import (
    Attention,
    Indexer,
    LatentAttention,
    LinearAttention,
    Mixer,
    ModelSpec,
    StateSpace,
)
from plimsoll.spec.model_files import bundled_models, load_model

BF16, FP8 = DType.BF16, DType.FP8


@pytest.mark.parametrize(
    "name,bytes_per_token",
    [
        ("llama-3.1-8b", 131_072),
        ("llama-3.1-70b", 327_680),
        ("llama-3.1-405b", 516_096),
        ("llama-2-7b", 524_288),
        ("deepseek-v3", 70_272),  # arXiv 2412.19437: 61 layers of 512 + 64 values
        ("qwen2.5-72b", 327_680),
        ("opt-13b", 819_200),  # arXiv 2309.06180 section 3: 800 KB for OPT-13B
        ("yi-34b-200k", 245_760),
    ],
)
def test_published_bytes_per_token(name: str, bytes_per_token: int) -> None:
    model = load_model(name)
    assert kv_bytes_per_token(model, BF16) == bytes_per_token
    assert kv_bytes_per_token(model, FP8) == bytes_per_token / 2
    assert state_bytes_per_sequence(model, BF16) == 0
    assert kv_bytes(model, 1000, BF16) == 1000 * bytes_per_token


def test_latent_cache_with_indexer_keys() -> None:
    """132 bytes more a token and layer: 128 one-byte values and a scale (arXiv 2512.02556)."""
    plain, sparse = load_model("deepseek-v3"), load_model("deepseek-v3.2")
    difference = kv_bytes_per_token(sparse, BF16) - kv_bytes_per_token(plain, BF16)
    assert difference == 61 * (128 + 4)


def test_layers_that_reuse_a_choice_cache_no_indexer_keys() -> None:
    every, shared = load_model("glm-5"), load_model("glm-5.2")
    saved = kv_bytes_per_token(every, BF16) - kv_bytes_per_token(shared, BF16)
    assert saved == 57 * 132


def test_windows_cap_at_the_window() -> None:
    model = load_model("gpt-oss-20b")  # 12 layers of window 128, 12 of full attention
    row = 2 * 8 * 64 * 2
    assert kv_bytes_per_token(model, BF16) == 12 * row
    assert state_bytes_per_sequence(model, BF16) == 12 * 128 * row
    assert kv_bytes(model, 100, BF16) == 24 * 100 * row
    assert kv_bytes(model, 1000, BF16) == 12 * 1000 * row + 12 * 128 * row


def test_state_of_a_gated_delta_net() -> None:
    model = load_model("qwen3.5-27b")  # 48 layers, 48 value and 16 key heads of 128
    state = 48 * 128 * 128 * 4
    tail = 3 * (2 * 16 * 128 + 48 * 128) * 2
    assert state_bytes_per_sequence(model, BF16) == 48 * (state + tail)
    assert kv_bytes_per_token(model, BF16) == 16 * 2 * 4 * 256 * 2


def test_state_of_a_state_space_model() -> None:
    model = load_model("nemotron-h-56b")  # 54 layers, 256 heads of 64, state 256, 8 groups
    layers = sum(g.count for g in model.layers if isinstance(g.layer.mixer, StateSpace))
    inner = 256 * 64
    one = inner * 256 * 4 + 3 * (inner + 2 * 8 * 256) * 2
    assert layers == 54
    assert state_bytes_per_sequence(model, BF16) == layers * one


def test_compressed_attention_keeps_one_entry_for_many_tokens() -> None:
    mixer = Attention(
        num_heads=64,
        num_kv_heads=1,
        head_dim=512,
        window=128,
        keys_are_values=True,
        kv_reduction=128,
    )
    cache = mixer_cache(mixer, BF16)
    sums = 2 * 128 * 512 * 4
    assert cache.bytes_at(127) == sums + 127 * 1024
    assert cache.bytes_at(128) == sums + 128 * 1024 + 1024
    assert cache.bytes_at(1280) == sums + 128 * 1024 + 10 * 1024


def test_tensor_parallelism_splits_heads_and_replicates_the_rest() -> None:
    model = load_model("llama-3.1-70b")
    whole = kv_bytes_per_token(model, BF16)
    assert [kv_bytes_per_token(model, BF16, tp) for tp in (2, 4, 8, 16)] == [
        whole / 2,
        whole / 4,
        whole / 8,
        whole / 8,
    ]
    latent = load_model("deepseek-v3")
    assert kv_bytes_per_token(latent, BF16, 8) == kv_bytes_per_token(latent, BF16)


def test_a_layer_that_reads_another_layers_cache_has_none() -> None:
    mixer = Attention(num_heads=8, num_kv_heads=2, head_dim=64, kv_from_layer_below=True)
    assert mixer_cache(mixer, BF16).bytes_at(1000) == 0


heads = st.sampled_from([1, 2, 4, 8])
attentions = st.builds(
    Attention,
    num_heads=st.just(8),
    num_kv_heads=heads,
    head_dim=st.sampled_from([64, 128]),
    v_head_dim=st.sampled_from([0, 32, 64]),
    window=st.sampled_from([0, 0, 5, 64]),
    chunk=st.sampled_from([0, 0, 7]),
    keys_are_values=st.booleans(),
    kv_reduction=st.sampled_from([1, 1, 4]),
    indexer=st.one_of(st.none(), st.just(Indexer(num_heads=4, head_dim=32, top_k=16))),
)
mixers = st.one_of(
    attentions,
    st.builds(
        LatentAttention,
        num_heads=st.just(8),
        q_lora_rank=st.just(0),
        kv_lora_rank=st.sampled_from([64, 512]),
        qk_nope_head_dim=st.just(64),
        qk_rope_head_dim=st.sampled_from([0, 32]),
        v_head_dim=st.just(64),
    ),
    st.builds(
        LinearAttention,
        num_k_heads=heads,
        num_v_heads=st.just(8),
        head_k_dim=st.just(32),
        head_v_dim=st.just(64),
    ),
    st.builds(
        StateSpace,
        num_heads=st.just(8),
        head_dim=st.just(16),
        state_size=st.just(32),
        num_groups=heads,
    ),
)


def filled(mixer: Mixer, num_tokens: int) -> float:
    """Bytes after writing ``num_tokens`` tokens one at a time into lists that evict."""
    if isinstance(mixer, Attention):
        row = mixer.num_kv_heads * mixer.head_dim
        row += (
            0
            if mixer.keys_are_values
            else mixer.num_kv_heads * (mixer.v_head_dim or mixer.head_dim)
        )
        keys = 0 if mixer.indexer is None else mixer.indexer.head_dim + 4
        latest: list[int] = []
        entries, index, cached = 0, 0, []
        limit = min([n for n in (mixer.window, mixer.chunk) if n], default=0)
        for token in range(num_tokens):
            if mixer.kv_reduction > 1:
                latest = [*latest, token][-mixer.window :] if mixer.window else []
                entries += (token + 1) % mixer.kv_reduction == 0
            else:
                cached.append(token)
                index += 1
                if limit and len(cached) > limit:
                    cached.pop(0)
        if mixer.kv_reduction > 1:
            overlap = 1 if mixer.indexer is None else 2
            width = mixer.num_kv_heads * mixer.head_dim
            width += 0 if mixer.indexer is None else mixer.indexer.head_dim
            sums = 2 * overlap * mixer.kv_reduction * overlap * width * 4
            return sums + len(latest) * row * 2 + entries * (row * 2 + keys)
        return len(cached) * row * 2 + index * keys
    if isinstance(mixer, LatentAttention):
        return sum((mixer.kv_lora_rank + mixer.qk_rope_head_dim) * 2 for _ in range(num_tokens))
    if isinstance(mixer, LinearAttention):
        channels = 2 * mixer.num_k_heads * 32 + 8 * 64
        return 8 * 32 * 64 * 4 + 3 * channels * 2
    assert isinstance(mixer, StateSpace)
    return 8 * 16 * 32 * 4 + 3 * (8 * 16 + 2 * mixer.num_groups * 32) * 2


@settings(max_examples=200)
@given(mixers, st.integers(1, 200))
def test_bytes_are_those_of_a_cache_filled_token_by_token(mixer: Mixer, num_tokens: int) -> None:
    assert mixer_cache(mixer, BF16).bytes_at(num_tokens) == filled(mixer, num_tokens)


@settings(max_examples=200)
@given(mixers, st.integers(0, 5000), st.integers(0, 5000), st.sampled_from([1, 2, 4, 8, 16]))
def test_more_tokens_never_need_less_and_the_bound_holds(
    mixer: Mixer, few: int, more: int, tp: int
) -> None:
    few, more = sorted((few, more))
    cache = mixer_cache(mixer, BF16, tp)
    assert cache.bytes_at(few) <= cache.bytes_at(more)
    assert cache.bytes_at(more) <= more * cache.growth_bytes_per_token + cache.cap_bytes + 1e-6
    whole = mixer_cache(mixer, BF16)
    assert cache.bytes_at(more) <= whole.bytes_at(more) <= tp * cache.bytes_at(more) + 1e-6


@pytest.mark.parametrize("name", bundled_models())
def test_long_sequences_grow_by_the_bytes_per_token(name: str) -> None:
    model: ModelSpec = load_model(name)
    period = 2**14
    grown = kv_bytes(model, 3 * period, BF16) - kv_bytes(model, 2 * period, BF16)
    assert grown == pytest.approx(period * kv_bytes_per_token(model, BF16))
    assert kv_bytes(model, 0, BF16) == 0
    total = groups_kv_bytes_per_token(model.layers, BF16)
    assert total == kv_bytes_per_token(model, BF16)
