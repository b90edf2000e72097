"""Densities of networks trained here: on cleaner data, pruned by magnitude, and retrained.

The benchmark is a made-up one that rewards size: which of four answers stands in the cell of a
5×5 table into which a point of the square falls. Networks of one hidden layer see each training
point once, a fifth of the answers replaced at random. Five sizes at three numbers of points make
the reference, of loss and of score. Rated are a network of 24 hidden units trained like it, its
twin on clean answers, itself with two fifths of its weights set to zero (the smallest of each
matrix) and that trained on for a quarter as many points; a pruned network counts the weights
left. What a score is worth is read at the reference's largest number of points.
"""

import functools
from dataclasses import dataclass

import numpy as np

from plimsoll.laws.density import RatedModel, ReferenceCurve, density, fit_reference
from plimsoll.laws.forms.contract import Floats
from plimsoll.laws.table import LossTable

__all__ = ["Densities", "densities", "reference"]

_CELLS, _ANSWERS, _INPUTS = 5, 4, 2
_SIZES, _POINTS = (8, 16, 32, 64, 128), (8_000, 32_000, 128_000)
_HIDDEN = 24
_NOISE = 0.2
_PRUNED = 0.4
_BATCH, _RATE, _MOMENTUM = 32, 0.05, 0.9
_REPEATS = 4
_JUDGED = 8_000

Weights = list[Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Densities:
    """Relative to the reference; means of scores over repeats are inverted."""

    plain: float
    clean: float
    pruned: float
    retrained: float
    shown: str


def _answers(x: Floats) -> np.ndarray:
    table = np.random.default_rng(1).integers(0, _ANSWERS, (_CELLS, _CELLS))
    cell = np.clip(((x + 1) / 2 * _CELLS).astype(int), 0, _CELLS - 1)
    return table[cell[:, 0], cell[:, 1]]


def _params(weights: Weights) -> int:
    return sum(int((w != 0).sum()) for w in weights)


def _new(hidden: int, rng: np.random.Generator) -> Weights:
    return [
        rng.normal(size=(_INPUTS, hidden)) * 3,
        rng.uniform(-3, 3, hidden),
        rng.normal(size=(hidden, _ANSWERS)) / np.sqrt(hidden),
        np.full(_ANSWERS, 1e-9),
    ]


def _logits(weights: Weights, x: Floats) -> tuple[Floats, Floats]:
    hidden = np.maximum(x @ weights[0] + weights[1], 0.0)
    return hidden, hidden @ weights[2] + weights[3]


def _softmax(logits: Floats) -> Floats:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def _train(weights: Weights, points: int, noise: float, rng: np.random.Generator) -> Weights:
    """Each point once, at a rate that falls to nothing; weights of zero stay zero."""
    kept = [w != 0 for w in weights]
    weights, speed = [w.copy() for w in weights], [np.zeros_like(w) for w in weights]
    steps = points // _BATCH
    for step in range(steps):
        x = rng.uniform(-1, 1, (_BATCH, _INPUTS))
        replaced = rng.random(_BATCH) < noise
        y = np.where(replaced, rng.integers(0, _ANSWERS, _BATCH), _answers(x))
        hidden, logits = _logits(weights, x)
        wrong = (_softmax(logits) - np.eye(_ANSWERS)[y]) / _BATCH
        back = (wrong @ weights[2].T) * (hidden > 0)
        slopes = (x.T @ back, back.sum(axis=0), hidden.T @ wrong, wrong.sum(axis=0))
        for i, slope in enumerate(slopes):
            speed[i] = _MOMENTUM * speed[i] - _RATE * (1 - step / steps) * slope
            weights[i] = (weights[i] + speed[i]) * kept[i]
    return weights


def _judge(weights: Weights) -> tuple[float, float]:
    """(loss of the right answer in nats, share of right answers) on clean points."""
    x = np.random.default_rng(99).uniform(-1, 1, (_JUDGED, _INPUTS))
    y = _answers(x)
    p = _softmax(_logits(weights, x)[1])
    loss = -np.log(np.maximum(p[np.arange(len(y)), y], 1e-12)).mean()
    return float(loss), float((p.argmax(axis=1) == y).mean())


@functools.cache
def reference() -> ReferenceCurve:
    """Of five sizes at three numbers of points, each the mean of four networks."""
    rows = []
    for hidden in _SIZES:
        for points in _POINTS:
            judged = []
            for repeat in range(_REPEATS):
                rng = np.random.default_rng([hidden, points, repeat])
                judged.append(_judge(_train(_new(hidden, rng), points, _NOISE, rng)))
            params = hidden * (_INPUTS + 1 + _ANSWERS) + _ANSWERS
            rows.append((params, points, *np.mean(judged, axis=0)))
    params, points, loss, score = np.array(rows, dtype=float).T
    runs = LossTable(
        name="networks trained here", columns={"params": params, "tokens": points}, loss=loss
    )
    return fit_reference(runs, loss, score, floor=1 / _ANSWERS, tokens=float(_POINTS[-1]))


@functools.cache
def densities(seed: int) -> Densities:
    """Of the four networks."""
    scores: dict[str, list[float]] = {}
    params: dict[str, int] = {}
    for repeat in range(_REPEATS):
        start = _new(_HIDDEN, np.random.default_rng([seed, repeat, 0]))

        def stream(use: int, repeat: int = repeat) -> np.random.Generator:
            return np.random.default_rng([seed, repeat, use])

        plain = _train(start, _POINTS[-1], _NOISE, stream(1))
        pruned = [_without_smallest(w) if w.ndim == 2 else w for w in plain]
        for name, weights in (
            ("plain", plain),
            ("clean", _train(start, _POINTS[-1], 0.0, stream(1))),
            ("pruned", pruned),
            ("retrained", _train(pruned, _POINTS[-1] // 4, _NOISE, stream(2))),
        ):
            scores.setdefault(name, []).append(_judge(weights)[1])
            params[name] = _params(weights)
    rated = {
        name: density(
            reference(),
            RatedModel(
                name=name,
                family="trained here",
                params=params[name],
                scores={"score": float(np.mean(values))},
            ),
        )
        for name, values in scores.items()
    }
    shown = ", ".join(
        f"{name} {found.score:.3f} with {found.model.params} ({found.total:.2f})"
        for name, found in rated.items()
    )
    return Densities(
        shown=f"score, weights and (density): {shown}",
        **{name: found.total for name, found in rated.items()},
    )


def _without_smallest(matrix: Floats) -> Floats:
    return np.where(np.abs(matrix) >= np.quantile(np.abs(matrix), _PRUNED), matrix, 0.0)
