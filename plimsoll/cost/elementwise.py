"""Time of norms, activations, rotary embedding, cache writes and embedding lookups.

All are bound by traffic: one launch plus bytes over a share of bandwidth.
Leaves out fusion that differs between engines; counts are of fused kernels.
Source: library/calibration.
"""

import numpy as np

from plimsoll.cost.efficiency import ElementwiseRates, latency_scale
from plimsoll.cost.roofline import Floats, Work
from plimsoll.spec.hardware import Device

__all__ = ["elementwise_work"]


def elementwise_work(
    tokens: Floats, bytes_per_token: float, *, device: Device, rates: ElementwiseRates
) -> Work:
    """Work of one kernel that moves ``bytes_per_token`` for each of an array of ``tokens``."""
    moved = tokens * bytes_per_token
    memory_s = moved / (device.memory_bytes_per_s * rates.memory_fraction)
    zero = np.zeros_like(moved)
    fixed_s = rates.launch_s * latency_scale(device)
    return Work(fixed_s + memory_s, zero, moved, zero, memory_s, fixed_s)
