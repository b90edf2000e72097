"""How tokens fall on experts: how many experts a device's batch hits, how full the busiest is.

Uniform routing: of E experts, T tokens with k choices each hit E * (1 - (1 - k/E)^T) on average,
and the busiest of several devices exceeds the mean by sqrt(2 ln(devices) / load). Skewed routing
draws each expert's load from a power law x^-a on [1, 0.8 T], scaled to the total: rare experts
get no token, and the busiest device is several times the mean.
Leaves out balancing by replicated experts. Source: extreme values of sums; the power law is that
of the public expert-layer measurements the coefficients are fitted on.
"""

from typing import NamedTuple

import numpy as np

from plimsoll.cost.roofline import Floats

__all__ = ["ExpertLoad", "expert_load"]


class ExpertLoad(NamedTuple):
    """On the busiest device: experts with at least one token, and (token, expert) pairs."""

    experts_hit: Floats
    pairs: Floats


def expert_load(
    tokens: Floats,
    *,
    num_experts: float | Floats,
    top_k: float | Floats,
    groups: float | Floats,
    exponent: float | Floats,
) -> ExpertLoad:
    """Load of the busiest of ``groups`` devices that share the experts evenly.

    ``exponent`` 0 is uniform routing, above 1 a power law of that exponent; arrays broadcast.
    """
    local = np.maximum(1.0, num_experts / groups)
    mean_pairs = tokens * top_k * local / num_experts
    spread = np.sqrt(2.0 * np.log(np.maximum(groups, 1.0)))
    missed = np.maximum(0.0, 1.0 - top_k / num_experts) ** tokens
    uniform_hit = local * (1.0 - missed)
    uniform_busiest = 1.0 + spread / np.sqrt(np.maximum(mean_pairs, 1.0))
    a = np.where(np.asarray(exponent) > 0.0, exponent, 1.5)
    most = np.maximum(2.0, 0.8 * tokens)
    weight = _moment(most, 1.0 - a)
    mean = _moment(most, 2.0 - a) / weight
    variance = np.maximum(_moment(most, 3.0 - a) / weight / mean**2 - 1.0, 0.0)
    top = np.minimum(most / mean, num_experts / top_k)
    power_busiest = 1.0 + np.minimum(
        np.sqrt(variance / local) * spread,
        (top - 1.0) / local + np.sqrt(variance * np.maximum(local - 1.0, 0.0)) / local,
    )
    load = tokens * top_k / num_experts / mean
    needed = np.clip(0.5 / np.maximum(load, 1e-12), 1.0, most)
    power_hit = local * (1.0 - _moment(needed, 1.0 - a) / weight)
    skewed = np.asarray(exponent) > 0.0
    busiest = np.where(skewed, power_busiest, uniform_busiest)
    busiest = np.where(np.asarray(groups) > 1.0, np.minimum(busiest, groups), 1.0)
    pairs = mean_pairs * busiest
    power_hit = np.maximum(power_hit, np.minimum(1.0, pairs))
    hit = np.minimum(np.where(skewed, power_hit, uniform_hit), np.minimum(local, pairs))
    return ExpertLoad(hit, pairs)


def _moment(most: Floats, power: float | Floats) -> Floats:
    """Integral of x^(power - 1) from 1 to ``most``."""
    q = np.where(np.abs(power) < 1e-9, 1e-9, power)
    result: Floats = (most**q - 1.0) / q
    return result
