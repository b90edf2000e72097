"""Capability density: the size at which a reference model would score as well, over the real size.

Two references. ``ReferenceCurve`` takes two steps: loss of the answers over size and tokens,
L = a·N^-alpha + b·D^-beta, and score over loss, S = c/(1 + exp(-gamma·(L - l))) + d with
gamma < 0; it is inverted at a common number of tokens. ``ScoreLadder`` is for when only scores
are known: S = d + c·sigmoid((ln N - m)/s) through one family of models. Scores are never clipped:
within a twentieth of the sigmoid's ends, or where no size would do, there is no answer.
Left out: contamination, which raises a score without any capability; instruct models.
Source: arXiv 2412.04315 (doi:10.1038/s42256-025-01137-0).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Protocol

import numpy as np
from scipy.optimize import least_squares

from plimsoll.laws.fit import fit
from plimsoll.laws.forms.contract import Floats
from plimsoll.laws.forms.two_powers import TwoPowers
from plimsoll.laws.table import LossTable
from plimsoll.spec.errors import InfeasibleError, SpecError

__all__ = [
    "Density",
    "RatedModel",
    "Reference",
    "ReferenceCurve",
    "ScoreLadder",
    "density",
    "fit_ladder",
    "fit_reference",
]

_ENDS = 0.05
_LEAST_LADDER = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedModel:
    """A model with its ``scores`` in [0, 1] by benchmark. ``params``: all of them;
    ``active_params``: those a token uses, None where unknown; ``experts``: it is a mixture."""

    name: str
    family: str
    params: float
    scores: Mapping[str, float]
    released: date | None = None
    active_params: float | None = None
    experts: bool = False
    instruct: bool = False


class Reference(Protocol):
    """What densities are relative to. ``sizes``: the range of reference models, parameters."""

    @property
    def benchmarks(self) -> tuple[str, ...]: ...

    @property
    def sizes(self) -> tuple[float, float]: ...

    def effective_size(self, score: float) -> float:
        """Parameters a reference model needs for ``score``.

        Raises:
            InfeasibleError: the score cannot be inverted, or no size reaches it.
        """
        ...


def _logit(score: float, floor: float, span: float) -> float:
    """ln(q/(1 - q)) of the score's place q between floor and top.

    Raises:
        InfeasibleError: it is within a twentieth of either, or beyond.
    """
    place = (score - floor) / span
    if not _ENDS <= place <= 1 - _ENDS:
        raise InfeasibleError(
            f"a score of {score:.4g} is not invertible: the reference runs from {floor:.4g} to "
            f"{floor + span:.4g} and says nothing within a twentieth of its ends",
            binding="the ends of the sigmoid",
            change="use a harder or an easier benchmark",
        )
    return float(np.log(place / (1 - place)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceCurve:
    """Both steps. ``gamma`` < 0 a nat, ``middle`` in nats, ``floor`` and ``span`` of the score;
    ``tokens``: those at which it is inverted."""

    a: float
    b: float
    alpha: float
    beta: float
    gamma: float
    middle: float
    floor: float
    span: float
    sizes: tuple[float, float]
    tokens: float = 1e12
    benchmarks: tuple[str, ...] = ("score",)

    def score(self, params: Floats, tokens: Floats) -> Floats:
        """Of a reference model."""
        loss = self.a * params**-self.alpha + self.b * tokens**-self.beta
        return self.score_at(loss)

    def score_at(self, loss: Floats) -> Floats:
        """Of a loss in nats."""
        return self.floor + self.span / (1 + np.exp(-self.gamma * (loss - self.middle)))

    def loss_at(self, score: float) -> float:
        """The loss that goes with a score, nats.

        Raises:
            InfeasibleError: too near the ends.
        """
        return self.middle + _logit(score, self.floor, self.span) / self.gamma

    def effective_size(self, score: float) -> float:
        """See ``Reference``."""
        loss = self.loss_at(score)
        least = self.b * self.tokens**-self.beta
        if loss <= least:
            raise InfeasibleError(
                f"a score of {score:.4g} is better than any reference size: it needs a loss of "
                f"{loss:.4g} nats and {self.tokens:.3g} tokens alone leave {least:.4g}",
                binding="the tokens of the reference",
                change="invert at more tokens",
            )
        return float(((loss - least) / self.a) ** (-1 / self.alpha))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreLadder:
    """Scores of one family over ln of its sizes: middle ``m`` and width ``s`` of the sigmoid."""

    m: float
    s: float
    floor: float
    span: float
    sizes: tuple[float, float]
    benchmarks: tuple[str, ...]
    rmse: float = 0.0

    def score(self, params: Floats) -> Floats:
        """Of a reference model."""
        return self.floor + self.span / (1 + np.exp(-(np.log(params) - self.m) / self.s))

    def effective_size(self, score: float) -> float:
        """See ``Reference``."""
        return float(np.exp(self.m + self.s * _logit(score, self.floor, self.span)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Density:
    """``effective`` over all parameters and over active ones (None: a mixture whose active
    parameters are not known). ``outside``: effective size over the nearer end of the reference's
    sizes, 1 within them. ``flags`` in words."""

    model: RatedModel
    score: float
    effective: float
    total: float
    active: float | None
    outside: float
    flags: tuple[str, ...] = field(default=())


def mean_score(model: RatedModel, benchmarks: Sequence[str]) -> float:
    """Scores are averaged before they are inverted.

    Raises:
        SpecError: one is missing or not in [0, 1].
    """
    for name in benchmarks:
        value = model.scores.get(name)
        if value is None or not 0 <= value <= 1:
            raise SpecError(f"{model.name}: its score on {name} is {value}; expected one in [0, 1]")
    return float(np.mean([model.scores[name] for name in benchmarks]))


def density(reference: Reference, model: RatedModel) -> Density:
    """How many times its size a model is worth.

    Raises:
        SpecError: a size or a score that cannot be.
        InfeasibleError: its score cannot be inverted.
    """
    for what, size in (("params", model.params), ("active params", model.active_params)):
        if size is not None and not (np.isfinite(size) and size > 0):
            raise SpecError(f"{model.name}: {what} is {size}; expected a positive number")
    score = mean_score(model, reference.benchmarks)
    effective = reference.effective_size(score)
    active = model.active_params
    if active is None and not model.experts:
        active = model.params
    low, high = reference.sizes
    outside = effective / high if effective > high else effective / low if effective < low else 1.0
    flags = []
    if active is None:
        flags.append("mixture of experts without a count of active parameters")
    if outside != 1.0:
        flags.append(f"worth {effective:.3g} parameters, outside the reference's sizes")
    return Density(
        model=model,
        score=score,
        effective=effective,
        total=effective / model.params,
        active=None if active is None else effective / active,
        outside=outside,
        flags=tuple(flags),
    )


def fit_ladder(
    models: Sequence[RatedModel], benchmarks: Sequence[str], *, floor: float, top: float = 1.0
) -> ScoreLadder:
    """Least squares on scores. ``floor``: the score of guessing, averaged over benchmarks.

    Raises:
        SpecError: a score that cannot be, or instruct models among them.
        InfeasibleError: fewer than three sizes, or scores that do not rise with size.
    """
    chosen = [m for m in models if all(name in m.scores for name in benchmarks)]
    if any(m.instruct for m in chosen):
        raise SpecError("a reference of instruct models; expected base models only")
    params = np.array([m.params for m in chosen])
    if len(np.unique(params)) < _LEAST_LADDER:
        raise InfeasibleError(
            f"a ladder of {len(np.unique(params))} sizes with {', '.join(benchmarks)}",
            binding=f"sizes: {len(np.unique(params))} of {_LEAST_LADDER}",
            change="take a family of more sizes",
        )
    scores = np.array([mean_score(m, benchmarks) for m in chosen])
    size, span = np.log(params), top - floor

    def residuals(theta: Floats) -> Floats:
        return floor + span / (1 + np.exp(-(size - theta[0]) / np.exp(theta[1]))) - scores

    found = least_squares(residuals, [float(size.mean()), 0.3], xtol=1e-12, ftol=1e-12)
    slope = float(np.polyfit(size, scores, 1)[0])
    if slope <= 0:
        raise InfeasibleError(
            "the ladder's scores do not rise with size",
            binding="the reference family",
            change="take another family or benchmark",
        )
    return ScoreLadder(
        m=float(found.x[0]),
        s=float(np.exp(found.x[1])),
        floor=floor,
        span=span,
        sizes=(float(params.min()), float(params.max())),
        benchmarks=tuple(benchmarks),
        rmse=float(np.sqrt((found.fun**2).mean())),
    )


def fit_reference(
    runs: LossTable,
    losses: Floats,
    scores: Floats,
    *,
    floor: float,
    top: float = 1.0,
    tokens: float = 1e12,
    benchmarks: tuple[str, ...] = ("score",),
) -> ReferenceCurve:
    """Both steps: ``runs`` of the reference models for the loss, ``losses`` with ``scores`` [n] of
    stronger models for the sigmoid, whose top is fitted up to ``top``.

    Raises:
        InfeasibleError: too few sizes or tokens, or scores that do not fall with loss.
    """
    law = fit(TwoPowers(), runs).named
    losses, scores = np.asarray(losses, float), np.asarray(scores, float)
    if len(losses) < 4 or np.corrcoef(losses, scores)[0, 1] >= 0:
        raise InfeasibleError(
            f"{len(losses)} pairs of loss and score, or scores that do not fall with loss",
            binding="pairs of loss and score",
            change="add models between guessing and mastery",
        )
    most = top - floor

    def residuals(theta: Floats) -> Floats:
        span, gamma, middle = theta
        return floor + span / (1 + np.exp(-gamma * (losses - middle))) - scores

    start = [0.95 * most, -4 / max(float(np.ptp(losses)), 1e-6), float(np.median(losses))]
    box = ([0.05 * most, -1e4, 0.0], [most, -1e-6, 1e3])
    found = least_squares(residuals, start, bounds=box, x_scale=np.abs(start), xtol=1e-14)
    span, gamma, middle = found.x.tolist()
    sizes = runs.column("params")
    return ReferenceCurve(
        a=law["a"],
        b=law["b"],
        alpha=law["alpha"],
        beta=law["beta"],
        gamma=gamma,
        middle=middle,
        floor=floor,
        span=span,
        sizes=(float(sizes.min()), float(sizes.max())),
        tokens=tokens,
        benchmarks=benchmarks,
    )
