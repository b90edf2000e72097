"""How tokens fall on experts: how many experts a device's batch hits, how full the busiest is.

Uniform routing: of E experts, T tokens with k choices each hit E * (1 - (1 - k/E)^T) on average.
Skewed routing draws each expert's load from a power law x^-a, scaled to the total and rounded: on
[1, 0.8 T] where there are more choices than experts, else on [0.01, 2]. What rounding takes from
experts with less than half a token goes to experts that had none. The busiest of g devices is
the expected largest of g gamma-distributed sums (Blom's plotting position) of the loads' variance.
Leaves out balancing by replicated experts. Source: doi:10.1093/biomet/45.3-4.545 (plotting
positions); the power law is that of the public expert-layer measurements the coefficients are
fitted on, whose draws the formulas meet within 10 %.
"""

from typing import NamedTuple

import numpy as np

from plimsoll.cost.roofline import Floats

__all__ = ["ExpertLoad", "expert_load"]

_ROUNDING = 0.1
"""Variance that rounding and filling up leave in a device's pairs, as a share of chance's."""


class ExpertLoad(NamedTuple):
    """On the busiest device: experts with at least one token, and (token, expert) pairs.

    ``choices`` are the pairs of all devices together.
    """

    experts_hit: Floats
    pairs: Floats
    choices: Floats


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
    choices = np.asarray(tokens * top_k)
    mean_pairs = choices * local / num_experts
    skewed = np.asarray(exponent) > 0.0
    a = np.where(skewed, exponent, 1.5)
    few = choices <= num_experts
    least = np.where(few, 0.01, 1.0)
    most = np.where(few, 2.0, np.maximum(2.0, 0.8 * tokens))
    weight = _moment(least, most, 1.0 - a)
    mean = _moment(least, most, 2.0 - a) / weight
    variance = np.maximum(_moment(least, most, 3.0 - a) / weight / mean**2 - 1.0, 0.0)
    load = choices / num_experts
    needed = np.clip(0.5 * mean / np.maximum(load, 1e-12), least, most)
    above = _moment(needed, most, 1.0 - a) / weight
    lost = load * _moment(least, needed, 2.0 - a) / (mean * weight)
    missed = np.maximum(0.0, 1.0 - top_k / num_experts) ** tokens
    hit = local * np.where(skewed, above + lost, 1.0 - missed)
    spread = np.where(skewed, variance / local, 0.0)
    spread = spread + np.where(skewed, _ROUNDING, 1.0) / np.maximum(mean_pairs, 1e-9)
    pairs = mean_pairs * np.maximum(_largest(groups, spread), 1.0)
    most_pairs = np.maximum(mean_pairs, tokens * np.minimum(local, top_k))
    pairs = np.clip(pairs, np.minimum(1.0, choices), most_pairs)
    hit = np.minimum(np.maximum(hit, 1.0), np.minimum(local, pairs))
    return ExpertLoad(hit, pairs, choices)


def _moment(least: Floats, most: Floats, power: float | Floats) -> Floats:
    """Integral of x^(power - 1) from ``least`` to ``most``."""
    q = np.where(np.abs(power) < 1e-9, 1e-9, power)
    result: Floats = (most**q - least**q) / q
    return result


def _largest(groups: float | Floats, variance: Floats) -> Floats:
    """Expected largest of ``groups`` gamma variables of mean 1, drawn with a fixed sum."""
    from scipy.special import gammaincinv

    count = np.asarray(groups, dtype=float)
    shape = 1.0 / np.maximum(variance * (1.0 - 1.0 / np.maximum(count, 1.0 + 1e-9)), 1e-9)
    found: Floats = gammaincinv(shape, (count - 0.375) / (count + 0.25)) / shape
    return np.where(count > 1.0, found, 1.0)
