"""Time of layers with a fixed-size state: gated delta-rule linear attention and Mamba-2.

A decode reads and writes each sequence's state once, so bytes bind. A prompt is processed in
chunks: per token and head about four products with the state (in, out, decay, correction) plus
the traffic of its inputs; a short convolution precedes both. Projections around the mixer are
multiplies, counted elsewhere. Leaves out the chunk length's effect.
Source: arXiv 2405.21060, 2412.06464; library/calibration/kernels.
"""

from typing import NamedTuple

import numpy as np

from plimsoll.cost.attention import half_peak
from plimsoll.cost.efficiency import StateRates, latency_scale
from plimsoll.cost.roofline import Floats, Work
from plimsoll.spec.dtype import DType
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import LinearAttention, StateSpace

__all__ = ["StateShape", "state_decode_work", "state_prefill_work", "state_shape"]


class StateShape(NamedTuple):
    """One layer's state on one device: values and bytes of it, traffic and FLOPs of a token."""

    state_bytes: float | Floats
    token_bytes: float | Floats
    token_flops: float | Floats


def state_shape(mixer: LinearAttention | StateSpace, *, tp: int) -> StateShape:
    """The layer's share on one of ``tp`` devices."""
    if isinstance(mixer, LinearAttention):
        values = mixer.num_v_heads * mixer.head_k_dim * mixer.head_v_dim / tp
        inner = mixer.num_v_heads * mixer.head_v_dim / tp
        channels = 2 * mixer.num_k_heads * mixer.head_k_dim / tp + inner
        products = 4.0
    else:
        inner = mixer.num_heads * mixer.head_dim / tp
        values = inner * mixer.state_size
        channels = inner + 2 * -(-mixer.num_groups // tp) * mixer.state_size
        products = 3.0
    return StateShape(
        state_bytes=values * mixer.state_dtype.bytes,
        token_bytes=(4 * channels + inner) * DType.BF16.bytes,
        token_flops=2.0 * products * values,
    )


def state_decode_work(
    batch: Floats, shape: StateShape, *, device: Device, rates: StateRates
) -> Work:
    """One token for each of an array of ``batch`` sequences."""
    moved = batch * (2.0 * shape.state_bytes + shape.token_bytes)
    memory_s = moved / (device.memory_bytes_per_s * rates.decode_memory_fraction)
    fixed_s = rates.decode_launch_s * latency_scale(device)
    flops = batch * shape.token_flops
    return Work(fixed_s + memory_s, flops, moved, np.zeros_like(moved), memory_s, fixed_s)


def state_prefill_work(
    tokens: Floats, shape: StateShape, *, device: Device, rates: StateRates
) -> Work:
    """Prompt chunks of an array of total ``tokens``."""
    flops = tokens * shape.token_flops
    moved = tokens * shape.token_bytes
    compute_s = flops / (half_peak(device) * rates.prefill_compute_fraction)
    memory_s = moved / (device.memory_bytes_per_s * rates.prefill_memory_fraction)
    fixed_s = rates.prefill_launch_s * latency_scale(device)
    return Work(fixed_s + compute_s + memory_s, flops, moved, compute_s, memory_s, fixed_s)
