"""Time of a mixture-of-experts layer on one device: a grouped multiply over the experts it holds.

Tokens meet ``top_k`` of all experts; a device holds some experts and a slice of each one's width.
Weights of every expert that is hit are read once: of E experts, T tokens with k choices each hit
E * (1 - (1 - k/E)^T) on average. Uneven routing makes the busiest device do ``skew`` times the
mean. Leaves out capacity drops and the exchange of tokens (see collectives).
Source: arXiv 2401.04088; library/calibration.
"""

from typing import NamedTuple

import numpy as np

from plimsoll.cost.efficiency import MoeRates
from plimsoll.cost.gemm import Multiply
from plimsoll.cost.roofline import Floats, Work, soft_maximum
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import MoeFfn

__all__ = ["MoeShape", "experts_hit", "moe_shape", "moe_work"]


class MoeShape(NamedTuple):
    """The routed experts as one device sees them."""

    width: int
    """Input and output width of an expert."""
    inner: float
    """Inner width a device holds of each expert."""
    matrices: int
    num_experts: int
    local_experts: float
    top_k: int
    skew: float


def moe_shape(ffn: MoeFfn, hidden: int, *, ep: int, moe_tp: int, skew: float) -> MoeShape:
    """Experts spread over ``ep`` devices by expert and ``moe_tp`` by width."""
    return MoeShape(
        width=ffn.latent_dim or hidden,
        inner=max(1.0, ffn.intermediate / moe_tp),
        matrices=3 if ffn.gated else 2,
        num_experts=ffn.num_experts,
        local_experts=max(1.0, ffn.num_experts / ep),
        top_k=ffn.top_k,
        skew=skew if ep > 1 else 1.0,
    )


def experts_hit(tokens: Floats, shape: MoeShape) -> Floats:
    """Mean number of the device's experts that at least one of ``tokens`` chooses."""
    missed = 1.0 - min(1.0, shape.top_k / shape.num_experts)
    hit: Floats = shape.local_experts * (1.0 - missed**tokens)
    return hit


def moe_work(
    tokens: Floats, shape: MoeShape, *, how: Multiply, device: Device, rates: MoeRates
) -> Work:
    """Work of the routed experts for an array of ``tokens`` (of the whole expert group)."""
    expert_values = shape.matrices * shape.width * shape.inner
    share = shape.local_experts / shape.num_experts
    pairs = tokens * shape.top_k * share * shape.skew
    flops = 2.0 * pairs * expert_values
    weights = experts_hit(tokens, shape) * expert_values * how.weight_bytes
    moved = weights + pairs * (2 * shape.width + 2 * shape.inner) * 2.0
    compute_s = flops / (device.flops_per_s(how.math) * rates.compute_fraction)
    memory_s = moved / (device.memory_bytes_per_s * rates.memory_fraction)
    time_s = rates.launch_s + soft_maximum(compute_s, memory_s, rates.sharpness)
    return Work(np.asarray(time_s), flops, moved, compute_s, memory_s, rates.launch_s)
