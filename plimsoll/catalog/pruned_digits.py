"""Handwritten digits pruned by difficulty, and small networks trained on what is left.

1,797 images of 8×8 that come with scikit-learn; 1,200 to train on, the rest to judge, split
anew for each seed. The embedding is the first 30 principal components of the training images
(what a linear autoencoder learns without labels), with 20 prototypes; these two numbers were
chosen among a handful on the first ten seeds. A network of one hidden layer takes
the same number of steps whatever is kept. EL2N needs ten short trainings of its own and labels.
No score sees an image of the judging part.
"""

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from plimsoll.data.prune import prune, score_el2n, score_prototypes, score_random
from plimsoll.spec.errors import UnsupportedError

__all__ = [
    "KEEPS",
    "SEEDS",
    "Accuracies",
    "accuracies",
    "digits",
    "kept_of",
    "random_scores",
    "train_scores",
]

KEEPS = (0.8, 0.5)
SEEDS = 20

_TRAIN = 1200
_PROTOTYPES = 20
_COMPONENTS = 30
_REPEATS = 2
_HIDDEN = 64
_STEPS, _BATCH, _RATE, _MOMENTUM = 1000, 64, 0.2, 0.9
_EARLY_STEPS, _EARLY_RUNS = 60, 10

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracies:
    """On images never seen, [seeds]: of all examples, and by (metric, fraction kept)."""

    full: Floats
    pruned: dict[tuple[str, float], Floats]


@functools.cache
def digits() -> tuple[Floats, Indices]:
    """Images [n, 64] in 0 to 1 and their labels [n].

    Raises:
        UnsupportedError: scikit-learn, which ships them, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UnsupportedError(
            "needs the digits that ship with scikit-learn, which is not installed; install "
            "plimsoll[images]"
        ) from None
    images, labels = load_digits(return_X_y=True)
    return images / 16.0, labels.astype(np.int64)


def train_scores(images: Floats, labels: Indices, seed: int) -> dict[str, tuple[Floats, Indices]]:
    """Scores of the training images with the groups they are balanced over, by metric."""
    centered = images - images.mean(axis=0)
    _, _, directions = np.linalg.svd(centered, full_matrices=False)
    embedding = centered @ directions[:_COMPONENTS].T
    early = [
        _network(images, labels, [seed, 1, run], _EARLY_STEPS)(images) for run in range(_EARLY_RUNS)
    ]
    return {
        "prototypes": score_prototypes(embedding, _PROTOTYPES, seed=seed),
        "el2n": (score_el2n(np.array([_softmax(e) for e in early]), labels), labels),
    }


def random_scores(num: int, seed: int) -> tuple[Floats, Indices]:
    """Scores that say nothing, in one group."""
    return score_random(num, seed=seed), np.zeros(num, dtype=np.int64)


def kept_of(
    scored: tuple[Floats, Indices], keep: float, way: Literal["hard", "easy"] = "hard"
) -> Indices:
    """The hardest or easiest, half of them balanced over groups."""
    scores, groups = scored
    return prune(scores, keep, direction=way, groups=groups, balance=0.5).indices


@functools.cache
def accuracies(seeds: int = SEEDS, first: int = 0) -> Accuracies:
    """Of every metric and fraction, for ``seeds`` seeds from ``first`` on; two trainings each, and
    two draws at random."""
    images, labels = digits()
    full: list[float] = []
    pruned: dict[tuple[str, float], list[float]] = {}
    for seed in range(first, first + seeds):
        order = np.random.default_rng(seed).permutation(len(images))
        train, judge = order[:_TRAIN], order[_TRAIN:]
        x, y = images[train], labels[train]

        def accuracy(
            kept: Indices, x: Floats = x, y: Indices = y, judge: Indices = judge, seed: int = seed
        ) -> float:
            right = []
            for repeat in range(_REPEATS):
                network = _network(x[kept], y[kept], [seed, 0, repeat], _STEPS)
                right.append((network(images[judge]).argmax(axis=1) == labels[judge]).mean())
            return float(np.mean(right))

        full.append(accuracy(np.arange(len(x))))
        scored = train_scores(x, y, seed)
        draws = [random_scores(len(x), 1000 * seed + draw + 1) for draw in range(_REPEATS)]
        for keep in KEEPS:
            for metric, found in scored.items():
                pruned.setdefault((metric, keep), []).append(accuracy(kept_of(found, keep)))
            easy = kept_of(scored["prototypes"], keep, "easy")
            pruned.setdefault(("easy", keep), []).append(accuracy(easy))
            at_random = [accuracy(kept_of(draw, keep)) for draw in draws]
            pruned.setdefault(("random", keep), []).append(float(np.mean(at_random)))
    return Accuracies(
        full=np.array(full), pruned={key: np.array(values) for key, values in pruned.items()}
    )


class _Network:
    """One hidden layer; ``self(x)`` gives logits."""

    def __init__(self, inputs: int, classes: int, rng: np.random.Generator) -> None:
        self.weights = [
            rng.normal(size=(inputs, _HIDDEN)) * np.sqrt(2 / inputs),
            np.zeros(_HIDDEN),
            rng.normal(size=(_HIDDEN, classes)) * np.sqrt(1 / _HIDDEN),
            np.zeros(classes),
        ]

    def __call__(self, x: Floats) -> Floats:
        first, bias, second, offset = self.weights
        return np.maximum(x @ first + bias, 0.0) @ second + offset

    def gradients(self, x: Floats, targets: Floats) -> list[Floats]:
        """Of the mean cross-entropy."""
        first, bias, second, offset = self.weights
        hidden = np.maximum(x @ first + bias, 0.0)
        wrong = (_softmax(hidden @ second + offset) - targets) / len(x)
        back = (wrong @ second.T) * (hidden > 0)
        return [x.T @ back, back.sum(axis=0), hidden.T @ wrong, wrong.sum(axis=0)]


def _network(images: Floats, labels: Indices, seed: list[int], steps: int) -> _Network:
    """Trained by momentum with a rate that falls to nothing."""
    rng = np.random.default_rng(seed)
    targets = np.eye(10)[labels]
    network = _Network(images.shape[1], 10, rng)
    speed = [np.zeros_like(w) for w in network.weights]
    for step in range(steps):
        batch = rng.integers(0, len(images), _BATCH)
        rate = _RATE * (1 - step / steps)
        slopes = network.gradients(images[batch], targets[batch])
        for weight, moved, slope in zip(network.weights, speed, slopes, strict=True):
            moved *= _MOMENTUM
            moved -= rate * slope
            weight += moved
    return network


def _softmax(logits: Floats) -> Floats:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
