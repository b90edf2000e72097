"""Sums of products fitted to measured times: what attention and light operators come down to.

Non-negative least squares of relative residuals, so that short and long times count alike, with
a soft rim: points far off are weighed down by a few rounds of reweighting, since a busy machine
only adds time. Standard errors are those of the weighted linear fit at the coefficients above 0.
Source: Lawson and Hanson, Solving Least Squares Problems, chapter 23.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from plimsoll.spec.measured import (
    Coefficient,
    DecodeTimes,
    LightTimes,
    PrefillTimes,
    SamplingTimes,
)

__all__ = ["decode_times", "fit_products", "light_times", "prefill_times", "sampling_times"]

_ROUNDS = 8
_RIM_FRACTION = 0.05


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


def decode_times(points: Sequence[tuple[int, int, int, int, float]]) -> DecodeTimes:
    """From (query values, cached values, sequences, context tokens of all, seconds)."""
    rows = [
        (1, batch, cached * context, queries * context)
        for queries, cached, batch, context, _ in points
    ]
    (layer, sequence, kv_value, query_value), error = fit_products(rows, [p[-1] for p in points])
    return DecodeTimes(
        layer_s=layer,
        sequence_s=sequence,
        kv_value_s=kv_value,
        query_value_s=query_value,
        error_fraction=error,
        num_points=len(points),
    )


def prefill_times(points: Sequence[tuple[int, int, int, int, float]]) -> PrefillTimes:
    """From (query values, cached values, new tokens, tokens cached before, seconds)."""
    rows = []
    for queries, kept, new, cached, _ in points:
        span = new + cached
        pairs = queries * new * span
        rows.append((1, kept * span, queries * new, 0 if cached else pairs, pairs if cached else 0))
    found, error = fit_products(rows, [p[-1] for p in points])
    return PrefillTimes(
        chunk_s=found[0],
        kv_value_s=found[1],
        token_value_s=found[2],
        whole_pair_s=found[3],
        prefix_pair_s=found[4],
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
