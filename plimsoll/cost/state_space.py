"""Time of layers with a fixed-size state: gated delta-rule linear attention and Mamba-2.

A decode reads and writes each sequence's state once, so bytes bind. A prompt is processed in
chunks: per token and head about four products with the state (in, out, decay, correction) plus
the traffic of its inputs. Projections around the mixer are multiplies, counted elsewhere.
Leaves out the chunk length's effect. Source: arXiv 2405.21060, 2412.06464.
"""

from typing import NamedTuple

import numpy as np

from plimsoll.cost.efficiency import StateRates
from plimsoll.cost.roofline import Floats, Work
from plimsoll.spec.dtype import DType
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import LinearAttention, StateSpace

__all__ = ["StateShape", "state_decode_work", "state_prefill_work", "state_shape"]


class StateShape(NamedTuple):
    """One layer's state on one device."""

    state_values: float
    state_bytes: float
    token_bytes: float
    products: float


def state_shape(mixer: LinearAttention | StateSpace, *, tp: int) -> StateShape:
    """The layer's share on one of ``tp`` devices."""
    if isinstance(mixer, LinearAttention):
        values = mixer.num_v_heads * mixer.head_k_dim * mixer.head_v_dim / tp
        keys = mixer.num_k_heads * mixer.head_k_dim / tp
        channels = 2 * keys + mixer.num_v_heads * mixer.head_v_dim / tp
        products = 4.0
    else:
        inner = mixer.num_heads * mixer.head_dim / tp
        values = inner * mixer.state_size
        channels = inner + 2 * mixer.num_groups * mixer.state_size / tp
        products = 3.0
    return StateShape(
        state_values=values,
        state_bytes=values * mixer.state_dtype.bytes,
        token_bytes=4 * channels * DType.BF16.bytes,
        products=products,
    )


def state_decode_work(
    batch: Floats, shape: StateShape, *, device: Device, rates: StateRates
) -> Work:
    """One token for each of an array of ``batch`` sequences."""
    flops = 2.0 * shape.products * shape.state_values * batch
    moved = batch * (2 * shape.state_bytes + shape.token_bytes)
    memory_s = moved / (device.memory_bytes_per_s * rates.memory_fraction)
    return Work(
        rates.launch_s + memory_s, flops, moved, np.zeros_like(moved), memory_s, rates.launch_s
    )


def state_prefill_work(
    tokens: Floats, shape: StateShape, *, device: Device, rates: StateRates
) -> Work:
    """Prompt chunks of an array of total ``tokens``."""
    flops = 2.0 * shape.products * shape.state_values * tokens
    moved = tokens * shape.token_bytes
    peaks = device.peak_flops_per_s
    peak = peaks.get(DType.BF16) or peaks.get(DType.FP16) or device.flops_per_s(DType.FP32)
    compute_s = flops / (peak * rates.compute_fraction)
    memory_s = moved / (device.memory_bytes_per_s * rates.memory_fraction)
    return Work(
        rates.launch_s + compute_s + memory_s, flops, moved, compute_s, memory_s, rates.launch_s
    )
