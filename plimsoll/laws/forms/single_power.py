"""L(x) = (x_c/x)^alpha, with or without a floor E: one law of one quantity, all else ample.

``axis`` names the column: parameters, tokens or compute. Without a floor the loss must be such
that zero means something (nats above an entropy); a negative log-likelihood as it is does not.
Leaves out: the other quantities, which must have been ample or at their best at every point.
Source: arXiv 2001.08361, equations 1.1 to 1.3; 2410.12360 for series.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from plimsoll.laws.forms.contract import Coordinate, Floats, Inputs
from plimsoll.laws.forms.powers import linear_starts, log_sum

__all__ = ["SinglePower"]

_EXPONENTS = (0.03, 0.06, 0.1, 0.15, 0.25, 0.4, 0.6, 0.9, 1.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class SinglePower:
    """See the module text."""

    axis: str
    floor: bool
    source: str = "arXiv 2001.08361"
    leaves_out: str = "every other quantity, which must be ample at all points"

    @property
    def name(self) -> str:
        """Of the form on this axis."""
        return f"power-of-{self.axis}{'-with-floor' if self.floor else ''}"

    @property
    def title(self) -> str:
        """In words."""
        return f"A power of {self.axis}{' above a floor' if self.floor else ''}"

    @property
    def formula(self) -> str:
        """As text."""
        return f"L = {'E + ' if self.floor else ''}(x_c/{self.axis})^alpha"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The one column."""
        return (self.axis,)

    @property
    def least(self) -> Mapping[str, int]:
        """Distinct values needed: a point more than parameters."""
        return {self.axis: 4 if self.floor else 3}

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """(alpha, ln of the factor x_c^alpha, and ln E with a floor)."""
        own = (
            Coordinate(name="alpha", low=0.002, high=3.0, meaning="exponent"),
            Coordinate(name="ln A", low=-30.0, high=120.0, meaning="ln of x_c^alpha"),
        )
        low = Coordinate(name="ln E", low=-25.0, high=10.0, meaning="ln of the floor")
        return (*own, low) if self.floor else own

    def _terms(self, theta: Floats, x: Inputs) -> list[Floats]:
        power = theta[..., 1, None] - theta[..., 0, None] * np.log(x[self.axis])
        return [power, theta[..., 2, None] + 0 * power] if self.floor else [power]

    def log_loss(self, theta: Floats, x: Inputs) -> Floats:
        """See ``LossForm``."""
        return log_sum(self._terms(theta, x))[0]

    def gradient(self, theta: Floats, x: Inputs) -> Floats:
        """See ``LossForm``."""
        shares = log_sum(self._terms(theta, x))[1]
        return np.stack([-shares[0] * np.log(x[self.axis]), *shares], axis=-1)

    def starts(self, x: Inputs, loss: Floats) -> Floats:
        """A grid of exponents, each with its best factors."""
        rows = np.array(_EXPONENTS)[:, None]

        def power(row: Floats) -> list[Floats]:
            return [x[self.axis] ** -row[0]]

        best, factors = linear_starts(rows, power, loss, keep=6)
        logs = np.log(factors)
        columns = [best[:, 0], logs[:, 1]]
        return np.stack([*columns, logs[:, 0]] if self.floor else columns, axis=1)

    def named(self, theta: Floats) -> dict[str, float]:
        """alpha, x_c (infinite past the largest number) and E."""
        alpha, factor = float(theta[0]), float(theta[1])
        with np.errstate(over="ignore"):
            scale = float(np.exp(np.float64(factor / alpha)))
        floor = float(np.exp(theta[2])) if self.floor else 0.0
        return {"alpha": alpha, "x_c": scale, "E": floor}

    def coordinates_of(self, named: Mapping[str, float]) -> Floats:
        """See ``LossForm``."""
        own = [named["alpha"], named["alpha"] * np.log(named["x_c"])]
        return np.array([*own, np.log(named["E"])] if self.floor else own)
