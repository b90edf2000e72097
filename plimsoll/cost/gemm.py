"""Time and memory traffic of a dense matrix multiply on one device.

Roofline with a soft corner. Arithmetic is paid by waves of output tiles over the device's cores:
the best of four tile shapes, a share of the last partial wave, and a fixed cost a wave. Formats
below 16 bits also pay to quantize their activations. Weights may be stored in fewer bits than the
multiply runs in (weight-only formats). Leaves out split-k choices and cache reuse.
Source: doi:10.1145/1498765.1498785; coefficients in library/calibration/kernels.
"""

from typing import NamedTuple

import numpy as np

from plimsoll.cost.efficiency import GemmRates, latency_scale
from plimsoll.cost.roofline import Floats, OpCost, Work, op_cost, soft_maximum
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.hardware import Device

__all__ = ["Multiply", "gemm_cost", "gemm_work", "multiply_format"]

_TILES = ((64, 64), (64, 128), (128, 128), (128, 256))
_HALF = (DType.BF16, DType.FP16, DType.FP32)


class Multiply(NamedTuple):
    """How a weight in some format is multiplied on a device.

    ``math`` is the format of the arithmetic; ``weight_bytes`` and ``activation_bytes`` are
    stored bytes a value. ``expanded``: the weights are widened before the multiply.
    """

    weight: DType
    math: DType
    weight_bytes: float
    activation_bytes: float
    expanded: bool


def multiply_format(weight: DType, device: Device) -> Multiply:
    """Native arithmetic if the device lists it, else 16-bit with expanded weights.

    mxfp4 weights meet 8-bit activations where the device lists both formats.

    Raises:
        UnsupportedError: the device lists neither.
    """
    listed = device.peak_flops_per_s
    if weight is DType.MXFP4 and {DType.MXFP4, DType.FP8} <= listed.keys():
        return Multiply(weight, DType.FP8, weight.bytes, DType.MXFP8.bytes, False)
    if weight.math in listed and weight is not DType.INT4:
        return Multiply(weight, weight.math, weight.bytes, weight.math.bytes, False)
    for half in _HALF:
        if half in listed:
            return Multiply(weight, half, weight.bytes, half.bytes, weight.bytes < half.bytes)
    raise UnsupportedError(
        f"{device.name} lists no peak for {weight.math.value}, nor for bf16, fp16 or fp32 to "
        f"expand {weight.value} weights into; it lists {', '.join(sorted(listed))}"
    )


def gemm_work(
    m: Floats,
    n: float | Floats,
    k: float | Floats,
    *,
    how: Multiply,
    device: Device,
    rates: GemmRates,
    engine: str,
    quantize_fraction: float = 1.0,
) -> Work:
    """Work of C[m, n] = A[m, k] @ B[k, n] for an array of ``m``, B the weight.

    ``quantize_fraction`` of the quantization of A is a kernel of its own; the rest is fused.
    """
    scale = latency_scale(device)
    flops = 2.0 * m * n * k
    moved = m * k * how.activation_bytes + n * k * how.weight_bytes + m * n * 2.0
    format_ = how.math if how.expanded else how.weight
    fraction = rates.compute_fraction.get(format_) or rates.compute_fraction[how.math]
    core_flops_per_s = device.flops_per_s(how.math) * fraction / device.num_cores
    compute_s = None
    for tile_m, tile_n in _TILES:
        waves = np.ceil(m / tile_m) * np.ceil(n / tile_n) / device.num_cores
        paid = np.maximum(1.0, waves)
        paid = paid + rates.rounding_fraction * (np.ceil(waves) - paid)
        tile_s = 2.0 * tile_m * tile_n * k / core_flops_per_s + rates.wave_s * scale
        this_s = paid * tile_s
        compute_s = this_s if compute_s is None else np.minimum(compute_s, this_s)
    assert compute_s is not None
    bandwidth = device.memory_bytes_per_s
    memory_s = moved / (bandwidth * rates.memory_fraction)
    fixed_s = rates.launch_s * scale
    time_s = fixed_s + soft_maximum(compute_s, memory_s, rates.sharpness)
    if how.activation_bytes < 2.0:
        quantize_s = rates.quantize_s.get(engine, {}).get(how.weight, 0.0)
        quantize_s *= scale * quantize_fraction
        fixed_s += quantize_s
        extra = m * k * (2.0 + how.activation_bytes) * quantize_fraction
        moved = moved + extra
        traffic_s = extra / (bandwidth * rates.quantize_memory_fraction)
        memory_s = memory_s + traffic_s
        time_s = time_s + quantize_s + traffic_s
    return Work(time_s, flops, moved, compute_s, memory_s, fixed_s + rates.wave_s * scale)


def gemm_cost(
    m: int,
    n: int,
    k: int,
    *,
    dtype: DType,
    device: Device,
    rates: GemmRates,
    engine: str = "vllm",
) -> OpCost:
    """Cost of C[m, n] = A[m, k] @ B[k, n]; ``m`` is tokens in the batch, no communication.

    Raises:
        UnsupportedError: the device can neither multiply in ``dtype`` nor expand it.
    """
    how = multiply_format(dtype, device)
    work = gemm_work(np.asarray(float(m)), n, k, how=how, device=device, rates=rates, engine=engine)
    return op_cost("gemm", work)
