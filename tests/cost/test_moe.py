"""Experts: who is hit, how uneven, what is read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.cost.efficiency import calibration_for
from plimsoll.cost.gemm import multiply_format
from plimsoll.cost.moe import moe_shape, moe_work
from plimsoll.cost.routing import expert_load
from plimsoll.spec.dtype import DType
from plimsoll.spec.model import MoeFfn
from tests.cost.machines import H100

FFN = MoeFfn(num_experts=64, top_k=4, intermediate=2048)
RATES = calibration_for(H100).moe["triton"]


def load(tokens: float, groups: int = 1, exponent: float = 0.0) -> tuple[float, float]:
    found = expert_load(
        np.asarray(tokens), num_experts=64, top_k=4, groups=groups, exponent=exponent
    )
    return float(found.experts_hit), float(found.pairs)


@pytest.mark.parametrize("tokens", [1, 4, 16, 64, 256])
def test_uniform_hits_match_drawing(tokens: int) -> None:
    generator = np.random.default_rng(0)
    drawn = [
        len({e for _ in range(tokens) for e in generator.permutation(64)[:4]}) for _ in range(300)
    ]
    assert load(tokens)[0] == pytest.approx(np.mean(drawn), rel=0.02)


@pytest.mark.parametrize("groups", [4, 16])
def test_uniform_busiest_device_matches_drawing(groups: int) -> None:
    generator = np.random.default_rng(1)
    tokens, busiest = 512, []
    for _ in range(100):
        chosen = np.argsort(generator.random((tokens, 64)), axis=1)[:, :4] // (64 // groups)
        busiest.append(np.bincount(chosen.ravel(), minlength=groups).max())
    assert load(tokens, groups)[1] == pytest.approx(np.mean(busiest), rel=0.06)


@settings(max_examples=200, deadline=None)
@given(
    tokens=st.floats(1, 1e5),
    groups=st.sampled_from([1, 2, 8, 64]),
    exponent=st.sampled_from([0.0, 1.01, 1.2]),
)
def test_load_stays_within_what_exists(tokens: float, groups: int, exponent: float) -> None:
    hit, pairs = load(tokens, groups, exponent)
    mean = 4 * tokens / groups
    assert 0 < hit <= min(64 / groups, pairs) + 1e-9
    assert mean * (1 - 1e-9) <= pairs <= 4 * tokens * (1 + 1e-9)


def test_skew_hits_fewer_experts_and_fills_one_device() -> None:
    even, skewed = load(64, 8), load(64, 8, 1.2)
    assert skewed[1] > even[1]
    assert load(64, 1, 1.2)[0] < load(64)[0]


@settings(max_examples=100, deadline=None)
@given(tokens=st.integers(1, 30000), dtype=st.sampled_from([DType.BF16, DType.FP8_BLOCK]))
def test_time_bounds_and_growth(tokens: int, dtype: DType) -> None:
    shape = moe_shape(FFN, 4096, ep=1, moe_tp=1, exponent=0.0)
    how = multiply_format(dtype, H100)
    at = np.array([tokens, tokens + 1.0, 2.0 * tokens])
    work = moe_work(at, shape, how=how, device=H100, rates=RATES)
    assert (np.diff(work.time_s) >= 0).all()
    values = 3 * 4096 * 2048
    assert work.flops[0] == pytest.approx(2 * tokens * 4 * values)
    assert (work.time_s > work.flops / H100.flops_per_s(how.math)).all()
    assert work.bytes[2] < 1.01 * (64 * values * how.weight_bytes + 2 * tokens * 4 * 3e5)


def test_experts_over_devices_read_less_each() -> None:
    how = multiply_format(DType.BF16, H100)
    few = np.asarray(256.0)

    def time_s(ep: int, moe_tp: int) -> float:
        shape = moe_shape(FFN, 4096, ep=ep, moe_tp=moe_tp, exponent=0.0)
        return float(moe_work(few, shape, how=how, device=H100, rates=RATES).time_s)

    assert time_s(8, 1) < time_s(2, 1) < time_s(1, 1)
    assert time_s(1, 8) < time_s(1, 2) < time_s(1, 1)
