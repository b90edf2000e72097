"""Layers with a fixed-size state."""

import numpy as np
import pytest

from plimsoll.cost.efficiency import calibration_for
from plimsoll.cost.kv import mixer_cache
from plimsoll.cost.state_space import state_decode_work, state_prefill_work, state_shape
from plimsoll.spec.dtype import DType
from plimsoll.spec.model import LinearAttention, StateSpace
from tests.cost.machines import H100

RATES = calibration_for(H100).state["vllm"]
LINEAR = LinearAttention(num_k_heads=16, num_v_heads=32, head_k_dim=128, head_v_dim=128)
MAMBA = StateSpace(num_heads=128, head_dim=64, state_size=128, num_groups=8)


@pytest.mark.parametrize("mixer", [LINEAR, MAMBA], ids=["linear", "mamba"])
def test_decode_reads_and_writes_the_state(mixer: LinearAttention | StateSpace) -> None:
    shape = state_shape(mixer, tp=1)
    cached = mixer_cache(mixer, DType.BF16).fixed_bytes
    assert shape.state_bytes == pytest.approx(cached, rel=0.1)
    work = state_decode_work(np.array([1.0, 64.0]), shape, device=H100, rates=RATES)
    assert work.bytes[1] >= 64 * 2 * shape.state_bytes
    assert work.time_s[1] > work.bytes[1] / H100.memory_bytes_per_s / 1.2
    assert work.time_s[0] < work.time_s[1]


@pytest.mark.parametrize("mixer", [LINEAR, MAMBA], ids=["linear", "mamba"])
def test_prefill_grows_with_tokens_not_with_context(mixer: LinearAttention | StateSpace) -> None:
    shape = state_shape(mixer, tp=1)
    time_s = state_prefill_work(np.array([1e4, 2e4, 3e4]), shape, device=H100, rates=RATES).time_s
    assert np.diff(time_s)[0] == pytest.approx(np.diff(time_s)[1])


def test_heads_are_divided() -> None:
    assert state_shape(LINEAR, tp=4).state_bytes == state_shape(LINEAR, tp=1).state_bytes / 4
