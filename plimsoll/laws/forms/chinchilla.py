"""Chinchilla's surface L(N, D) = E + A/N^α + B/D^β, and the same with an outer exponent.

The outer exponent q lets the two limits interact: E + (A/N^α + B/D^β)^q. With q = 1 both agree.
``params`` are what the fit was made with (embeddings in or out: say which), ``tokens`` seen once.
Published constants: the paper's own third approach, and its refit on points read off the figure,
which corrects it. The gap between them is the reason to prefer a fit on one's own points.
Leaves out: repeated data, learning rates and batch sizes off their optimum, early training.
Sources: arXiv 2203.15556 (approach 3); arXiv 2404.10102 (refit).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from plimsoll.laws.forms.contract import Coordinate, Floats, Inputs, grid
from plimsoll.laws.forms.powers import linear_starts, log_sum

__all__ = ["CHINCHILLA_PUBLISHED", "CHINCHILLA_REFIT", "Chinchilla", "ChinchillaQ"]

CHINCHILLA_PUBLISHED = MappingProxyType(
    {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
)
CHINCHILLA_REFIT = MappingProxyType(
    {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
)

_EXPONENTS = (0.1, 0.2, 0.3, 0.4, 0.55, 0.75)
_KEEP = 12
_COORDINATES = (
    Coordinate(
        name="ln E", low=-6.0, high=4.0, meaning="loss that no size or data removes", unit="loss"
    ),
    Coordinate(
        name="ln A", low=-30.0, high=60.0, meaning="factor of parameters", unit="loss*params^alpha"
    ),
    Coordinate(
        name="ln B", low=-30.0, high=60.0, meaning="factor of tokens", unit="loss*tokens^beta"
    ),
    Coordinate(name="alpha", low=0.01, high=2.5, meaning="exponent of parameters"),
    Coordinate(name="beta", low=0.01, high=2.5, meaning="exponent of tokens"),
)


@dataclass(frozen=True, slots=True)
class Chinchilla:
    """See the module text."""

    name: str = "chinchilla"
    title: str = "Chinchilla"
    formula: str = "L = E + A/N^alpha + B/D^beta"
    source: str = "arXiv 2203.15556"
    leaves_out: str = "data seen more than once; an exponent of data that depends on size"
    inputs: tuple[str, ...] = ("params", "tokens")

    @property
    def least(self) -> Mapping[str, int]:
        """Distinct values each input must have."""
        return {"params": 3, "tokens": 3}

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """(ln E, ln A, ln B, alpha, beta)."""
        return _COORDINATES

    def log_loss(self, theta: Floats, x: Inputs) -> Floats:
        """See ``LossForm``."""
        return log_sum(_terms(theta, x))[0]

    def gradient(self, theta: Floats, x: Inputs) -> Floats:
        """See ``LossForm``."""
        _, (e, a, b) = log_sum(_terms(theta, x))
        return np.stack([e, a, b, -a * np.log(x["params"]), -b * np.log(x["tokens"])], axis=-1)

    def starts(self, x: Inputs, loss: Floats) -> Floats:
        """The best of a grid of exponents, with their best factors."""
        exponents, factors = linear_starts(
            grid(_EXPONENTS, _EXPONENTS), lambda row: _powers(row, x), loss, keep=_KEEP
        )
        return np.concatenate([np.log(factors), exponents], axis=1)

    def named(self, theta: Floats) -> dict[str, float]:
        """E, A, B, alpha, beta."""
        e, a, b, alpha, beta = theta.tolist()
        return {
            "E": float(np.exp(e)),
            "A": float(np.exp(a)),
            "B": float(np.exp(b)),
            "alpha": alpha,
            "beta": beta,
        }

    def coordinates_of(self, named: Mapping[str, float]) -> Floats:
        """See ``LossForm``."""
        logs = [np.log(named[key]) for key in ("E", "A", "B")]
        return np.array([*logs, named["alpha"], named["beta"]])


def _powers(exponents: Floats, x: Inputs) -> list[Floats]:
    return [x["params"] ** -exponents[0], x["tokens"] ** -exponents[1]]


def _terms(theta: Floats, x: Inputs) -> list[Floats]:
    e, a, b, alpha, beta = (theta[..., i, None] for i in range(5))
    zero = np.zeros_like(x["params"])
    return [e + zero, a - alpha * np.log(x["params"]), b - beta * np.log(x["tokens"])]


@dataclass(frozen=True, slots=True)
class ChinchillaQ:
    """With an outer exponent; see the module text."""

    name: str = "chinchilla-q"
    title: str = "Chinchilla with an outer exponent"
    formula: str = "L = E + (A/N^alpha + B/D^beta)^q"
    source: str = "arXiv 2203.15556, generalised as in arXiv 2001.08361"
    leaves_out: str = "data seen more than once"
    inputs: tuple[str, ...] = ("params", "tokens")

    @property
    def least(self) -> Mapping[str, int]:
        """Distinct values each input must have."""
        return {"params": 4, "tokens": 4}

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """(ln E, ln A, ln B, alpha, beta, ln q)."""
        outer = Coordinate(name="ln q", low=-2.5, high=2.5, meaning="outer exponent")
        return (*_COORDINATES, outer)

    def log_loss(self, theta: Floats, x: Inputs) -> Floats:
        """See ``LossForm``."""
        constant, a, b = _terms(theta[..., :5], x)
        inner, _ = log_sum([a, b])
        return log_sum([constant, np.exp(theta[..., 5, None]) * inner])[0]

    def gradient(self, theta: Floats, x: Inputs) -> Floats:
        """See ``LossForm``."""
        constant, a, b = _terms(theta[..., :5], x)
        inner, (share_a, share_b) = log_sum([a, b])
        q = np.exp(theta[..., 5, None])
        _, (e, rest) = log_sum([constant, q * inner])
        by_a, by_b = rest * q * share_a, rest * q * share_b
        return np.stack(
            [
                e,
                by_a,
                by_b,
                -by_a * np.log(x["params"]),
                -by_b * np.log(x["tokens"]),
                rest * q * inner,
            ],
            axis=-1,
        )

    def starts(self, x: Inputs, loss: Floats) -> Floats:
        """Those without the exponent, with outer exponents around 1 and inner ones divided by it,
        so that both limits are kept."""
        plain = Chinchilla().starts(x, loss)
        found = []
        for q in (0.4, 0.65, 1.0, 1.6):
            inner = plain.copy()
            inner[:, 1:] /= q
            found.append(np.concatenate([inner, np.full((len(plain), 1), np.log(q))], axis=1))
        return np.concatenate(found)

    def named(self, theta: Floats) -> dict[str, float]:
        """E, A, B, alpha, beta, q."""
        return {**Chinchilla().named(theta[:5]), "q": float(np.exp(theta[5]))}

    def coordinates_of(self, named: Mapping[str, float]) -> Floats:
        """See ``LossForm``."""
        return np.append(Chinchilla().coordinates_of(named), np.log(named["q"]))
