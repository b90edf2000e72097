"""The distribution a token is drawn from, written plainly in numpy, one row at a time."""

import numpy as np
from numpy.typing import NDArray

from plimsoll.serving.generation import SamplingParams

__all__ = ["distribution"]


def distribution(
    logits: NDArray[np.float64],
    params: SamplingParams,
    *,
    index: int = 0,
    prompt: tuple[int, ...] = (),
    generated: tuple[int, ...] = (),
    eos_ids: tuple[int, ...] = (),
    allowed: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Probabilities by token; one-hot for temperature 0."""
    x = np.array(logits, dtype=np.float64)
    for token, bias in params.logit_bias:
        x[token] += bias
    if allowed is not None:
        x[~allowed] = -np.inf
    if index < params.min_tokens:
        for token in params.stop_token_ids + (() if params.ignore_eos else eos_ids):
            x[token] = -np.inf
    for token in set(prompt) | set(generated):
        r = params.repetition_penalty
        x[token] = x[token] / r if x[token] > 0 else x[token] * r
    for token in set(generated):
        x[token] -= params.presence_penalty + params.frequency_penalty * generated.count(token)
    if params.temperature == 0:
        return np.eye(len(x))[int(np.argmax(x))]

    order = sorted(range(len(x)), key=lambda t: (-x[t], t))
    p = np.exp((x[order] - x[order[0]]) / params.temperature)
    if params.top_k > 0:
        p[params.top_k :] = 0
    p /= p.sum()
    mass, kept = 0.0, np.zeros_like(p)
    for place, share in enumerate(p):
        if place == 0 or mass < params.top_p or params.top_p >= 1:
            kept[place] = share
        mass += share
    kept[kept < params.min_p * kept[0]] = 0
    out = np.zeros_like(p)
    out[order] = kept / kept.sum()
    return out
