"""Sums of products fitted to measured times: what attention and light operators come down to.

Non-negative least squares of relative residuals, so that short and long times count alike, with
a soft rim: points far off are weighed down by a few rounds of reweighting, since a busy machine
only adds time. Standard errors are those of the weighted linear fit at the coefficients above 0.
Source: Lawson and Hanson, Solving Least Squares Problems, chapter 23.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from plimsoll.cost.measured_clock import shares
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.measured import (
    Coefficient,
    DecodeTimes,
    EngineTimes,
    LightTimes,
    PassFactors,
    PrefillTimes,
    SamplingTimes,
)

__all__ = [
    "AttentionPoint",
    "decode_times",
    "engine_times",
    "fit_products",
    "light_times",
    "pass_factors",
    "prefill_times",
    "sampling_times",
]


class AttentionPoint(NamedTuple):
    """One timed attention: heads and values a token, tokens, seconds."""

    heads: int
    query_values: int
    kv_values: int
    new: int
    cached: int
    seconds: float


_ROUNDS = 8
_RIM_FRACTION = 0.05
_LEAST_STEPS = 4
_LEAST_S = 1e-9
_LEAST_FACTOR, _MOST_FACTOR = 0.7, 3.0


def fit_products(
    features: Sequence[Sequence[float]], seconds: Sequence[float]
) -> tuple[list[Coefficient], float]:
    """A coefficient a column, and the median relative error of their sum."""
    took = np.asarray(seconds, dtype=float)
    relative = np.asarray(features, dtype=float) / took[:, None]
    scale = np.maximum(np.abs(relative).max(axis=0), 1e-300)
    columns: NDArray[np.float64] = relative / scale
    weight = np.ones(len(took))
    values = np.zeros(columns.shape[1])
    for _ in range(_ROUNDS):
        values, _ = nnls(columns * weight[:, None], weight)
        off = np.abs(columns @ values - 1.0)
        weight = np.sqrt(_RIM_FRACTION / np.maximum(off, _RIM_FRACTION))
    off = np.abs(columns @ values - 1.0)
    used = values > 0
    errors = np.zeros(len(values))
    freedom = len(took) - int(used.sum())
    if used.any() and freedom > 0:
        weighted = columns[:, used] * weight[:, None]
        variance = float(np.sum((weight * off) ** 2)) / freedom
        inverse = np.linalg.pinv(weighted.T @ weighted)
        errors[used] = np.sqrt(variance * np.maximum(np.diag(inverse), 0.0))
    found = [
        Coefficient(value=float(v / s), error=float(e / s))
        for v, e, s in zip(values, errors, scale, strict=True)
    ]
    return found, float(np.median(off))


def decode_times(points: Sequence[AttentionPoint], nodes: Sequence[float]) -> DecodeTimes:
    """From decodes (new tokens: sequences; cached: context tokens of all) and nodes in values."""
    rows = []
    for p in points:
        read = p.kv_values * p.cached
        hats = [read * share for share in shares(nodes, read)]
        rows.append([1, p.new, p.heads * p.cached, *hats])
    found, error = fit_products(rows, [p.seconds for p in points])
    return DecodeTimes(
        layer_s=found[0],
        sequence_s=found[1],
        score_s=found[2],
        nodes=tuple(nodes),
        value_s=tuple(found[3:]),
        error_fraction=error,
        num_points=len(points),
    )


def prefill_times(points: Sequence[AttentionPoint], nodes: Sequence[int]) -> PrefillTimes:
    """From prompt chunks and the new tokens between which the cost of a pair is interpolated."""
    rows = []
    for p in points:
        span = p.new + p.cached
        pairs = p.new * span
        hats = [p.query_values * pairs * share for share in shares(nodes, p.new)]
        nothing = [0.0] * len(hats)
        rows.append(
            [1, p.kv_values * span if p.cached else 0.0, p.query_values * p.new, p.heads * pairs]
            + (nothing + hats if p.cached else hats + nothing)
        )
    found, error = fit_products(rows, [p.seconds for p in points])
    ends = 4 + len(nodes)
    return PrefillTimes(
        chunk_s=found[0],
        kv_value_s=found[1],
        token_value_s=found[2],
        score_s=found[3],
        nodes=tuple(nodes),
        whole_pair_s=tuple(found[4:ends]),
        prefix_pair_s=tuple(found[ends:]),
        error_fraction=error,
        num_points=len(points),
    )


def light_times(
    points: Sequence[tuple[int, int, int, int, float]], ends: Sequence[tuple[int, int, float]]
) -> LightTimes:
    """From (hidden, intermediate, query and KV values, tokens, s) and (hidden, tokens, s)."""
    rows = [(1, t * hidden, t * wide, t * turned) for hidden, wide, turned, t, _ in points]
    (layer, hidden_value, ffn_value, query_value), error = fit_products(
        rows, [p[-1] for p in points]
    )
    (step, step_value), _ = fit_products([(1, h * t) for h, t, _ in ends], [p[-1] for p in ends])
    return LightTimes(
        layer_s=layer,
        hidden_value_s=hidden_value,
        ffn_value_s=ffn_value,
        query_value_s=query_value,
        step_s=step,
        step_value_s=step_value,
        error_fraction=error,
        num_points=len(points),
    )


def sampling_times(points: Sequence[tuple[int, int, float]]) -> SamplingTimes:
    """From (vocabulary, rows, seconds)."""
    (step, score), error = fit_products([(1, v * n) for v, n, _ in points], [p[-1] for p in points])
    return SamplingTimes(step_s=step, score_s=score, error_fraction=error, num_points=len(points))


def engine_times(
    steps: Sequence[tuple[int, int, float]], requests_s: Sequence[float]
) -> EngineTimes:
    """From (sequences, tokens, seconds beside the pass) of steps, and seconds of each request.

    Raises:
        UnsupportedError: too few steps to tell a step's cost from a sequence's, or no request.
    """
    if len(steps) < _LEAST_STEPS or len({n for n, _, _ in steps}) < 2 or not requests_s:
        raise UnsupportedError(
            f"engine: {len(steps)} steps and {len(requests_s)} requests were timed; it takes "
            f"{_LEAST_STEPS} steps of two batch sizes or more, and a request"
        )
    left = [max(seconds, _LEAST_S) for _, _, seconds in steps]
    (step, sequence, token), _ = fit_products([(1, n, t) for n, t, _ in steps], left)
    (request,), _ = fit_products([(1,)] * len(requests_s), [max(s, _LEAST_S) for s in requests_s])
    return EngineTimes(
        step_s=step, sequence_s=sequence, token_s=token, request_s=request, num_points=len(steps)
    )


def pass_factors(
    parts: Sequence[tuple[float, float, float]], seconds: Sequence[float]
) -> PassFactors:
    """From (linear and head, attention, light and sampling) seconds of parts and whole passes.

    One factor for all three where the passes cannot tell them apart.
    """
    found, error = fit_products(parts, seconds)
    if not all(_LEAST_FACTOR <= f.value <= _MOST_FACTOR for f in found):
        (common,), error = fit_products([[sum(row)] for row in parts], seconds)
        found = [common] * 3
    linear, attention, light = found
    return PassFactors(
        linear=linear,
        attention=attention,
        light=light,
        error_fraction=error,
        num_points=len(seconds),
    )
