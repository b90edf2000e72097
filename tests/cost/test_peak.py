"""The analytical peak: published numbers, the formulas it claims, and how its factors combine."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.cost.kv import kv_bytes
from plimsoll.cost.kv_transform import KVTransform, grouped_bits, kept_tokens, prefill_tokens
from plimsoll.cost.peak import PeakReport, peak
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import InfeasibleError, SpecError
from plimsoll.spec.hardware import Device, Link, PowerEnvelope
from plimsoll.spec.model import (
    Attention,
    DenseFfn,
    Layer,
    LayerGroup,
    LinearAttention,
    ModelSpec,
    MoeFfn,
)
from plimsoll.spec.model_files import load_model
from plimsoll.spec.parameters import total_parameters
from tests.spec.model_configs import config_files, needs_configs

# arXiv 2405.08944: Yi-34B-200K, and an A100-80GB at 312 TFLOP/s, 2 TB/s, 20 GB/s to the host.
NOMINAL = 34e9
YI = ModelSpec(
    name="yi-34b-200k",
    hidden_size=7168,
    vocab_size=64_000,
    max_context=200_000,
    layers=(
        LayerGroup(
            count=60,
            layer=Layer(
                mixer=Attention(num_heads=56, num_kv_heads=8, head_dim=128),
                ffn=DenseFfn(intermediate=20_480),
            ),
        ),
    ),
)
A100 = Device(
    name="A100-80GB",
    vendor="NVIDIA",
    family="ampere",
    memory_bytes=80 * 2**30,
    memory_bytes_per_s=2e12,
    peak_flops_per_s={DType.BF16: 312e12},
    host=Link(kind="pcie", bytes_per_s=20e9),
    power=PowerEnvelope(idle_w=50, peak_w=400),
    source="arXiv 2405.08944",
    as_of="2024-05",
)


def at(context_tokens: int, **options: object) -> PeakReport:
    return peak(YI, A100, context_tokens, nominal_parameters=NOMINAL, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("context", "gib"), [(4_000, 0.9155), (50_000, 11.44), (100_000, 22.89)])
def test_kv_of_one_user(context: int, gib: float) -> None:
    report = at(context)
    assert report.kv_bytes == 2 * 60 * 8 * 128 * 2 * context
    assert report.kv_bytes / 2**30 == pytest.approx(gib, rel=5e-4)


def test_published_times_and_users() -> None:
    """Section 3 of arXiv 2405.08944; its decode adds GiB of KV to GB of weights."""
    short, long = at(4_000), at(50_000)
    assert (short.decode_s, long.decode_s) == pytest.approx((8.62, 10.04), rel=1e-3)
    assert (short.decode_s, long.decode_s) == pytest.approx((8.5, 9.8), rel=0.03)
    assert (short.switch_s, long.switch_s) == pytest.approx((0.10, 1.23), rel=0.02)
    assert long.switch_s == pytest.approx(1.1, rel=0.12)
    assert (short.num_users, long.num_users, at(100_000).num_users) == (18, 1, 0)
    assert short.weights_bytes / 2**30 == pytest.approx(63.3, rel=1e-3)


def test_prefill_under_three_counts_of_attention() -> None:
    short, long = at(4_000), at(50_000)
    assert (short.prefill_paper_s, long.prefill_paper_s) == pytest.approx((0.89, 14.1), rel=0.02)
    assert (short.prefill_causal_s, long.prefill_causal_s) == pytest.approx((0.92, 17.8), rel=5e-3)
    assert long.prefill_full_s == pytest.approx(24.7, rel=2e-3)
    assert at(50_000, attention="paper").prefill_s == long.prefill_paper_s
    assert long.prefill_s == long.prefill_causal_s


def test_decimal_reading_of_the_same_card_gives_other_user_counts() -> None:
    """80 GB - 68 GB leaves room for 12 users at 4,000 tokens and for none at 50,000."""
    decimal = replace(A100, memory_bytes=80e9)
    users = [peak(YI, decimal, n, nominal_parameters=NOMINAL).num_users for n in (4_000, 50_000)]
    assert users == [12, 0]


def test_tensor_parallel_divides_times_and_multiplies_users() -> None:
    one, two = at(50_000), at(50_000, num_devices=2)
    assert (one.num_users, two.num_users) == (1, 8)
    assert two.prefill_s == pytest.approx(one.prefill_s / 2)
    assert two.decode_s == pytest.approx(one.decode_s / 2)
    assert two.switch_s == pytest.approx(one.switch_s / 2)


def test_kv_heads_are_replicated_beyond_their_number() -> None:
    eight, sixteen = at(50_000, num_devices=8), at(50_000, num_devices=16)
    assert sixteen.kv_bytes_per_device == eight.kv_bytes_per_device
    assert sixteen.kv_bytes == eight.kv_bytes == at(50_000).kv_bytes


def test_exact_count_differs_from_the_nominal_one_by_its_rounding() -> None:
    exact = peak(YI, A100, 4_000)
    assert exact.parameters == total_parameters(YI) == pytest.approx(34.39e9, rel=1e-3)
    # The input table is looked up, not read, and the head multiplies the last token alone.
    assert exact.prefill_s < at(4_000).prefill_s * 34.39 / 34
    assert exact.decode_s < at(4_000).decode_s * 34.39 / 34


@pytest.mark.parametrize(("kv_heads", "factor"), [(56, 7.0), (8, 1.0), (1, 1 / 8)])
def test_attention_kind_scales_kv_by_its_heads(kv_heads: int, factor: float) -> None:
    group = YI.layers[0]
    mixer = replace(group.layer.mixer, num_kv_heads=kv_heads)
    model = replace(YI, layers=(replace(group, layer=replace(group.layer, mixer=mixer)),))
    big = replace(A100, memory_bytes=640 * 2**30)
    assert peak(model, big, 4_000).kv_bytes == at(4_000).kv_bytes * factor


def test_windows_and_states_bound_the_cache() -> None:
    group = YI.layers[0]
    window = replace(group.layer, mixer=replace(group.layer.mixer, window=1024))
    state = replace(
        group.layer,
        mixer=LinearAttention(num_k_heads=16, num_v_heads=32, head_k_dim=128, head_v_dim=128),
    )
    hybrid = replace(
        YI,
        layers=(
            LayerGroup(count=20, layer=group.layer),
            LayerGroup(count=20, layer=window),
            LayerGroup(count=20, layer=state),
        ),
    )
    short, long = peak(hybrid, A100, 2_000), peak(hybrid, A100, 50_000)
    growth = (long.kv_bytes - short.kv_bytes) / 48_000
    assert growth == pytest.approx(20 * 2 * 8 * 128 * 2)
    assert long.prefill_s < peak(YI, A100, 50_000).prefill_s
    low = KVTransform(name="half", bits_fraction=0.5)
    halved = peak(hybrid, A100, 50_000, transforms=[low])
    fixed = 20 * (kv_bytes(replace(YI, layers=(LayerGroup(count=1, layer=state),)), 1, DType.BF16))
    assert halved.kv_bytes - fixed == pytest.approx((long.kv_bytes - fixed) / 2)


def test_experts_count_where_a_token_meets_them() -> None:
    group = YI.layers[0]

    def with_experts(num_experts: int) -> ModelSpec:
        ffn = MoeFfn(num_experts=num_experts, top_k=2, intermediate=2_048)
        return replace(YI, layers=(replace(group, layer=replace(group.layer, ffn=ffn)),))

    big = replace(A100, memory_bytes=640 * 2**30)
    eight, sixteen = peak(with_experts(8), big, 4_000), peak(with_experts(16), big, 4_000)
    assert sixteen.weights_bytes > 1.5 * eight.weights_bytes
    assert sixteen.prefill_s == pytest.approx(eight.prefill_s, rel=1e-3)
    assert sixteen.decode_s == pytest.approx(eight.decode_s, rel=1e-2)
    crowd = peak(with_experts(16), big, 4_000, users=64)
    # 64 tokens miss an expert once in 5,000; all weights but the input table are read.
    all_read_s = (crowd.weights_bytes - 64_000 * 7_168 * 2 + 64 * crowd.kv_bytes) / 2e12
    assert crowd.decode_step_s == pytest.approx(all_read_s, rel=1e-3)


@given(
    context=st.integers(1, 200_000),
    more=st.integers(1, 10_000),
    devices=st.sampled_from([1, 2, 4, 8]),
)
@settings(deadline=None, max_examples=30)
def test_longer_contexts_never_cost_less(context: int, more: int, devices: int) -> None:
    a, b = at(context, num_devices=devices), at(context + more, num_devices=devices)
    assert a.kv_bytes < b.kv_bytes and a.prefill_s < b.prefill_s
    assert a.decode_s < b.decode_s and a.switch_s < b.switch_s
    assert a.num_users >= b.num_users >= 0


KIVI = KVTransform(name="2-bit groups of 32", bits_fraction=grouped_bits(2, group=32) / 16)
MQA = KVTransform(name="one KV head", head_fraction=1 / 8)
SHARED = KVTransform(name="half of the layers", layer_fraction=0.5)
DROPPED = KVTransform(name="a tenth of the tokens", token_fraction=0.1)
COMPRESSORS = (KIVI, MQA, SHARED, DROPPED)


@pytest.mark.parametrize(
    ("transform", "factor"), [(KIVI, 3 / 16), (MQA, 1 / 8), (SHARED, 0.5), (DROPPED, 0.1)]
)
def test_each_compressor_changes_each_metric_by_its_factor(
    transform: KVTransform, factor: float
) -> None:
    plain, compressed = at(50_000), at(50_000, transforms=[transform])
    kv = plain.kv_bytes * factor
    assert compressed.kv_bytes == pytest.approx(kv)
    assert compressed.num_users == int((80 * 2**30 - 68e9) / kv)
    assert compressed.decode_s == pytest.approx(250 * (68e9 + kv) / 2e12)
    assert compressed.switch_s == pytest.approx(plain.switch_s * factor)
    assert compressed.prefill_s == plain.prefill_s
    assert transform.does_not_help == ("prefill",)


def test_dropping_before_prefill_shortens_it_too() -> None:
    early = replace(DROPPED, drops="before-prefill")
    report = at(50_000, transforms=[early])
    assert early.does_not_help == ()
    assert report.prefill_s == pytest.approx(at(5_000).prefill_s)
    assert report.kv_bytes == at(5_000).kv_bytes
    assert KVTransform(name="nothing").helps == ()


def test_one_kv_head_is_the_model_with_one_kv_head() -> None:
    group = YI.layers[0]
    mixer = replace(group.layer.mixer, num_kv_heads=1)
    model = replace(YI, layers=(replace(group, layer=replace(group.layer, mixer=mixer)),))
    ours = at(50_000, transforms=[MQA])
    theirs = peak(model, A100, 50_000, nominal_parameters=NOMINAL)
    assert (ours.kv_bytes, ours.decode_s) == pytest.approx((theirs.kv_bytes, theirs.decode_s))
    assert (ours.num_users, ours.prefill_s) == pytest.approx((theirs.num_users, theirs.prefill_s))


@given(order=st.permutations(COMPRESSORS), context=st.integers(100, 200_000))
@settings(deadline=None, max_examples=25)
def test_factors_commute(order: list[KVTransform], context: int) -> None:
    one, other = at(context, transforms=COMPRESSORS), at(context, transforms=order)
    assert one.kv_bytes == pytest.approx(other.kv_bytes, rel=1e-12)
    assert one.decode_s == pytest.approx(other.decode_s, rel=1e-12)
    assert one.num_users == other.num_users


def test_a_token_budget_does_not_commute_with_a_share() -> None:
    budget = KVTransform(name="budget", max_tokens=1_000)
    assert kept_tokens(5_000, [DROPPED, budget]) == 500
    assert kept_tokens(5_000, [budget, DROPPED]) == 100
    assert prefill_tokens(5_000, [budget, DROPPED]) == 5_000


def test_weights_larger_than_memory_name_the_devices_needed() -> None:
    small = replace(A100, memory_bytes=24 * 2**30)
    with pytest.raises(InfeasibleError, match="use 3 x A100-80GB") as caught:
        peak(YI, small, 4_000)
    assert caught.value.binding == "memory"
    assert peak(YI, small, 4_000, num_devices=3).num_users > 0


def test_reserve_lowers_users_and_context_past_the_window_warns() -> None:
    assert at(4_000, reserve_bytes=4 * 2**30).num_users == 13
    assert "200,000" in at(300_000).warnings[0]
    assert at(200_000).warnings == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "casual"}, "Did you mean causal"),
        ({"users": 0}, "users 0"),
        ({"context_tokens": 0}, "context_tokens is 0"),
        ({"nominal_parameters": -1.0}, "nominal_parameters"),
    ],
)
def test_bad_input_is_named(options: dict[str, object], message: str) -> None:
    arguments = {"model": YI, "device": A100, "context_tokens": 4_000, **options}
    with pytest.raises(SpecError, match=message):
        peak(**arguments)  # type: ignore[arg-type]


def test_report_prints_with_units() -> None:
    numbers = at(4_000).numbers()
    assert numbers["KV of one user"].unit == "GiB"
    assert numbers["users at once"].value == 18


@needs_configs
@pytest.mark.parametrize("path", config_files(), ids=lambda path: path.stem)
def test_every_real_configuration_has_a_peak(path: Path) -> None:
    """Laws that hold for any mix of layers: growth with context, gain from devices."""
    model = load_model(path)
    device = replace(A100, memory_bytes=192e9, peak_flops_per_s={DType.BF16: 1e15, DType.FP8: 2e15})
    short, long = (peak(model, device, n, num_devices=16) for n in (1_000, 100_000))
    assert 0 < short.kv_bytes < long.kv_bytes
    assert short.prefill_s * 95 < long.prefill_s <= long.prefill_full_s
    assert short.decode_s < long.decode_s and short.num_users > long.num_users >= 0
    assert peak(model, device, 1_000, num_devices=32).prefill_s == pytest.approx(
        short.prefill_s / 2
    )
