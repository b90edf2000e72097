"""Time of a mixture-of-experts layer on one device: a grouped multiply over the experts it holds.

Weights of every expert that is hit are read once; each hit expert's rows are filled up to a tile;
the two multiplies and their traffic add up, and every wave of tiles has a fixed cost. The busiest
device sets the time. Leaves out capacity drops and the exchange of tokens (see collectives).
Source: arXiv 2401.04088; coefficients in library/calibration/kernels.
"""

from typing import NamedTuple

import numpy as np

from plimsoll.cost.efficiency import MoeRates, latency_scale
from plimsoll.cost.gemm import Multiply
from plimsoll.cost.roofline import Floats, Work
from plimsoll.cost.routing import ExpertLoad, expert_load
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import MoeFfn

__all__ = ["MoeShape", "grouped_work", "moe_shape", "moe_work"]


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


def grouped_work(
    load: ExpertLoad, shape: MoeShape, *, how: Multiply, device: Device, rates: MoeRates
) -> Work:
    """Work of the experts for a load already known."""
    pairs = load.pairs
    hit = np.minimum(load.experts_hit, pairs)
    values = shape.matrices * shape.width * shape.inner
    flops = 2.0 * pairs * values
    paid_rows = pairs + hit * rates.tile_tokens
    fraction = (
        rates.expanded_fraction
        if how.expanded
        else rates.compute_fraction.get(how.weight) or rates.compute_fraction[how.math]
    )
    compute_s = 2.0 * paid_rows * values / (device.flops_per_s(how.math) * fraction)
    weight_bytes = hit * values * how.weight_bytes
    token_bytes = pairs * (
        shape.width * (how.activation_bytes + 2.0) + shape.inner * (4.0 + how.activation_bytes)
    )
    moved = weight_bytes + token_bytes
    memory_s = (
        weight_bytes / rates.memory_fraction + token_bytes / rates.activation_fraction
    ) / device.memory_bytes_per_s
    scale = latency_scale(device)
    tiles = np.maximum(hit, pairs / 128.0) * (2.0 * shape.inner + shape.width) / 128.0
    waves_s = rates.wave_s * scale * np.maximum(1.0, tiles / device.num_cores)
    fixed_s = rates.launch_s * scale
    time_s = fixed_s + waves_s + compute_s + memory_s
    return Work(time_s, flops, moved, compute_s, memory_s, fixed_s)


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
    mean = tokens * shape.top_k / shape.groups
    busiest = load.pairs / np.maximum(mean, 1e-12)
    skewed = load._replace(pairs=mean * busiest**rates.skew_power)
    return grouped_work(skewed, shape, how=how, device=device, rates=rates)
