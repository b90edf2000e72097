"""P parallel streams through one set of weights: L = E + (A·1e9/(N·(k·ln P + 1)))^α.

Streams act as ln P more parameters. ``params`` as the paper counts them (no embeddings),
``streams`` P from 1. Leaves out: the number of tokens, the same for all points of a fit.
Source: arXiv 2505.10475.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from plimsoll.laws.forms.contract import Coordinate, Floats, Inputs, grid
from plimsoll.laws.forms.powers import linear_starts, log_sum

__all__ = ["PARSCALE_PILE", "PARSCALE_STACK", "ParScale", "PowerStreams"]

PARSCALE_STACK = {"E": 0.69120636, "A": 0.01130708, "alpha": 0.18935792, "k": 0.39345688}
PARSCALE_PILE = {"E": 1.2885873, "A": 0.19751677, "alpha": 0.19628131, "k": 0.334443}
"""Fitted here to the 24 losses published for each corpus, which ``catalog/parscale.py`` holds."""

_KS = (0.1, 0.25, 0.4, 0.6)
_COORDINATES = (
    Coordinate(name="ln E", low=-6.0, high=4.0, meaning="loss that no size removes", unit="loss"),
    Coordinate(
        name="ln A",
        low=-60.0,
        high=30.0,
        meaning="scale of parameters",
        unit="1e9 params*loss^(1/alpha)",
    ),
    Coordinate(name="alpha", low=0.01, high=2.0, meaning="exponent of parameters"),
    Coordinate(name="k", low=1e-4, high=5.0, meaning="what a stream adds"),
)


def _named(theta: Floats) -> dict[str, float]:
    e, a, alpha, k = theta.tolist()
    return {"E": float(np.exp(e)), "A": float(np.exp(a)), "alpha": alpha, "k": k}


def _coordinates_of(named: Mapping[str, float]) -> Floats:
    return np.array([np.log(named["E"]), np.log(named["A"]), named["alpha"], named["k"]])


@dataclass(frozen=True, slots=True)
class ParScale:
    """See the module text."""

    name: str = "parscale"
    title: str = "Parallel streams"
    formula: str = "L = E + (A*1e9/(N*(k*ln P + 1)))^alpha"
    source: str = "arXiv 2505.10475"
    leaves_out: str = "points that saw different numbers of tokens"
    inputs: tuple[str, ...] = ("params", "streams")

    @property
    def least(self) -> Mapping[str, int]:
        """Distinct values each input must have."""
        return {"params": 3, "streams": 2}

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """(ln E, ln A, alpha, k)."""
        return _COORDINATES

    def gain(self, k: Floats, streams: Floats) -> Floats:
        """How many times the parameters P streams are worth."""
        return k * np.log(streams) + 1

    def log_loss(self, theta: Floats, x: Inputs) -> Floats:
        """See ``LossForm``."""
        return log_sum(self._terms(theta, x))[0]

    def _terms(self, theta: Floats, x: Inputs) -> list[Floats]:
        e, a, alpha, k = (theta[..., i, None] for i in range(4))
        size = np.log(x["params"] / 1e9) + np.log(self.gain(k, x["streams"]))
        return [e + 0 * size, alpha * (a - size)]

    def gradient(self, theta: Floats, x: Inputs) -> Floats:
        """See ``LossForm``."""
        _, a, alpha, k = (theta[..., i, None] for i in range(4))
        _, (e, rest) = log_sum(self._terms(theta, x))
        gain = self.gain(k, x["streams"])
        size = np.log(x["params"] / 1e9) + np.log(gain)
        return np.stack(
            [e, rest * alpha, rest * (a - size), -rest * alpha * np.log(x["streams"]) / gain],
            axis=-1,
        )

    def starts(self, x: Inputs, loss: Floats) -> Floats:
        """Grids of the exponent and of k, with their best factors."""

        def power(row: Floats) -> list[Floats]:
            return [(x["params"] / 1e9 * self.gain(row[1], x["streams"])) ** -row[0]]

        rows, factors = linear_starts(grid((0.1, 0.2, 0.4, 0.7), _KS), power, loss, keep=8)
        logs = np.log(factors)
        return np.stack([logs[:, 0], logs[:, 1] / rows[:, 0], rows[:, 0], rows[:, 1]], axis=1)

    def named(self, theta: Floats) -> dict[str, float]:
        """E, A, alpha, k."""
        return _named(theta)

    def coordinates_of(self, named: Mapping[str, float]) -> Floats:
        """See ``LossForm``."""
        return _coordinates_of(named)


@dataclass(frozen=True, slots=True)
class PowerStreams(ParScale):
    """The rival form: a power of P in place of its logarithm, L = E + (A·1e9/(N·P^k))^α."""

    name: str = "power-streams"
    title: str = "Streams as a power"
    formula: str = "L = E + (A*1e9/(N*P^k))^alpha"

    def gain(self, k: Floats, streams: Floats) -> Floats:
        """How many times the parameters P streams are worth."""
        return np.asarray(streams**k)

    def gradient(self, theta: Floats, x: Inputs) -> Floats:
        """See ``LossForm``."""
        _, a, alpha, k = (theta[..., i, None] for i in range(4))
        _, (e, rest) = log_sum(self._terms(theta, x))
        size = np.log(x["params"] / 1e9) + k * np.log(x["streams"])
        return np.stack(
            [e, rest * alpha, rest * (a - size), -rest * alpha * np.log(x["streams"])], axis=-1
        )
