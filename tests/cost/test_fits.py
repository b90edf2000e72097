"""Fitted clocks: published values, agreement with their own closed forms, recovery by fitting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.cost.clock import StepClock
from plimsoll.cost.fits import (
    DecodeLine,
    PrefillDecodeFit,
    PrefillLine,
    fit_decode,
    fit_prefill,
    published_fit,
    published_fits,
)
from plimsoll.spec.errors import SpecError, UnsupportedError

fit_ids = st.sampled_from(published_fits())
lengths = st.lists(st.integers(1, 4096), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("model", "tp", "prefill_ms", "decode_ms", "large_ms"),
    [
        # arXiv 2401.09670's artifact: 512-token prompt; 10 requests at 300 tokens; 100 at 300.
        (
            "opt-13b",
            1,
            18.1025 + 512 * 0.101912 + 512**2 * 7.1223e-6,
            19.9347 + 3000 * 6.2694e-4 + 0.38507,
            7.16619 + 30000 * 5.798e-4 + 15.8311,
        ),
        (
            "opt-66b",
            4,
            29.4416 + 512 * 0.151352 + 512**2 * 8.31745e-6,
            30.7603 + 3000 * 4.51948e-4 + 0.632842,
            27.4708 + 30000 * 4.04685e-4 + 12.4807,
        ),
    ],
)
def test_published_coefficients(
    model: str, tp: int, prefill_ms: float, decode_ms: float, large_ms: float
) -> None:
    clock = published_fit(model, tp=tp).clock
    assert clock.step_s([(512, 0)], 0, 0) * 1e3 == pytest.approx(prefill_ms, rel=1e-4)
    assert clock.step_s([], 10, 3000) * 1e3 == pytest.approx(decode_ms, rel=1e-4)
    assert clock.step_s([], 100, 30000) * 1e3 == pytest.approx(large_ms, rel=1e-4)


def test_published_coefficients_of_the_rival_engine() -> None:
    """profiler-a100-80g.vllm.json of the same artifact: slower in every part, same memory."""
    ours, rival = published_fit("opt-13b", tp=1), published_fit("opt-13b", tp=1, engine="vllm")
    prefill_ms = 22.0522 + 512 * 0.140509 + 512**2 * 8.07658e-6
    assert rival.clock.step_s([(512, 0)], 0, 0) * 1e3 == pytest.approx(prefill_ms, rel=1e-4)
    decode_ms = 23.4750 + 3000 * 5.92934e-4 + 0.607269
    assert rival.clock.step_s([], 10, 3000) * 1e3 == pytest.approx(decode_ms, rel=1e-4)
    assert rival.max_kv_tokens == ours.max_kv_tokens
    for model, tp in published_fits("vllm"):
        ours = published_fit(model, tp=tp)
        rival = published_fit(model, tp=tp, engine="vllm")
        assert ours.clock.step_s([(754, 0)], 0, 0) < rival.clock.step_s([(754, 0)], 0, 0)
    with pytest.raises(SpecError, match="Did you mean vllm"):
        published_fits("vlm")  # type: ignore[arg-type]


def test_published_capacities() -> None:
    """KV token capacities of the same artifact."""
    expected = {
        ("opt-13b", 1): 66_144,
        ("opt-13b", 2): 163_008,
        ("opt-13b", 4): 356_736,
        ("opt-66b", 2): 11_600,
        ("opt-66b", 4): 78_496,
        ("opt-66b", 8): 212_304,
    }
    found = {key: published_fit(key[0], tp=key[1]).max_kv_tokens for key in expected}
    assert found == expected


def test_published_kv_bytes_of_a_512_token_prompt() -> None:
    """arXiv 2401.09670 section 3.3: about 1.13 GB for 512 tokens of OPT-66B."""
    assert published_fit("opt-66b", tp=4).kv_bytes_per_token * 512 / 2**30 == pytest.approx(
        1.13, abs=0.01
    )


@given(
    key=fit_ids,
    batch=st.integers(1, 300),
    context=st.integers(1, 10**6),
    more=st.integers(0, 10**6),
    overhead_token_s=st.floats(0, 1e-6),
)
@settings(deadline=None)
def test_decode_line_is_the_step_time(
    key: tuple[str, int], batch: int, context: int, more: int, overhead_token_s: float
) -> None:
    clock: StepClock = published_fit(
        key[0], tp=key[1], pp=2, overhead_s=2e-3, overhead_token_s=overhead_token_s
    ).clock
    base_s, slope_s, limit = clock.decode_line(batch, context)
    assert context + more <= limit
    assert clock.step_s((), batch, context + more) == pytest.approx(
        base_s + slope_s * (context + more), rel=1e-9
    )


@given(key=fit_ids, prompt=st.integers(2, 8192), cut=st.floats(0.01, 0.99))
@settings(deadline=None)
def test_chunks_add_up_to_the_prompt(key: tuple[str, int], prompt: int, cut: float) -> None:
    clock = published_fit(key[0], tp=key[1]).clock
    first = max(1, min(prompt - 1, int(prompt * cut)))
    parts = clock.step_s([(first, 0)], 0, 0) + clock.step_s([(prompt - first, first)], 0, 0)
    whole = clock.step_s([(prompt, 0)], 0, 0) + clock.prefill.base_s
    assert parts == pytest.approx(whole, rel=1e-9)


@given(key=fit_ids, prompts=lengths, batch=st.integers(1, 200), context=st.integers(1, 10**5))
@settings(deadline=None)
def test_a_mixed_step_costs_no_less_than_either_part_and_no_more_than_both(
    key: tuple[str, int], prompts: list[int], batch: int, context: int
) -> None:
    clock = published_fit(key[0], tp=key[1]).clock
    chunks = [(n, 0) for n in prompts]
    alone = (clock.step_s(chunks, 0, 0), clock.step_s([], batch, context))
    assert max(alone) <= clock.step_s(chunks, batch, context) <= sum(alone)
    assert alone[0] == pytest.approx(clock.prefill.seconds(prompts), rel=1e-12)


def test_pipeline_divides_kernels_but_not_engine_overhead() -> None:
    one = published_fit("opt-13b", tp=1, pp=1, overhead_s=2e-3).clock
    two = published_fit("opt-13b", tp=1, pp=2, overhead_s=2e-3).clock
    assert two.num_stages == 2
    assert two.step_s([], 8, 4000) - 2e-3 == pytest.approx((one.step_s([], 8, 4000) - 2e-3) / 2)
    assert two.swap_s(1000) == pytest.approx(one.swap_s(1000) / 2)
    assert one.swap_s(1000) == pytest.approx(1000 * 2 * 40 * 5120 * 2 / 32e9)
    assert one.step_s([], 0, 0) == 0.0


def test_fitting_recovers_known_coefficients() -> None:
    rng = np.random.default_rng(0)
    truth = published_fit("opt-66b", tp=4).clock
    batches = [rng.integers(1, 2048, rng.integers(1, 8)).tolist() for _ in range(60)]
    prefill, error = fit_prefill(batches, [truth.prefill.seconds(b) for b in batches])
    assert error.max_fraction < 1e-9
    for name in ("base_s", "token_s", "square_s"):
        assert getattr(prefill, name) == pytest.approx(getattr(truth.prefill, name), rel=1e-6)
    sides: list[DecodeLine] = []
    for low, high in ((1, 95), (95, 300)):
        batch = rng.integers(low, high, 60)
        context = (batch * rng.integers(50, 2000, 60)).tolist()
        seconds = [truth.step_s([], b, c) for b, c in zip(batch.tolist(), context, strict=True)]
        line, error = fit_decode(context, batch.tolist(), seconds)
        assert error.max_fraction < 1e-9
        sides.append(line)
    again = PrefillDecodeFit(
        prefill=prefill,
        decode_small=sides[0],
        decode_large=sides[1],
        decode_switch_batch=95,
        swap_token_s=truth.swap_token_s,
    )
    for batch_size in (1, 94, 95, 200):
        assert again.step_s([], batch_size, 50_000) == pytest.approx(
            truth.step_s([], batch_size, 50_000), rel=1e-6
        )


def test_fitting_under_noise_reports_its_error() -> None:
    rng = np.random.default_rng(1)
    truth = PrefillLine(base_s=0.02, token_s=1e-4, square_s=1e-8)
    batches = [[int(n)] for n in rng.integers(16, 8192, 400)]
    noisy = [truth.seconds(b) * float(rng.normal(1, 0.05)) for b in batches]
    found, error = fit_prefill(batches, noisy)
    assert found.token_s == pytest.approx(truth.token_s, rel=0.05)
    assert 0.02 < error.median_fraction < 0.05


def test_points_that_cannot_tell_the_terms_apart_are_refused() -> None:
    with pytest.raises(SpecError, match="do not tell"):
        fit_prefill([[100], [100], [100], [100]], [1.0, 1.0, 1.0, 1.0])
    with pytest.raises(SpecError, match="above zero"):
        fit_decode([1, 2, 3], [1, 1, 2], [1.0, -1.0, 1.0])


def test_unknown_models_and_cuts_are_named() -> None:
    with pytest.raises(SpecError, match="Did you mean opt-13b"):
        published_fit("opt-13", tp=1)
    with pytest.raises(UnsupportedError, match="fitted at tp 2, 3, 4, 8"):
        published_fit("opt-66b", tp=1)
    with pytest.raises(UnsupportedError, match="pp 3"):
        published_fit("opt-13b", tp=1, pp=3)
