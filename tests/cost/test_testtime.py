"""Cost of long generations: published figures, sums over steps, and conventions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.cost.testtime import (
    B200_INTENSITY,
    DecodeShape,
    decode_shape,
    eflops_dense,
    eflops_sparse,
    intensity,
    read_positions,
)
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.fleet import load_device
from plimsoll.spec.model_files import load_model

SHAPE = DecodeShape(name="toy", params=1e6, total_params=2e6, kv_width=256.0, query_width=1024.0)
KIB_PER_TOKEN = {"0.6b": 112, "1.7b": 112, "4b": 144, "8b": 144, "14b": 160, "32b": 256}


@settings(max_examples=200, deadline=None)
@given(c=st.integers(0, 500), length=st.integers(1, 500), budget=st.integers(1, 1200))
def test_positions_are_the_sum_over_steps(c, length, budget):
    steps = np.minimum(budget, c + np.arange(length) + 0.5)
    assert float(read_positions(c, length, budget)) == pytest.approx(steps.sum(), rel=1e-12)
    whole = (c + np.arange(length) + 0.5).sum()
    assert float(read_positions(c, length)) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("size", KIB_PER_TOKEN)
def test_kv_of_a_token(size):
    shape = decode_shape(load_model(f"qwen3-{size}"))
    assert shape.kv_bytes_per_token == KIB_PER_TOKEN[size] * 1024


def test_parameters_grow_much_faster_than_kv():
    small, large = (
        decode_shape(load_model("qwen3-0.6b"), tied_twice=True),
        decode_shape(load_model("qwen3-32b")),
    )
    assert large.params / small.params == pytest.approx(44, abs=1)
    assert large.kv_width / small.kv_width == pytest.approx(2.3, abs=0.05)


def test_a_sum_by_hand():
    cost = eflops_dense(SHAPE, prompt_tokens=10, tokens=4, trials=3)
    positions = 10.5 + 11.5 + 12.5 + 13.5
    assert float(cost.flops) == 3 * (2 * 1e6 * 4 + 4 * positions * 1024)
    own = (0.5 + 1.5 + 2.5 + 3.5) * 3
    assert float(cost.bytes) == (10 * 4 + own) * 2 * 2 * 256
    assert float(cost.eflops(2.0)) == float(cost.flops) + 2 * float(cost.bytes)


def test_intensity_multiplies_bytes_not_elements():
    cost = eflops_dense(SHAPE, prompt_tokens=0, tokens=100)
    elements = 2 * 5000 * 256
    assert float(cost.bytes) == 2 * elements


def test_only_dense_trials_share_the_prompt():
    args = {"prompt_tokens": 1000, "tokens": 100}
    one, many = (eflops_dense(SHAPE, trials=n, **args) for n in (1, 8))
    assert float(many.bytes) < 8 * float(one.bytes)
    one, many = (eflops_sparse(SHAPE, trials=n, kv_budget=5000, **args) for n in (1, 8))
    assert float(many.bytes) == 8 * float(one.bytes)


def test_a_budget_beyond_the_context_is_dense():
    dense = eflops_dense(SHAPE, prompt_tokens=100, tokens=50)
    sparse = eflops_sparse(SHAPE, prompt_tokens=100, tokens=50, kv_budget=150)
    assert float(sparse.flops) == float(dense.flops)
    assert float(sparse.bytes) == float(dense.bytes)


def test_search_costs_a_share_of_the_positions():
    args = {"prompt_tokens": 100, "tokens": 50, "kv_budget": 32}
    free, searched = (eflops_sparse(SHAPE, block=b, **args) for b in (0, 16))
    scored = (2 * 100 + 50) / 16 * 50
    assert float(searched.flops - free.flops) == pytest.approx(scored * 1024)
    assert float(searched.bytes - free.bytes) == pytest.approx(scored * 256)


def test_the_mean_length_is_not_the_mean_cost():
    """Traffic grows with the square of the length."""
    lengths = np.array([1000.0, 31_000.0])
    spread = eflops_dense(SHAPE, prompt_tokens=0, tokens=lengths).bytes.mean()
    at_mean = float(eflops_dense(SHAPE, prompt_tokens=0, tokens=lengths.mean()).bytes)
    assert spread / at_mean == pytest.approx((1000**2 + 31_000**2) / 2 / 16_000**2)


def test_experts_cost_active_arithmetic():
    shape = decode_shape(load_model("qwen3-30b-a3b"))
    assert shape.params < 4e9 < 30e9 < shape.total_params


def test_peaks_are_dense():
    b200 = intensity(load_device("B200-SXM"), DType.BF16)
    assert b200 == pytest.approx(281, rel=0.02)
    assert pytest.approx(2 * b200, rel=0.02) == B200_INTENSITY


def test_what_cannot_be_costed_is_said():
    with pytest.raises(UnsupportedError, match="full attention only"):
        decode_shape(load_model("deepseek-v3"))
    with pytest.raises(SpecError, match="0 trials"):
        eflops_dense(SHAPE, prompt_tokens=1, tokens=1, trials=0)
    with pytest.raises(SpecError, match="generated tokens are -1"):
        eflops_dense(SHAPE, prompt_tokens=1, tokens=-1)
    with pytest.raises(SpecError, match="a KV budget of 0"):
        eflops_sparse(SHAPE, prompt_tokens=1, tokens=1, kv_budget=0)
