"""The measured clock against its own table and the contract of step clocks."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plimsoll.cost.measured_clock import linear_s, measured_clock, shares
from plimsoll.cost.measured_fit import (
    AttentionPoint,
    decode_times,
    engine_times,
    fit_products,
    pass_factors,
    prefill_times,
)
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.fleet import load_device
from plimsoll.spec.measured import (
    Coefficient,
    DecodeTimes,
    EngineTimes,
    LightTimes,
    LinearTimes,
    Measured,
    MeasuredKernels,
    MeasuredRates,
    PassFactors,
    PrefillTimes,
    SamplingTimes,
)
from plimsoll.spec.model import (
    Attention,
    DenseFfn,
    Layer,
    LayerGroup,
    ModelSpec,
    MoeFfn,
    Quantization,
)

CYCLED, WIDTHS, TOKENS = (1e6, 1e8), (64, 256, 1024), (1, 4, 16, 64, 256)


def exactly(value: float) -> Coefficient:
    return Coefficient(value=value, error=0.0)


def multiply_s(tokens: int, outputs: int, inputs: int, cycled: float) -> float:
    """A law whose logarithm is linear along every axis, so that interpolation is exact."""
    return 1e-9 * outputs**0.9 * inputs**0.8 * tokens**0.5 * cycled**0.1


LINEAR = LinearTimes(
    cycled_bytes=CYCLED,
    outputs=WIDTHS,
    inputs=WIDTHS,
    tokens=TOKENS,
    seconds=tuple(
        tuple(tuple(tuple(multiply_s(t, o, i, c) for t in TOKENS) for i in WIDTHS) for o in WIDTHS)
        for c in CYCLED
    ),
    spread_fraction=0.0,
    error_fraction=0.0,
)
KERNELS = MeasuredKernels(
    linear=LINEAR,
    decode=DecodeTimes(
        layer_s=exactly(5e-5),
        sequence_s=exactly(1e-6),
        score_s=exactly(1e-9),
        nodes=(1e5, 1e6),
        value_s=(exactly(4e-10), exactly(6e-10)),
        error_fraction=0.0,
        num_points=1,
    ),
    prefill=PrefillTimes(
        chunk_s=exactly(6e-5),
        kv_value_s=exactly(5e-10),
        token_value_s=exactly(3e-10),
        score_s=exactly(1e-10),
        nodes=(64, 512),
        whole_pair_s=(exactly(2e-11), exactly(1.5e-11)),
        prefix_pair_s=(exactly(3e-11), exactly(2.5e-11)),
        error_fraction=0.0,
        num_points=1,
    ),
    light=LightTimes(
        layer_s=exactly(1e-4),
        hidden_value_s=exactly(1e-9),
        ffn_value_s=exactly(1e-9),
        query_value_s=exactly(1e-9),
        step_s=exactly(2e-5),
        step_value_s=exactly(5e-10),
        error_fraction=0.0,
        num_points=1,
    ),
    sampling=SamplingTimes(
        step_s=exactly(2e-5), score_s=exactly(4e-10), error_fraction=0.0, num_points=1
    ),
    factors=PassFactors(
        linear=exactly(1.5),
        attention=exactly(1.25),
        light=exactly(2.0),
        error_fraction=0.0,
        num_points=1,
    ),
)
MEASURED = Measured(
    kernels={DType.FP32: KERNELS},
    rates=MeasuredRates(
        copy_bytes_per_s=exactly(1e10),
        copy_traffic_bytes_per_s=exactly(2e10),
        swap_out_bytes_per_s=exactly(8e9),
        swap_in_bytes_per_s=exactly(9e9),
        swap_s=exactly(1e-6),
        disk_write_bytes_per_s=exactly(1e9),
        disk_read_bytes_per_s=exactly(2e9),
        disk_read_cached=False,
    ),
    engine=EngineTimes(
        step_s=exactly(4e-4),
        sequence_s=exactly(5e-5),
        token_s=exactly(1e-6),
        request_s=exactly(2e-4),
        num_points=1,
    ),
    num_threads=2,
    software="none",
)
DEVICE = replace(load_device("H100-SXM"), name="here", measured=MEASURED)
MODEL = ModelSpec(
    name="small",
    hidden_size=256,
    vocab_size=1024,
    max_context=4096,
    layers=(
        LayerGroup(
            count=3,
            layer=Layer(
                mixer=Attention(num_heads=4, num_kv_heads=2, head_dim=64),
                ffn=DenseFfn(intermediate=1024),
            ),
        ),
    ),
    quantization=Quantization(
        mixer=DType.FP32,
        ffn=DType.FP32,
        embedding=DType.FP32,
        lm_head=DType.FP32,
        kv_cache=DType.FP32,
    ),
)
CLOCK = measured_clock(MODEL, DEVICE)


def test_table_points_are_exact():
    for c, o, i, t in ((0, 0, 0, 0), (1, 2, 2, 4), (0, 1, 2, 3), (1, 0, 1, 2)):
        found = linear_s(LINEAR, TOKENS[t], WIDTHS[o], WIDTHS[i], CYCLED[c])
        assert found == pytest.approx(LINEAR.seconds[c][o][i][t], rel=1e-12)


@given(
    tokens=st.integers(1, 5000),
    outputs=st.integers(16, 5000),
    inputs=st.integers(16, 5000),
    cycled=st.floats(1e6, 1e8),
)
def test_power_laws_are_followed_between_and_beyond(tokens, outputs, inputs, cycled):
    found = linear_s(LINEAR, tokens, outputs, inputs, cycled)
    assert found == pytest.approx(multiply_s(tokens, outputs, inputs, cycled), rel=1e-9)


def test_weights_between_uses_are_held_at_the_ends():
    assert linear_s(LINEAR, 4, 64, 64, 1.0) == linear_s(LINEAR, 4, 64, 64, 1e6)
    assert linear_s(LINEAR, 4, 64, 64, 1e12) == linear_s(LINEAR, 4, 64, 64, 1e8)


@given(decodes=st.integers(1, 500), context=st.integers(1, 10**6), more=st.integers(0, 10**6))
def test_decode_line_is_the_step_time(decodes, context, more):
    base_s, slope_s, limit = CLOCK.decode_line(decodes, context)
    at = min(context + more, limit)
    assert limit >= context
    assert base_s + slope_s * at == pytest.approx(CLOCK.step_s((), decodes, at), rel=1e-9)


@given(
    chunks=st.lists(st.tuples(st.integers(1, 2000), st.integers(0, 4000)), max_size=4),
    decodes=st.integers(0, 300),
    context=st.integers(0, 10**5),
    more=st.integers(0, 10**5),
)
def test_more_work_never_takes_less_on_a_monotone_table(chunks, decodes, context, more):
    context = context + decodes if decodes else 0
    seconds = CLOCK.step_s(chunks, decodes, context)
    if decodes:
        assert CLOCK.step_s(chunks, decodes, context + more) >= seconds * (1 - 1e-12)
    assert CLOCK.step_s(chunks, decodes + 1, context + 1) >= seconds
    assert CLOCK.step_s([*chunks, (32, 0)], decodes, context) >= seconds


@given(
    chunks=st.lists(st.tuples(st.integers(1, 2000), st.integers(0, 4000)), max_size=4),
    decodes=st.integers(0, 300),
)
def test_parts_sum_to_the_step(chunks, decodes):
    parts = CLOCK.step_parts(chunks, decodes, 100 * decodes)
    assert sum(parts.values()) == pytest.approx(
        CLOCK.step_s(chunks, decodes, 100 * decodes), rel=1e-9
    )


def test_a_decode_step_is_the_sum_of_its_calls():
    """By hand: seven matrices a layer, three layers, one head."""
    bytes_ = 4.0 * (3 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 1024 * 256) + 1024 * 256)
    widths = ((256, 256), (128, 256), (128, 256), (256, 256), (1024, 256), (1024, 256), (256, 1024))
    expected = 1.5 * 3 * sum(multiply_s(2, o, i, bytes_) for o, i in widths)
    expected += 1.5 * multiply_s(2, 1024, 256, bytes_) + 2 * (2e-5 + 4e-10 * 2 * 1024)
    expected += 2 * (2e-5 + 5e-10 * 512 + 3 * (1e-4 + 2e-9 * (256 + 1024 + 512)))
    read = 600 * 256
    rate_s = 4e-10 + 2e-10 * math.log(read / 1e5) / math.log(10)
    expected += 1.25 * 3 * (5e-5 + 2e-6 + 1e-9 * 4 * 600 + rate_s * read)
    expected += 4e-4 + 2 * 5e-5 + 2e-6
    assert CLOCK.step_s((), 2, 600) == pytest.approx(expected, rel=1e-3)  # lines between knots


def test_factors_are_found_from_whole_passes():
    """Three factors where passes differ in kind, one where they do not."""
    parts = [(1.0, 0.1, 0.2), (0.5, 1.0, 0.1), (0.2, 0.3, 0.9), (1.0, 2.0, 0.3), (3.0, 0.2, 0.1)]
    found = pass_factors(parts, [1.5 * a + 1.25 * b + 2.0 * c for a, b, c in parts])
    assert found.linear.value == pytest.approx(1.5)
    assert found.attention.value == pytest.approx(1.25)
    assert found.light.value == pytest.approx(2.0)
    alike = [(k * 1.0, k * 0.5, k * 0.25) for k in (1, 2, 3, 4)]
    found = pass_factors(alike, [1.4 * sum(row) for row in alike])
    for factor in (found.linear, found.attention, found.light):
        assert factor.value == pytest.approx(1.4)


def test_forward_only_leaves_the_engine_out():
    bare = measured_clock(MODEL, DEVICE, forward_only=True)
    assert CLOCK.step_s((), 3, 90) - bare.step_s((), 3, 90) == pytest.approx(4e-4 + 3 * 5.1e-5)


def test_swap_moves_the_cache_at_the_slower_rate():
    held = 100 * 3 * 2 * 2 * 64 * 4
    assert CLOCK.swap_s(100) == pytest.approx(1e-6 + held / 8e9)


def test_refusals_are_one_sentence():
    bare = replace(DEVICE, measured=None)
    with pytest.raises(UnsupportedError, match="no measurements of its own; run `plimsoll"):
        measured_clock(MODEL, bare)
    with pytest.raises(UnsupportedError, match="not measured in bf16, only in fp32"):
        measured_clock(MODEL, DEVICE, dtype=DType.BF16)
    quiet = replace(DEVICE, measured=replace(MEASURED, engine=None))
    with pytest.raises(UnsupportedError, match="engine's own time"):
        measured_clock(MODEL, quiet)
    measured_clock(MODEL, quiet, forward_only=True)
    (group,) = MODEL.layers
    experts = replace(group.layer, ffn=MoeFfn(num_experts=8, top_k=2, intermediate=64))
    with pytest.raises(UnsupportedError, match="only dense feed-forward parts are measured"):
        measured_clock(replace(MODEL, layers=(replace(group, layer=experts),)), DEVICE)
    window = replace(
        group.layer, mixer=Attention(num_heads=4, num_kv_heads=2, head_dim=64, window=128)
    )
    with pytest.raises(UnsupportedError, match="windowed attention"):
        measured_clock(replace(MODEL, layers=(replace(group, layer=window),)), DEVICE)


@given(tokens=st.integers(1, 10**5))
def test_shares_are_a_weighted_mean(tokens):
    found = shares((32, 128, 1024), tokens)
    assert sum(found) == pytest.approx(1.0)
    assert min(found) >= 0
    if 32 <= tokens <= 1024:
        mean = sum(s * math.log(n) for s, n in zip(found, (32, 128, 1024), strict=True))
        assert mean == pytest.approx(math.log(tokens))


def test_a_fit_finds_the_law_it_was_drawn_from():
    rows = [(1, a, a * a) for a in range(1, 12)]
    found, error = fit_products(rows, [3.0 + 0.5 * a + 0.25 * a * a for a in range(1, 12)])
    assert [c.value for c in found] == pytest.approx([3.0, 0.5, 0.25], rel=1e-6)
    assert error < 1e-9
    assert max(c.error for c in found) < 1e-6


def test_a_few_disturbed_points_do_not_move_a_fit():
    times = [1.0 + 0.5 * a for a in range(1, 40)]
    times[7] *= 3
    times[20] *= 5
    found, _ = fit_products([(1, a) for a in range(1, 40)], times)
    assert [c.value for c in found] == pytest.approx([1.0, 0.5], rel=0.05)


def test_attention_fits_return_the_clock_that_made_them():
    decode = []
    for heads, kv_heads in ((4, 4), (8, 2), (16, 8)):
        for batch in (1, 4, 16):
            for context in (32, 256, 1024):
                read = 128 * kv_heads * batch * context
                took_s = 4e-5 + 1e-6 * batch + read * (4e-10 if read < 1e5 else 7e-10)
                if not 1e5 < read < 2e5:
                    row = (heads, 64 * heads, 128 * kv_heads, batch, batch * context, took_s)
                    decode.append(AttentionPoint(*row))
    fit = decode_times(decode, (1e5, 2e5))
    assert [c.value for c in fit.value_s] == pytest.approx([4e-10, 7e-10], rel=1e-3)
    assert fit.error_fraction < 1e-6
    prompt = [
        AttentionPoint(h, d * h, 2 * d * k, n, c,
                       5e-5 + (6e-10 * 2 * d * k * (n + c) if c else 0)
                       + d * h * n * (n + c) * (3e-11 if c else 2e-11))
        for h, k, d in ((4, 4, 32), (8, 2, 64), (6, 6, 128))
        for n in (16, 64, 256, 512) for c in (0, 128, 1024)
    ]  # fmt: skip
    whole = prefill_times(prompt, (64, 512))
    assert [c.value for c in whole.whole_pair_s] == pytest.approx([2e-11] * 2, rel=1e-2)
    assert [c.value for c in whole.prefix_pair_s] == pytest.approx([3e-11] * 2, rel=1e-2)


def test_engine_times_need_steps_of_two_sizes():
    fit = engine_times([(n, t, 1e-4 + 2e-5 * n + 1e-6 * t) for n in (1, 4) for t in (4, 64)], [0.1])
    assert fit.sequence_s.value == pytest.approx(2e-5, rel=1e-6)
    with pytest.raises(UnsupportedError, match="takes 4 steps"):
        engine_times([(1, 1, 1e-4)] * 8, [0.1])


def test_beyond_the_table_time_grows_at_most_in_proportion():
    """Noise between neighbors is not blown up where several axes are left at once."""
    rough = replace(
        LINEAR,
        seconds=tuple(
            tuple(
                tuple(
                    tuple(1e-6 * (1 + ((c + o + i + t) % 2)) for t in range(len(TOKENS)))
                    for i in range(len(WIDTHS))
                )
                for o in range(len(WIDTHS))
            )
            for c in range(len(CYCLED))
        ),
    )
    edge = linear_s(rough, 256, 1024, 1024, 1e8)
    far = linear_s(rough, 256 * 16, 1024 * 100, 1024 * 4, 1e12)
    assert edge <= far <= edge * 16 * 100 * 4 * 1.001
    assert linear_s(LINEAR, 1024, 2048, 1024, 1e8) == pytest.approx(
        multiply_s(1024, 2048, 1024, 1e8)
    )
