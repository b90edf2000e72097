"""L = a/N^alpha + b/D^beta: a loss that has no floor, as conditional losses of answers have none.

Used by the reference curve of capability density, where L is the loss of the right answer given
the question. Leaves out: an irreducible loss, so it is wrong for the loss of text at large.
Source: arXiv 2412.04315, section 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from plimsoll.laws.forms.contract import Coordinate, Floats, Inputs, grid
from plimsoll.laws.forms.powers import linear_starts, log_sum

__all__ = ["TwoPowers"]


@dataclass(frozen=True, slots=True)
class TwoPowers:
    """See the module text."""

    name: str = "two-powers"
    title: str = "Two powers without a floor"
    formula: str = "L = a/N^alpha + b/D^beta"
    source: str = "arXiv 2412.04315"
    leaves_out: str = "losses with a floor, which it falls through; data seen more than once"
    inputs: tuple[str, ...] = ("params", "tokens")

    @property
    def least(self) -> Mapping[str, int]:
        """Distinct values each input must have."""
        return {"params": 3, "tokens": 3}

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """(ln a, ln b, alpha, beta)."""
        return (
            Coordinate(
                name="ln a",
                low=-20.0,
                high=40.0,
                meaning="factor of parameters",
                unit="loss*params^alpha",
            ),
            Coordinate(
                name="ln b",
                low=-20.0,
                high=40.0,
                meaning="factor of tokens",
                unit="loss*tokens^beta",
            ),
            Coordinate(name="alpha", low=0.005, high=2.0, meaning="exponent of parameters"),
            Coordinate(name="beta", low=0.005, high=2.0, meaning="exponent of tokens"),
        )

    def log_loss(self, theta: Floats, x: Inputs) -> Floats:
        """See ``LossForm``."""
        return log_sum(_terms(theta, x))[0]

    def gradient(self, theta: Floats, x: Inputs) -> Floats:
        """See ``LossForm``."""
        _, (by_a, by_b) = log_sum(_terms(theta, x))
        parts = [by_a, by_b, -by_a * np.log(x["params"]), -by_b * np.log(x["tokens"])]
        return np.stack(parts, axis=-1)

    def starts(self, x: Inputs, loss: Floats) -> Floats:
        """A grid of exponents, each with its best factors."""
        exponents = grid((0.05, 0.15, 0.3, 0.5, 0.8), (0.05, 0.15, 0.3, 0.5, 0.8))

        def columns(row: Floats) -> list[Floats]:
            return [x["params"] ** -row[0], x["tokens"] ** -row[1]]

        best, factors = linear_starts(exponents, columns, loss, keep=10)
        return np.concatenate([np.log(factors[:, 1:]), best], axis=1)

    def named(self, theta: Floats) -> dict[str, float]:
        """a, b, alpha, beta."""
        a, b, alpha, beta = theta.tolist()
        return {"a": float(np.exp(a)), "b": float(np.exp(b)), "alpha": alpha, "beta": beta}

    def coordinates_of(self, named: Mapping[str, float]) -> Floats:
        """See ``LossForm``."""
        a, b = np.log(named["a"]), np.log(named["b"])
        return np.array([a, b, named["alpha"], named["beta"]])


def _terms(theta: Floats, x: Inputs) -> list[Floats]:
    a, b, alpha, beta = (theta[..., i, None] for i in range(4))
    return [a - alpha * np.log(x["params"]), b - beta * np.log(x["tokens"])]
