"""Time and memory traffic of a dense matrix multiply on one device.

Roofline with a soft corner over a share of peak that depends on the number format, plus one
launch. Weights may be stored in fewer bits than the multiply runs in (weight-only formats).
Leaves out cache reuse between neighboring kernels.
Source: doi:10.1145/1498765.1498785; coefficients in library/calibration.
"""

from typing import NamedTuple

import numpy as np

from plimsoll.cost.efficiency import GemmRates
from plimsoll.cost.roofline import Floats, OpCost, Work, op_cost, soft_maximum
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.hardware import Device

__all__ = ["Multiply", "gemm_cost", "gemm_work", "multiply_format"]


class Multiply(NamedTuple):
    """How a weight in some format is multiplied on a device.

    ``math`` is the format of the arithmetic; ``weight_bytes`` and ``activation_bytes`` are
    stored bytes a value. ``weight_only`` means the weights are expanded before the multiply.
    """

    math: DType
    weight_bytes: float
    activation_bytes: float
    weight_only: bool


_HALF = (DType.BF16, DType.FP16)


def multiply_format(weight: DType, device: Device) -> Multiply:
    """Native arithmetic if the device lists it, else 16-bit with expanded weights.

    Raises:
        UnsupportedError: the device lists neither.
    """
    listed = device.peak_flops_per_s
    if weight.math in listed and weight is not DType.INT4:
        return Multiply(weight.math, weight.bytes, weight.math.bytes, False)
    for half in (*_HALF, DType.FP32):
        if half in listed:
            return Multiply(half, weight.bytes, half.bytes, weight.bytes < half.bytes)
    raise UnsupportedError(
        f"{device.name} lists no peak for {weight.math.value}, nor for bf16, fp16 or fp32 to "
        f"expand {weight.value} weights into; it lists {', '.join(sorted(listed))}"
    )


def gemm_work(
    m: Floats, n: float, k: float, *, how: Multiply, device: Device, rates: GemmRates
) -> Work:
    """Work of C[m, n] = A[m, k] @ B[k, n] for an array of ``m``, B the weight."""
    flops = 2.0 * m * n * k
    moved = m * k * how.activation_bytes + k * n * how.weight_bytes + m * n * 2.0
    peak = device.flops_per_s(how.math) * rates.compute_fraction[how.math]
    compute_s = flops / peak
    memory_s = moved / (device.memory_bytes_per_s * rates.memory_fraction)
    time_s = rates.launch_s + soft_maximum(compute_s, memory_s, rates.sharpness)
    return Work(time_s, flops, moved, compute_s, memory_s, rates.launch_s)


def gemm_cost(m: int, n: int, k: int, *, dtype: DType, device: Device, rates: GemmRates) -> OpCost:
    """Cost of C[m, n] = A[m, k] @ B[k, n]; ``m`` is tokens in the batch, no communication."""
    how = multiply_format(dtype, device)
    work = gemm_work(np.asarray(float(m)), n, k, how=how, device=device, rates=rates)
    return op_cost("gemm", work)
