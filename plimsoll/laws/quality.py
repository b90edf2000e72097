"""Quality against quantity: which of the pools ranked by quality to train on, given a budget.

A pool has a utility b < 0, dy/y = b·dn/n, that fades as its samples repeat. Two laws of how:

``RepeatUtility``: the exponent fades, b_k = b·2^(-k/tau) in epoch k = 0, 1, …, so
y = (a·n_1)^(b_0) · prod_{k>=1} (n_{k+1}/n_k)^(b_k) + d, with n_k the samples seen when epoch k
ends (the last one cut short) in units of ``normaliser``.
``EffectiveData``: the samples fade, y = (a · sum_k m_k·2^(-k/tau))^b + d, m_k those of epoch k.

In a union trained uniformly every sample comes once a pass of the union, so a pool that holds a
w-th of it has the half-life tau/w in passes of the union, and utilities are averaged by w. The
public code of the source adds d before the later epochs' factors, so that d fades too; here it
does not, as the formula has it.
Below a·n_1 = 1 the factor exceeds one and the order of utilities turns round: no law there.
Left out: pools whose samples overlap; sampling one pool more often than another.
Source: arXiv 2404.07177; locuslab/scaling_laws_data_filtering, ``objective.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from plimsoll.laws.forms.contract import Floats
from plimsoll.spec.errors import SpecError

__all__ = [
    "Choice",
    "EffectiveData",
    "Mixture",
    "QualityLaw",
    "QualityPool",
    "RepeatUtility",
    "best_pool",
    "effective_samples",
    "mix",
    "utility_exponent",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityPool:
    """``samples`` different ones, of utility ``b`` < 0 whose half-life is ``tau`` epochs."""

    name: str
    samples: float
    b: float
    tau: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.samples) and self.samples >= 1):
            raise SpecError(f"pool {self.name}: samples is {self.samples}; expected 1 or more")
        if not (np.isfinite(self.b) and self.b < 0):
            raise SpecError(f"pool {self.name}: b is {self.b}; expected a number below zero")
        if not self.tau > 0:
            raise SpecError(f"pool {self.name}: tau is {self.tau}; expected epochs above zero")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """A union: its ``samples``, and by pool its share, utility and half-life in union passes."""

    names: tuple[str, ...]
    samples: float
    weights: Floats
    b: Floats
    tau: Floats

    def exponents(self, epochs: int) -> Floats:
        """Utility in each epoch, [epochs]."""
        k = np.arange(epochs)[:, None]
        return (self.b * 2.0 ** (-k / self.tau)) @ self.weights


def mix(pools: Sequence[QualityPool]) -> Mixture:
    """The union of pools.

    Raises:
        SpecError: no pools, or one twice.
    """
    names = tuple(pool.name for pool in pools)
    if not names or len(set(names)) < len(names):
        raise SpecError(f"a union of {', '.join(names) or 'nothing'}; expected different pools")
    sizes = np.array([pool.samples for pool in pools], dtype=float)
    weights = sizes / sizes.sum()
    return Mixture(
        names=names,
        samples=float(sizes.sum()),
        weights=weights,
        b=np.array([pool.b for pool in pools]),
        tau=np.array([pool.tau for pool in pools]) / weights,
    )


def epoch_ends(samples: float, size: float) -> Floats:
    """Samples seen at the end of each epoch, the last one cut short at ``samples``; [epochs].

    Raises:
        SpecError: less than one sample.
    """
    if not (np.isfinite(samples) and samples >= 1):
        raise SpecError(f"{samples:g} samples to train on; expected 1 or more")
    epochs = max(1, int(np.ceil(samples / size * (1 - 1e-12))))
    return np.minimum(size * np.arange(1, epochs + 1), samples)


def utility_exponent(ends: Floats, tau: Floats) -> Floats:
    """ln n_1 + sum over later epochs of 2^(-k/tau)·ln(n_{k+1}/n_k), for each half-life; times b
    it is ln of the factor of the error."""
    steps = np.diff(np.log(ends))
    k = np.arange(1, len(ends))
    tau = np.asarray(tau, dtype=float)
    return np.log(ends[0]) + (2.0 ** (-k / tau[..., None])) @ steps


def effective_samples(ends: Floats, tau: Floats) -> Floats:
    """Samples seen, those of epoch k counted 2^(-k/tau), for each half-life."""
    seen = np.diff(ends, prepend=0.0)
    tau = np.asarray(tau, dtype=float)
    return (2.0 ** (-np.arange(len(ends)) / tau[..., None])) @ seen


class QualityLaw(Protocol):
    """An error after so many samples of a union; ``d`` is what stays of it."""

    @property
    def kind(self) -> Literal["utility", "data"]: ...

    @property
    def d(self) -> float: ...

    def error(self, mixture: Mixture, samples: float) -> float:
        """In the unit of what it was fitted on; rises never with more samples."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatUtility:
    """``a`` per ``normaliser`` samples, ``d`` the error that stays; see the module text."""

    a: float
    d: float
    normaliser: float = 1.0
    kind: Literal["utility"] = "utility"

    def error(self, mixture: Mixture, samples: float) -> float:
        """See ``QualityLaw``."""
        ends = epoch_ends(samples, mixture.samples) / self.normaliser
        b = mixture.exponents(len(ends))
        log_error = b[0] * np.log(self.a * ends[0]) + b[1:] @ np.diff(np.log(ends))
        return float(np.exp(log_error)) + self.d


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveData:
    """The law in which samples fade, not their utility; see the module text."""

    a: float
    d: float
    normaliser: float = 1.0
    kind: Literal["data"] = "data"

    def error(self, mixture: Mixture, samples: float) -> float:
        """See ``QualityLaw``."""
        ends = epoch_ends(samples, mixture.samples) / self.normaliser
        counted = float(effective_samples(ends, mixture.tau) @ mixture.weights)
        return float((self.a * counted) ** float(mixture.b @ mixture.weights)) + self.d


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """``pools`` to train on, best utility first; ``errors`` of the union of the best 1, 2, …"""

    pools: tuple[str, ...]
    samples: float
    error: float
    errors: tuple[float, ...]


def best_pool(law: QualityLaw, pools: Sequence[QualityPool], samples: float) -> Choice:
    """The union of best pools with the least error after ``samples``; of equals the smallest.

    Raises:
        SpecError: no pools, one twice, or less than one sample.
    """
    ranked = sorted(pools, key=lambda pool: pool.b)
    unions = [mix(ranked[: count + 1]) for count in range(len(ranked))]
    if not unions:
        raise SpecError("no pools to choose from; expected one or more")
    errors = tuple(law.error(union, samples) for union in unions)
    best = int(np.argmin(errors))
    return Choice(pools=unions[best].names, samples=samples, error=errors[best], errors=errors)
