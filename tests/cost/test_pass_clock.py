"""The pass clock against its own formula and the contract of step clocks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plimsoll.cost.pass_clock import PassClock
from plimsoll.cost.saturation import saturation_tokens

CLOCK = PassClock(weight_s=0.02, token_s=2e-4, context_s=5e-8, base_s=3e-3, swap_token_s=1e-6)


@given(decodes=st.integers(1, 2000), context=st.integers(1, 10**7), more=st.integers(0, 10**6))
def test_decode_line_is_the_step_time(decodes, context, more):
    base_s, slope_s, limit = CLOCK.decode_line(decodes, context)
    at = min(context + more, limit)
    assert base_s + slope_s * at == pytest.approx(CLOCK.step_s((), decodes, at), rel=1e-12)


@given(
    chunks=st.lists(st.tuples(st.integers(1, 4000), st.integers(0, 20_000)), max_size=5),
    decodes=st.integers(0, 500),
    context=st.integers(0, 10**6),
)
def test_never_below_weights_arithmetic_or_reading(chunks, decodes, context):
    context = context if decodes else 0
    seconds = CLOCK.step_s(chunks, decodes, context)
    if not chunks and not decodes:
        assert seconds == 0
        return
    tokens = decodes + sum(new for new, _ in chunks)
    read_s = 5e-8 * (context + sum(new + cached for new, cached in chunks))
    assert seconds == pytest.approx(max(0.02, 2e-4 * tokens) + read_s + 3e-3, rel=1e-12)


def test_number_of_sequences_does_not_matter_but_their_context_does():
    one = CLOCK.step_s([(512, 0)], 0, 0)
    assert CLOCK.step_s([(256, 0), (256, 0)], 0, 0) == pytest.approx(one)
    assert CLOCK.step_s([(512, 2048)], 0, 0) - one == pytest.approx(2048 * 5e-8)


def test_concave_throughput_makes_equal_passes_best():
    """2 f(x) >= f(x + h) + f(x - h) for throughput f: equal cuts lose nothing (section 3)."""

    def rate(tokens):
        return tokens / CLOCK.step_s([(tokens, 0)], 0, 0)

    for h in (50, 100, 150):
        assert 2 * rate(200) >= rate(200 + h) + rate(200 - h)


def test_slower_prompts_price_only_prompts():
    slow = PassClock(weight_s=0.02, token_s=2e-4, context_s=5e-8, base_s=3e-3, prefill_speed=0.5)
    assert slow.step_s((), 300, 1000) == CLOCK.step_s((), 300, 1000)
    extra_s = slow.step_s([(1000, 0)], 100, 1000) - CLOCK.step_s([(1000, 0)], 100, 1000)
    assert extra_s == pytest.approx(1000 * 2e-4)


def test_saturation_is_a_tile_multiple_near_the_best_rate():
    budget = saturation_tokens(CLOCK, most=8192, tile=128, within=0.05)
    best = 8192 / CLOCK.step_s([(8192, 0)], 0, 0)
    assert budget % 128 == 0
    assert budget / CLOCK.step_s([(budget, 0)], 0, 0) >= 0.95 * best
    assert (budget - 128) / CLOCK.step_s([(budget - 128, 0)], 0, 0) < 0.95 * best
