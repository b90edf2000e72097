"""Which examples to keep: scores of difficulty, and pruning by them.

A score is higher for harder examples. ``score_prototypes`` needs no labels: cosine distance to
the nearest k-means centroid of an embedding. ``score_el2n`` (error norms early in training),
``score_forgetting`` (how often an example was lost again) and ``score_margin`` need training runs
of their own, whose cost is to be counted. No function sees anything but the training examples it
is given.

Hard examples are to be kept when data are plentiful, easy ones when they are scarce; ``prune``
with direction "auto" tries both on a pilot. Hard examples alone may lose whole classes, so each
group keeps at least ``balance`` of what pruning it by itself would leave.
Left out: learning the embedding; scores of a fully trained model passed off as free.
Source: arXiv 2206.14486; EL2N arXiv 2107.07075; forgetting arXiv 1812.05159.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from plimsoll.spec.errors import SpecError

__all__ = [
    "Kept",
    "Pilot",
    "prune",
    "score_el2n",
    "score_forgetting",
    "score_margin",
    "score_prototypes",
    "score_random",
]

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Pilot = Callable[[Indices], float]
"""The error of a model trained on the examples at those indices, judged on data of its own."""

_ITERATIONS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """``indices`` of the examples kept, rising. ``pilot``: the error of each direction tried.
    ``warnings`` in words: groups that were lost."""

    indices: Indices
    direction: Literal["hard", "easy"]
    pilot: dict[str, float]
    warnings: tuple[str, ...]


def score_prototypes(
    embeddings: npt.ArrayLike, num_clusters: int, *, seed: int = 0
) -> tuple[Floats, Indices]:
    """(1 - cosine to the nearest centroid, its index) of each row of ``embeddings`` [n, d].

    Raises:
        SpecError: values that are no numbers, rows of length zero, fewer rows than clusters.
    """
    rows = np.asarray(embeddings, dtype=float)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise SpecError("embeddings hold values that are no numbers; expected finite rows [n, d]")
    if not 1 <= num_clusters <= len(rows):
        raise SpecError(
            f"{num_clusters} clusters of {len(rows)} examples; expected at least one example each"
        )
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    if (length == 0).any():
        at = int(np.flatnonzero(length[:, 0] == 0)[0])
        raise SpecError(f"embedding {at} is all zeros; it has no direction to compare")
    unit = rows / length
    centroids = _first_centroids(unit, num_clusters, np.random.default_rng(seed))
    nearest = np.full(len(unit), -1)
    for _ in range(_ITERATIONS):
        found = (unit @ centroids.T).argmax(axis=1)
        if (found == nearest).all():
            break
        nearest = found
        for cluster in range(num_clusters):
            members = unit[nearest == cluster]
            if len(members):
                middle = members.sum(axis=0)
                centroids[cluster] = middle / max(float(np.linalg.norm(middle)), 1e-300)
    cosine = unit @ centroids.T
    nearest = cosine.argmax(axis=1)
    return np.maximum(1 - cosine.max(axis=1), 0.0), nearest.astype(np.int64)


def _first_centroids(unit: Floats, num: int, rng: np.random.Generator) -> Floats:
    """Rows chosen far from those chosen before (k-means++)."""
    chosen = [int(rng.integers(len(unit)))]
    distance = np.maximum(1 - unit @ unit[chosen[0]], 0.0)
    for _ in range(num - 1):
        total = distance.sum()
        weights = distance / total if total > 0 else np.full(len(unit), 1 / len(unit))
        chosen.append(int(rng.choice(len(unit), p=weights)))
        distance = np.minimum(distance, np.maximum(1 - unit @ unit[chosen[-1]], 0.0))
    return unit[chosen].copy()


def score_el2n(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> Floats:
    """Mean over runs of the length of (probabilities - one-hot label).

    ``probabilities`` [runs, n, classes], taken early in training; ``labels`` [n].

    Raises:
        SpecError: shapes that do not match, rows that do not sum to one.
    """
    p, y = _predictions(probabilities, labels)
    wrong = p.copy()
    wrong[:, np.arange(len(y)), y] -= 1
    return np.linalg.norm(wrong, axis=-1).mean(axis=0)


def score_margin(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> Floats:
    """Mean over runs of the highest other probability less that of the label, as ``score_el2n``.

    Raises:
        SpecError: as ``score_el2n``.
    """
    p, y = _predictions(probabilities, labels)
    own = p[:, np.arange(len(y)), y]
    other = p.copy()
    other[:, np.arange(len(y)), y] = -np.inf
    return (other.max(axis=-1) - own).mean(axis=0)


def _predictions(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike
) -> tuple[Floats, npt.NDArray[np.int64]]:
    p, y = np.asarray(probabilities, dtype=float), np.asarray(labels)
    if p.ndim != 3 or y.shape != p.shape[1:2] or p.shape[2] < 2:
        raise SpecError(
            f"probabilities {p.shape} and labels {y.shape}; expected [runs, n, classes] and [n]"
        )
    if not np.isfinite(p).all() or np.abs(p.sum(axis=-1) - 1).max() > 1e-3:
        raise SpecError("probabilities do not sum to one; expected those of a softmax")
    if y.min() < 0 or y.max() >= p.shape[2]:
        raise SpecError(f"labels from {y.min()} to {y.max()} for {p.shape[2]} classes")
    return p, y.astype(np.int64)


def score_forgetting(correct: npt.ArrayLike) -> Floats:
    """How often each example went from right to wrong; ``correct`` [epochs, n] of one training.
    One never right counts as forgotten in every epoch.

    Raises:
        SpecError: fewer than two epochs.
    """
    right = np.asarray(correct, dtype=bool)
    if right.ndim != 2 or len(right) < 2:
        raise SpecError(f"{right.shape} of right answers; expected [epochs, n] of two or more")
    lost = (right[:-1] & ~right[1:]).sum(axis=0).astype(float)
    return np.where(right.any(axis=0), lost, float(len(right)))


def score_random(num: int, *, seed: int = 0) -> Floats:
    """Scores that say nothing: what every other is to beat."""
    return np.random.default_rng(seed).random(num)


def prune(
    scores: npt.ArrayLike,
    keep: float,
    *,
    direction: Literal["hard", "easy", "auto"] = "auto",
    balance: float = 0.5,
    groups: Sequence[object] | npt.NDArray[np.generic] | None = None,
    one_each: bool = False,
    pilot: Pilot | None = None,
) -> Kept:
    """Keep the fraction ``keep`` of examples, the hardest or the easiest.

    ``groups`` [n]: class or cluster of each; a group keeps at least ``balance`` of its own share,
    and with ``one_each`` one example, whatever their scores. Equal scores go by position.

    Raises:
        SpecError: a fraction outside (0, 1], scores that are no numbers or all the same,
            "auto" without a pilot, more groups than examples kept with ``one_each``.
    """
    column = np.asarray(scores, dtype=float)
    if not 0 < keep <= 1:
        raise SpecError(f"a fraction kept of {keep:g}; expected more than 0 and at most 1")
    if not 0 <= balance <= 1:
        raise SpecError(f"a balance of {balance:g}; expected 0 to 1")
    if column.ndim != 1 or not len(column) or not np.isfinite(column).all():
        raise SpecError("scores are not a column of numbers; expected one finite score an example")
    if len(column) > 1 and column.min() == column.max():
        raise SpecError(f"all {len(column)} scores are {column[0]:g}; they rank nothing")
    labels = np.zeros(len(column), dtype=np.int64) if groups is None else np.asarray(groups)
    if labels.shape != column.shape:
        raise SpecError(f"{labels.shape} groups of {column.shape} scores; expected one each")
    names, group = np.unique(labels, return_inverse=True)
    count = max(1, round(keep * len(column)))
    if one_each and len(names) > count:
        raise SpecError(f"{count} examples kept of {len(names)} groups; expected one each or more")
    tried: dict[str, float] = {}
    chosen: Literal["hard", "easy"]
    if direction == "auto":
        if pilot is None:
            raise SpecError(
                "direction auto without a pilot; give one, or say hard (data are plentiful) or "
                "easy (they are scarce)"
            )
        for way in ("hard", "easy"):
            tried[way] = pilot(_pick(column, group, count, way, balance, one_each))
        chosen = "hard" if tried["hard"] <= tried["easy"] else "easy"
    else:
        chosen = direction
    indices = _pick(column, group, count, chosen, balance, one_each)
    left = np.bincount(group[indices], minlength=len(names))
    lost = [
        str(name) for name, number in zip(names.tolist(), left.tolist(), strict=True) if not number
    ]
    warnings = (f"no example is left of {', '.join(lost)}",) if lost else ()
    return Kept(indices=indices, direction=chosen, pilot=tried, warnings=warnings)


def _pick(
    scores: Floats,
    group: npt.NDArray[np.int64],
    count: int,
    direction: str,
    balance: float,
    one_each: bool,
) -> Indices:
    """First one of each group if asked, then what groups are sure of, then by score alone, never
    more than ``count``; rising indices."""
    order = np.argsort(-scores if direction == "hard" else scores, kind="stable")
    place = np.empty(len(scores), dtype=np.int64)  # of each example within its group
    for index in range(int(group.max()) + 1):
        members = order[group[order] == index]
        place[members] = np.arange(len(members))
    share = (balance * count * np.bincount(group) / len(scores)).astype(np.int64)
    first = (place == 0) & one_each
    turn = np.where(first, 0, np.where(place < share[group], 1, 2))
    chosen = order[np.argsort(turn[order], kind="stable")][:count]
    return np.sort(chosen).astype(np.int64)
