"""Time of a mixture-of-experts layer on one device: a grouped multiply over the experts it holds.

Weights of every expert that is hit are read once. Each hit expert's rows are filled up to a tile,
which kernels choose by the choices of all tokens over the experts held, foreign ones included.
Both multiplies have a soft corner between arithmetic and weights, a fixed cost a wave of tiles,
and a loop over their depth that no parallelism shortens. Rows are sorted, quantized, activated
and summed; some kernels do so for every choice of the tokens, those that fall on other devices
included. Kernels that do not issue the device's own matrix instructions reach 2,048 16-bit FLOPs
a core and clock, or lie between. The busiest device sets the time. Leaves out capacity drops and
the exchange of tokens (see collectives).
Source: arXiv 2401.04088, 2408.11743; coefficients in library/calibration/kernels.
"""

from typing import NamedTuple

import numpy as np

from plimsoll.cost.efficiency import MoeRates, latency_scale
from plimsoll.cost.gemm import Multiply
from plimsoll.cost.roofline import Floats, Work, soft_maximum
from plimsoll.cost.routing import ExpertLoad, expert_load
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import MoeFfn

__all__ = ["MoeShape", "grouped_work", "moe_shape", "moe_work"]

_TILE = 128.0
_SYNCHRONOUS_FLOPS = 2048.0
"""16-bit FLOPs a core does in one clock by instructions of one warp (ampere's and ada's peak)."""


class MoeShape(NamedTuple):
    """The routed experts as one device sees them: input width, inner width held, matrices."""

    width: float | Floats
    inner: float | Floats
    matrices: float | Floats
    num_experts: float
    top_k: float
    groups: float
    exponent: float


def moe_shape(ffn: MoeFfn, hidden: int, *, ep: int, moe_tp: int, exponent: float) -> MoeShape:
    """Experts spread over ``ep`` devices by expert and ``moe_tp`` by width."""
    return MoeShape(
        width=float(ffn.latent_dim or hidden),
        inner=max(1.0, ffn.intermediate / moe_tp),
        matrices=3.0 if ffn.gated else 2.0,
        num_experts=float(ffn.num_experts),
        top_k=float(ffn.top_k),
        groups=float(ep),
        exponent=exponent,
    )


def _peak(how: Multiply, device: Device, rates: MoeRates) -> float:
    """FLOP/s that the kernel's instructions could reach at best."""
    peak = device.flops_per_s(how.math)
    if device.kind != "gpu" or device.clock_hz == 0.0:
        return peak
    synchronous = device.num_cores * device.clock_hz * _SYNCHRONOUS_FLOPS * 2.0 / how.math.bytes
    return float(peak * min(1.0, synchronous / peak) ** (1.0 - rates.asynchronous))


def grouped_work(
    load: ExpertLoad, shape: MoeShape, *, how: Multiply, device: Device, rates: MoeRates
) -> Work:
    """Work of the experts for a load already known."""
    pairs = load.pairs
    hit = np.minimum(load.experts_hit, pairs)
    fractions = rates.expanded_fraction if how.expanded else rates.compute_fraction
    fraction = fractions.get(how.weight) or fractions[how.math]
    core_flops = _peak(how, device, rates) * fraction
    scale, bandwidth = latency_scale(device), device.memory_bytes_per_s
    rows = pairs / np.maximum(hit, 1e-9)
    expected = load.choices / np.maximum(hit, 1e-9)
    tile = np.minimum(
        rates.tile_most_tokens, rates.tile_least_tokens + rates.tile_growth * expected
    )
    paid_rows = hit * (rows**3 + tile**3) ** (1.0 / 3.0)
    fixed_s = rates.launch_s * scale
    time_s = fixed_s + rates.depth_s * scale * (shape.width + shape.inner)
    flops = compute_s = memory_s = weight_bytes = np.zeros_like(pairs)
    for out, depth in (
        ((shape.matrices - 1.0) * shape.inner, shape.width),
        (shape.width, shape.inner),
    ):
        values = out * depth
        one_s = 2.0 * paid_rows * values / core_flops
        read = hit * values * how.weight_bytes
        read_s = read / (bandwidth * rates.memory_fraction)
        waves = np.maximum(hit, pairs / _TILE + 0.5 * hit) * out / (_TILE * device.num_cores)
        time_s = time_s + soft_maximum(one_s, read_s, rates.sharpness)
        time_s = time_s + rates.wave_s * scale * np.maximum(1.0, waves)
        flops = flops + 2.0 * pairs * values
        compute_s, memory_s = compute_s + one_s, memory_s + read_s
        weight_bytes = weight_bytes + read
    row_bytes = shape.width * (how.activation_bytes + 2.0) + shape.inner * (
        4.0 + how.activation_bytes
    )
    handled = pairs + rates.foreign_share * np.maximum(0.0, load.choices - pairs)
    row_s = handled * row_bytes / (bandwidth * rates.activation_fraction)
    moved = weight_bytes + pairs * row_bytes
    return Work(time_s + row_s, flops, moved, compute_s, memory_s + row_s, fixed_s)


def moe_work(
    tokens: Floats, shape: MoeShape, *, how: Multiply, device: Device, rates: MoeRates
) -> Work:
    """Work of the routed experts for an array of ``tokens`` (of the whole expert group)."""
    load = expert_load(
        tokens,
        num_experts=shape.num_experts,
        top_k=shape.top_k,
        groups=shape.groups,
        exponent=shape.exponent,
    )
    return grouped_work(load, shape, how=how, device=device, rates=rates)
